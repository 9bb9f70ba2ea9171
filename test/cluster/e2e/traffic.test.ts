// Where captured calls lead on a real network: names of StatefulSets, pods without a Service, pods without a sidecar,
// `outbound`, and plaintext callers of a namespace that migrates.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { apply, type KubeObject, kubectl, read, tryKubectl, waitFor, waitForObject } from "../kube.ts";
import { type Answer, begin, callFrom, install, uninstall } from "../release.ts";

const MESH = "traffic-mesh";
const LEGACY = "traffic-legacy";
const CLIENT = { namespace: MESH, name: "client", container: "app" } as const;
const OUTSIDER = { namespace: LEGACY, name: "client", container: "app" } as const;

const container = (command: readonly string[], port?: number): KubeObject => ({
  name: "app",
  image: "countersign.test/app:dev",
  imagePullPolicy: "IfNotPresent",
  command,
  ...(port === undefined
    ? {}
    : {
        ports: [{ name: "http", containerPort: port }],
        readinessProbe: { httpGet: { path: "/", port }, periodSeconds: 1 },
      }),
});
const IDLE = container(["sleep", "3600"]);

const pod = (namespace: string, name: string, one: KubeObject, labels: KubeObject = {}): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, namespace, labels },
  spec: { terminationGracePeriodSeconds: 1, containers: [one] },
});
const service = (namespace: string, name: string, port: number, more: KubeObject = {}): KubeObject => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace },
  spec: { selector: { app: name }, ports: [{ name: "http", port, targetPort: "http" }], ...more },
});

const OBJECTS: readonly KubeObject[] = [
  {
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    metadata: { name: "ring", namespace: MESH },
    spec: {
      replicas: 2,
      serviceName: "ring",
      podManagementPolicy: "Parallel",
      selector: { matchLabels: { app: "ring" } },
      template: {
        metadata: { labels: { app: "ring" } },
        spec: {
          terminationGracePeriodSeconds: 1,
          containers: [container(["node", "/app/listen.ts", "7077"], 7077)],
        },
      },
    },
  },
  service(MESH, "ring", 7077, { clusterIP: "None" }),
  // As workers of Ray and MPI: reached by the addresses they tell each other.
  pod(MESH, "worker", container(["node", "/app/listen.ts", "7078"], 7078)),
  pod(MESH, "vault", container(["node", "/app/listen.ts", "7079"], 7079), { app: "vault" }),
  service(MESH, "vault", 80),
  pod(MESH, "client", IDLE),
  pod(LEGACY, "old", container(["node", "/app/listen.ts", "8080"], 8080), { app: "old" }),
  service(LEGACY, "old", 80),
  pod(LEGACY, "client", IDLE),
];

const POLICY: readonly KubeObject[] = [
  {
    apiVersion: "countersign.dev/v1alpha1",
    kind: "AccessPolicy",
    metadata: { name: "clients", namespace: MESH },
    spec: {
      action: "Allow",
      targets: [{ names: ["ring", "worker"] }],
      rules: [
        { name: "callers", from: [{ workload: { names: ["client", "ring"] } }], operations: [{ any: true }] },
      ],
    },
  },
  {
    apiVersion: "countersign.dev/v1alpha1",
    kind: "AccessPolicy",
    metadata: { name: "no-deletions", namespace: MESH },
    spec: {
      action: "Deny",
      rules: [{ name: "all", operations: [{ http: { methods: ["DELETE"], paths: ["/**"] } }] }],
    },
  },
];

const addressOf = (namespace: string, name: string) => read(namespace, `pod/${name}`, "{.status.podIP}");
const configure = (spec: KubeObject) =>
  kubectl(["patch", "meshconfig", "default", "--type=merge", "--patch", JSON.stringify({ spec })]);

