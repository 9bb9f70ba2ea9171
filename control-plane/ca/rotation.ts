// Root rotation as a state machine. PURE: a record, what the sidecars of the mesh have, and the time come in; what to do
// next comes out. root-rotation.ts does it.
//
//   distribute  both roots are trusted, the old one signs              until every sidecar has the bundle with both
//   sign        both are trusted, the new one signs, leaves renew      until every leaf is below the new root
//   retire      only the new one is trusted                            until every connected sidecar has that bundle
//
// INVARIANT: at any moment, also while going back, the root of every live leaf is in the bundle of every sidecar.
import { assertNever } from "../../sidecar/core/runtime/errors.ts";

export const ROTATION_STAGES = ["distribute", "sign", "retire"] as const;
export type RotationStage = (typeof ROTATION_STAGES)[number];

/** How far a rotation has come; persisted with the authority. */
export interface RotationRecord {
  readonly stage: RotationStage;
  /** On the way back: old and new have changed places. */
  readonly aborting: boolean;
  readonly startedAtMs: number;
  readonly stageSinceMs: number;
  /** Sidecars (by `id`) that the operator gave up: nobody waits for them in this rotation. */
  readonly forced: readonly string[];
}

/** A sidecar, as far as a rotation is concerned with it. */
export interface RotationSidecar {
  /** The same for as long as its process lives. */
  readonly id: string;
  /** For people: workload, and where it runs. */
  readonly name: string;
  readonly connected: boolean;
  /** It acknowledged a table with the trust bundle of this sequence. */
  readonly hasBundle: boolean;
  /** Key identifier of the certificate that issued its newest leaf, hex; empty: not known. */
  readonly issuerId: string;
  /** Unix milliseconds at which its newest leaf ends. */
  readonly leafUntilMs: number;
}

export interface RotationLimits {
  /** Shortest stay in a stage: replicas read the store, and files with roots reach pods, in this time. */
  readonly holdMs: Readonly<Record<RotationStage, number>>;
  /** From here on a stage is overdue: the operator is asked to decide. `retire` then ends by itself. */
  readonly overdueMs: Readonly<Record<RotationStage, number>>;
  /** After a start (or becoming the leader): sidecars get this long to come before their absence counts. */
  readonly settleMs: number;
}

export interface RotationView {
  readonly nowMs: number;
  readonly sidecars: readonly RotationSidecar[];
  /** Issuing certificates below the root that takes over, hex. */
  readonly issuerIds: readonly string[];
  /** Since when this process sees the sidecars. */
  readonly watchingSinceMs: number;
  readonly limits: RotationLimits;
}

export type RotationStep =
  | {
      readonly kind: "wait";
      /** Those who hold the stage up; may be empty while it is held. */
      readonly waiting: readonly RotationSidecar[];
      readonly overdue: boolean;
    }
  | { readonly kind: "advance"; readonly record: RotationRecord }
  | { readonly kind: "finish" };

/** Sidecars that the stage waits for. A sidecar whose certificate has ended can neither call nor be called. */
function waitingFor(record: RotationRecord, view: RotationView): readonly RotationSidecar[] {
  return view.sidecars.filter((one) => {
    if (record.forced.includes(one.id)) return false;
    // notAfter is inclusive to the second.
    const isLive = view.nowMs < one.leafUntilMs + 1_000;
    switch (record.stage) {
      case "distribute":
        // Not connected is not gone: it may be cut off from here and still serve its callers.
        return isLive && !one.hasBundle;
      case "sign":
        return isLive && !view.issuerIds.includes(one.issuerId);
      case "retire":
        return one.connected && !one.hasBundle;
      default:
        return assertNever(record.stage);
    }
  });
}

/** What is due now. */
export function nextStep(record: RotationRecord, view: RotationView): RotationStep {
  const { nowMs, limits, watchingSinceMs } = view;
  const waiting = waitingFor(record, view);
  const inStageMs = nowMs - record.stageSinceMs;
  const overdue = inStageMs >= limits.overdueMs[record.stage];
  const isHeld = inStageMs < limits.holdMs[record.stage] || nowMs - watchingSinceMs < limits.settleMs;
  // By then nobody needs the root that left: whoever has not heard of it yet trusts one root too many.
  const endsAnyway = record.stage === "retire" && overdue;
  if (isHeld || (waiting.length > 0 && !endsAnyway)) return { kind: "wait", waiting, overdue };
  if (record.stage === "retire") return { kind: "finish" };
  const stage = record.stage === "distribute" ? "sign" : "retire";
  return { kind: "advance", record: { ...record, stage, stageSinceMs: nowMs } };
}

export type AbortStep =
  /** Nobody has a leaf below the new root: it can go at once. */
  | { readonly kind: "cancel" }
  /** Old and new change places, and the rotation goes on towards the old one. */
  | { readonly kind: "reverse"; readonly record: RotationRecord }
  | { readonly kind: "refused"; readonly why: string };

/** The way back that is safe from here. */
export function abortStep(record: RotationRecord, nowMs: number): AbortStep {
  if (record.aborting) return { kind: "refused", why: "the rotation is going back already" };
  switch (record.stage) {
    case "distribute":
      return { kind: "cancel" };
    case "sign":
      return { kind: "reverse", record: { ...record, aborting: true, stageSinceMs: nowMs } };
    case "retire":
      // Some sidecars do not trust the old root any more: they have to learn it again first.
      return {
        kind: "reverse",
        record: { ...record, stage: "distribute", aborting: true, stageSinceMs: nowMs },
      };
    default:
      return assertNever(record.stage);
  }
}

/** Gives up those whom the stage waits for. */
export function forceStep(
  record: RotationRecord,
  view: RotationView,
): { readonly record: RotationRecord; readonly givenUp: readonly RotationSidecar[] } {
  const givenUp = waitingFor(record, view);
  return { record: { ...record, forced: [...record.forced, ...givenUp.map(({ id }) => id)] }, givenUp };
}

/** Reads what was stored. */
export function isRotationRecord(value: unknown): value is RotationRecord {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Readonly<Record<string, unknown>>; // just checked; each member is read as unknown
  return (
    ROTATION_STAGES.some((stage) => stage === record["stage"]) &&
    typeof record["aborting"] === "boolean" &&
    typeof record["startedAtMs"] === "number" &&
    typeof record["stageSinceMs"] === "number" &&
    Array.isArray(record["forced"]) &&
    record["forced"].every((id) => typeof id === "string")
  );
}
