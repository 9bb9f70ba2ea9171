import { describe, expect, test } from "@jest/globals";
import type { Timed } from "../../../sidecar/balance/deadline-wheel.ts";
import { DeadlineWheel } from "../../../sidecar/balance/deadline-wheel.ts";
import { CallFacts } from "../../../sidecar/outbound/call-facts.ts";
import { CallTime } from "../../../sidecar/outbound/call-time.ts";
import type { RequestTiming } from "../../../sidecar/outbound/service-traffic.ts";
import { createField } from "../../../sidecar/wire/field.ts";

const NEVER = Number.POSITIVE_INFINITY;
const TIMING: RequestTiming = {
  ...{ requestMs: NEVER, idleMs: 60_000, grpcIdleMs: NEVER },
  ...{ streamMs: NEVER, perTryMs: NEVER, isPrecise: false },
};

interface Limits {
  readonly timing?: Partial<RequestTiming>;
  /** Of the application (`grpc-timeout`). */
  readonly timeoutMs?: number;
  /** Of the route. */
  readonly routeMs?: number;
  readonly isGrpc?: boolean;
}

/** A call that began at 1 000, with the wheel that tells when its time is over. */
function callOf({ timing, timeoutMs = NEVER, routeMs, isGrpc = false }: Limits) {
  const told: number[] = [];
  const wheel = new DeadlineWheel(10, 1_000);
  let nowMs = 1_000;
  const deadlines = {
    add: (entry: Timed) => wheel.add(entry, nowMs),
    remove: (entry: Timed) => wheel.remove(entry),
  };
  const time = new CallTime(deadlines, { timeOut: () => told.push(nowMs) }, 1_000, 30_000);
  const fields = isGrpc ? [createField("content-type", "application/grpc")] : [];
  const head = {
    method: "POST",
    target: "/",
    authority: "a",
    fields,
    upgrade: undefined,
    connectionNames: [],
  };
  const facts = new CallFacts(head, 1_000, 1_000);
  facts.timeoutMs = timeoutMs;
  if (routeMs !== undefined)
    facts.route = { requestTimeoutMs: routeMs } as unknown as NonNullable<CallFacts["route"]>;
  time.limit(facts, { timing: { ...TIMING, ...timing } });
  const goTo = (to: number) => {
    while (nowMs < to) {
      nowMs += 10;
      wheel.expire(nowMs);
    }
  };
  return { time, told, wheel, goTo };
}

describe("the time of a call", () => {
  test.each<Limits & { name: string; deadline: number; end: number; isTold: boolean }>([
    { name: "its silence", deadline: 61_000, end: NEVER, isTold: false },
    { name: "nothing, of gRPC without a deadline", isGrpc: true, deadline: NEVER, end: NEVER, isTold: false },
    {
      name: "a policy",
      timing: { requestMs: 500, isPrecise: true },
      deadline: 1_500,
      end: 1_500,
      isTold: true,
    },
    { name: "the application", timeoutMs: 300, isGrpc: true, deadline: 1_300, end: 1_300, isTold: true },
    { name: "the route", routeMs: 400, deadline: 1_400, end: 1_400, isTold: true },
    {
      name: "the route, which beats the policy",
      timing: { requestMs: 100, isPrecise: true },
      routeMs: 400,
      deadline: 1_400,
      end: 1_400,
      isTold: true,
    },
    { name: "the shorter one", timeoutMs: 900, routeMs: 400, deadline: 1_400, end: 1_400, isTold: true },
  ])("is limited by $name", ({ deadline, end, isTold, ...limits }) => {
    const { time, told, goTo } = callOf(limits);
    expect([time.deadlineMs, time.endMs]).toEqual([deadline, end]);
    goTo(3_000);
    expect(told.length).toBe(isTold ? 1 : 0);
    for (const at of told) expect(at - deadline).toBeLessThanOrEqual(20);
  });

  test("moves on with every byte, but never beyond its end", () => {
    const { time } = callOf({ timing: { idleMs: 200, requestMs: 500, isPrecise: true } });
    time.touch(1_100);
    expect(time.deadlineMs).toBe(1_300);
    time.touch(1_400);
    expect(time.deadlineMs).toBe(1_500);
  });

  test("is that of an attempt until its answer begins", () => {
    const { time, told, goTo } = callOf({});
    time.beginTry(1_000, 250);
    expect(time.deadlineMs).toBe(1_250);
    time.answerBegins(1_100);
    expect(time.deadlineMs).toBe(61_100);
    goTo(5_000);
    expect(told).toEqual([]);
  });

  test("goes on after an attempt that took too long, and after the pause behind it", () => {
    const { time, told, goTo } = callOf({ timing: { requestMs: 1_000, isPrecise: true } });
    time.beginTry(1_000, 250);
    goTo(1_400);
    expect(told.length).toBe(1);
    time.endTry();
    time.waitUntil(1_450);
    goTo(1_600);
    expect(told.length).toBe(2);
    time.goOn(1_600);
    goTo(3_000);
    expect([told.length, time.endMs]).toEqual([3, 2_000]);
  });

  test("has no end once both directions are bytes", () => {
    const { time, told, wheel, goTo } = callOf({ timing: { requestMs: 100, isPrecise: true } });
    time.switched(1_050, 5_000);
    expect([time.deadlineMs, wheel.size]).toEqual([6_050, 0]);
    time.touch(2_000);
    expect(time.deadlineMs).toBe(7_000);
    goTo(4_000);
    expect(told).toEqual([]);
  });

  test("is nobody's when the call is over", () => {
    const { time, told, wheel, goTo } = callOf({ timing: { requestMs: 100, isPrecise: true } });
    time.close();
    time.close();
    goTo(2_000);
    expect([told, wheel.size]).toEqual([[], 0]);
  });
});
