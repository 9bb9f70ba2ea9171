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

  test("counts long resources apart, and keeps no more of them than a digest", () => {
    const limiter = createRateLimiter({ maxKeys: 10 });
    const decision = { winners: [winner("r", { key: ["resource"], requests: 1, burst: 1 })] };
    const at = (value: string): Call => ({ ...base, resource: { kind: "known", type: "file", value } });
    const long = "x".repeat(8_000);
    const admit = (value: string) => limiter.admit(target, decision, at(value), 0).allowed;
    expect([admit(`${long}a`), admit(`${long}b`), admit(`${long}a`)]).toEqual([true, true, false]);
    expect(limiter.size).toBe(2);
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

  test("resets no counter for a caller that makes up keys, and leaves other rules their room", () => {
    const limiter = createRateLimiter({ maxKeys: 100 });
    const named = winner("r", { key: ["resource"], requests: 1, perMs: 1e6, burst: 1 });
    const other = winner("s", { requests: 1, perMs: 1e6, burst: 1 });
    const admit = (value: string, rule = named) => {
      const resource = { kind: "known" as const, type: "m", value };
      return limiter.admit(target, { winners: [rule] }, { ...base, resource }, 0).allowed;
    };
    expect(admit("mine")).toBe(true);
    const made = Array.from({ length: 1000 }, (_, i) => admit(`m${i}`));
    expect(made.filter(Boolean).length).toBe(25); // 24 of their own and the shared one
    expect(admit("mine")).toBe(false);
    expect(admit("x", other)).toBe(true);
    expect(limiter.admit(target, { winners: [named] }, base, 2e6).allowed).toBe(true);
    expect(limiter.size).toBeLessThanOrEqual(100);
  });

  test("forgets the counters of rules that are no more", () => {
    const limiter = createRateLimiter({ maxKeys: 8 });
    const once = { requests: 1, perMs: 1000, burst: 1 };
    for (let i = 0; i < 100; i++)
      expect(limiter.admit(target, { winners: [winner(`r${i}`, once)] }, base, i * 2000).allowed).toBe(true);
    expect(limiter.size).toBeLessThanOrEqual(8);
  });

  test("counts as a bucket of tokens does, in every limit or in none, and tells the exact wait", () => {
    const limitOf = fc.record({
      requests: fc.integer({ min: 1, max: 7 }),
      perMs: fc.constantFrom(1000, 60_000, 777),
      burst: fc.integer({ min: 1, max: 9 }),
      key: fc.subarray<LimitKey>(["user", "role", "workload", "namespace", "target", "resource"], {
        minLength: 1,
      }),
    });
    const steps = fc.array(fc.tuple(fc.nat(700), fc.nat(1), fc.nat(1), fc.boolean()), { maxLength: 60 });
    const property = fc.property(
      fc.array(limitOf, { minLength: 1, maxLength: 3 }),
      steps,
      (limits, calls) => {
        const limiter = createRateLimiter({ maxKeys: 1000 });
        const winners = limits.map((limit, i) => winner(`r${i}`, limit, i));
        const buckets = new Map<string, { tokens: number; atMs: number }>();
        let now = 0;
        for (const [gap, who, what, anonymous] of calls) {
          now += gap;
          const user = anonymous ? undefined : { ...userNamed(`u${who}`), roles: [`role${who}`] };
          const call: Call = { ...base, user, resource: { kind: "known", type: "m", value: `m${what}` } };
          const mine = limits.map((limit, i) => {
            const name = anonymous ? "workload" : who;
            const parts = { user: name, role: name, workload: 0, namespace: 0, target: 0, resource: what };
            const key = `${i}/${limit.key.map((part) => `${part}=${parts[part]}`).join("/")}`;
            const rate = limit.requests / limit.perMs;
            const { tokens, atMs } = buckets.get(key) ?? { tokens: limit.burst, atMs: now };
            return { key, rate, tokens: Math.min(limit.burst, tokens + (now - atMs) * rate) };
          });
          const open = mine.every(({ tokens }) => tokens >= 1 - 1e-5);
          const verdict = limiter.admit(target, { winners }, call, now);
          expect(verdict.allowed).toBe(open);
          for (const { key, tokens } of mine)
            buckets.set(key, { tokens: open ? tokens - 1 : tokens, atMs: now });
          if (verdict.allowed) continue;
          const waitMs = Math.max(...mine.map(({ tokens, rate }) => (1 - tokens) / rate));
          expect(Math.abs(verdict.retryAfterMs - Math.ceil(waitMs - 1e-3))).toBeLessThanOrEqual(1e-9);
        }
      },
    );
    fc.assert(property, { numRuns: 500 });
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
