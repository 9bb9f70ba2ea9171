import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  hash32,
  mix32,
  pickByHash,
  pickLeastRequest,
  pickRoundRobin,
} from "../../../sidecar/balance/pick.ts";

interface Endpoint {
  load: number;
  usable: boolean;
  weight: number;
  readonly hash: number;
}

const endpoint = (name: string, load = 0, weight = 1): Endpoint => ({
  load,
  usable: true,
  weight,
  hash: hash32(name),
});

/** A repeatable source of numbers in [0, 1). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    return mix32(state) / 2 ** 32;
  };
}

const candidates = fc.array(
  fc.record({
    load: fc.nat(5),
    usable: fc.boolean(),
    weight: fc.constantFrom(0.1, 0.5, 1),
    hash: fc.nat(2 ** 31),
  }),
  { maxLength: 8 },
);

describe("every algorithm", () => {
  const algorithms = [
    {
      name: "least request",
      pick: (all: Endpoint[], tried: Set<Endpoint>, seed: number) =>
        pickLeastRequest(all, tried, randomFrom(seed)),
    },
    {
      name: "round robin",
      pick: (all: Endpoint[], tried: Set<Endpoint>, seed: number) =>
        pickRoundRobin(all, tried, seed, randomFrom(seed)),
    },
    {
      name: "consistent hash",
      pick: (all: Endpoint[], tried: Set<Endpoint>, seed: number) => pickByHash(all, tried, mix32(seed)),
    },
  ];
  test.each(algorithms)("$name picks something usable and untried whenever there is one", ({ pick }) => {
    fc.assert(
      fc.property(candidates, fc.nat(8), fc.nat(), (all, skipped, seed) => {
        const tried = new Set<Endpoint>(all.slice(0, skipped));
        const open = all.filter((each) => each.usable && !tried.has(each));
        const picked = pick(all, tried, seed);
        if (open.length === 0) expect(picked).toBeUndefined();
        else expect(open).toContain(picked);
      }),
    );
  });
});

describe("least request", () => {
  test("of two takes the one with less load", () => {
    const busy = endpoint("a", 5);
    const free = endpoint("b", 1);
    for (let seed = 0; seed < 50; seed++)
      expect(pickLeastRequest([busy, free], undefined, randomFrom(seed))).toBe(free);
  });

  test("never takes the most loaded of many", () => {
    const all = Array.from({ length: 10 }, (_, index) => endpoint(`e${index}`, index));
    const random = randomFrom(7);
    for (let i = 0; i < 2_000; i++) expect(pickLeastRequest(all, undefined, random)).not.toBe(all[9]);
  });

  test("spreads over equals", () => {
    const all = Array.from({ length: 10 }, (_, index) => endpoint(`e${index}`));
    const random = randomFrom(3);
    const counts = new Map<Endpoint, number>();
    for (let i = 0; i < 10_000; i++) {
      const picked = pickLeastRequest(all, undefined, random);
      if (picked !== undefined) counts.set(picked, (counts.get(picked) ?? 0) + 1);
    }
    for (const each of all) expect(Math.abs((counts.get(each) ?? 0) - 1_000)).toBeLessThan(150);
  });

  test("keeps the longest queue within two of the shortest when requests do not end", () => {
    const all = Array.from({ length: 20 }, (_, index) => endpoint(`e${index}`));
    const random = randomFrom(11);
    for (let i = 0; i < 4_000; i++) {
      const picked = pickLeastRequest(all, undefined, random);
      if (picked !== undefined) picked.load++;
    }
    const loads = all.map((each) => each.load);
    expect(Math.max(...loads)).toBeLessThanOrEqual(203);
  });

  test("gives one that ramps up about its part", () => {
    const all = [endpoint("old", 0), endpoint("older", 0), endpoint("new", 0, 0.1)];
    const random = randomFrom(5);
    for (let i = 0; i < 2_100; i++) {
      const picked = pickLeastRequest(all, undefined, random);
      if (picked !== undefined) picked.load++;
    }
    expect(all[2]?.load).toBeLessThanOrEqual(110);
    expect(all[2]?.load).toBeGreaterThan(50);
  });
});

describe("round robin", () => {
  test("goes round, past what cannot be used", () => {
    const all = ["a", "b", "c", "d"].map((name) => endpoint(name));
    const second = all[1];
    if (second !== undefined) second.usable = false;
    const seen = [0, 1, 2, 3, 4].map((turn) =>
      all.indexOf(pickRoundRobin(all, undefined, turn, () => 0) ?? endpoint("x")),
    );
    expect(seen).toEqual([0, 2, 2, 3, 0]);
  });

  test("passes over one that ramps up, unless it is the only one", () => {
    const ramping = endpoint("new", 0, 0.2);
    const full = endpoint("old");
    expect(pickRoundRobin([ramping, full], undefined, 0, () => 0.5)).toBe(full);
    expect(pickRoundRobin([ramping, full], undefined, 0, () => 0.1)).toBe(ramping);
    expect(pickRoundRobin([ramping], undefined, 0, () => 0.9)).toBe(ramping);
  });
});

describe("consistent hash", () => {
  const keys = Array.from({ length: 5_000 }, (_, index) => hash32(`user-${index}`));
  const of = (names: readonly string[]) => names.map((name) => endpoint(name));
  const names = Array.from(
    { length: 10 },
    (_, index) => `spiffe://t/ns/a/sa/b/serving/c 10.0.0.${index} 16008`,
  );

  test("keeps every key of the endpoints that stay when one goes", () => {
    const before = of(names);
    const after = before.slice(0, 9);
    let moved = 0;
    for (const key of keys) {
      const was = pickByHash(before, undefined, key);
      const is = pickByHash(after, undefined, key);
      if (was !== before[9]) expect(is).toBe(was);
      else moved++;
    }
    expect(moved / keys.length).toBeLessThan(0.13);
    expect(moved / keys.length).toBeGreaterThan(0.07);
  });

  test("moves keys to a new endpoint alone", () => {
    const before = of(names.slice(0, 9));
    const after = [...before, endpoint(names[9] ?? "")];
    for (const key of keys) {
      const is = pickByHash(after, undefined, key);
      if (is !== after[9]) expect(is).toBe(pickByHash(before, undefined, key));
    }
  });

  test("does not depend on the order of the endpoints", () => {
    const all = of(names);
    const turned = [...all].reverse();
    for (const key of keys.slice(0, 500))
      expect(pickByHash(turned, undefined, key)).toBe(pickByHash(all, undefined, key));
  });

  test("sends a key that is too popular on, and leaves little of it idle", () => {
    const all = of(names.slice(0, 4));
    for (let i = 0; i < 400; i++) {
      const picked = pickByHash(all, undefined, 42);
      if (picked !== undefined) picked.load++;
    }
    expect(Math.max(...all.map((each) => each.load))).toBeLessThanOrEqual(151);
  });

  test("keeps a key together while there is little load", () => {
    const all = of(names.slice(0, 4));
    const first = pickByHash(all, undefined, 42);
    for (let i = 0; i < 8; i++) {
      expect(pickByHash(all, undefined, 42)).toBe(first);
      if (first !== undefined) first.load++;
    }
  });
});
