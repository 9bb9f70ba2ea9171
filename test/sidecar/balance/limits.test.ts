import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { createRateLimiter } from "../../../sidecar/balance/limits.ts";
import type { Call } from "../../../sidecar/core/policy/call.ts";
import type { WinningRule } from "../../../sidecar/core/policy/decide.ts";
import type { LimitKey, RateLimit } from "../../../sidecar/core/policy/rule.ts";
import { Dice, randomCall } from "../../conformance/random-world.ts";

const base: Call = { ...randomCall(new Dice(3)), user: undefined };
const userNamed = (id: string) => ({
  id,
  roles: ["r"],
  idp: "i",
  type: "person" as const,
  amr: [],
  acr: undefined,
  authTimeMs: undefined,
});
const target = { program: { id: "ml/t" } };

const winner = (rule: string, limit: Partial<RateLimit>, ruleIndex = 0): WinningRule => ({
  policy: "p",
  policyName: "p",
  rule,
  ruleIndex,
  with: { rateLimit: { key: ["user"] as LimitKey[], requests: 3, perMs: 3000, burst: 3, ...limit } },
});

describe("createRateLimiter", () => {
  test("admits a burst, then one per interval, and says when", () => {
    const limiter = createRateLimiter({ maxKeys: 10 });
    const decision = { winners: [winner("r", {})] };
    const admit = (nowMs: number) => limiter.admit(target, decision, base, nowMs);
    expect([admit(0), admit(0), admit(0)].map((verdict) => verdict.allowed)).toEqual([true, true, true]);
    expect(admit(0)).toMatchObject({ allowed: false, retryAfterMs: 1000, policy: "p", rule: "r" });
    expect(admit(999).allowed).toBe(false);
    expect(admit(1000).allowed).toBe(true);
    expect(admit(1000).allowed).toBe(false);
  });

  test("counts users apart, and a call without user by its workload", () => {
    const limiter = createRateLimiter({ maxKeys: 10 });
    const decision = { winners: [winner("r", { requests: 1, burst: 1 })] };
    const admit = (call: Call) => limiter.admit(target, decision, call, 0).allowed;
    expect([
      admit({ ...base, user: userNamed("a") }),
      admit({ ...base, user: userNamed("b") }),
      admit(base),
    ]).toEqual([true, true, true]);
    expect([admit({ ...base, user: userNamed("a") }), admit(base)]).toEqual([false, false]);
  });

  test("counts in no limit when one of them refuses", () => {
    const limiter = createRateLimiter({ maxKeys: 10 });
    const wide = winner("wide", { requests: 2, burst: 2 }, 0);
    const narrow = winner("narrow", { requests: 1, burst: 1 }, 1);
    const admit = (winners: WinningRule[]) => limiter.admit(target, { winners }, base, 0).allowed;
    expect(admit([wide, narrow])).toBe(true);
    expect(admit([wide, narrow])).toBe(false);
    expect(admit([wide])).toBe(true);
    expect(admit([wide])).toBe(false);
  });

  test("keeps at most its number of counters", () => {
    const limiter = createRateLimiter({ maxKeys: 100 });
    for (let i = 0; i < 1000; i++)
      limiter.admit(target, { winners: [winner("r", {})] }, { ...base, user: userNamed(`u${i}`) }, i);
    expect(limiter.size).toBeLessThanOrEqual(100);
  });

  test("never admits more than burst plus what the time earned", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(500), { maxLength: 60 }),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 5 }),
        (gaps, requests, burst) => {
          const limiter = createRateLimiter({ maxKeys: 10 });
          let now = 0;
          let admitted = 0;
          for (const gap of gaps) {
            now += gap;
            if (
              limiter.admit(target, { winners: [winner("r", { requests, perMs: 1000, burst })] }, base, now)
                .allowed
            )
              admitted += 1;
          }
          expect(admitted).toBeLessThanOrEqual(Math.floor((now * requests) / 1000 + 1e-6) + burst);
        },
      ),
    );
  });
});
