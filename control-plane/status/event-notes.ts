// Which Kubernetes events a change of status is worth. PURE. Each is a turn for the worse, or the end of one: what goes as
// it should makes no events, however many policies there are.
import type { ApiCondition, OwnStatus } from "./api-status.ts";

/** One thing to say of an object. */
export interface EventNote {
  readonly type: "Normal" | "Warning";
  readonly reason:
    | "Refused"
    | "Accepted"
    | "ProxyRefused"
    | "NotProgrammed"
    | "Programmed"
    | "Pinned"
    | "Released"
    /** A pod, by the auditor (admission/auditor.ts). */
    | "NotMeshed";
  /** One line. */
  readonly note: string;
}

const conditionOf = ({ conditions }: OwnStatus, type: string): ApiCondition | undefined =>
  conditions.find((condition) => condition.type === type);

/** What happened to an object between two of its statuses. */
export function notesOf(before: OwnStatus, now: OwnStatus): readonly EventNote[] {
  const notes: EventNote[] = [];
  const accepted = [conditionOf(before, "Accepted"), conditionOf(now, "Accepted")] as const;
  if (accepted[1]?.status === "False" && !isSame(...accepted))
    notes.push({ type: "Warning", reason: "Refused", note: `${accepted[1].reason}: ${accepted[1].message}` });
  if (accepted[1]?.status === "True" && accepted[0]?.status === "False")
    notes.push({
      type: "Normal",
      reason: "Accepted",
      note: `generation ${now.observedGeneration} is accepted`,
    });
  const programmed = [conditionOf(before, "Programmed"), conditionOf(now, "Programmed")] as const;
  if (programmed[1]?.reason === "Refused" && programmed[0]?.reason !== "Refused")
    notes.push({
      type: "Warning",
      reason: "ProxyRefused",
      note: `${programmed[1].message}: ${now.proxies?.nacks?.join("; ") ?? ""}`,
    });
  if (programmed[1]?.status === "True" && programmed[0]?.reason === "Refused")
    notes.push({ type: "Normal", reason: "Programmed", note: programmed[1].message });
  return notes;
}

function isSame(a: ApiCondition | undefined, b: ApiCondition | undefined): boolean {
  return a?.status === b?.status && a?.reason === b?.reason && a?.message === b?.message;
}

/** A status that has been on its way to the sidecars for this long is worth an event. */
const OVERDUE_MS = 60_000;
const NAMED = 3;

/** Which objects are on their way to their sidecars, and which have been for too long. */
export class Overdue {
  /** By key, with the time since when, Unix milliseconds; undefined: told already. */
  readonly #waiting = new Map<string, { readonly status: OwnStatus; readonly sinceMs: number | undefined }>();

  /** @returns what is to be said at once. */
  saw(key: string, now: OwnStatus): EventNote | undefined {
    const programmed = conditionOf(now, "Programmed");
    const before = this.#waiting.get(key);
    if (programmed?.reason === "Propagating") {
      const sinceMs = Date.parse(programmed.lastTransitionTime);
      this.#waiting.set(key, { status: now, sinceMs: before ? before.sinceMs : sinceMs });
      return undefined;
    }
    this.#waiting.delete(key);
    const wasTold = before !== undefined && before.sinceMs === undefined;
    return wasTold && programmed?.status === "True"
      ? { type: "Normal", reason: "Programmed", note: programmed.message }
      : undefined;
  }

  forget(key: string): void {
    this.#waiting.delete(key);
  }

  /** Those whose time is up, each once. */
  due(nowMs: number): readonly (readonly [key: string, note: EventNote])[] {
    const found: [string, EventNote][] = [];
    for (const [key, { status, sinceMs }] of this.#waiting) {
      if (sinceMs === undefined || !(nowMs - sinceMs >= OVERDUE_MS)) continue;
      this.#waiting.set(key, { status, sinceMs: undefined });
      const lagging = status.proxies?.lagging ?? [];
      const named = lagging.slice(0, NAMED).join(", ");
      const more = lagging.length > NAMED ? " and others" : "";
      found.push([
        key,
        {
          type: "Warning",
          reason: "NotProgrammed",
          note: `${conditionOf(status, "Programmed")?.message ?? ""} after ${OVERDUE_MS / 1000} s: waiting for ${named}${more}`,
        },
      ]);
    }
    return found;
  }
}
