// Injection as the API server asks for it: the admission server of this process on the node's address, a webhook
// configuration for this test's namespaces alone, and real pods that are created, changed and refused.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { runAuditor } from "../../../control-plane/admission/auditor.ts";
import { runCaBundles } from "../../../control-plane/admission/ca-bundle.ts";
import { createInjectHandler } from "../../../control-plane/admission/inject-handler.ts";
import { type AdmissionServer, createAdmissionServer } from "../../../control-plane/admission/server.ts";
import type { InjectSettings } from "../../../control-plane/admission/sidecar-containers.ts";
import { createWebhookCertificate } from "../../../control-plane/admission/webhook-certificate.ts";
import { runVerb } from "../../../control-plane/cli/verbs.ts";
import { type Kubernetes, loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { createKubernetesWriter } from "../../../control-plane/kubernetes/writer.ts";
import type { MeshPod } from "../../../control-plane/sources/store.ts";
import { EventRecorder } from "../../../control-plane/status/events.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { createTestAuthority, type TestAuthority } from "../../fakes/authority.ts";
import { describeOnCluster } from "../gate.ts";
import { IMAGES } from "../image-files.ts";
import {
  apply,
  createNamespace,
  type KubeObject,
  kubectl,
  type TestNamespace,
  tryKubectl,
  waitFor,
} from "../kube.ts";
import { adminKubeconfig, NODE_ADDRESS } from "../layout.ts";
import { letGo } from "../lock.ts";
import { begin } from "../release.ts";

const SETTINGS: InjectSettings = {
  image: IMAGES.sidecar,
  imagePullPolicy: "IfNotPresent",
  trustDomain: "injection.example",
  // Nobody there: this suite is about how pods start, not about what the mesh does then.
  controlPlane: "countersign.injection-test.svc:16012",
  bootstrap: "countersign.injection-test.svc:16011",
  resources: { cpu: "10m", memory: "64Mi", cpuLimit: undefined, memoryLimit: "256Mi" },
  logLevel: "info",
  legacyIptables: false,
  version: "0.0.0-test",
};
const log = createLogger("silent");
const CONFIGURATION = `injection-test-${process.pid}`;
const SELECTED = "injection-test.countersign.dev/run";

interface PodJson {
  readonly metadata: { readonly annotations: Readonly<Record<string, string>> };
  readonly spec: {
    readonly initContainers: readonly (KubeObject & {
      readonly name: string;
      readonly args: readonly string[];
    })[];
    readonly containers: readonly KubeObject[];
  };
}

const APP = { name: "app", image: IMAGES.app, imagePullPolicy: "IfNotPresent", command: ["sleep", "600"] };

function pod(name: string, spec: KubeObject = {}, metadata: KubeObject = {}): KubeObject {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, ...metadata },
    spec: { terminationGracePeriodSeconds: 1, containers: [APP], ...spec },
  };
}

