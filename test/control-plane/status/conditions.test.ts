import { describe, expect, test } from "@jest/globals";
import type { ProxyStatus } from "../../../control-plane/discovery/server.ts";
import type { PolicyReport } from "../../../control-plane/policy/policy-report.ts";
import { buildStatus, type StatusInput } from "../../../control-plane/status/conditions.ts";

const proxy = (workload: string, over: Partial<ProxyStatus> = {}): ProxyStatus => ({
  workload,
  instance: "i",
  node: "n",
  pod: "",
  softwareVersion: "1",
  state: "synced",
  digest: "d",
  expectedDigest: "d",
  nack: undefined,
  syncedRevision: 1041,
  leaf: { issuerKeyId: "", notAfterMs: 0 },
  sinceMs: 0,
  ...over,
});
const report = (over: Partial<PolicyReport> = {}): PolicyReport => ({
  targets: ["ns/a", "ns/b", "external:ns/x"],
  problems: [],
  ...over,
});
const base: StatusInput = {
  generation: 3,
  policy: {
    kind: "AccessPolicy",
    name: "p",
    namespace: "ns",
    generation: 3,
    action: "Allow",
    enforcement: "Enforce",
    targets: undefined,
    rules: [],
  },
  report: report(),
  refusals: [],
  proxies: [proxy("ns/a"), proxy("ns/b")],
  revision: 1042,
  since: 1042,
  nowMs: Date.UTC(2026, 8, 14, 12),
  previous: undefined,
};
const conditions = (input: StatusInput): string[] =>
  buildStatus(input).conditions.map(({ type, status, reason, message }) =>
    [type, status, reason, ...(message ? [message] : [])].join(" "),
  );
const problem = {
  severity: "error",
  type: "Accepted",
  reason: "InvalidCEL",
  path: "spec.rules[0].when.cel",
  message: "does not compile",
} as const;

describe("buildStatus", () => {
  test.each<[string, Partial<StatusInput>, string[]]>([
    [
      "all well",
      {},
      ["Accepted True Accepted", "ResolvedRefs True ResolvedRefs", "Programmed True Programmed 2/2 proxies"],
    ],
    [
      "no sidecar yet",
      { proxies: [] },
      ["Accepted True Accepted", "ResolvedRefs True ResolvedRefs", "Programmed True Programmed 0/0 proxies"],
    ],
    [
      "one behind",
      { proxies: [proxy("ns/a"), proxy("ns/b", { state: "stale" })] },
      [
        "Accepted True Accepted",
        "ResolvedRefs True ResolvedRefs",
        "Programmed False Propagating 1/2 proxies",
      ],
    ],
    [
      "one refused",
      { proxies: [proxy("ns/a", { state: "stale", nack: "no" })] },
      ["Accepted True Accepted", "ResolvedRefs True ResolvedRefs", "Programmed False Refused 0/1 proxies"],
    ],
    [
      "an error of the compiler",
      { report: report({ problems: [problem, problem] }) },
      [
        "Accepted False InvalidCEL spec.rules[0].when.cel: does not compile (and 1 more)",
        "ResolvedRefs True ResolvedRefs",
        "Programmed False NotAccepted 2/2 proxies",
      ],
    ],
    [
      "a warning",
      {
        report: report({
          problems: [{ ...problem, severity: "warning", type: "ResolvedRefs", reason: "TargetNotFound" }],
        }),
      },
      [
        "Accepted True Accepted",
        "ResolvedRefs True TargetNotFound spec.rules[0].when.cel: does not compile",
        "Programmed True Programmed 2/2 proxies",
      ],
    ],
    [
      "a refused new version of an accepted object",
      { refusals: [{ reason: "UnknownOperation", message: "spec.rules: no such operation" }] },
      [
        "Accepted False UnknownOperation spec.rules: no such operation; the last accepted version stays in force",
        "ResolvedRefs True ResolvedRefs",
        "Programmed False NotAccepted 2/2 proxies",
      ],
    ],
    [
      "an object that was never accepted",
      {
        refusals: [{ reason: "Invalid", message: "no" }],
        policy: undefined,
        report: undefined,
        proxies: [],
        generation: 0,
      },
      [
        "Accepted False Invalid no; no version of it is in force",
        "ResolvedRefs True ResolvedRefs",
        "Programmed False NotAccepted 0/0 proxies",
      ],
    ],
  ])("%s", (_name, over, expected) => {
    expect(conditions({ ...base, ...over })).toEqual(expected);
  });

  test("counts targets and proxies, and names at most ten that lag", () => {
    const many = Array.from({ length: 15 }, (_, at) =>
      proxy(`ns/w${at}`, { state: "stale", syncedRevision: 1000, nack: "cannot", node: at === 0 ? "" : "n" }),
    );
    const status = buildStatus({ ...base, proxies: many });
    expect(status.targets).toEqual({ workloads: 2, externals: 1 });
    expect(status.proxies).toMatchObject({ total: 15, programmed: 0, nacked: 15, revision: 1042 });
    expect(status.proxies.lagging).toHaveLength(10);
    expect(status.proxies.lagging.slice(0, 2)).toEqual(["ns/w0", "ns/w1@n"]);
    expect(status.proxies.nacks?.[0]).toBe("ns/w0: cannot");
  });

  test("a sidecar that lags behind in something else has this policy all the same", () => {
    const behind = proxy("ns/a", { state: "stale", syncedRevision: 1042, nack: "cannot" });
    const status = buildStatus({ ...base, revision: 1050, proxies: [behind, proxy("ns/b")] });
    expect(status.proxies).toMatchObject({ total: 2, programmed: 2, nacked: 0, lagging: [] });
    expect(status.conditions[2]?.reason).toBe("Programmed");
  });

  test("keeps the time of a condition while its status stays", () => {
    const first = buildStatus(base);
    const later = buildStatus({
      ...base,
      nowMs: base.nowMs + 5_000,
      proxies: [proxy("ns/a", { state: "stale", syncedRevision: 1041 })],
      previous: first,
    });
    expect(later.conditions[0]?.lastTransitionTime).toBe("2026-09-14T12:00:00.000Z");
    expect(later.conditions[2]?.lastTransitionTime).toBe("2026-09-14T12:00:05.000Z");
  });
});
