import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { ConcurrencyLimiter, type ConcurrencyRule, Ticket } from "../../../sidecar/balance/concurrency.ts";

const rule = (name: string, limit: number): ConcurrencyRule => ({ policy: "p", rule: name, limit });

class Caller {
  readonly log: string[] = [];
  ticket: Ticket | undefined;

  onEntered(): void {
    this.log.push("entered");
  }

  onTurnedAway(): void {
    this.log.push("turned away");
  }
}

const enter = (
  limiter: ConcurrencyLimiter,
  rules: readonly ConcurrencyRule[],
  nowMs = 0,
  deadlineMs = 1_000,
): Caller => {
  const caller = new Caller();
  const entered = limiter.enter(rules, caller, deadlineMs, nowMs);
  if (entered instanceof Ticket) caller.ticket = entered;
  caller.log.push(entered instanceof Ticket ? entered.state : `full ${entered.full.rule}`);
  return caller;
};

describe("ConcurrencyLimiter", () => {
  test("lets so many run, lets as many wait, and refuses the rest", () => {
    const limiter = new ConcurrencyLimiter();
    const callers = Array.from({ length: 5 }, () => enter(limiter, [rule("r", 2)]));
    expect(callers.map(({ log }) => log[0])).toEqual(["running", "running", "waiting", "waiting", "full r"]);
    expect([...limiter.counts()]).toEqual([{ policy: "p", rule: "r", running: 2, waiting: 2 }]);
  });

  test("serves who waits in the order they came, also before who comes just then", () => {
    const limiter = new ConcurrencyLimiter();
    const [a, b, c] = [1, 2, 3].map(() => enter(limiter, [rule("r", 2)]));
    const d = enter(limiter, [rule("r", 2)]);
    a?.ticket?.leave(10);
    expect([c?.log.at(-1), d.log.at(-1)]).toEqual(["entered", "waiting"]);
    b?.ticket?.leave(10);
    expect(d.log.at(-1)).toBe("entered");
  });

  test("refuses at once who could not be served before its deadline", () => {
    const limiter = new ConcurrencyLimiter();
    const first = enter(limiter, [rule("r", 1)], 0);
    first.ticket?.leave(500); // a call takes half a second
    enter(limiter, [rule("r", 1)], 500);
    expect(enter(limiter, [rule("r", 1)], 500, 900).log).toEqual(["full r"]);
    expect(enter(limiter, [rule("r", 1)], 500, 1_100).log).toEqual(["waiting"]);
  });

  test("turns away at the deadline, once, and never runs a call behind it", () => {
    const limiter = new ConcurrencyLimiter();
    const running = enter(limiter, [rule("r", 2)], 0);
    enter(limiter, [rule("r", 2)], 0);
    const early = enter(limiter, [rule("r", 2)], 0, 100);
    const late = enter(limiter, [rule("r", 2)], 0, 300);
    limiter.sweep(150);
    expect([early.log.at(-1), late.log.at(-1)]).toEqual(["turned away", "waiting"]);
    running.ticket?.leave(400);
    expect([early.log.length, late.log.at(-1)]).toEqual([2, "turned away"]);
  });

  test("takes places under all rules or none", () => {
    const limiter = new ConcurrencyLimiter();
    const narrow = enter(limiter, [rule("narrow", 1)]);
    const both = enter(limiter, [rule("wide", 5), rule("narrow", 1)]);
    expect(both.log).toEqual(["waiting"]);
    expect([...limiter.counts()].find((one) => one.rule === "wide")?.running ?? 0).toBe(0);
    narrow.ticket?.leave(1);
    expect(both.log).toEqual(["waiting", "entered"]);
    expect([...limiter.counts()].map(({ running }) => running)).toEqual([1, 1]);
  });

  test("serves a long queue whose calls end as soon as they begin", () => {
    const limiter = new ConcurrencyLimiter();
    const wide = [rule("r", 1_000)];
    const running = Array.from({ length: 1_000 }, () => enter(limiter, wide));
    let served = 0;
    for (let i = 0; i < 1_000; i++) {
      const waiting = {
        onEntered: (nowMs: number) => {
          served++;
          if (ticket instanceof Ticket) ticket.leave(nowMs);
        },
        onTurnedAway: () => {},
      };
      const ticket = limiter.enter(wide, waiting, 1e6, 0);
    }
    running[0]?.ticket?.leave(1);
    expect(served).toBe(1_000);
  });

  test("leaks no place, whatever comes in whatever order, and never runs more than the limits", () => {
    const step = fc.record({
      kind: fc.constantFrom("enter", "leave", "leave again", "sweep"),
      who: fc.nat(30),
      rules: fc.subarray(["a", "b", "c"], { minLength: 1 }),
      gap: fc.nat(200),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), fc.integer({ min: 1, max: 4 }), (steps, limit) => {
        const limiter = new ConcurrencyLimiter();
        const callers: Caller[] = [];
        let nowMs = 0;
        for (const { kind, who, rules, gap } of steps) {
          nowMs += gap;
          if (kind === "enter")
            callers.push(
              enter(
                limiter,
                rules.map((name) => rule(name, limit)),
                nowMs,
                nowMs + 300,
              ),
            );
          else if (kind === "sweep") limiter.sweep(nowMs);
          else callers[who % Math.max(1, callers.length)]?.ticket?.leave(nowMs);
          for (const { running, waiting } of limiter.counts()) {
            expect(running).toBeLessThanOrEqual(limit);
            expect(running).toBeGreaterThanOrEqual(0);
            expect(waiting).toBeLessThanOrEqual(limit);
          }
          const holds = callers.filter(({ ticket }) => ticket?.state === "running");
          const counted = [...limiter.counts()].reduce((sum, { running }) => sum + running, 0);
          expect(holds.reduce((sum, { ticket }) => sum + (ticket?.gates.length ?? 0), 0)).toBe(counted);
        }
        for (const { ticket } of callers) ticket?.leave(nowMs);
        expect([...limiter.counts()].every(({ running, waiting }) => running === 0 && waiting === 0)).toBe(
          true,
        );
      }),
      { numRuns: 300 },
    );
  });
});