describeOnCluster("injection", { testMs: 120_000, suiteMs: 900_000 }, () => {
  let authority: TestAuthority;
  let server: AdmissionServer;
  let space: TestNamespace;
  let unmeshed: TestNamespace;
  const asked: string[] = [];
  const stop = new AbortController();
  let bundles: Promise<void>;
  let kubernetes: Kubernetes;

  beforeAll(async () => {
    // An installed release has admission policies of its own, which do not know this test's webhook.
    await begin();
    authority = await createTestAuthority(Date.now(), SETTINGS.trustDomain);
    server = await createAdmissionServer({
      host: NODE_ADDRESS,
      port: 0,
      certificate: await createWebhookCertificate(
        authority.ca,
        [NODE_ADDRESS, "injection-test.svc"],
        Date.now(),
      ),
      handlers: {
        "/inject": createInjectHandler({
          settings: SETTINGS,
          trustedSpawners: () => [`${space.name}/spawner`],
          namespaceLabels: () => undefined,
          packs: () => new Set(["mlflow-scoring"]),
        }),
      },
      clock: systemClock,
      log,
      observe: (_, outcome) => void asked.push(outcome),
    });
    const run = CONFIGURATION;
    space = await createNamespace("injection", { [SELECTED]: run });
    unmeshed = await createNamespace("injection-out");
    await apply(webhooks(server.port));
    kubernetes = await loadKubernetes({ kubeconfig: adminKubeconfig(), context: undefined });
    bundles = runCaBundles(
      { ...kubernetes, ca: authority.ca, name: CONFIGURATION, clock: systemClock, random: Math.random, log },
      stop.signal,
    );
    await waitFor(async () => (await bundlesInForce()).every((one) => one === bundleOf(authority)), 20_000);
    for (const { name } of [space, unmeshed]) {
      await apply(
        [
          {
            apiVersion: "v1",
            kind: "ConfigMap",
            metadata: { name: "countersign-bundle" },
            data: { "roots.pem": authority.ca.roots.join("") },
          },
          { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "spawner" } },
        ],
        name,
      );
    }
  }, 600_000);

  afterAll(async () => {
    // First of all: a webhook without a server would hold up whoever uses these namespaces.
    await tryKubectl([
      ...["delete", "mutatingwebhookconfiguration,validatingwebhookconfiguration", CONFIGURATION],
      "--ignore-not-found",
    ]);
    stop.abort();
    await bundles;
    await Promise.all([space?.delete(), unmeshed?.delete(), server?.close(), authority?.close()]);
    letGo("release");
  });

  const create = (object: KubeObject, namespace = space, args: readonly string[] = []) =>
    tryKubectl(["create", "--namespace", namespace.name, "--filename", "-", "--output", "json", ...args], {
      stdin: JSON.stringify(object),
    });
  const created = async (
    object: KubeObject,
    namespace = space,
    args: readonly string[] = [],
  ): Promise<PodJson> => {
    const { code, stdout, stderr } = await create(object, namespace, args);
    if (code !== 0) throw new Error(stderr);
    return JSON.parse(stdout) as PodJson;
  };
  const DRY = ["--dry-run=server"];
  const namesOf = ({ spec }: PodJson): readonly string[] => spec.initContainers.map(({ name }) => name);

  test("a pod with everything that is rewritten is accepted by the API server's own validation", async () => {
    const made = await created(
      pod(
        "everything",
        {
          initContainers: [
            { name: "migrate", image: IMAGES.app, command: ["true"] },
            {
              name: "logger",
              image: IMAGES.app,
              restartPolicy: "Always",
              livenessProbe: { grpc: { port: 9000, service: "x" } },
            },
          ],
          containers: [
            {
              ...APP,
              ports: [{ name: "http", containerPort: 8080 }],
              startupProbe: { tcpSocket: { port: "http" }, failureThreshold: 9 },
              livenessProbe: {
                httpGet: { path: "/a$(POD_IP)", port: "http", scheme: "HTTPS" },
                periodSeconds: 7,
              },
              readinessProbe: {
                httpGet: { path: "/r", port: 8080, httpHeaders: [{ name: "A", value: "b" }] },
              },
            },
          ],
          volumes: [{ name: "data", emptyDir: {} }],
        },
        {
          annotations: {
            "countersign.dev/packs": "8080=mlflow-scoring",
            "countersign.dev/exclude-outbound-ports": "5432",
            "countersign.dev/opaque-ports": "6379",
            "countersign.dev/cpu": "0.02",
            "prometheus.io/scrape": "true",
          },
        },
      ),
      space,
      DRY,
    );
    expect(namesOf(made)).toEqual(["countersign-init", "countersign-proxy", "migrate", "logger"]);
    expect(made.metadata.annotations).toMatchObject({
      "countersign.dev/injected": "0.0.0-test",
      "kubectl.kubernetes.io/default-container": "app",
      "prometheus.io/port": "16020",
      "prometheus.io/path": "/merged-metrics",
    });
    expect(made.spec.containers[0]).toMatchObject({
      livenessProbe: {
        httpGet: { path: "/probe/app/liveness", port: 16020, scheme: "HTTP" },
        periodSeconds: 7,
      },
    });
  });

  test("what the API server filled in counts as ours when the pod comes again", async () => {
    const first = await created(pod("again"), space, DRY);
    const { metadata, spec, apiVersion, kind } = first as unknown as Record<string, KubeObject>;
    const again = await created(
      { apiVersion, kind, metadata: { ...metadata, uid: undefined, creationTimestamp: undefined }, spec },
      space,
      DRY,
    );
    expect(again.spec.initContainers).toEqual(first.spec.initContainers);
  });

  test("a bare pod gets its sidecar, which runs as nobody else and captures before the application starts", async () => {
    await created(pod("bare", {}, { labels: { "countersign.dev/kind": "notebook" } }));
    await space.waitFor(
      "pod/bare",
      "jsonpath={.status.initContainerStatuses[0].state.terminated.exitCode}=0",
      60_000,
    );
    const init = await space.logs("bare", "countersign-init");
    expect(init).toContain("capture rules applied");
    expect(init).toContain("capture verified");
    await space.waitFor(
      "pod/bare",
      "jsonpath={.status.initContainerStatuses[1].state.running.startedAt}",
      60_000,
    );
    const script = `const fs = require("node:fs");
      const token = fs.readFileSync("/var/run/secrets/countersign/token", "latin1");
      console.log(JSON.stringify({
        uid: process.getuid(),
        audience: JSON.parse(Buffer.from(token.split(".")[1], "base64url")).aud,
        capabilities: /CapBnd:\\s*(\\S+)/.exec(fs.readFileSync("/proc/self/status", "latin1"))[1],
        roots: fs.readFileSync("/var/run/countersign/bundle/roots.pem", "latin1").length > 0,
      }))`;
    const who = await space.exec("bare", ["node", "-e", script], { container: "countersign-proxy" });
    expect(who.stderr).toBe("");
    expect(JSON.parse(who.stdout)).toEqual({
      uid: 61600,
      audience: ["countersign.dev/injection.example"],
      capabilities: "0000000000000000",
      roots: true,
    });
    await waitFor(
      async () => (await space.logs("bare", "countersign-proxy")).includes("capture verified"),
      20_000,
      "the sidecar's own look at capture",
    );
    // There is no control plane here, so the sidecar is not ready, and nothing of the application has started.
    expect(await space.read("pod/bare", "{.status.containerStatuses[0].state.waiting.reason}")).toBe(
      "PodInitializing",
    );
    expect(await space.read("pod/bare", "{.status.initContainerStatuses[1].started}")).toBe("false");
  });

  test("pods of templates get theirs, with the facts of whoever made them", async () => {
    await space.apply([
      {
        apiVersion: "batch/v1",
        kind: "Job",
        metadata: { name: "nightly" },
        spec: {
          template: {
            metadata: { annotations: { "countersign.dev/run-as": "bob@corp.example" } },
            spec: { restartPolicy: "Never", containers: [APP] },
          },
        },
      },
    ]);
    await space.waitFor("job/nightly", "jsonpath={.status.active}=1", 30_000);
    const made = JSON.parse(
      await kubectl(["get", "pods", "--namespace", space.name, "-l", "job-name=nightly", "-o", "json"]),
    ).items[0] as PodJson;
    expect(namesOf(made)).toEqual(["countersign-init", "countersign-proxy"]);
    expect(made.metadata.annotations).toMatchObject({
      "countersign.dev/verified-run-as": "bob@corp.example",
      "countersign.dev/verified-spawner": "system:serviceaccount:kube-system:job-controller",
    });
  });

  test("nobody verifies facts about users but a trusted spawner, and forged ones go", async () => {
    const facts = {
      annotations: {
        "hub.jupyter.org/username": "bob",
        "countersign.dev/verified-owner": "mallory",
        "countersign.dev/verified-x": "mallory",
      },
    };
    const admin = await created(pod("nb", {}, facts), space, DRY);
    expect(Object.keys(admin.metadata.annotations).filter((key) => key.includes("verified"))).toEqual([]);
    const spawner = `system:serviceaccount:${space.name}:spawner`;
    await kubectl([
      ...["create", "rolebinding", "spawner", "--namespace", space.name],
      ...["--clusterrole", "edit", "--serviceaccount", `${space.name}:spawner`],
    ]);
    const spawned = await created(pod("nb", {}, facts), space, [...DRY, `--as=${spawner}`]);
    expect(spawned.metadata.annotations).toMatchObject({
      "countersign.dev/verified-owner": "bob",
      "countersign.dev/verified-spawner": spawner,
    });
    expect(spawned.metadata.annotations).not.toHaveProperty(["countersign.dev/verified-x"]);
  });

  test.each([
    ["hostNetwork", { hostNetwork: true }, "`hostNetwork` has the node's network"],
    ["hostPID", { hostPID: true }, "`hostPID` sees the node's processes"],
    ["a shared process namespace", { shareProcessNamespace: true }, "`shareProcessNamespace` shows"],
    [
      "privilege",
      { containers: [{ ...APP, securityContext: { privileged: true } }] },
      "container `app` is privileged",
    ],
    [
      "NET_ADMIN",
      { containers: [{ ...APP, securityContext: { capabilities: { add: ["NET_ADMIN"] } } }] },
      "container `app` adds the capability `NET_ADMIN`",
    ],
    [
      "the sidecar's user",
      { containers: [{ ...APP, securityContext: { runAsUser: 61600 } }] },
      "is 61600, which is the sidecar's user",
    ],
    [
      "a port of the mesh",
      { containers: [{ ...APP, ports: [{ containerPort: 16008 }] }] },
      "container `app` has port 16008",
    ],
    [
      "a container called as ours",
      { initContainers: [{ name: "countersign-proxy", image: IMAGES.app }] },
      "has the name of one of the mesh's",
    ],
  ])("a pod with %s is refused with what to do", async (_, spec, reason) => {
    const { code, stderr } = await create(pod("refused", spec as KubeObject), space, DRY);
    expect(code).not.toBe(0);
    expect(stderr).toContain("denied the request");
    expect(stderr).toContain(reason);
  });

  test("a pod stays out by its own label, and where its namespace is not meshed", async () => {
    const out = { labels: { "countersign.dev/inject": "disabled" } };
    const left = await created(pod("out", { hostNetwork: true }, out), space, DRY);
    expect(left.spec.initContainers).toBeUndefined();
    expect((await created(pod("plain"), unmeshed, DRY)).spec.initContainers).toBeUndefined();
  });

  test("a mistyped annotation is answered with a warning that kubectl shows", async () => {
    const annotations = { "countersign.dev/opaque-port": "1" };
    const { code, stderr } = await create(pod("typo", {}, { annotations }), space, DRY);
    expect(code).toBe(0);
    expect(stderr).toContain("did you mean `countersign.dev/opaque-ports`?");
  });

  test("a debugging container joins a meshed pod, but not as the sidecar's user", async () => {
    const debug = (container: string, profile: string) =>
      tryKubectl([
        ...["debug", "bare", "--namespace", space.name, "--image", IMAGES.app, "--container", container],
        ...["--profile", profile, "--image-pull-policy", "IfNotPresent", "--", "sleep", "1"],
      ]);
    const refused = await debug("bad", "netadmin");
    expect(refused.stderr).toContain(
      "the container cannot join a meshed pod: container `bad` adds the capability",
    );
    expect(await debug("good", "general")).toMatchObject({ code: 0 });
  });

  test("while the webhook is away nothing starts unmeshed, and pods that stay out start as ever", async () => {
    await apply(webhooks(1));
    try {
      const waiting = await create(pod("waiting"), space, DRY);
      expect(waiting.code).not.toBe(0);
      expect(waiting.stderr).toContain("failed calling webhook");
      expect((await create(pod("plain"), unmeshed, DRY)).code).toBe(0);
      const out = { labels: { "countersign.dev/inject": "disabled" } };
      expect((await create(pod("out", {}, out), space, DRY)).code).toBe(0);
    } finally {
      await apply(webhooks(server.port));
    }
    expect(namesOf(await created(pod("back"), space, DRY))[0]).toBe("countersign-init");
  });

  test("a caBundle that somebody overwrites is written again, and nothing else of the configuration", async () => {
    const other = Buffer.from("-----BEGIN CERTIFICATE-----\nnot ours\n").toString("base64");
    const before = await configuration("mutating");
    await kubectl([
      ...["patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json", "--patch"],
      JSON.stringify([{ op: "replace", path: "/webhooks/0/clientConfig/caBundle", value: bundleOf(other) }]),
    ]);
    await waitFor(async () => (await bundlesInForce()).every((one) => one === bundleOf(authority)), 20_000);
    expect((await configuration("mutating"))["webhooks"]).toEqual(before["webhooks"]);
  });

  test("a pod that was made before its namespace was labelled is told so by an event", async () => {
    await created(pod("early"), unmeshed);
    const uid = await unmeshed.read("pod/early", "{.metadata.uid}");
    const early: MeshPod = {
      ...{ uid, namespace: unmeshed.name, name: "early", serviceAccount: "default", node: "", addresses: [] },
      ...{ ready: true, injected: false, workload: undefined },
    };
    const end = new AbortController();
    const writer = createKubernetesWriter(kubernetes.kubeConfig, 1);
    const options = { clock: systemClock, log };
    const events = new EventRecorder({ writer, identity: "injection-test", ...options });
    const auditing = Promise.all([
      events.run(end.signal),
      runAuditor(
        {
          state: () => ({
            pods: new Map([[uid, early]]),
            namespaces: new Map([[unmeshed.name, new Map([["countersign.dev/inject", "enabled"]])]]),
          }),
          exempt: new Set(),
          onChanged: () => () => {},
          observe: () => {},
          ...{ events, ...options },
        },
        end.signal,
      ),
    ]);
    try {
      await waitFor(
        async () =>
          (await kubectl(["events", "--namespace", unmeshed.name, "--for", "pod/early"])).includes(
            "NotMeshed",
          ),
        20_000,
        "an event on the pod",
      );
    } finally {
      end.abort();
      await auditing;
      writer.close();
    }
  });

  test("a forged review tells its author what it says itself, and moves nothing", async () => {
    await created(pod("forger"), unmeshed);
    await unmeshed.waitFor("pod/forger", "condition=Ready", 60_000);
    const review = {
      apiVersion: "admission.k8s.io/v1",
      kind: "AdmissionReview",
      request: {
        uid: "705ab4f5-6393-11e8-b7cc-42010a800002",
        kind: { group: "", version: "v1", kind: "Pod" },
        resource: { group: "", version: "v1", resource: "pods" },
        namespace: space.name,
        operation: "CREATE",
        userInfo: { username: `system:serviceaccount:${space.name}:spawner` },
        object: pod("forged", {}, { annotations: { "hub.jupyter.org/username": "root" } }),
      },
    };
    const script = `process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
      const post = (body) => fetch("https://${NODE_ADDRESS}:${server.port}/inject", {
        method: "POST", headers: { "content-type": "application/json" }, body,
      }).then(async (answer) => [answer.status, await answer.text()]);
      Promise.all([post(${JSON.stringify(JSON.stringify(review))}), post("{}"), post("[".repeat(100_000))])
        .then((answers) => console.log(JSON.stringify(answers)));`;
    const { stdout, stderr } = await unmeshed.exec("forger", ["node", "--no-warnings", "-e", script]);
    expect(stderr).toBe("");
    const [forged, empty, deep] = JSON.parse(stdout) as readonly (readonly [number, string])[];
    expect(forged?.[0]).toBe(200);
    expect(JSON.parse(forged?.[1] ?? "").response.allowed).toBe(true);
    expect([empty?.[0], deep?.[0]]).toEqual([400, 400]);
    expect((await tryKubectl(["get", "pod", "forged", "--namespace", space.name])).code).not.toBe(0);
  });

  test("files that `countersign inject` writes are accepted, and brought up to date by the webhook", async () => {
    const written: string[] = [];
    const write = (more: string): void => void written.push(more);
    const folder = await mkdtemp(join(tmpdir(), "countersign-inject-"));
    try {
      const file = join(folder, "objects.yaml");
      const template = { metadata: { labels: { app: "x" } }, spec: { containers: [APP] } };
      const objects = [
        {
          ...{ apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "offline" } },
          spec: { replicas: 0, selector: { matchLabels: { app: "x" } }, template },
        },
        {
          ...{ apiVersion: "batch/v1", kind: "CronJob", metadata: { name: "offline" } },
          spec: {
            schedule: "0 0 1 1 *",
            jobTemplate: { spec: { template: { spec: { ...template.spec, restartPolicy: "Never" } } } },
          },
        },
        pod("offline"),
      ];
      await writeFile(file, objects.map((object) => JSON.stringify(object)).join("\n---\n"));
      const flags = ["--image", "old.example/sidecar:1", "--set", "cpu=7m"];
      expect(await runVerb(["inject", "-f", file, ...flags], { out: write, err: write })).toBe(0);
    } finally {
      await rm(folder, { recursive: true });
    }
    const apply = ["apply", "--dry-run=server", "--validate=strict", "--filename", "-", "--output", "json"];
    const items = async (namespace: string) =>
      JSON.parse(await kubectl([...apply, "--namespace", namespace], { stdin: written.join("") })).items;
    const outside = await items(unmeshed.name);
    expect(outside).toHaveLength(3);
    expect(JSON.stringify(outside).match(/"old.example\/sidecar:1"/g)?.length).toBeGreaterThanOrEqual(6);
    const [, , inside] = await items(space.name);
    expect((inside as PodJson).spec.initContainers.map(({ image }) => image)).toEqual([
      IMAGES.sidecar,
      IMAGES.sidecar,
    ]);
  });

  test("every review was answered", () => {
    // The two of the forged ones that are no reviews are the only ones without a verdict.
    expect(asked.filter((outcome) => outcome !== "allowed" && outcome !== "refused")).toEqual([
      "malformed",
      "malformed",
    ]);
    expect(asked.length).toBeGreaterThan(20);
  });
});

