import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type {
  PodFacts,
  ServiceFacts,
  SliceFacts,
} from "../../../../control-plane/sources/kubernetes/facts.ts";
import { meshPods, type PodState } from "../../../../control-plane/sources/kubernetes/pods.ts";
import {
  meshServices,
  targetPortsOf,
  zonesOfNodes,
} from "../../../../control-plane/sources/kubernetes/services.ts";
import { podFactsOf } from "../../../fakes/pods.ts";

const NOTHING: PodState = { workloads: new Map(), pods: new Map(), problems: [] };
const group = (pods: readonly PodFacts[], previous = NOTHING, ports = new Map()) =>
  meshPods({ pods, targetPorts: ports, cronJobs: new Map(), gateways: [], previous });

describe("workloads of pods", () => {
  test("replicas are one workload, whatever differs from pod to pod", () => {
    const pods = ["web-6c9f-a", "web-6c9f-b"].map((name, at) =>
      podFactsOf({
        name,
        addresses: [`10.0.0.${at}`],
        ready: at === 0,
        labels: { app: "web", "pod-template-hash": "6c9f", "apps.kubernetes.io/pod-index": String(at) },
        owner: { kind: "ReplicaSet", name: "web-6c9f" },
      }),
    );
    const { workloads, pods: found } = group(pods);
    expect([...workloads.keys()]).toEqual(["ns/sa/service/web"]);
    expect([...(workloads.get("ns/sa/service/web")?.labels ?? [])]).toEqual([["app", "web"]]);
    expect([...found.values()].map(({ workload }) => workload)).toEqual([
      "ns/sa/service/web",
      "ns/sa/service/web",
    ]);
  });

  test("pods of one identity with other labels are workloads of their own, so that a Deny binds those that carry it", () => {
    const pods = [
      podFactsOf({ name: "old", labels: { "countersign.dev/name": "x" } }),
      podFactsOf({
        name: "new",
        createdAt: "2026-11-21T09:00:00Z",
        labels: { "countersign.dev/name": "x", "data-class": "pii" },
      }),
    ];
    const { workloads, pods: found } = group(pods);
    const [plain, other] = [...workloads.keys()];
    expect(plain).toBe("ns/sa/service/x");
    expect(other).toMatch(/^ns\/sa\/service\/x~[0-9a-f]{8}$/);
    expect(found.get("uid-old")?.workload).toBe(plain);
    expect(found.get("uid-new")?.workload).toBe(other);
  });

  test("a pod without sidecar is known and has no workload", () => {
    const { workloads, pods } = group([podFactsOf({ injected: false })]);
    expect(workloads.size).toBe(0);
    expect(pods.get("uid-p")).toMatchObject({ injected: false, workload: undefined });
  });

  test("ports come from containers, Services and the packs annotation; those of the mesh are never the application's", () => {
    const pod = podFactsOf({
      ports: [
        { name: "http", port: 8080 },
        { name: "grpc", port: 9000 },
        { name: "x", port: 16008 },
      ],
      annotations: { "countersign.dev/packs": "8080=oip-v2;5000=mlflow" },
    });
    const { workloads } = group([pod], NOTHING, new Map([["uid-p", [{ port: 7000, protocol: "tcp" }]]]));
    expect([...workloads.values()][0]?.ports).toEqual([
      { port: 5000, protocol: "auto", packs: ["mlflow"] },
      { port: 7000, protocol: "tcp", packs: [] },
      { port: 8080, protocol: "http", packs: ["oip-v2"] },
      { port: 9000, protocol: "grpc", packs: [] },
    ]);
  });

  test("what does not change is the same object, in any order of pods", () => {
    const pod = fc.record({
      name: fc.constantFrom("a", "b", "c", "d", "e"),
      serviceAccount: fc.constantFrom("s", "t"),
      labels: fc.dictionary(fc.constantFrom("countersign.dev/name", "app"), fc.constantFrom("x", "y")),
      createdAt: fc.constantFrom("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
    });
    const pods = fc
      .uniqueArray(pod, { selector: ({ name }) => name })
      .map((all) => all.map((one) => podFactsOf(one)));
    fc.assert(
      fc.property(pods, (all) => {
        const first = group(all);
        const again = group([...all].reverse(), first);
        expect([...again.workloads.keys()]).toEqual([...first.workloads.keys()]);
        for (const [key, workload] of again.workloads) expect(workload).toBe(first.workloads.get(key));
        for (const [uid, one] of again.pods) expect(one).toBe(first.pods.get(uid));
        for (const one of first.pods.values()) expect(first.workloads.has(one.workload ?? "")).toBe(true);
      }),
    );
  });
});

describe("services of pods", () => {
  const service = (over: Partial<ServiceFacts> = {}): ServiceFacts => ({
    namespace: "ns",
    name: "web",
    addresses: ["10.96.0.7"],
    ports: [{ name: "http", port: 80, protocol: undefined }],
    ...over,
  });
  const slice = (over: Partial<SliceFacts> = {}): SliceFacts => ({
    namespace: "ns",
    service: "web",
    isIPv6: false,
    ports: [{ name: "http", port: 8080 }],
    endpoints: [{ address: "10.0.0.1", podUid: "uid-p", ready: true, node: "", zone: "" }],
    ...over,
  });
  const read = (facts: readonly ServiceFacts[], slices: readonly SliceFacts[], pods: readonly PodFacts[]) => {
    const services = new Map(facts.map((one) => [`${one.namespace}/${one.name}`, one]));
    const state = group(pods, NOTHING, targetPortsOf(services, slices));
    return meshServices({
      services,
      slices,
      workloads: state.workloads,
      pods: state.pods,
      previous: new Map(),
    });
  };

  test("a Service sends its port to the pods' own, which they need not declare", () => {
    expect(read([service()], [slice()], [podFactsOf()]).get("ns/web")).toEqual({
      namespace: "ns",
      name: "web",
      addresses: ["10.96.0.7"],
      ports: [{ port: 80, targetPort: 8080, protocol: "http", packs: [] }],
      members: ["ns/sa/service/p"],
      endpoints: [{ address: "10.0.0.1", meshPort: 16008, workload: "ns/sa/service/p" }],
    });
  });

  test("a Service whose pods are not ready is known and has no endpoint", () => {
    const slices = [
      slice({ endpoints: [{ address: "10.0.0.1", podUid: "uid-p", ready: false, node: "", zone: "" }] }),
    ];
    expect(read([service()], slices, [podFactsOf()]).get("ns/web")).toMatchObject({
      members: ["ns/sa/service/p"],
      endpoints: [],
      ports: [{ port: 80, targetPort: 8080 }],
    });
  });

  test.each([
    {
      name: "none is ready: all whose kubelet speaks for them",
      ready: [false, false],
      expected: ["10.0.0.1"],
    },
    { name: "one is ready: that one alone", ready: [false, true], expected: ["10.0.0.2"] },
  ])("of pods that only controllers take for unready, where $name", ({ ready, expected }) => {
    const slices = [
      slice({
        endpoints: ["p", "q", "r"].map((name, at) => ({
          address: `10.0.0.${at + 1}`,
          podUid: `uid-${name}`,
          ready: ready[at] ?? false,
          node: "",
          zone: "",
        })),
      }),
    ];
    const pods = [
      podFactsOf({ ready: false, serving: true }),
      podFactsOf({ name: "q", ready: ready[1] ?? false }),
      podFactsOf({ name: "r", ready: false, serving: true, injected: false }),
    ];
    expect(
      read([service()], slices, pods)
        .get("ns/web")
        ?.endpoints.map(({ address }) => address),
    ).toEqual(expected);
  });

  test("a pod may be behind several Services; one behind none is reached by its address", () => {
    const services = read(
      [service(), service({ name: "all", addresses: [] })],
      [slice(), slice({ service: "all" })],
      [podFactsOf(), podFactsOf({ name: "q", addresses: ["10.0.0.2"] })],
    );
    expect([...services.keys()].sort()).toEqual(["ns/all", "ns/sa:service:q", "ns/web"]);
    expect(services.get("ns/sa:service:q")?.endpoints).toEqual([
      { address: "10.0.0.2", meshPort: 16008, workload: "ns/sa/service/q" },
    ]);
  });

  test("pods without sidecar are no endpoints, and a Service of nothing else is none of the mesh's", () => {
    expect(read([service()], [slice()], [podFactsOf({ injected: false })]).size).toBe(0);
    const mixed = slice({
      endpoints: [
        { address: "10.0.0.1", podUid: "uid-p", ready: true, node: "", zone: "" },
        { address: "10.0.0.2", podUid: "uid-q", ready: true, node: "", zone: "" },
      ],
    });
    const services = read([service()], [mixed], [podFactsOf(), podFactsOf({ name: "q", injected: false })]);
    expect(services.get("ns/web")?.endpoints.map(({ address }) => address)).toEqual(["10.0.0.1"]);
  });

  test("of two families a Service uses that of its first address; a headless one both", () => {
    const six = slice({
      isIPv6: true,
      endpoints: [{ address: "fd00::1", podUid: "uid-p", ready: true, node: "", zone: "" }],
    });
    const pods = [podFactsOf({ addresses: ["10.0.0.1", "fd00::1"] })];
    const addresses = (facts: ServiceFacts) =>
      read([facts], [slice(), six], pods)
        .get("ns/web")
        ?.endpoints.map(({ address }) => address);
    expect(addresses(service())).toEqual(["10.0.0.1"]);
    expect(addresses(service({ addresses: ["fd00:96::7", "10.96.0.7"] }))).toEqual(["fd00::1"]);
    expect(addresses(service({ addresses: [] }))).toEqual(["10.0.0.1", "fd00::1"]);
  });

  test("zones come with endpoints, and from them to the pods of a node", () => {
    const zoned = slice({
      endpoints: [
        { address: "10.0.0.1", podUid: "uid-p", ready: true, node: "n1", zone: "eu-1" },
        { address: "10.0.0.9", podUid: "uid-x", ready: true, node: "n2", zone: "eu-2" },
      ],
    });
    expect([...zonesOfNodes([zoned])]).toEqual([
      ["n1", "eu-1"],
      ["n2", "eu-2"],
    ]);
    expect(read([service()], [zoned], [podFactsOf()]).get("ns/web")?.endpoints[0]?.zone).toBe("eu-1");
    const { pods } = meshPods({
      pods: [podFactsOf({ node: "n2" })],
      targetPorts: new Map(),
      cronJobs: new Map(),
      gateways: [],
      zones: zonesOfNodes([zoned]),
      previous: { workloads: new Map(), pods: new Map() },
    });
    expect([...pods.values()][0]?.zone).toBe("eu-2");
  });
});
