// Who may take a Lease, by what one candidate saw and when.
import { describe, expect, test } from "@jest/globals";
import {
  claim,
  DEFAULT_TIMING,
  type LeaseRecord,
  type Sighting,
  sight,
} from "../../../control-plane/leader/claim.ts";

const record = (over: Partial<LeaseRecord> = {}): LeaseRecord => ({
  version: "1",
  holder: "other",
  durationMs: 15_000,
  transitions: 0,
  ...over,
});
/** What a candidate made of a series of looks, [record, monotonic ms]. */
const looked = (...looks: readonly (readonly [LeaseRecord | undefined, number])[]): Sighting => {
  let sighting: Sighting | undefined;
  for (const [seen, atMs] of looks) sighting = sight(sighting, seen, atMs, DEFAULT_TIMING);
  if (!sighting) throw new Error("no look");
  return sighting;
};

describe("claim", () => {
  test.each([
    { name: "no Lease, never seen one", looks: [[undefined, 0]], at: 0, may: { kind: "create" } },
    { name: "released", looks: [[record({ holder: "" }), 0]], at: 0, may: { kind: "take" } },
    { name: "left by a former self", looks: [[record({ holder: "me" }), 0]], at: 0, may: { kind: "take" } },
    { name: "held", looks: [[record(), 0]], at: 14_999, may: { kind: "wait", forMs: 1 } },
    { name: "not renewed for the whole lease", looks: [[record(), 0]], at: 15_000, may: { kind: "take" } },
    {
      name: "seen unchanged again",
      looks: [
        [record(), 0],
        [record(), 14_000],
      ],
      at: 15_000,
      may: { kind: "take" },
    },
    {
      name: "renewed in between",
      looks: [
        [record(), 0],
        [record({ version: "2" }), 14_000],
      ],
      at: 15_000,
      may: { kind: "wait", forMs: 14_000 },
    },
    {
      name: "a holder with a longer lease",
      looks: [[record({ durationMs: 30_000 }), 0]],
      at: 15_000,
      may: { kind: "wait", forMs: 15_000 },
    },
    {
      name: "a holder that claims a day",
      looks: [[record({ durationMs: 86_400_000 }), 0]],
      at: 60_000,
      may: { kind: "take" },
    },
    {
      name: "a holder that claims nothing",
      looks: [[record({ durationMs: 0 }), 0]],
      at: 14_999,
      may: { kind: "wait", forMs: 1 },
    },
    {
      name: "deleted while held",
      looks: [
        [record(), 0],
        [undefined, 14_000],
      ],
      at: 15_000,
      may: { kind: "wait", forMs: 14_000 },
    },
    {
      name: "deleted while held, long ago",
      looks: [
        [record(), 0],
        [undefined, 14_000],
      ],
      at: 29_000,
      may: { kind: "create" },
    },
    {
      name: "deleted after its release",
      looks: [
        [record({ holder: "" }), 0],
        [undefined, 1],
      ],
      at: 1,
      may: { kind: "create" },
    },
  ] as const)("$name: $may.kind", ({ looks, at, may }) => {
    expect(claim(looked(...looks), "me", at)).toEqual(may);
  });
});
