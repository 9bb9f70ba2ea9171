// People on the cluster: an OpenID Provider, a Redis, a gateway of two replicas installed by its chart, Alice's notebook
// as a hub spawned it, and a model.
import { once } from "node:events";
import { join } from "node:path";
import { connect } from "node:tls";
import { Agent, fetch as undiciFetch } from "undici";
import { edgeCertificate } from "../fakes/edge-certificate.ts";
import { type AuditData, NetBrowser } from "../integration/gateway/people-mesh.ts";
import { IMAGES } from "./image-files.ts";
import { apply, helm, type KubeObject, kubectl, read, tryKubectl, waitForObject } from "./kube.ts";
import type { ProviderPod } from "./provider/provider.ts";
import { begin, imageFlags, install, removeNamespace, SYSTEM, TRUST_DOMAIN, uninstall } from "./release.ts";

export const HOST = "nb-alice.nb.acme.example";
export const NOTEBOOKS = "ml-dev";
export const MODELS = "ml-serving";
/** Of what is no part of the mesh: the provider and Redis. */
const OUTSIDE = "people-outside";
const FIRST_SECRET = "the first secret of the client, long";
const chart = join(import.meta.dirname, "../../charts/countersign-gateway");

/** A browser of somebody outside the cluster: the gateway by its Service's address, the provider by its own. */
class ClusterBrowser extends NetBrowser {
  readonly #issuer: URL;
  readonly #agent: Agent;

  constructor(people: PeopleOnCluster, user?: string) {
    super([443], people.edgeCa, user, people.address);
    this.#issuer = new URL(people.issuer);
    this.#agent = new Agent({ connect: { ca: people.providerCa } });
  }

  protected override isProviders(url: URL): boolean {
    return url.host === this.#issuer.host;
  }

  protected override async fetch(url: URL, init: RequestInit): Promise<Response> {
    const { method = "GET", headers, body, redirect } = init;
    const answer = await undiciFetch(url, {
      ...{ method, dispatcher: this.#agent, headers: headers as Record<string, string> },
      ...(body instanceof URLSearchParams ? { body } : {}),
      ...(redirect === undefined ? {} : { redirect }),
    });
    return answer as unknown as Response; // undici's own is the same class as far as a browser looks
  }
}

const pod = (name: string, metadata: KubeObject, container: KubeObject): KubeObject => ({
  ...{ apiVersion: "v1", kind: "Pod", metadata: { name, ...metadata } },
  spec: {
    terminationGracePeriodSeconds: 1,
    containers: [{ name: "app", image: IMAGES.app, imagePullPolicy: "IfNotPresent", ...container }],
  },
});
const service = (name: string, port: number, targetPort = port): KubeObject => ({
  ...{ apiVersion: "v1", kind: "Service", metadata: { name } },
  spec: { selector: { app: name }, ports: [{ name: "http", port, targetPort }] },
});
const secret = (name: string, stringData: Readonly<Record<string, string>>): KubeObject => ({
  ...{ apiVersion: "v1", kind: "Secret", metadata: { name }, stringData },
});

const MESH = (issuer: string): string => `apiVersion: countersign.dev/v1alpha1
kind: IdentityProvider
metadata: {name: acme}
spec:
  type: oidc
  displayName: Acme
  issuer: ${issuer}
  clientID: gateway
  clientSecretRef: {name: oidc}
  scopes: [openid, email, profile, groups]
  algorithms: [ES256]
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRole
metadata: {name: fraud-ds}
spec: {}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRoleBinding
metadata: {name: fraud}
spec: {roles: [fraud-ds], subjects: [{idp: acme, group: fraud}]}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshGateway
metadata: {name: people, namespace: ${SYSTEM}}
spec:
  identityProviders: [acme]
  listeners: [{name: main, hosts: ["*.nb.acme.example"], tls: {secretName: edge-tls}}]
  notebooks: [{name: notebooks, hostPattern: "{name}.nb.acme.example", namespaces: [${NOTEBOOKS}]}]
  session: {store: {type: redis, secretRef: {name: sessions}}}
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: people-open-notebooks, namespace: ${NOTEBOOKS}}
spec:
  action: Allow
  targets: [{kinds: [notebook]}]
  rules: [{name: people, from: [{workload: {kinds: [gateway]}, user: {presence: Required}}], operations: [{any: true}]}]
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: scientists-score, namespace: ${MODELS}}
spec:
  action: Allow
  targets: [{names: [fraud-scorer]}]
  rules: [{name: scientists, from: [{workload: {kinds: [notebook]}, user: {roles: [fraud-ds]}}], operations: [{op: serving.invoke}]}]
`;

/** Alice's notebook as whoever is in `as` makes it; \`label\` only if it is to get the Service's calls. */
export const notebook = (name: string, metadata: KubeObject): KubeObject =>
  pod(name, metadata, {
    command: ["node", "/app/notebook.ts", "http://fraud-scorer.ml-serving:8080/invocations"],
    ports: [{ name: "http", containerPort: 8888 }],
    readinessProbe: { tcpSocket: { port: 8888 }, periodSeconds: 1 },
  });

export class PeopleOnCluster {
  issuer = "";
  providerCa = "";
  edgeCa = "";
  /** Of the gateway's Service. */
  address = "";
  /** What the chart says after its installation. */
  notes = "";

