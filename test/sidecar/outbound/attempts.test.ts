import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import type { RetryCause, RetrySettings } from "../../../sidecar/core/traffic/traffic.ts";
import { SidecarMetrics } from "../../../sidecar/metrics.ts";
import { Attempts } from "../../../sidecar/outbound/attempts.ts";
import type { CallFacts } from "../../../sidecar/outbound/call-facts.ts";
import { EndpointGroup } from "../../../sidecar/outbound/group.ts";
import { type FailureCause, MAX_SAFE_RETRIES } from "../../../sidecar/outbound/retry.ts";
import { resolveTraffic } from "../../../sidecar/outbound/service-traffic.ts";
import type { OutboundServices } from "../../../sidecar/outbound/services.ts";
import { FakeClock } from "../../fakes/clock.ts";

const CAUSES: readonly FailureCause[] = [
  "connect-failure",
  "refused",
  "reset",
  "timeout",
  "gateway-error",
  "503",
  "unavailable",
];
const CERTAIN: ReadonlySet<FailureCause> = new Set(["connect-failure", "refused"]);

function setUp(retries: RetrySettings | undefined, method: string) {
  const clock = new FakeClock(1_000_000);
  const metrics = new SidecarMetrics();
  const traffic = resolveTraffic(
    {
      lb: undefined,
      preferZone: false,
      healthCheck: undefined,
      outlier: undefined,
      slowStartMs: undefined,
      limits: undefined,
      timeouts: undefined,
      retries,
    },
    { connectMs: 1, idleMs: 1, pending: 1 },
  );
  const group = new EndpointGroup({ service: "a/b", port: 80 }, [], traffic, {
    clock,
    random: () => 0.5,
    metrics,
    log: silentLogger,
    zone: () => "",
  });
  // What a plan looks at of both.
  const facts = { destination: { group }, head: { method }, classified: undefined } as unknown as CallFacts;
  const services = { clock, metrics, random: () => 0.5 } as unknown as OutboundServices;
  return { clock, group, facts, services };
}

const settings = fc.record({
  attempts: fc.integer({ min: 0, max: 5 }),
  on: fc.subarray<RetryCause>(["reset", "gateway-error", "503", "unavailable"]),
  onlyAccess: fc.constant([]),
  idempotent: fc.constant([]),
  budgetPercent: fc.integer({ min: 0, max: 100 }),
  perTryTimeoutMs: fc.constant(undefined),
});

test("no request is sent oftener than policy says, beside attempts that certainly were not processed", () => {
  fc.assert(
    fc.property(
      fc.option(settings, { nil: undefined }),
      fc.constantFrom("GET", "POST"),
      fc.array(fc.constantFrom(...CAUSES), { maxLength: 20 }),
      (retries, method, causes) => {
        const { facts, services } = setUp(retries, method);
        const attempts = new Attempts();
        let certain = 0;
        let repeated = 0;
        for (const cause of causes) {
          const delayMs = attempts.plan(cause, false, 60_000, facts, services);
          if (delayMs === undefined) continue;
          if (CERTAIN.has(cause)) {
            certain++;
            expect(delayMs).toBe(0);
          } else {
            repeated++;
            expect(delayMs).toBeGreaterThan(0);
            expect(delayMs).toBeLessThanOrEqual(250);
            expect(method).toBe("GET");
          }
        }
        expect(certain).toBeLessThanOrEqual(MAX_SAFE_RETRIES);
        expect(repeated).toBeLessThanOrEqual(retries?.attempts ?? 0);
      },
    ),
  );
});

test("what fails altogether gets its own load, the budget's part, and three a second", () => {
  const retries: RetrySettings = {
    attempts: 3,
    on: ["503"],
    onlyAccess: [],
    idempotent: [],
    budgetPercent: 20,
    perTryTimeoutMs: undefined,
  };
  const { clock, group, facts, services } = setUp(retries, "GET");
  let sent = 0;
  const seconds = 30;
  for (let i = 0; i < seconds * 100; i++) {
    group.called(clock.monotonicMs());
    const attempts = new Attempts();
    sent++;
    while (attempts.plan("503", false, 60_000, facts, services) !== undefined) sent++;
    clock.advance(10);
  }
  expect(sent).toBeGreaterThan(seconds * 100 * 1.15);
  expect(sent).toBeLessThanOrEqual(seconds * 100 * 1.2 + 3 * (seconds + 1));
});

test.each([
  { name: "is over", leftMs: 0, delayMs: undefined },
  { name: "is shorter than the pause before it", leftMs: 10, delayMs: undefined },
  { name: "is long enough", leftMs: 1_000, delayMs: 18.75 },
])("a retry when the call's time $name", ({ leftMs, delayMs }) => {
  const retries: RetrySettings = {
    attempts: 1,
    on: ["503"],
    onlyAccess: [],
    idempotent: [],
    budgetPercent: 100,
    perTryTimeoutMs: undefined,
  };
  const { facts, services } = setUp(retries, "GET");
  expect(new Attempts().plan("503", false, leftMs, facts, services)).toBe(delayMs);
});
