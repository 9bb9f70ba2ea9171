// Statuses and events on a real API server, from a world made by hand: what is written, what is left alone, what a second
// leader does with what the first one wrote.
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "@jest/globals";
import type { ProxyStatus } from "../../../control-plane/discovery/server.ts";
import { type Kubernetes, loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { createKubernetesWriter, type KubernetesWriter } from "../../../control-plane/kubernetes/writer.ts";
import type { AccessPolicy } from "../../../control-plane/policy/access-policy.ts";
import type { Compiled } from "../../../control-plane/policy/compile.ts";
import type { PolicyReport } from "../../../control-plane/policy/policy-report.ts";
import { NO_ROUTES } from "../../../control-plane/policy/route-plan.ts";
import { runKubernetesStatus } from "../../../control-plane/status/kubernetes-status.ts";
import {
  type RefusedObject,
  runStatusWriter,
  type StatusWriter,
} from "../../../control-plane/status/writer.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { describeOnCluster } from "../gate.ts";
import { createNamespace, type KubeObject, kubectl, type TestNamespace, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";
import { letGo } from "../lock.ts";
import { begin } from "../release.ts";

const crds = fileURLToPath(new URL("../../../crds/", import.meta.url));
const log = createLogger("warn");

const policyObject = (name: string, rule = "r"): KubeObject => ({
  apiVersion: "countersign.dev/v1alpha1",
  kind: "AccessPolicy",
  metadata: { name },
  spec: { action: "Deny", rules: [{ name: rule }] },
});

/** What the status of an object is made of, without a mesh. */
class World {
  policies = new Map<string, AccessPolicy>();
  reports = new Map<string, PolicyReport>();
  generations = new Map<string, number>();
  refused: RefusedObject[] = [];
  proxies: ProxyStatus[] = [];
  revision = 1;
  pinned: number | undefined;

  put(namespace: string, name: string, generation: number, target: string): void {
    const key = `AccessPolicy/${namespace}/${name}`;
    this.revision += 1;
    this.policies = new Map(this.policies).set(key, {
      kind: "AccessPolicy",
      name,
      namespace,
      generation,
      action: "Deny",
      enforcement: "Enforce",
      targets: undefined,
      rules: [{ name: "r" }],
    });
    this.reports.set(key, { targets: [target], problems: [] });
    this.generations.set(key, generation);
  }

  proxy(workload: string, over: Partial<ProxyStatus> = {}): ProxyStatus {
    return {
      ...{ workload, instance: workload, pod: "", node: "n1", softwareVersion: "1", state: "synced" },
      ...{ digest: "d", expectedDigest: "d", nack: undefined, syncedRevision: this.revision },
      ...{ leaf: { issuerKeyId: "", notAfterMs: 0 }, sinceMs: 0, ...over },
    };
  }

  source() {
    return {
      // What the writer reads of a compiled state.
      compiled: () =>
        ({
          state: {
            policies: this.policies,
            routePolicies: new Map(),
            trafficPolicies: new Map(),
            gatewayRoutes: new Map(),
            meshGateways: new Map(),
            workloads: new Map(),
            pods: new Map(),
          },
          policies: this.reports,
          routes: NO_ROUTES,
          gateways: { reports: new Map() },
        }) as unknown as Compiled,
      proxies: () => this.proxies,
      refused: () => this.refused,
      problems: () => [],
      revision: () => this.revision,
      pinned: () => this.pinned,
      generationOf: (key: string) => this.generations.get(key),
    };
  }
}

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration: number;
  readonly lastTransitionTime: string;
}

describeOnCluster("status and events", { testMs: 60_000, suiteMs: 180_000 }, () => {
  let kubernetes: Kubernetes;
  let writer: KubernetesWriter;
  let namespace: TestNamespace;
  let world: World;
  let status: StatusWriter;
  let stop: AbortController;
  let running: Promise<unknown>;
  let written: string[] = [];

  beforeAll(async () => {
    // An installed control plane would write the same statuses, and its webhook has an opinion of the objects.
    await begin();
    for (const file of readdirSync(crds).filter((name) => name.endsWith(".yaml")))
      await kubectl(["apply", "--server-side", "--force-conflicts", "--filename", `${crds}${file}`]);
    await kubectl(["wait", "crd", "--all", "--for=condition=Established", "--timeout=90s"]);
    kubernetes = await loadKubernetes({ kubeconfig: adminKubeconfig(), context: undefined });
    writer = createKubernetesWriter(kubernetes.kubeConfig, 8);
    namespace = await createNamespace("status");
  }, 600_000);
  afterAll(async () => {
    writer?.close();
    await namespace?.delete();
    letGo("release");
  });
  beforeEach(() => {
    world = new World();
    lead();
  });
  afterEach(resign);

  function lead(): void {
    stop = new AbortController();
    written = [];
    status = runStatusWriter({ world: world.source(), clock: systemClock, log }, stop.signal);
    running = Promise.all([
      status.done,
      runKubernetesStatus(
        {
          status,
          rest: kubernetes.rest,
          writer,
          world: world.source(),
          identity: "test",
          clock: systemClock,
          random: Math.random,
          log,
          observe: (result) => written.push(result),
          limits: { settleMs: 100 },
        },
        stop.signal,
      ),
    ]);
  }
  async function resign(): Promise<void> {
    stop.abort();
    await running;
  }

  /** By the API itself: many programs of kubectl would be slower than what is measured. */
  const PLURALS: Readonly<Record<string, string>> = {
    acp: "accesspolicies",
    externalservice: "externalservices",
    meshrole: "meshroles",
  };
  const object = async (title: string) => {
    const [kind = "", name = ""] = title.split("/");
    const where = kind === "meshrole" ? "" : `/namespaces/${namespace.name}`;
    const path = `/apis/countersign.dev/v1alpha1${where}/${PLURALS[kind]}/${name}`;
    // What the API server sends of an object that this test made.
    return (await kubernetes.rest.get(path, {}, AbortSignal.timeout(10_000))) as {
      readonly metadata: { readonly managedFields: readonly object[] };
      readonly status?: KubeObject & { readonly conditions?: readonly Condition[] };
    };
  };
  const condition = async (name: string, type: string): Promise<Condition | undefined> =>
    (await object(name)).status?.conditions?.find((one) => one.type === type);
  const becomes = (name: string, type: string, wanted: Partial<Condition>, withinMs = 30_000) =>
    waitFor(
      async () => {
        const found = await condition(name, type);
        const ok = Object.entries(wanted).every(([key, value]) => found?.[key as keyof Condition] === value);
        if (!ok) throw new Error(`it is ${JSON.stringify(found)}`);
        return ok;
      },
      withinMs,
      `${name} ${type} ${JSON.stringify(wanted)}`,
    );
  const events = async (name: string) =>
    JSON.parse(
      await kubectl([
        ...["get", "events.v1.events.k8s.io", "--namespace", namespace.name, "--output", "json"],
        ...["--field-selector", `regarding.name=${name}`],
      ]),
    ).items as { reason: string; type: string; note: string; series?: { count: number } }[];

  test("an edit is followed to the last sidecar, and its generation with it", async () => {
    await namespace.apply([policyObject("followed")]);
    world.proxies = [world.proxy("ns/a"), world.proxy("ns/b")];
    world.put(namespace.name, "followed", 1, "ns/a");
    world.proxies = [world.proxy("ns/a")];
    status.changed();
    await becomes("acp/followed", "Programmed", { status: "True", message: "1/1 proxies" });
    const first = await condition("acp/followed", "Accepted");
    await namespace.apply([policyObject("followed", "other")]);
    world.proxies = [world.proxy("ns/a", { state: "stale" })];
    world.put(namespace.name, "followed", 2, "ns/a");
    status.changed();
    await becomes("acp/followed", "Programmed", {
      status: "False",
      reason: "Propagating",
      observedGeneration: 2,
    });
    expect((await object("acp/followed")).status).toMatchObject({
      observedGeneration: 2,
      proxies: { total: 1, programmed: 0, lagging: ["ns/a@n1"] },
      targets: { workloads: 1, externals: 0 },
    });
    expect(await condition("acp/followed", "Accepted")).toEqual({ ...first, observedGeneration: 2 });
    world.proxies = [world.proxy("ns/a")];
    status.changed();
    await becomes("acp/followed", "Programmed", { status: "True", observedGeneration: 2 });
    expect((await object("acp/followed")).metadata.managedFields).toContainEqual(
      expect.objectContaining({ manager: "countersign", operation: "Apply", subresource: "status" }),
    );
  });

  test("what does not change is not written, by the next leader either", async () => {
    const names = Array.from({ length: 30 }, (_, i) => `still-${i}`);
    await namespace.apply(names.map((name) => policyObject(name)));
    for (const name of names) world.put(namespace.name, name, 1, "ns/a");
    world.proxies = [world.proxy("ns/a")];
    status.changed();
    for (const name of names) await becomes(`acp/${name}`, "Programmed", { status: "True" });
    const versions = () =>
      kubectl(["get", "acp", "-n", namespace.name, "-o", "jsonpath={.items[*].metadata.resourceVersion}"]);
    const before = await versions();
    await resign();
    lead();
    for (let i = 0; i < 3; i++) {
      world.revision += 1;
      world.proxies = [world.proxy("ns/a")];
      status.changed();
      await new Promise((resolve) => setTimeout(resolve, 2_200));
    }
    expect(written).toEqual([]);
    expect(await versions()).toBe(before);
  });

  test("a refused object says why, in its status and in one event, and when it is over", async () => {
    await namespace.apply([policyObject("wrong")]);
    const key = `AccessPolicy/${namespace.name}/wrong`;
    world.generations.set(key, 1);
    world.refused = [
      { object: key, refusals: [{ reason: "UnknownOperation", message: "no `serving.fly`" }] },
    ];
    status.changed();
    await becomes("acp/wrong", "Accepted", {
      status: "False",
      reason: "UnknownOperation",
      observedGeneration: 1,
    });
    await waitFor(async () => (await events("wrong")).length === 1, 10_000, "an event");
    expect(await events("wrong")).toMatchObject([
      { type: "Warning", reason: "Refused", note: expect.stringContaining("no `serving.fly`") },
    ]);
    world.refused = [];
    world.put(namespace.name, "wrong", 2, "ns/a");
    status.changed();
    await becomes("acp/wrong", "Accepted", { status: "True", reason: "Accepted", message: "" });
    await waitFor(async () => (await events("wrong")).length === 2, 10_000, "a second event");
  });

  test("a sidecar that refuses is named with its reason, in status and event", async () => {
    await namespace.apply([policyObject("nacked")]);
    world.put(namespace.name, "nacked", 1, "ns/a");
    world.proxies = [
      world.proxy("ns/a", { state: "stale", syncedRevision: 0, nack: "feature `x` is missing" }),
    ];
    status.changed();
    await becomes("acp/nacked", "Programmed", { status: "False", reason: "Refused" });
    expect((await object("acp/nacked")).status?.["proxies"]).toMatchObject({
      nacked: 1,
      nacks: ["ns/a@n1: feature `x` is missing"],
    });
    await waitFor(async () => (await events("nacked")).length === 1, 10_000, "an event");
    expect((await events("nacked"))[0]).toMatchObject({
      reason: "ProxyRefused",
      note: "0/1 proxies: ns/a@n1: feature `x` is missing",
    });
  });

  test("objects of other kinds are accepted or refused in their generation", async () => {
    const role = `role-${namespace.name}`;
    await namespace.apply([
      {
        apiVersion: "countersign.dev/v1alpha1",
        kind: "ExternalService",
        metadata: { name: "outside" },
        spec: { hosts: ["example.com"], port: 443 },
      },
    ]);
    await kubectl(["apply", "--filename", "-"], {
      stdin: JSON.stringify({
        apiVersion: "countersign.dev/v1alpha1",
        kind: "MeshRole",
        metadata: { name: role },
        spec: {},
      }),
    });
    try {
      const outside = `ExternalService/${namespace.name}/outside`;
      world.generations.set(outside, 1).set(`MeshRole/${role}`, 1);
      world.refused = [{ object: `MeshRole/${role}`, refusals: [{ reason: "Invalid", message: "no" }] }];
      status.changed();
      await becomes("externalservice/outside", "Accepted", { status: "True", observedGeneration: 1 });
      await becomes(`meshrole/${role}`, "Accepted", { status: "False", message: "no; it is not in force" });
      await kubectl([
        ...["patch", "externalservice/outside", "--namespace", namespace.name, "--type", "merge"],
        ...["--patch", '{"spec":{"port":8443}}'],
      ]);
      // Not before the source has judged it.
      await new Promise((resolve) => setTimeout(resolve, 2_500));
      expect(await condition("externalservice/outside", "Accepted")).toMatchObject({ observedGeneration: 1 });
      world.generations.set(outside, 2);
      await becomes("externalservice/outside", "Accepted", { status: "True", observedGeneration: 2 });
    } finally {
      await kubectl(["delete", "meshrole", role]);
    }
  });

  test("an object made anew under the same name gets a status of its own", async () => {
    await namespace.apply([policyObject("anew")]);
    world.put(namespace.name, "anew", 1, "ns/a");
    world.proxies = [world.proxy("ns/a")];
    status.changed();
    await becomes("acp/anew", "Programmed", { status: "True" });
    await kubectl(["delete", "acp/anew", "--namespace", namespace.name]);
    await namespace.apply([policyObject("anew")]);
    await becomes("acp/anew", "Programmed", { status: "True" });
    expect(new Set(written)).toEqual(new Set(["ok"]));
  });
});
