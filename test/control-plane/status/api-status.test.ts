// A policy's status as the API server shall have it: times that stay, revisions that are no reason to write.
import { describe, expect, test } from "@jest/globals";
import {
  isSameStatus,
  isUrgent,
  judgedStatus,
  policyStatus,
  readOwnStatus,
} from "../../../control-plane/status/api-status.ts";
import { NOTHING_KEPT, type PolicyStatus } from "../../../control-plane/status/conditions.ts";

const status = (over: Partial<PolicyStatus> = {}, programmed = "True"): PolicyStatus => ({
  observedGeneration: 2,
  conditions: [
    {
      ...{ type: "Accepted", status: "True", observedGeneration: 2, reason: "Accepted" },
      lastTransitionTime: "2026-11-21T10:00:00.123Z",
    },
    {
      ...{ type: "Programmed", status: programmed === "True" ? "True" : "False", observedGeneration: 2 },
      ...{ reason: programmed === "True" ? "Programmed" : programmed, message: "1/1 proxies" },
      lastTransitionTime: "2026-11-21T10:00:00.123Z",
    },
  ],
  targets: { workloads: 1, externals: 0 },
  proxies: { total: 1, programmed: 1, nacked: 0, revision: 42, lagging: [] },
  ...over,
});
/** What the API server would give back: fields in any order, and those of others. */
const stored = (value: object) =>
  readOwnStatus({ phase: "Active", dryRun: {}, ...JSON.parse(JSON.stringify(value)) });
const NOTHING = readOwnStatus(undefined);

describe("policyStatus", () => {
  test("is what metav1 wants, and the same after it was stored", () => {
    const first = policyStatus(status(), NOTHING);
    expect(first.conditions[0]).toEqual({
      ...{ type: "Accepted", status: "True", observedGeneration: 2, reason: "Accepted", message: "" },
      lastTransitionTime: "2026-11-21T10:00:00Z",
    });
    expect(isSameStatus(policyStatus(status(), stored(first)), stored(first))).toBe(true);
  });

  test("another revision alone changes nothing, with anything else it does", () => {
    const before = stored(policyStatus(status(), NOTHING));
    const { proxies } = status();
    const later = policyStatus(status({ proxies: { ...proxies, revision: 50 } }), before);
    expect(isSameStatus(later, before)).toBe(true);
    const more = policyStatus(status({ proxies: { ...proxies, revision: 50, total: 2 } }), before);
    expect(more.proxies).toMatchObject({ revision: 50, total: 2 });
    expect(isUrgent(before, more)).toBe(false);
  });

  test("a condition keeps its time while its status stays, and takes the new one when it turns", () => {
    const before = stored(policyStatus(status(), NOTHING));
    const at = (one: PolicyStatus): PolicyStatus => ({
      ...one,
      conditions: one.conditions.map((c) => ({ ...c, lastTransitionTime: "2026-11-22T00:00:00.000Z" })),
    });
    const same = policyStatus(at(status({ observedGeneration: 3 })), before);
    expect(same.conditions.map((c) => c.lastTransitionTime)).toEqual([
      "2026-11-21T10:00:00Z",
      "2026-11-21T10:00:00Z",
    ]);
    const turned = policyStatus(at(status({}, "Propagating")), before);
    expect(turned.conditions.map((c) => c.lastTransitionTime)).toEqual([
      "2026-11-21T10:00:00Z",
      "2026-11-22T00:00:00Z",
    ]);
    expect([isUrgent(before, same), isUrgent(before, turned)]).toEqual([true, true]);
  });

  test("stays within the bounds of the schema", () => {
    const long = "\u{1f600}".repeat(5_000);
    const base = status();
    const big = policyStatus(
      status({
        conditions: base.conditions.map((c) => ({ ...c, message: long })),
        proxies: { ...base.proxies, lagging: [long], nacks: [long] },
        lastAccepted: "x".repeat(262_145),
      }),
      NOTHING,
    );
    expect(big.conditions[0]?.message.length).toBeLessThanOrEqual(32_768);
    expect(big.proxies?.lagging[0]?.length).toBeLessThanOrEqual(512);
    expect(big.proxies?.nacks?.[0]?.isWellFormed()).toBe(true);
    // Not left out: a refused Deny without it would count as never in force.
    expect(big.lastAccepted).toBe(NOTHING_KEPT);
    expect(() => JSON.parse(NOTHING_KEPT)).toThrow();
    expect(policyStatus(status({ lastAccepted: "{}" }), NOTHING).lastAccepted).toBe("{}");
  });

  test("reads anything that may be stored", () => {
    for (const value of [
      null,
      1,
      [],
      { conditions: 1 },
      { conditions: [null, { type: "Accepted", status: 1 }] },
    ])
      expect(readOwnStatus(value).observedGeneration).toBe(0);
  });
});

describe("judgedStatus", () => {
  test("says what is in force of a refused object", () => {
    const base = { generation: 4, refusals: [{ reason: "Invalid", message: "no" }], nowMs: 0 };
    const [refused] = judgedStatus({ ...base, keepsEarlier: false }, NOTHING).conditions;
    expect(refused).toMatchObject({ status: "False", reason: "Invalid", message: "no; it is not in force" });
    const [kept] = judgedStatus({ ...base, keepsEarlier: true }, NOTHING).conditions;
    expect(kept?.message).toBe("no; a version that was accepted before stays in force");
    const [accepted] = judgedStatus({ ...base, refusals: [], keepsEarlier: true }, NOTHING).conditions;
    expect(accepted).toMatchObject({
      status: "True",
      reason: "Accepted",
      message: "",
      observedGeneration: 4,
    });
  });
});
