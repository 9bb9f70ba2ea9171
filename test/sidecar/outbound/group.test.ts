import { beforeEach, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import type { TrafficSettings } from "../../../sidecar/core/traffic/traffic.ts";
import { SidecarMetrics } from "../../../sidecar/metrics.ts";
import { EndpointGroup } from "../../../sidecar/outbound/group.ts";
import type { Member } from "../../../sidecar/outbound/member.ts";
import { resolveTraffic } from "../../../sidecar/outbound/service-traffic.ts";
import type { Upstream } from "../../../sidecar/outbound/upstream.ts";
import { FakeClock } from "../../fakes/clock.ts";

const DEFAULTS = { connectMs: 5_000, idleMs: 300_000, pending: 1_024 };
const NOTHING: TrafficSettings = {
  lb: undefined,
  preferZone: false,
  healthCheck: undefined,
  outlier: undefined,
  slowStartMs: undefined,
  limits: undefined,
  timeouts: undefined,
  retries: undefined,
};
const OUTLIER = { consecutive5xx: 3, ejectForMs: 10_000, maxEjectPercent: 50, panicPercent: 50 };

class FakeUpstream {
  readonly endpoint: Upstream["endpoint"];
  load = 0;
  reachable = true;
  recoveredAtMs = Number.NEGATIVE_INFINITY;

  constructor(name: string, zone = "") {
    this.endpoint = {
      address: name,
      meshPort: 16_008,
      spiffeId: "spiffe://t/ns/a/sa/b/serving/c",
      ports: [],
      zone,
    };
  }
}

let clock: FakeClock;
let zone: string;
let metrics: SidecarMetrics;

function groupOf(upstreams: readonly FakeUpstream[], settings: Partial<TrafficSettings> = {}): EndpointGroup {
  const traffic = resolveTraffic({ ...NOTHING, ...settings }, DEFAULTS);
  let state = 1;
  const random = (): number => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
  // A group reads of an upstream what the fake has.
  const list = upstreams as unknown as readonly Upstream[];
  return new EndpointGroup({ service: "a/c", port: 80 }, list, traffic, {
    clock,
    random,
    metrics,
    log: silentLogger,
    zone: () => zone,
  });
}

const many = (count: number, inZone = ""): FakeUpstream[] =>
  Array.from({ length: count }, (_, index) => new FakeUpstream(`10.0.${inZone}.${index}`, inZone));

function memberAt(group: EndpointGroup, index: number): Member {
  const member = group.members[index];
  if (member === undefined) throw new Error(`no member ${index}`);
  return member;
}

function failTimes(group: EndpointGroup, index: number, times = 3): void {
  for (let i = 0; i < times; i++) group.failed(memberAt(group, index));
}

/** How often each member is picked. */
function shares(group: EndpointGroup, picks = 2_000): number[] {
  const counts = new Map<Member | undefined, number>();
  for (let i = 0; i < picks; i++) {
    const member = group.pick(undefined, undefined);
    counts.set(member, (counts.get(member) ?? 0) + 1);
  }
  return group.members.map((member) => (counts.get(member) ?? 0) / picks);
}

beforeEach(() => {
  clock = new FakeClock(1_000_000);
  zone = "";
  metrics = new SidecarMetrics();
});

describe("outliers", () => {
  test("are not used until their rest ends", () => {
    const group = groupOf(many(4), { outlier: OUTLIER });
    failTimes(group, 1);
    expect(memberAt(group, 1).state).toBe("ejected");
    expect(shares(group)[1]).toBe(0);
    clock.advance(9_999);
    group.sweep(clock.monotonicMs());
    expect(shares(group)[1]).toBe(0);
    clock.advance(1);
    group.sweep(clock.monotonicMs());
    expect(shares(group)[1]).toBeGreaterThan(0.15);
    expect(metrics.ejections.total()).toBe(1);
  });

  test("do not matter without settings", () => {
    const group = groupOf(many(4));
    failTimes(group, 1, 100);
    expect(memberAt(group, 1).state).toBe("healthy");
  });

  test("are at most so many", () => {
    const group = groupOf(many(10), { outlier: { ...OUTLIER, maxEjectPercent: 20 } });
    for (let index = 0; index < 10; index++) failTimes(group, index);
    expect(group.states().get("ejected")).toBe(2);
  });

  test("are used again when more than half are unusable", () => {
    const upstreams = many(10);
    const group = groupOf(upstreams, { outlier: { ...OUTLIER, maxEjectPercent: 100 } });
    for (let index = 0; index < 5; index++) failTimes(group, index);
    expect(shares(group).slice(0, 5)).toEqual([0, 0, 0, 0, 0]);
    const other = upstreams[9];
    if (other !== undefined) other.reachable = false;
    const used = shares(group);
    expect(group.panic).toBe(true);
    expect(Math.min(...used.slice(0, 9))).toBeGreaterThan(0.05);
    // What cannot be reached is not made better by panic.
    expect(used[9]).toBe(0);
  });

  test("come back at once when the policy goes", () => {
    const upstreams = many(4);
    const group = groupOf(upstreams, { outlier: OUTLIER });
    failTimes(group, 1);
    group.update(upstreams as unknown as readonly Upstream[], resolveTraffic(undefined, DEFAULTS));
    group.sweep(clock.monotonicMs());
    expect(memberAt(group, 1).state).toBe("healthy");
  });

  test("whatever fails, something that can be reached is picked", () => {
    const step = fc.oneof(
      fc.record({ fail: fc.nat(5) }),
      fc.record({ reach: fc.nat(5), to: fc.boolean() }),
      fc.record({ rest: fc.nat(5) }),
      fc.record({ wait: fc.nat(20_000) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 6 }), (steps, size) => {
        clock = new FakeClock(1_000_000);
        const upstreams = many(size);
        const group = groupOf(upstreams, {
          outlier: { ...OUTLIER, consecutive5xx: 1, maxEjectPercent: 100 },
        });
        for (const each of steps) {
          if ("fail" in each && each.fail < size) group.failed(memberAt(group, each.fail));
          if ("rest" in each && each.rest < size) group.rest(memberAt(group, each.rest), 5_000);
          const upstream = "reach" in each ? upstreams[each.reach] : undefined;
          if (upstream !== undefined && "reach" in each) upstream.reachable = each.to;
          if ("wait" in each) {
            clock.advance(each.wait);
            group.sweep(clock.monotonicMs());
          }
          const reachable = upstreams.filter((one) => one.reachable);
          const picked = group.pick(undefined, undefined);
          // It may have come back.
          if (reachable.length === 0) expect(upstreams).toContain(picked?.upstream);
          else expect(reachable).toContain(picked?.upstream);
        }
      }),
    );
  });
});