/** Until a change of the configuration has arrived. */
async function until(
  from: typeof CLIENT | typeof OUTSIDER,
  url: string,
  isThere: (answer: Answer) => boolean,
) {
  let last: Answer | undefined;
  await waitFor(
    async () => {
      last = await callFrom(from, url);
      return isThere(last);
    },
    10_000,
    `another answer of ${url}`,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}; the last was ${JSON.stringify(last)}`);
  });
}

describeOnCluster("captured traffic in pods", { testMs: 60_000, suiteMs: 420_000 }, () => {
  beforeAll(async () => {
    await begin();
    await install();
    await apply([
      {
        apiVersion: "v1",
        kind: "Namespace",
        metadata: { name: MESH, labels: { "countersign.dev/inject": "enabled" } },
      },
      { apiVersion: "v1", kind: "Namespace", metadata: { name: LEGACY } },
    ]);
    await waitFor(
      async () => (await tryKubectl(["get", "serviceaccount", "default", "-n", MESH])).code === 0,
      20_000,
    );
    await apply([...OBJECTS, ...POLICY]);
    for (const one of ["pod/ring-0", "pod/ring-1", "pod/worker", "pod/vault", "pod/client"])
      await waitForObject(MESH, one, "condition=Ready", 60_000);
    for (const one of ["pod/old", "pod/client"]) await waitForObject(LEGACY, one, "condition=Ready", 60_000);
  }, 2_000_000);

  afterAll(async () => {
    await tryKubectl(["delete", "namespace", MESH, LEGACY, "--wait=false"]);
    await tryKubectl(["delete", "pods", "--all", "-n", MESH, "--grace-period=1", "--wait=false"]);
    await uninstall();
  }, 240_000);

  test("the names of a StatefulSet lead to that pod and no other", async () => {
    for (const name of ["ring-0", "ring-1"]) {
      const answer = await callFrom(CLIENT, `http://${name}.ring:7077/where`);
      expect(answer).toMatchObject({ status: 200 });
      expect(JSON.parse(answer.body).localAddress).toContain(await addressOf(MESH, name));
    }
    expect(await callFrom(CLIENT, "http://ring:7077/")).toMatchObject({ status: 200 });
  });

  test("members of one set call each other, and a pod that calls its own Service is decided on like others", async () => {
    const member = { namespace: MESH, name: "ring-0", container: "app" } as const;
    expect(await callFrom(member, "http://ring-1.ring:7077/")).toMatchObject({ status: 200 });
    // Its own address is the pod itself: containers of one pod are one workload.
    expect(await callFrom(member, "http://ring-0.ring:7077/")).toMatchObject({ status: 200 });
    const vault = { namespace: MESH, name: "vault", container: "app" } as const;
    expect(await callFrom(vault, `http://vault.${MESH}/`)).toMatchObject({
      status: 403,
      reason: "DEFAULT_DENY",
    });
  });

  test("a pod that no Service selects is reached by its address, with identity and decision", async () => {
    const url = `http://${await addressOf(MESH, "worker")}:7078/`;
    expect(await callFrom(CLIENT, url)).toMatchObject({ status: 200 });
    expect(await callFrom(CLIENT, "-X", "DELETE", url)).toMatchObject({
      status: 403,
      reason: "DENIED_BY_POLICY",
    });
  });

  test("`outbound` decides on pods without a sidecar, and opens nothing of the mesh", async () => {
    const old = `http://old.${LEGACY}/`;
    const vault = `http://vault.${MESH}/`;
    expect(await callFrom(CLIENT, old)).toMatchObject({ status: 403, reason: "OUTBOUND_DENIED" });
    expect(await callFrom(CLIENT, vault)).toMatchObject({ status: 403, reason: "DEFAULT_DENY" });
    await configure({ outbound: "Allow" });
    await until(CLIENT, old, ({ status }) => status === 200);
    expect(await callFrom(CLIENT, `http://${await addressOf(LEGACY, "old")}:8080/`)).toMatchObject({
      status: 200,
    });
    for (const url of [vault, `http://${await addressOf(MESH, "vault")}:7079/`])
      expect(await callFrom(CLIENT, "-H", `host: ring.${MESH}:7077`, url)).toMatchObject({
        status: 403,
        reason: "DEFAULT_DENY",
      });
    await configure({ outbound: "Deny" });
    await until(CLIENT, old, ({ status }) => status === 403);
  });

  test("a namespace that migrates takes plaintext callers, one that does not refuses them", async () => {
    const url = `http://vault.${MESH}/`;
    expect(await callFrom(OUTSIDER, url)).toMatchObject({ status: 403, reason: "AUTHN_MTLS_REQUIRED" });
    await configure({ namespaces: [{ names: [MESH], mtls: "Permissive" }] });
    await until(OUTSIDER, url, ({ status }) => status === 200);
    const answer = await callFrom(OUTSIDER, "-H", "x-mesh-caller: notebook/root", url);
    expect(JSON.parse(answer.body).headers).not.toHaveProperty("x-mesh-caller");
    expect(await callFrom(OUTSIDER, "-X", "DELETE", url)).toMatchObject({
      status: 403,
      reason: "DENIED_BY_POLICY",
    });
    // Callers of the mesh still come with their identity, and it still decides.
    expect(await callFrom(CLIENT, url)).toMatchObject({ status: 403, reason: "DEFAULT_DENY" });
    const metrics = await callFrom(OUTSIDER, `http://${await addressOf(MESH, "vault")}:16020/metrics`);
    expect(metrics.body).toMatch(
      /countersign_requests_total\{reporter="destination",caller_kind="plaintext",.*decision="allow"\} [1-9]/,
    );
    expect(metrics.body).toMatch(
      /countersign_captured_connections_total\{direction="inbound",result="plaintext"\} [1-9]/,
    );
    await configure({ namespaces: null });
    await until(OUTSIDER, url, ({ reason }) => reason === "AUTHN_MTLS_REQUIRED");
  });
});
