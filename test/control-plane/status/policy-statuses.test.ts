// What a status keeps of a refused policy for a restart, and how it names pods.
import { describe, expect, test } from "@jest/globals";
import type { ProxyStatus } from "../../../control-plane/discovery/server.ts";
import type { AccessPolicy } from "../../../control-plane/policy/access-policy.ts";
import type { Compiled } from "../../../control-plane/policy/compile.ts";
import type { MeshPod } from "../../../control-plane/sources/store.ts";
import { NOTHING_KEPT, type PolicyStatus } from "../../../control-plane/status/conditions.ts";
import { PolicyStatuses } from "../../../control-plane/status/policy-statuses.ts";
import type { StatusWorld } from "../../../control-plane/status/world.ts";

const KEY = "AccessPolicy/ns/p";
const policyOf = (action: AccessPolicy["action"]): AccessPolicy => ({
  ...{ kind: "AccessPolicy", name: "p", namespace: "ns", generation: 3, action, enforcement: "Enforce" },
  ...{ targets: undefined, rules: [{ name: "r" }] },
});
const podOf = (uid: string, name: string): MeshPod => ({
  ...{ uid, namespace: "ns", name, serviceAccount: "sa", node: "n1", addresses: [], ready: true },
  ...{ injected: true, workload: "w" },
});

interface Setting {
  readonly inForce?: AccessPolicy | undefined;
  readonly refused?: boolean;
  readonly standIn?: boolean;
  readonly judged?: number | undefined;
  readonly pods?: readonly MeshPod[];
  readonly proxies?: readonly ProxyStatus[];
}

function worldOf(setting: Setting): StatusWorld {
  const { inForce, refused = false, standIn = false, judged, pods = [], proxies = [] } = setting;
  return {
    // What is read of a compiled state.
    compiled: () =>
      ({
        state: {
          policies: new Map(inForce ? [[KEY, inForce]] : []),
          routePolicies: new Map(),
          trafficPolicies: new Map(),
          meshGateways: new Map(),
          workloads: new Map(),
          pods: new Map(pods.map((pod) => [pod.uid, pod])),
        },
        policies: new Map(inForce ? [[KEY, { targets: ["w"], problems: [] }]] : []),
      }) as unknown as Compiled,
    proxies: () => proxies,
    refused: () => (refused ? [{ object: KEY, refusals: [{ reason: "Invalid", message: "no" }] }] : []),
    problems: () => [],
    revision: () => 1,
    pinned: () => undefined,
    generationOf: () => judged,
    standIns: () => (standIn ? [{ key: KEY, generation: 3, spec: { action: "Deny" } }] : []),
  };
}

function statusOf(setting: Setting): PolicyStatus | undefined {
  let found: PolicyStatus | undefined;
  for (const _ of new PolicyStatuses(worldOf(setting)).refresh(0, (_object, status) => {
    found = status;
  }));
  return found;
}

describe("PolicyStatuses", () => {
  const deny = policyOf("Deny");
  test.each<[string, Setting, string | undefined]>([
    ["an accepted Deny keeps nothing", { inForce: deny, judged: 3 }, undefined],
    [
      "a refused Deny keeps what stays in force",
      { inForce: deny, refused: true, standIn: true, judged: 4 },
      '{"generation":3,"spec":{"action":"Deny"}}',
    ],
    [
      "a refused Deny that closes its targets says that there was one",
      { inForce: deny, refused: true, judged: 4 },
      NOTHING_KEPT,
    ],
    ["a Deny that was never in force keeps nothing", { refused: true, judged: 1 }, undefined],
    ["nor does a refused Allow", { inForce: policyOf("Allow"), refused: true, judged: 4 }, undefined],
    ["nor a directory, which has a memory of its own", { inForce: deny, refused: true }, undefined],
  ])("%s", (_name, setting, kept) => {
    expect(statusOf(setting)?.lastAccepted).toBe(kept);
  });

  test("observes the generation that was refused", () => {
    expect(statusOf({ inForce: deny, refused: true, standIn: true, judged: 4 })?.observedGeneration).toBe(4);
    expect(statusOf({ inForce: deny, judged: 4 })?.observedGeneration).toBe(3);
  });

  test("counts pods, and calls sidecars by theirs", () => {
    const proxy = (pod: string): ProxyStatus => ({
      ...{ workload: "w", instance: pod, pod, node: "n1", softwareVersion: "1", state: "stale" },
      ...{ digest: "", expectedDigest: "d", nack: "cannot", syncedRevision: 0, sinceMs: 0 },
      leaf: { issuerKeyId: "", notAfterMs: 0 },
    });
    const pods = [podOf("u1", "a-1"), podOf("u2", "a-2")];
    const status = statusOf({ inForce: deny, judged: 3, pods, proxies: [proxy("u1"), proxy("gone")] });
    expect(status?.targets).toEqual({ workloads: 1, pods: 2, externals: 0 });
    expect(status?.proxies).toMatchObject({
      lagging: ["ns/a-1", "w@n1"],
      nacks: ["ns/a-1: cannot", "w@n1: cannot"],
    });
  });
});