  browser(user?: string): NetBrowser {
    return new ClusterBrowser(this, user);
  }

  /** Installs it all; resolves when everything is ready. */
  async start(): Promise<void> {
    await begin();
    await removeNamespace(OUTSIDE);
    const inject = { "countersign.dev/inject": "enabled" };
    await apply(
      [SYSTEM, OUTSIDE, NOTEBOOKS, MODELS].map((name) => ({
        ...{ apiVersion: "v1", kind: "Namespace" },
        metadata: { name, labels: name === NOTEBOOKS || name === MODELS ? inject : {} },
      })),
    );
    await apply([service("idp", 443, 8443), service("redis", 6379)], OUTSIDE);
    this.issuer = `https://${await read(OUTSIDE, "service/idp", "{.spec.clusterIP}")}`;
    await this.#startProvider();
    await apply(
      [
        {
          ...{ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "company-roots" } },
          data: { "ca.crt": this.providerCa },
        },
        secret("oidc", { "client-secret": FIRST_SECRET }),
        secret("sessions", { url: `redis://redis.${OUTSIDE}:6379/0` }),
      ],
      SYSTEM,
    );
    await this.newCertificate();
    const settings = { gateways: [`${SYSTEM}/people`], trustedSpawners: [`${NOTEBOOKS}/hub`] };
    const roots = "--set=rootsConfigMap=company-roots";
    await install([`--set-json=meshConfig=${JSON.stringify(settings)}`, "--set=replicas=1", roots]);
    await apply(MESH(this.issuer));
    const [, sidecar = ""] = imageFlags();
    this.notes = await helm([
      ...["upgrade", "--install", "people", chart, "--namespace", SYSTEM, roots],
      ...[`--set=trustDomain=${TRUST_DOMAIN}`, "--set=secrets={edge-tls,oidc,sessions}"],
      sidecar.replaceAll("sidecar.image", "image"),
    ]);
    await this.#startWorkloads();
    await waitForObject(SYSTEM, "deployment/people", "condition=Available", 60_000);
    this.address = await read(SYSTEM, "service/people", "{.spec.clusterIP}");
  }

  async stop(): Promise<void> {
    await uninstall();
    await removeNamespace(OUTSIDE);
  }

