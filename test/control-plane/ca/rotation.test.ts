import { describe, expect, test } from "@jest/globals";
import {
  abortStep,
  forceStep,
  isRotationRecord,
  nextStep,
  type RotationLimits,
  type RotationRecord,
  type RotationSidecar,
  type RotationView,
} from "../../../control-plane/ca/rotation.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
const limits: RotationLimits = {
  holdMs: { distribute: 1_000, sign: 1_000, retire: 1_000 },
  overdueMs: { distribute: 60_000, sign: 60_000, retire: 60_000 },
  settleMs: 10_000,
};
const record = (stage: RotationRecord["stage"], more: Partial<RotationRecord> = {}): RotationRecord => ({
  stage,
  aborting: false,
  startedAtMs: NOW - 20_000,
  stageSinceMs: NOW - 5_000,
  forced: [],
  ...more,
});
const sidecar = (more: Partial<RotationSidecar> = {}): RotationSidecar => ({
  id: "i1",
  name: "lab/a",
  connected: true,
  hasBundle: true,
  issuerId: "new",
  leafUntilMs: NOW + 3_600_000,
  ...more,
});
const view = (sidecars: readonly RotationSidecar[], more: Partial<RotationView> = {}): RotationView => ({
  nowMs: NOW,
  sidecars,
  issuerIds: ["new"],
  watchingSinceMs: NOW - 60_000,
  limits,
  ...more,
});
const behind = { hasBundle: false };
const old = { issuerId: "old" };
const gone = { connected: false };
const ended = { leafUntilMs: NOW - 2_000 };

describe("nextStep", () => {
  test.each([
    { name: "distribute goes on when everybody has the bundle", stage: "distribute", of: [old], to: "sign" },
    {
      name: "distribute waits for who has not",
      stage: "distribute",
      of: [old, { ...old, ...behind }],
      to: "wait 1",
    },
    {
      name: "distribute waits for who left",
      stage: "distribute",
      of: [{ ...behind, ...gone }],
      to: "wait 1",
    },
    {
      name: "distribute lets go of who left and cannot be called",
      stage: "distribute",
      of: [{ ...behind, ...gone, ...ended }],
      to: "sign",
    },
    { name: "distribute goes on in an empty mesh", stage: "distribute", of: [], to: "sign" },
    { name: "sign goes on when every leaf is below the new root", stage: "sign", of: [{}, {}], to: "retire" },
    { name: "sign waits for a leaf below the old one", stage: "sign", of: [{}, old], to: "wait 1" },
    {
      name: "sign waits for one whose issuer is not known",
      stage: "sign",
      of: [{ issuerId: "" }],
      to: "wait 1",
    },
    {
      name: "sign waits for a good leaf of who left",
      stage: "sign",
      of: [{ ...old, ...gone }],
      to: "wait 1",
    },
    { name: "sign lets go of leaves that ended", stage: "sign", of: [{ ...old, ...ended }], to: "retire" },
    { name: "retire is done when everybody has the bundle", stage: "retire", of: [{}], to: "finish" },
    { name: "retire waits for who has not", stage: "retire", of: [behind], to: "wait 1" },
    {
      name: "retire does not wait for who left",
      stage: "retire",
      of: [{ ...behind, ...gone }],
      to: "finish",
    },
  ] as const)("$name", ({ stage, of, to }) => {
    const step = nextStep(record(stage), view(of.map((one, i) => sidecar({ id: `i${i}`, ...one }))));
    const said =
      step.kind === "wait"
        ? `wait ${step.waiting.length}`
        : step.kind === "finish"
          ? "finish"
          : step.record.stage;
    expect(said).toBe(to);
  });

  test("an advance begins its stage now and keeps the rest", () => {
    const before = record("distribute", { aborting: true, forced: ["x"] });
    expect(nextStep(before, view([]))).toEqual({
      kind: "advance",
      record: { ...before, stage: "sign", stageSinceMs: NOW },
    });
  });

  test("no stage is shorter than its hold, and nobody is judged right after a start", () => {
    const fresh = record("distribute", { stageSinceMs: NOW - 999 });
    expect(nextStep(fresh, view([]))).toMatchObject({ kind: "wait", waiting: [] });
    const started = view([], { watchingSinceMs: NOW - 9_999 });
    expect(nextStep(record("sign"), started)).toMatchObject({ kind: "wait", waiting: [] });
    expect(nextStep(record("sign"), view([], { watchingSinceMs: NOW - 10_000 }))).toMatchObject({
      kind: "advance",
    });
  });

  test("a stage that lasts too long says so and waits on; the last one ends", () => {
    const since = { stageSinceMs: NOW - 60_000 };
    expect(nextStep(record("distribute", since), view([sidecar(behind)]))).toMatchObject({
      kind: "wait",
      overdue: true,
    });
    expect(nextStep(record("sign", since), view([sidecar(old)]))).toMatchObject({
      kind: "wait",
      overdue: true,
    });
    expect(nextStep(record("retire", since), view([sidecar(behind)]))).toEqual({ kind: "finish" });
  });
});

describe("abortStep", () => {
  test.each([
    { stage: "distribute", step: { kind: "cancel" } },
    {
      stage: "sign",
      step: { kind: "reverse", record: { stage: "sign", aborting: true, stageSinceMs: NOW } },
    },
    {
      stage: "retire",
      step: { kind: "reverse", record: { stage: "distribute", aborting: true, stageSinceMs: NOW } },
    },
  ] as const)("from $stage", ({ stage, step }) => {
    expect(abortStep(record(stage), NOW)).toMatchObject(step);
  });

  test("there is no way back from the way back", () => {
    expect(abortStep(record("sign", { aborting: true }), NOW)).toMatchObject({ kind: "refused" });
  });
});

test("force gives up exactly those who are waited for, for good", () => {
  const world = view([sidecar({ id: "a", ...behind, ...old }), sidecar({ id: "b", ...old })]);
  const { record: after, givenUp } = forceStep(record("distribute", { forced: ["z"] }), world);
  expect(givenUp.map(({ id }) => id)).toEqual(["a"]);
  expect(after.forced).toEqual(["z", "a"]);
  expect(nextStep(after, world)).toMatchObject({ kind: "advance", record: { stage: "sign" } });
  const signing = { ...after, stage: "sign" } as const;
  expect(nextStep(signing, world)).toMatchObject({ kind: "wait", waiting: [{ id: "b" }] });
});

test.each([
  { name: "none", value: null },
  { name: "another stage", value: { ...record("sign"), stage: "prepare" } },
  { name: "a time that is none", value: { ...record("sign"), stageSinceMs: "now" } },
  { name: "names that are none", value: { ...record("sign"), forced: [1] } },
  { name: "no direction", value: { ...record("sign"), aborting: undefined } },
])("a stored record is refused: $name", ({ value }) => {
  expect(isRotationRecord(value)).toBe(false);
  expect(isRotationRecord(JSON.parse(JSON.stringify(record("sign"))))).toBe(true);
});
