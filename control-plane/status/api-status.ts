// The status of an object as the API server shall have it, and whether it already has it. PURE.
import { NOTHING_KEPT, type PolicyStatus, type Refusal } from "./conditions.ts";

export type Fields = Readonly<Record<string, unknown>>;

/** `metav1.Condition`: unlike in files, `message` is always there. */
export interface ApiCondition {
  readonly type: string;
  readonly status: string;
  readonly observedGeneration: number;
  readonly reason: string;
  readonly message: string;
  readonly lastTransitionTime: string;
}

/** The fields of `status` that the control plane writes. */
export interface OwnStatus {
  readonly observedGeneration: number;
  readonly conditions: readonly ApiCondition[];
  readonly targets?: PolicyStatus["targets"];
  readonly proxies?: PolicyStatus["proxies"];
  readonly lastAccepted?: string;
}

/** What status says of an object that is not a policy. */
export interface Judgement {
  readonly generation: number;
  /** Empty: accepted. */
  readonly refusals: readonly Refusal[];
  /** Whether a version that was accepted before stays in force. */
  readonly keepsEarlier: boolean;
  readonly nowMs: number;
}

/** Bounds of the CRDs' schemas, and what a reader can take in. */
const MAX_MESSAGE = 2_048;
const MAX_LISTED = 512;
const MAX_LAST_ACCEPTED = 262_144;
const LISTED_REFUSALS = 3;
const OWN_TYPES: readonly string[] = ["Accepted", "ResolvedRefs", "Programmed"];

const cut = (text: string, most: number): string =>
  (text.length <= most ? text : `${text.slice(0, most - 1)}…`).toWellFormed();

export const fieldsOf = (value: unknown): Fields =>
  // Holds because lists and null are turned away.
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};

const secondsOf = (time: string): string => time.replace(/\.\d+Z$/, "Z");

/**
 * A policy's status, with the times of `stored` where a condition stays, and all of `stored` where only the revision
 * differs, so that nothing is written for it.
 */
export function policyStatus(status: PolicyStatus, stored: OwnStatus): OwnStatus {
  const { observedGeneration, conditions, targets, proxies, lastAccepted } = status;
  const own = (revision: number): OwnStatus => ({
    observedGeneration,
    conditions: conditions.map((condition) => settled({ message: "", ...condition }, stored)),
    targets,
    proxies: {
      ...proxies,
      revision,
      lagging: proxies.lagging.map((text) => cut(text, MAX_LISTED)),
      ...(proxies.nacks ? { nacks: proxies.nacks.map((text) => cut(text, MAX_LISTED)) } : {}),
    },
    ...(lastAccepted === undefined
      ? {}
      : { lastAccepted: lastAccepted.length <= MAX_LAST_ACCEPTED ? lastAccepted : NOTHING_KEPT }),
  });
  const before = stored.proxies?.revision;
  const still = before === undefined ? undefined : own(before);
  return still && isSameStatus(still, stored) ? still : own(proxies.revision);
}

export function judgedStatus(judgement: Judgement, stored: OwnStatus): OwnStatus {
  const { generation, refusals, keepsEarlier, nowMs } = judgement;
  const kept = keepsEarlier ? "a version that was accepted before stays in force" : "it is not in force";
  const message = [...refusals.slice(0, LISTED_REFUSALS).map((refusal) => refusal.message), kept].join("; ");
  const condition: ApiCondition = {
    type: "Accepted",
    status: refusals.length === 0 ? "True" : "False",
    observedGeneration: generation,
    reason: refusals[0]?.reason ?? "Accepted",
    message: refusals.length === 0 ? "" : message,
    lastTransitionTime: new Date(nowMs).toISOString(),
  };
  return { observedGeneration: generation, conditions: [settled(condition, stored)] };
}

/**
 * Status of a policy that the revision which the mesh is pinned to does not have: what was said of this generation, and
 * that it is not in force.
 */
export function setAsideStatus(
  {
    generation,
    pinned,
    nowMs,
  }: { readonly generation: number; readonly pinned: number; readonly nowMs: number },
  stored: OwnStatus,
): OwnStatus {
  const condition: ApiCondition = {
    type: "Programmed",
    status: "False",
    observedGeneration: generation,
    reason: "Pinned",
    message: `not in force: the mesh is rolled back to revision ${pinned} until \`countersign rollback --release\``,
    lastTransitionTime: new Date(nowMs).toISOString(),
  };
  const others = stored.conditions.filter(
    ({ type, observedGeneration }) => type !== "Programmed" && observedGeneration === generation,
  );
  return {
    observedGeneration: generation,
    conditions: [...others, settled(condition, stored)],
    ...(stored.lastAccepted === undefined ? {} : { lastAccepted: stored.lastAccepted }),
  };
}

function settled(condition: ApiCondition, stored: OwnStatus): ApiCondition {
  const before = stored.conditions.find(
    ({ type, status }) => type === condition.type && status === condition.status,
  );
  const { type, status, observedGeneration, reason, message } = condition;
  return {
    type,
    status,
    observedGeneration,
    reason,
    message: cut(message, MAX_MESSAGE),
    lastTransitionTime: before?.lastTransitionTime ?? secondsOf(condition.lastTransitionTime),
  };
}

/** What of a stored `status` is ours, in our order; anything else in it is somebody else's. */
export function readOwnStatus(value: unknown): OwnStatus {
  const status = fieldsOf(value);
  const { observedGeneration, conditions, targets, proxies, lastAccepted } = status;
  const list: readonly unknown[] = Array.isArray(conditions) ? conditions : [];
  return {
    observedGeneration: typeof observedGeneration === "number" ? observedGeneration : 0,
    conditions: OWN_TYPES.flatMap((type) => list.map(fieldsOf).filter((one) => one["type"] === type)).map(
      readCondition,
    ),
    // Holds as far as we wrote it; it is only compared with what we would write.
    ...(targets === undefined ? {} : { targets: targets as PolicyStatus["targets"] }),
    ...(proxies === undefined ? {} : { proxies: proxies as PolicyStatus["proxies"] }),
    ...(typeof lastAccepted === "string" ? { lastAccepted } : {}),
  };
}

function readCondition(condition: Fields): ApiCondition {
  const text = (name: string): string => {
    const value = condition[name];
    return typeof value === "string" ? value : "";
  };
  const generation = condition["observedGeneration"];
  return {
    type: text("type"),
    status: text("status"),
    observedGeneration: typeof generation === "number" ? generation : 0,
    reason: text("reason"),
    message: text("message"),
    lastTransitionTime: text("lastTransitionTime"),
  };
}

/** Order of fields does not matter: an API server sorts them. */
export function isSameStatus(a: OwnStatus, b: OwnStatus): boolean {
  return sorted(a) === sorted(b);
}

/** A text to compare statuses by. */
export function sorted(value: unknown): string {
  return JSON.stringify(value, (_, field: unknown) =>
    typeof field === "object" && field !== null && !Array.isArray(field)
      ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : 1)))
      : field,
  );
}

/** Whether people wait for this change: another verdict, or one on another generation; else only counts moved. */
export function isUrgent(stored: OwnStatus, wanted: OwnStatus): boolean {
  const verdicts = ({ observedGeneration, conditions, lastAccepted }: OwnStatus): string =>
    JSON.stringify([
      observedGeneration,
      lastAccepted ?? "",
      conditions.map(({ type, status, reason }) => [type, status, reason]),
    ]);
  return verdicts(stored) !== verdicts(wanted);
}
