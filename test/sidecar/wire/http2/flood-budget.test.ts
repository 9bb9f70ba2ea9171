import { describe, expect, test } from "@jest/globals";
import { FloodBudget, type FloodKind } from "../../../../sidecar/wire/http2/flood-budget.ts";

function spendAll(budget: FloodBudget, kind: FloodKind): number {
  let count = 0;
  while (count < 1_000_000 && budget.spend(kind)) count++;
  return count;
}

describe("FloodBudget", () => {
  test.each<{ kind: FloodKind; burst: number; perSecond: number }>([
    { kind: "reset", burst: 512, perSecond: 200 },
    { kind: "ping", burst: 1000, perSecond: 500 },
    { kind: "settings", burst: 50, perSecond: 5 },
    { kind: "empty", burst: 100, perSecond: 20 },
    { kind: "ignored", burst: 1000, perSecond: 200 },
    { kind: "windowUpdate", burst: 2000, perSecond: 2000 },
  ])("allows $burst of $kind at once and $perSecond a second", ({ kind, burst, perSecond }) => {
    let nowMs = 1000;
    const budget = new FloodBudget(() => nowMs);
    expect(spendAll(budget, kind)).toBe(burst);
    nowMs += 1000;
    expect(spendAll(budget, kind)).toBe(perSecond);
    nowMs += 3_600_000;
    expect(spendAll(budget, kind)).toBe(burst);
  });

  test("survives a clock that goes back", () => {
    let nowMs = 1000;
    const budget = new FloodBudget(() => nowMs);
    spendAll(budget, "settings");
    nowMs = 0;
    expect(budget.spend("settings")).toBe(false);
  });

  test("earns window updates by DATA sent", () => {
    const budget = new FloodBudget(() => 0);
    for (let n = 0; n < 1000; n++) budget.creditWindowUpdates();
    expect(spendAll(budget, "windowUpdate")).toBe(6000);
  });
});
