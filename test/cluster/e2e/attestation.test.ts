// Who a pod is, on a real API server: projected ServiceAccount tokens and their imitations, a sidecar that joins from a
// pod, and the ConfigMap of roots that it joins by, kept with no more rights than the chart grants.
import { createPrivateKey, sign } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { parse, stringify } from "yaml";
import {
  createServiceAccountAttestor,
  type ServiceAccountAttestor,
} from "../../../control-plane/attestation/service-account.ts";
import { BUNDLE_NAME, runBundleConfigMaps } from "../../../control-plane/kubernetes/bundle-config-map.ts";
import { type Kubernetes, loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import type { MeshPod } from "../../../control-plane/sources/store.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { AUDIENCE, PodMesh } from "../../fakes/pod-mesh.ts";
import { workload } from "../../fakes/resources.ts";
import { describeOnCluster } from "../gate.ts";
import { IMAGES, PROXY_USER } from "../image-files.ts";
import { createNamespace, type KubeObject, kubectl, type TestNamespace, waitFor } from "../kube.ts";
import { adminKubeconfig, NODE_ADDRESS } from "../layout.ts";
import { pkiFile } from "../pki.ts";

const KEY = "lab/runner/job/trainer";
/** Of the pods' network, and no pod's: the highest one. */
const NOBODY = "10.88.15.254";

function account(name: string): KubeObject {
  return { apiVersion: "v1", kind: "ServiceAccount", metadata: { name } };
}

function sleeper(name: string, serviceAccountName: string): KubeObject {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      serviceAccountName,
      terminationGracePeriodSeconds: 1,
      containers: [{ name: "app", image: IMAGES.app, command: ["sleep", "3600"] }],
    },
  };
}

/** The pod as the control plane's own watch would have it. */
async function readPod(namespace: string, name: string): Promise<MeshPod> {
  const { metadata, spec } = JSON.parse(
    await kubectl(["get", "pod", name, "--namespace", namespace, "--output", "json"]),
  );
  return {
    uid: metadata.uid,
    namespace,
    name,
    serviceAccount: spec.serviceAccountName,
    node: spec.nodeName ?? "",
    addresses: [],
    ready: true,
    injected: true,
    workload: KEY,
  };
}

const audienceFlag = (audience: string | null): string[] =>
  audience === null ? [] : ["--audience", audience];