  async #startProvider(): Promise<void> {
    const { cert, key, ca } = await edgeCertificate([new URL(this.issuer).hostname], Date.now());
    this.providerCa = ca;
    const told: ProviderPod = {
      client: {
        ...{ clientId: "gateway", clientSecret: FIRST_SECRET },
        redirectUris: [`https://${HOST}/.countersign/callback/acme`],
        postLogoutRedirectUris: [`https://${HOST}/.countersign/signed-out`],
      },
      address: { issuer: this.issuer, port: 8443, key, cert },
      claims: { alice: { groups: ["fraud"] }, bob: { groups: ["other"] } },
    };
    const labels = (app: string): KubeObject => ({ labels: { app } });
    await apply(
      [
        pod("idp", labels("idp"), {
          command: ["node", "/provider/test/cluster/provider/provider.ts"],
          env: [{ name: "PROVIDER", value: JSON.stringify(told) }],
          readinessProbe: { tcpSocket: { port: 8081 }, periodSeconds: 1 },
        }),
        pod("redis", labels("redis"), {
          command: ["redis-server", "--protected-mode", "no", "--save", "", "--dir", "/tmp"],
          readinessProbe: { tcpSocket: { port: 6379 }, periodSeconds: 1 },
        }),
      ],
      OUTSIDE,
    );
  }

  async #startWorkloads(): Promise<void> {
    const rbac = "rbac.authorization.k8s.io";
    const may = (name: string, subject: KubeObject): KubeObject => ({
      ...{ apiVersion: `${rbac}/v1`, kind: "RoleBinding", metadata: { name } },
      roleRef: { apiGroup: rbac, kind: "ClusterRole", name: "edit" },
      subjects: [subject],
    });
    await apply(
      [
        service("nb-alice", 8888),
        may("hub", { kind: "ServiceAccount", name: "hub", namespace: NOTEBOOKS }),
        may("bob", { kind: "User", name: "bob", apiGroup: rbac }),
      ],
      NOTEBOOKS,
    );
    await apply(
      [
        service("fraud-scorer", 8080),
        pod(
          "fraud-scorer",
          {
            labels: {
              app: "fraud-scorer",
              "countersign.dev/kind": "serving",
              "countersign.dev/name": "fraud-scorer",
            },
            annotations: { "countersign.dev/packs": "8080=mlflow-scoring" },
          },
          {
            command: ["node", "/app/fraud-scorer.ts"],
            env: [{ name: "PORT", value: "8080" }],
            ports: [{ name: "http", containerPort: 8080 }],
            readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 },
          },
        ),
      ],
      MODELS,
    );
    const alices = {
      labels: { app: "nb-alice", "notebook-name": "nb-alice" },
      annotations: { "hub.jupyter.org/username": "acme|alice" },
    };
    const spawned = await createAs(`system:serviceaccount:${NOTEBOOKS}:hub`, notebook("nb-alice", alices));
    if (spawned !== undefined) throw new Error(spawned);
    for (const [namespace, name] of [
      [OUTSIDE, "idp"],
      [OUTSIDE, "redis"],
      [MODELS, "fraud-scorer"],
      [NOTEBOOKS, "nb-alice"],
    ] as const)
      await waitForObject(namespace, `pod/${name}`, "condition=Ready", 60_000);
  }

  /** Another certificate of another authority in the listener's Secret. */
  async newCertificate(): Promise<void> {
    const { cert, key, ca } = await edgeCertificate(["*.nb.acme.example"], Date.now());
    this.edgeCa = ca;
    const data = { "tls.crt": cert, "tls.key": key };
    await apply([{ ...secret("edge-tls", data), type: "kubernetes.io/tls" }], SYSTEM);
  }

  /** Another secret of the client, at the provider and in the gateway's Secret. */
  async newClientSecret(): Promise<void> {
    const next = "the second secret of the client, longer";
    const address = await read(OUTSIDE, "pod/idp", "{.status.podIP}");
    await fetch(`http://${address}:8081/`, { method: "POST", body: next });
    await apply([secret("oidc", { "client-secret": next })], SYSTEM);
  }

  /** Names and addresses of the gateway's pods that are not ending. */
  async replicas(): Promise<readonly (readonly [string, string])[]> {
    const { items } = JSON.parse(
      await kubectl([
        ...["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/instance=people"],
        ...["--field-selector=status.phase=Running", "-o", "json"],
      ]),
    ) as {
      items: { metadata: { name: string; deletionTimestamp?: string }; status: { podIP: string } }[];
    };
    return items
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
      .map(({ metadata, status }) => [metadata.name, status.podIP]);
  }

  /** Whether every replica shows the certificate that is in the Secret now. */
  async isCertificateNew(): Promise<boolean> {
    const shown = await Promise.all((await this.replicas()).map(([, address]) => this.#isTrusted(address)));
    return shown.length === 2 && shown.every((one) => one);
  }

  async #isTrusted(host: string): Promise<boolean> {
    const socket = connect({ host, port: 8443, servername: HOST, ca: this.edgeCa, minVersion: "TLSv1.3" });
    socket.setTimeout(5_000, () => socket.destroy(new Error("no handshake")));
    try {
      await once(socket, "secureConnect");
      return socket.authorized;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  }
}

/** Makes an object as somebody else. @returns why it was refused; undefined: it was not. */
export async function createAs(who: string, object: KubeObject): Promise<string | undefined> {
  const { code, stderr } = await tryKubectl(["create", `--as=${who}`, "-n", NOTEBOOKS, "-f", "-"], {
    stdin: JSON.stringify(object),
  });
  return code === 0 ? undefined : stderr;
}

/** What the model's sidecar recorded so far. */
export async function recorded(): Promise<readonly AuditData[]> {
  const text = await kubectl(["logs", "fraud-scorer", "-n", MODELS, "-c", "countersign-proxy"]);
  return text
    .split("\n")
    .filter((line) => line.includes('"actionName"'))
    .map((line) => (JSON.parse(line) as { data: AuditData }).data);
}