const bundleOf = (from: TestAuthority | string): string =>
  typeof from === "string" ? from : Buffer.from(from.ca.roots.join("")).toString("base64");

async function configuration(kind: "mutating" | "validating"): Promise<Record<string, unknown>> {
  return JSON.parse(
    await kubectl(["get", `${kind}webhookconfiguration`, CONFIGURATION, "--output", "json"]),
  ) as Record<string, unknown>;
}

async function bundlesInForce(): Promise<readonly unknown[]> {
  const both = [await configuration("mutating"), await configuration("validating")];
  return both.flatMap(({ webhooks }) =>
    (webhooks as readonly { clientConfig: { caBundle?: string } }[]).map(
      (hook) => hook.clientConfig.caBundle,
    ),
  );
}

/** As the chart's, but by address, and for the namespace of this run instead of those with our label. */
function webhooks(port: number): readonly KubeObject[] {
  const common = {
    admissionReviewVersions: ["v1"],
    failurePolicy: "Fail",
    sideEffects: "None",
    timeoutSeconds: 10,
    namespaceSelector: { matchLabels: { [SELECTED]: CONFIGURATION } },
  };
  return [
    {
      apiVersion: "admissionregistration.k8s.io/v1",
      kind: "MutatingWebhookConfiguration",
      metadata: { name: CONFIGURATION },
      webhooks: [
        {
          ...common,
          name: "namespace.injection-test.countersign.dev",
          reinvocationPolicy: "IfNeeded",
          clientConfig: { url: `https://${NODE_ADDRESS}:${port}/inject` },
          rules: [
            { apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE"], resources: ["pods"] },
            {
              ...{ apiGroups: [""], apiVersions: ["v1"], operations: ["UPDATE"] },
              resources: ["pods/ephemeralcontainers"],
            },
          ],
          objectSelector: {
            matchExpressions: [{ key: "countersign.dev/inject", operator: "NotIn", values: ["disabled"] }],
          },
        },
      ],
    },
    {
      apiVersion: "admissionregistration.k8s.io/v1",
      kind: "ValidatingWebhookConfiguration",
      metadata: { name: CONFIGURATION },
      webhooks: [
        {
          ...common,
          name: "validation.injection-test.countersign.dev",
          clientConfig: { url: `https://${NODE_ADDRESS}:${port}/validate` },
          rules: [
            {
              apiGroups: ["injection-test.countersign.dev"],
              apiVersions: ["v1"],
              operations: ["CREATE"],
              resources: ["none"],
            },
          ],
        },
      ],
    },
  ];
}