describeOnCluster("attestation", { testMs: 60_000, suiteMs: 180_000 }, () => {
  let namespace: TestNamespace;
  let kubernetes: Kubernetes;
  let attest: ServiceAccountAttestor;
  const pods = new Map<string, MeshPod>();
  let runner: MeshPod;

  /** @param audience null: the API server's own. */
  const token = async (pod: MeshPod, audience: string | null = AUDIENCE): Promise<string> =>
    (
      await kubectl([
        ...["create", "token", pod.serviceAccount, "--namespace", pod.namespace],
        ...["--bound-object-kind", "Pod", "--bound-object-name", pod.name, "--bound-object-uid", pod.uid],
        ...audienceFlag(audience),
      ])
    ).trim();

  /** A token that the cluster's own key signed, with other claims: what no API server would hand out. */
  const forged = (genuine: string, change: (claims: Record<string, unknown>) => object): string => {
    const [head = "", payload = ""] = genuine.split(".");
    const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Record<string, unknown>;
    const body = Buffer.from(JSON.stringify({ ...claims, ...change(claims) })).toString("base64url");
    const key = createPrivateKey(readFileSync(pkiFile("service-accounts.key")));
    return `${head}.${body}.${sign("sha256", Buffer.from(`${head}.${body}`), key).toString("base64url")}`;
  };

  const refusalOf = async (
    given: string,
  ): Promise<{ code: string; log: string; told: string } | undefined> => {
    const answer = await attest(given);
    return answer.ok
      ? undefined
      : { code: answer.error.code, log: answer.error.message, told: answer.error.told };
  };

  beforeAll(async () => {
    namespace = await createNamespace("attest");
    kubernetes = await loadKubernetes({ kubeconfig: adminKubeconfig(), context: undefined });
    await namespace.apply([account("runner"), account("other")]);
    await namespace.apply([sleeper("trainer", "runner"), sleeper("bystander", "other")]);
    // Bound tokens need a pod, not a running one.
    runner = await readPod(namespace.name, "trainer");
    pods.set(runner.uid, runner);
    attest = createServiceAccountAttestor({
      review: kubernetes.authentication,
      audience: AUDIENCE,
      pod: (uid) => pods.get(uid),
      clock: systemClock,
    });
  });
  afterAll(() => namespace?.delete());

  test("a projected token stands for its pod", async () => {
    expect(await attest(await token(runner))).toEqual({
      ok: true,
      value: { uid: runner.uid, workload: KEY },
    });
  });

  test("a token for somebody else is refused", async () => {
    for (const given of [await token(runner, "countersign.dev/other.example"), await token(runner, null)]) {
      expect(await refusalOf(given)).toMatchObject({
        code: "join_rejected",
        log: expect.stringMatching(/does not count: .*audience.*`countersign-token`/s),
        told: expect.stringMatching(/^the ServiceAccount token is not valid/),
      });
    }
    const plain = await kubectl(["create", "token", "runner", "--namespace", namespace.name]);
    expect(await refusalOf(plain.trim())).toMatchObject({ code: "join_rejected" });
  });

  test("a token that is bound to no pod is refused", async () => {
    const given = await kubectl([
      ...["create", "token", "runner", "--namespace", namespace.name],
      ...audienceFlag(AUDIENCE),
    ]);
    expect(await refusalOf(given.trim())).toMatchObject({
      code: "join_rejected",
      told: "the ServiceAccount token is bound to no pod",
    });
  });

  test("an expired token, one not yet valid and one with another signature are refused", async () => {
    const genuine = await token(runner);
    const nowSeconds = Math.floor(Date.now() / 1000);
    // The imitation itself is good: only what is changed makes the difference.
    expect(await refusalOf(forged(genuine, () => ({})))).toBeUndefined();
    const expired = forged(genuine, () => ({
      iat: nowSeconds - 7_200,
      nbf: nowSeconds - 7_200,
      exp: nowSeconds - 3_600,
    }));
    const early = forged(genuine, () => ({ nbf: nowSeconds + 3_600 }));
    const [head = "", payload = ""] = genuine.split(".");
    const unsigned = `${head}.${payload}.${Buffer.alloc(256, 7).toString("base64url")}`;
    for (const given of [expired, early, unsigned])
      expect(await refusalOf(given)).toMatchObject({
        code: "join_rejected",
        told: expect.stringMatching(/^the ServiceAccount token is not valid/),
      });
  });

  test("garbage is refused", async () => {
    for (const given of ["", "hello", "a.b.c", "e30.e30.e30", "x".repeat(20_000)])
      expect(await refusalOf(given)).toMatchObject({ code: "join_rejected" });
  });

  test("another ServiceAccount's token does not stand for this pod", async () => {
    const stolen = forged(await token(runner), (claims) => {
      const bound = claims["kubernetes.io"] as { serviceaccount: object };
      return {
        sub: `system:serviceaccount:${namespace.name}:other`,
        "kubernetes.io": { ...bound, serviceaccount: { ...bound.serviceaccount, name: "other" } },
      };
    });
    expect(await refusalOf(stolen)).toMatchObject({ code: "join_rejected" });
    // Its own pod's token is good, and is for that pod alone.
    const bystander = await readPod(namespace.name, "bystander");
    pods.set(bystander.uid, { ...bystander, workload: "lab/other" });
    expect(await attest(await token(bystander))).toEqual({
      ok: true,
      value: { uid: bystander.uid, workload: "lab/other" },
    });
  });

  test("the token of a deleted pod is refused, also where the watch still has the pod", async () => {
    await namespace.apply([sleeper("gone", "runner")]);
    const gone = await readPod(namespace.name, "gone");
    pods.set(gone.uid, gone);
    const given = await token(gone);
    await kubectl(["delete", "pod", "gone", "--namespace", namespace.name, "--grace-period=0", "--force"]);
    await waitFor(async () => (await refusalOf(given))?.code === "join_rejected", 20_000);
    expect((await refusalOf(given))?.told).toMatch(/its pod is gone/);
    // A pod of the same name is another pod.
    await namespace.apply([sleeper("gone", "runner")]);
    expect(await refusalOf(given)).toMatchObject({ code: "join_rejected" });
  });

  test("a pod that the watch does not know is to be tried again", async () => {
    await namespace.apply([sleeper("early", "runner")]);
    const given = await token(await readPod(namespace.name, "early"));
    expect(await refusalOf(given)).toMatchObject({
      code: "not_ready",
      log: expect.stringMatching(/`.*\/early`.*is not known here/),
    });
  });
});