describe("active checks", () => {
  const healthCheck = {
    probe: { kind: "tcp" as const },
    intervalMs: 1_000,
    timeoutMs: 500,
    healthyThreshold: 2,
    unhealthyThreshold: 2,
  };
  test("take an endpoint out and bring it back", () => {
    const group = groupOf(many(3), { healthCheck });
    group.checked(memberAt(group, 0), false);
    expect(memberAt(group, 0).state).toBe("healthy");
    group.checked(memberAt(group, 0), false);
    expect(memberAt(group, 0).state).toBe("unhealthy");
    expect(shares(group)[0]).toBe(0);
    group.checked(memberAt(group, 0), true);
    group.checked(memberAt(group, 0), true);
    expect(shares(group)[0]).toBeGreaterThan(0.2);
  });

  test("of the only endpoint do not take it out", () => {
    const group = groupOf(many(1), { healthCheck });
    group.checked(memberAt(group, 0), false);
    group.checked(memberAt(group, 0), false);
    expect(shares(group, 10)).toEqual([1]);
  });
});

test("what no settings ask for any more counts no more", () => {
  const upstreams = many(4) as unknown as readonly Upstream[];
  const healthCheck = {
    probe: { kind: "tcp" as const },
    intervalMs: 1_000,
    timeoutMs: 500,
    healthyThreshold: 1,
    unhealthyThreshold: 1,
  };
  const group = groupOf(many(4), { healthCheck, outlier: { ...OUTLIER, maxEjectPercent: 100 } });
  group.update(upstreams, group.traffic);
  group.checked(memberAt(group, 0), false);
  failTimes(group, 1);
  group.rest(memberAt(group, 2), 30_000);
  expect(group.members.map((member) => member.state)).toEqual(["unhealthy", "ejected", "resting", "healthy"]);
  group.update(upstreams, resolveTraffic({ ...NOTHING, outlier: OUTLIER }, DEFAULTS));
  expect(group.members.map((member) => member.state)).toEqual(["healthy", "ejected", "resting", "healthy"]);
  group.update(upstreams, resolveTraffic(undefined, DEFAULTS));
  expect(group.members.map((member) => member.state)).toEqual(["healthy", "healthy", "healthy", "healthy"]);
  expect(Math.min(...shares(group))).toBeGreaterThan(0.15);
});

describe("a pause that an endpoint asks for", () => {
  test("is kept while others are there, at most a minute", () => {
    const group = groupOf(many(2), { outlier: OUTLIER });
    group.rest(memberAt(group, 0), 3_600_000);
    expect(shares(group, 100)).toEqual([0, 1]);
    clock.advance(60_000);
    group.sweep(clock.monotonicMs());
    expect(memberAt(group, 0).state).toBe("healthy");
  });
});

