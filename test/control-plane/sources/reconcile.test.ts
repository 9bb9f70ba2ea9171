// Properties of reconciling: whatever the files say, a Deny is not lost by accident and a second look changes nothing.
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { createAdmitter } from "../../../control-plane/policy/admit.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { createObjectParser } from "../../../control-plane/policy/typed-object.ts";
import { keyOf } from "../../../control-plane/sources/file-reader.ts";
import {
  type Accepted,
  type Candidate,
  type FileReading,
  type Reconciled,
  reconcile,
} from "../../../control-plane/sources/reconcile.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";

const schemas = loadSchemas();
const parse = createObjectParser();
const admitter = createAdmitter(loadBuiltInPacks());

function candidate(name: string, action: string, kind: string, maxHops: number): Candidate {
  const rule = { name: "r", from: [{ via: { maxHops } }], operations: [{ any: true }] };
  const raw = {
    apiVersion: "countersign.dev/v1alpha1",
    kind,
    metadata: { name, namespace: "lab" },
    spec: { action, rules: [rule] },
  };
  const valid = schemas.validate(raw);
  const typed = valid.ok ? parse(valid.value) : valid;
  const checked =
    valid.ok && typed.ok
      ? { ok: true as const, value: { valid: valid.value, typed: typed.value } }
      : { ok: false as const, error: valid.ok ? [] : valid.error };
  return { raw, ...keyOf(raw), checked, lineOf: () => 1 };
}

const candidates = fc
  .record({
    name: fc.constantFrom("a", "b"),
    action: fc.constantFrom("Allow", "Deny", "Alow"),
    kind: fc.constantFrom("AccessPolicy", "AccessPolicy", "AccesPolicy"),
    hops: fc.constantFrom(1, 2),
  })
  .map(({ name, action, kind, hops }) => candidate(name, action, kind, hops));
const file = (name: string): fc.Arbitrary<FileReading> =>
  fc
    .record({ broken: fc.boolean(), list: fc.array(candidates, { maxLength: 2 }) })
    .map(({ broken, list }) => ({
      file: name,
      broken,
      problems: [],
      documents: broken
        ? []
        : list.map((entry, index) => ({
            digest: JSON.stringify(entry.raw),
            lineOffset: index,
            candidates: [entry],
          })),
    }));
const readings = fc
  .tuple(fc.option(file("x.yaml")), fc.option(file("y.yaml")))
  .map((files) => files.filter((entry) => entry !== null));

function step(before: Reconciled, files: readonly FileReading[], monotonicMs: number): Reconciled {
  return reconcile({
    accepted: before.accepted,
    missingSince: before.missingSince,
    files,
    unreadable: [],
    nowMs: 0,
    monotonicMs,
    schemas,
    parse,
    admitter,
  });
}

const nothing: Reconciled = { accepted: new Map<string, Accepted>(), missingSince: new Map(), problems: [] };

describe("reconcile", () => {
  test("the same files twice give the same objects", () => {
    fc.assert(
      fc.property(fc.array(readings, { minLength: 1, maxLength: 4 }), (history) => {
        let state = nothing;
        for (const [index, files] of history.entries()) state = step(state, files, index * 10);
        const again = step(state, history.at(-1)!, history.length * 10);
        expect([...again.accepted].every(([key, value]) => state.accepted.get(key) === value)).toBe(true);
        expect(again.accepted.size).toBe(state.accepted.size);
      }),
    );
  });

  test("a Deny leaves only for a valid object of its name, or after two readings without it that are 500 ms apart", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(readings, fc.nat({ max: 400 })), { maxLength: 6 }), (history) => {
        let state = nothing;
        let nowMs = 0;
        const missing = new Map<string, number>();
        for (const [files, passedMs] of history) {
          nowMs += passedMs;
          const next = step(state, files, nowMs);
          for (const [key, before] of state.accepted) {
            const there = files.some(
              (entry) =>
                (entry.broken && entry.file === before.file) ||
                entry.documents.some((document) => document.candidates.some((one) => one.key === key)),
            );
            if (there) missing.delete(key);
            else if (!missing.has(key)) missing.set(key, nowMs);
            const isDeny = before.typed.kind === "AccessPolicy" && before.typed.value.action === "Deny";
            if (isDeny && !next.accepted.has(key))
              expect(nowMs - missing.get(key)!).toBeGreaterThanOrEqual(500);
          }
          state = next;
        }
      }),
    );
  });

  test("generations only grow, and an object in force is always valid", () => {
    fc.assert(
      fc.property(fc.array(readings, { maxLength: 6 }), (history) => {
        let state = nothing;
        for (const [index, files] of history.entries()) {
          const next = step(state, files, index * 100);
          for (const [key, { valid }] of next.accepted) {
            const before = state.accepted.get(key)?.valid;
            if (before !== undefined)
              expect(valid.generation).toBe(
                JSON.stringify(before.spec) === JSON.stringify(valid.spec)
                  ? before.generation
                  : before.generation + 1,
              );
          }
          state = next;
        }
      }),
    );
  });
});
