import { expect, test } from "@jest/globals";
import type { VerifiedCaller } from "../../../sidecar/core/identity/proofs.ts";
import { ReplayMemory } from "../../../sidecar/inbound/replay.ts";

const START_MS = 1_790_000_000_000;
/** What the memory reads of a verified caller. */
const caller = (jti: string, iatMs: number, spiffeId = "spiffe://a/ns/b"): VerifiedCaller =>
  ({
    peer: { spiffeId },
    wpt: { jti, iat: Math.floor(iatMs / 1_000), exp: Math.floor(iatMs / 1_000) + 60 },
  }) as unknown as VerifiedCaller;

test("takes each proof once, of each caller", () => {
  const memory = new ReplayMemory(10, 0);
  const use = (who: VerifiedCaller | undefined, afterMs: number) =>
    memory.use(who, START_MS + afterMs, afterMs);
  expect(use(caller("a", START_MS + 1_000), 1_000)).toBeUndefined();
  expect(use(caller("a", START_MS + 1_000), 1_500)).toBe("used before");
  expect(use(caller("b", START_MS + 1_000), 1_500)).toBeUndefined();
  expect(use(caller("a", START_MS + 1_000, "spiffe://a/ns/c"), 1_500)).toBeUndefined();
  expect(use({ ...caller("x", START_MS), wpt: undefined } as VerifiedCaller, 2_000)).toBe("no proof");
  expect(use(undefined, 2_000)).toBe("no proof");
});

test("remembers a proof as long as it would be accepted, and then forgets it", () => {
  const memory = new ReplayMemory(10, 0);
  const proof = caller("a", START_MS + 1_000);
  expect(memory.use(proof, START_MS + 1_000, 1_000)).toBeUndefined();
  // Accepted until `exp` and the skew of a minute: 121 s.
  expect(memory.use(proof, START_MS + 120_999, 120_999)).toBe("used before");
  memory.use(caller("b", START_MS + 140_000), START_MS + 140_000, 140_000);
  expect(memory.size).toBe(1);
});

test("takes nothing new when it is full", () => {
  const memory = new ReplayMemory(2, 0);
  const results = ["a", "b", "c", "a"].map((jti) =>
    memory.use(caller(jti, START_MS + 1_000), START_MS + 1_000, 1_000),
  );
  expect(results).toEqual([undefined, undefined, "full", "used before"]);
});

test("refuses what may have been used before it began, whatever the clock was set to since", () => {
  const memory = new ReplayMemory(10, 5_000);
  expect(memory.use(caller("a", START_MS - 2_000), START_MS + 1_000, 6_000)).toBe("too old");
  expect(memory.use(caller("b", START_MS), START_MS + 1_000, 6_000)).toBeUndefined();
  // The control plane's time came an hour later than the own clock.
  expect(memory.use(caller("c", START_MS + 3_600_000), START_MS + 3_600_500, 6_500)).toBeUndefined();
});