describe("zones", () => {
  test("keep calls while enough of the own is usable", () => {
    zone = "1";
    const group = groupOf([...many(4, "1"), ...many(4, "2")], { preferZone: true });
    expect(shares(group).slice(4)).toEqual([0, 0, 0, 0]);
  });

  test("spill what the own cannot take", () => {
    zone = "1";
    const near = many(4, "1");
    const group = groupOf([...near, ...many(4, "2")], { preferZone: true });
    for (const upstream of near.slice(0, 2)) upstream.reachable = false;
    const far = shares(group, 10_000)
      .slice(4)
      .reduce((sum, share) => sum + share, 0);
    expect(far).toBeGreaterThan(0.27);
    expect(far).toBeLessThan(0.33);
  });

  test("do not matter without one of one's own, nor when no endpoint is in it", () => {
    for (const own of ["", "3"]) {
      zone = own;
      const group = groupOf([...many(2, "1"), ...many(2, "2")], { preferZone: true });
      expect(Math.min(...shares(group))).toBeGreaterThan(0.15);
    }
  });

  test("may become known later", () => {
    const group = groupOf([...many(2, "1"), ...many(2, "2")], { preferZone: true });
    zone = "2";
    group.sweep(0);
    expect(shares(group).slice(0, 2)).toEqual([0, 0]);
  });
});

describe("slow start", () => {
  test("gives one that came after the others its share little by little", () => {
    const upstreams = many(3);
    const group = groupOf(upstreams.slice(0, 2), { slowStartMs: 10_000, lb: { kind: "roundRobin" } });
    const settings = resolveTraffic(
      { ...NOTHING, slowStartMs: 10_000, lb: { kind: "roundRobin" } },
      DEFAULTS,
    );
    group.update(upstreams as unknown as readonly Upstream[], settings);
    expect(shares(group)[2]).toBeLessThan(0.06);
    clock.advance(5_000);
    expect(shares(group)[2]).toBeGreaterThan(0.14);
    expect(shares(group)[2]).toBeLessThan(0.28);
    clock.advance(5_000);
    expect(shares(group)[2]).toBeGreaterThan(0.3);
  });

  test("begins anew after a rest and after it was reached again", () => {
    const upstreams = many(3);
    const group = groupOf(upstreams, { slowStartMs: 10_000, outlier: OUTLIER });
    failTimes(group, 0);
    clock.advance(10_000);
    group.sweep(clock.monotonicMs());
    expect(memberAt(group, 0).weight).toBeCloseTo(0.1);
    const other = upstreams[1];
    if (other !== undefined) other.recoveredAtMs = clock.monotonicMs() - 5_000;
    expect(memberAt(group, 1).weight).toBeCloseTo(0.55);
    expect(memberAt(group, 2).weight).toBe(1);
  });
});

describe("limits of one endpoint", () => {
  test("send requests to those that have room, and none where none has", () => {
    const upstreams = many(3);
    const group = groupOf(upstreams, { limits: { connections: undefined, pending: undefined, requests: 2 } });
    for (const upstream of upstreams.slice(0, 2)) upstream.load = 2;
    expect(shares(group, 100)).toEqual([0, 0, 1]);
    const last = upstreams[2];
    if (last !== undefined) last.load = 2;
    expect(group.pick(undefined, undefined)).toBeUndefined();
  });
});

test("an endpoint that was tried is chosen again when there is no other", () => {
  const group = groupOf(many(2));
  const tried = new Set([memberAt(group, 0)]);
  expect(group.pick(tried, undefined)).toBe(memberAt(group, 1));
  expect(group.hasOther(tried)).toBe(true);
  tried.add(memberAt(group, 1));
  expect(group.hasOther(tried)).toBe(false);
  expect(group.pick(tried, undefined)).toBeDefined();
});

test("when nothing is known to be reachable, what was not tried comes first", () => {
  const upstreams = many(3);
  const group = groupOf(upstreams, { limits: { connections: undefined, pending: undefined, requests: 2 } });
  for (const upstream of upstreams) upstream.reachable = false;
  const tried = new Set([memberAt(group, 0), memberAt(group, 2)]);
  expect(group.pick(tried, undefined)).toBe(memberAt(group, 1));
  tried.add(memberAt(group, 1));
  expect(group.pick(tried, undefined)).toBeDefined();
  for (const upstream of upstreams) upstream.load = 2;
  expect(group.pick(undefined, undefined)).toBeUndefined();
});

test("what is known of an endpoint outlives a new table", () => {
  const upstreams = many(4);
  const traffic = resolveTraffic({ ...NOTHING, outlier: OUTLIER }, DEFAULTS);
  const group = groupOf(upstreams, { outlier: OUTLIER });
  failTimes(group, 1);
  group.update(upstreams.slice(1) as unknown as readonly Upstream[], traffic);
  expect(memberAt(group, 0).state).toBe("ejected");
});