describeOnCluster("the trust bundle and a sidecar in a pod", { testMs: 90_000, suiteMs: 240_000 }, () => {
  let namespace: TestNamespace;
  let mesh: PodMesh;
  let stop: AbortController;
  let kept: Promise<void>;
  let changed: () => void = () => {};
  let roots = "";
  let dir: string;
  const log: string[] = [];

  /** A kubeconfig that may do what the chart's ClusterRole grants for bundles, and nothing else. */
  const restrictedKubeconfig = async (): Promise<string> => {
    const name = `bundle-keeper-${namespace.name}`;
    await namespace.apply([
      account("keeper"),
      {
        ...{ apiVersion: "rbac.authorization.k8s.io/v1", kind: "ClusterRole", metadata: { name } },
        rules: [
          {
            apiGroups: [""],
            resources: ["configmaps"],
            resourceNames: [BUNDLE_NAME],
            verbs: ["get", "list", "watch", "create", "patch", "delete"],
          },
        ],
      },
      {
        ...{ apiVersion: "rbac.authorization.k8s.io/v1", kind: "ClusterRoleBinding", metadata: { name } },
        roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name },
        subjects: [{ kind: "ServiceAccount", name: "keeper", namespace: namespace.name }],
      },
    ]);
    const config = parse(readFileSync(adminKubeconfig(), "utf8"));
    const held = (await kubectl(["create", "token", "keeper", "--namespace", namespace.name])).trim();
    const file = join(dir, "keeper.conf");
    writeFileSync(
      file,
      stringify({ ...config, users: [{ name: config.users[0].name, user: { token: held } }] }),
      { mode: 0o600 },
    );
    return file;
  };

  const pem = async (): Promise<string> =>
    JSON.parse(
      await kubectl([
        ...["get", "configmaps", "--namespace", namespace.name, "--output", "json"],
        ...["--field-selector", `metadata.name=${BUNDLE_NAME}`, "--selector", "countersign.dev/bundle=true"],
      ]),
    ).items[0]?.data["roots.pem"] ?? "";
  const isKept = (): Promise<void> =>
    waitFor(async () => (await pem()) === roots, 20_000, "the ConfigMap with the roots");
  const edit = (patch: object): Promise<string> =>
    kubectl([
      ...["patch", "configmap", BUNDLE_NAME, "--namespace", namespace.name, "--type=merge"],
      ...["--patch", JSON.stringify(patch)],
    ]);

  /** The name by which pods reach the control plane of this test, which runs beside the cluster. */
  const pointNameTo = (address: string): Promise<void> =>
    namespace.apply([
      {
        ...{ apiVersion: "v1", kind: "Service", metadata: { name: "control-plane" } },
        spec: { clusterIP: "None", ports: [{ port: 1 }] },
      },
      {
        apiVersion: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: { name: "control-plane", labels: { "kubernetes.io/service-name": "control-plane" } },
        addressType: "IPv4",
        ports: [],
        endpoints: [{ addresses: [address], conditions: { ready: true } }],
      },
    ]);

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "cs-attest-"));
    namespace = await createNamespace("bundle");
    const admin = await loadKubernetes({ kubeconfig: adminKubeconfig(), context: undefined });
    mesh = new PodMesh({ review: admin.authentication, host: "0.0.0.0" });
    await mesh.start();
    ({ roots } = mesh);
    const { core, apply, rest } = await loadKubernetes({
      kubeconfig: await restrictedKubeconfig(),
      context: undefined,
    });
    stop = new AbortController();
    kept = runBundleConfigMaps(
      {
        ...{ core, apply, rest },
        roots: () => roots,
        namespaces: () => new Set([namespace.name]),
        // Other meshes may live on this cluster: theirs are left alone.
        hasPods: () => true,
        onChanged: (listener) => {
          changed = listener;
          return () => {};
        },
        clock: systemClock,
        random: Math.random,
        log: createLogger("debug", {}, (line) => log.push(line)),
      },
      stop.signal,
    );
  });
  afterAll(async () => {
    stop?.abort();
    await kept;
    await mesh?.close();
    const name = `bundle-keeper-${namespace?.name}`;
    await kubectl([
      "delete",
      "clusterrole,clusterrolebinding",
      ...["--field-selector", `metadata.name=${name}`],
    ]).catch(() => {});
    await namespace?.delete();
    rmSync(dir, { recursive: true, force: true });
  });

  test("the ConfigMap appears, and comes back when deleted, edited, stripped of its label or frozen", async () => {
    await isKept();
    const name = ["configmap", BUNDLE_NAME, "--namespace", namespace.name];
    await kubectl(["delete", ...name]);
    await isKept();
    await edit({ data: { "roots.pem": "EVIL" } });
    await isKept();
    await edit({ metadata: { labels: { "countersign.dev/bundle": null } } });
    await isKept();
    await edit({ immutable: true, data: { "roots.pem": "EVIL" } });
    await isKept();
    expect(log.filter((line) => line.includes('"level":"error"'))).toEqual([]);
  });

  test("a sidecar joins from its pod with the kubelet's token and these roots, wherever the name leads by then", async () => {
    await isKept();
    // Nobody is there, until the name means another address.
    await pointNameTo(NOBODY);
    await namespace.apply([
      account("runner"),
      {
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: "trainer" },
        spec: {
          serviceAccountName: "runner",
          terminationGracePeriodSeconds: 1,
          securityContext: { runAsUser: PROXY_USER, runAsGroup: PROXY_USER, runAsNonRoot: true },
          containers: [
            {
              name: "countersign-proxy",
              image: IMAGES.sidecar,
              args: [
                ...[
                  "sidecar",
                  "--state-dir",
                  "/run/own/state",
                  "--node",
                  "$(POD_NAME)",
                  "--metrics-listen",
                  "[::]:16020",
                ],
                ...[
                  "--service-account-token-file",
                  "/token/token",
                  "--trust-bundle-file",
                  "/bundle/roots.pem",
                ],
                ...["--bootstrap", `control-plane:${mesh.ports.bootstrap}`],
                ...["--control-plane", `control-plane:${mesh.ports.discovery}`],
              ],
              env: [{ name: "POD_NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } }],
              securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false },
              readinessProbe: { httpGet: { path: "/readyz", port: 16020 }, periodSeconds: 1 },
              volumeMounts: [
                { name: "state", mountPath: "/run/own" },
                { name: "token", mountPath: "/token", readOnly: true },
                { name: "bundle", mountPath: "/bundle", readOnly: true },
              ],
            },
          ],
          volumes: [
            { name: "state", emptyDir: { medium: "Memory" } },
            {
              name: "token",
              projected: {
                sources: [
                  { serviceAccountToken: { audience: AUDIENCE, expirationSeconds: 3600, path: "token" } },
                ],
              },
            },
            { name: "bundle", configMap: { name: BUNDLE_NAME } },
          ],
        },
      },
    ]);
    // Known a moment later than it runs, as with a watch that lags.
    const pod = await readPod(namespace.name, "trainer");
    const job = workload("trainer", namespace.name, {
      kind: "job",
      serviceAccount: "runner",
      service: undefined,
      ports: [],
    });
    const says = (text: RegExp): Promise<void> =>
      waitFor(async () => text.test(await namespace.logs("trainer").catch(() => "")), 30_000, String(text));
    await says(/cannot join yet/);
    await pointNameTo(NODE_ADDRESS);
    await says(/does not know this pod yet/);
    mesh.setState({ workloads: new Map([[KEY, job]]), pods: new Map([[pod.uid, pod]]) });
    await namespace.waitFor("pod/trainer", "condition=Ready", 45_000);
    expect(mesh.connected).toMatchObject([{ pod: pod.uid, workload: KEY, node: "trainer" }]);
    expect(await namespace.logs("trainer")).toContain(
      `spiffe://test.example/ns/${namespace.name}/sa/runner/job/trainer`,
    );
  });

  test("its container restarts into the identity that it kept, and joins again when that counts no more", async () => {
    const pod = await readPod(namespace.name, "trainer");
    const agent = workload("planner", namespace.name, {
      kind: "agent",
      serviceAccount: "runner",
      service: undefined,
      ports: [],
    });
    mesh.setState({ workloads: new Map([[KEY, agent]]), pods: new Map([[pod.uid, pod]]) });
    await waitFor(
      async () => (await namespace.logs("trainer")).includes("/sa/runner/agent/planner"),
      30_000,
      "an identity under the new name",
    );
    await waitFor(async () => mesh.connected.length === 1, 20_000);
    // SIGKILL from inside does not reach a container's first process.
    await namespace.exec("trainer", ["node", "-e", "process.kill(1, 'SIGTERM')"]);
    await waitFor(
      async () =>
        (await namespace.read("pod/trainer", "{.status.containerStatuses[0].restartCount}")) === "1" &&
        (await namespace.logs("trainer")).includes("discovery stream established"),
      30_000,
      "a stream of the restarted container",
    );
    const after = await namespace.logs("trainer");
    expect(after).toContain('"msg":"last good table loaded"');
    expect(after).not.toMatch(/"msg":"(?:joined|cannot join yet)"/);
    expect(mesh.connected).toMatchObject([{ pod: pod.uid, workload: KEY }]);
  });

  test("new roots reach the ConfigMap at once", async () => {
    roots = `${roots}${roots}`;
    changed();
    await isKept();
  });
});
