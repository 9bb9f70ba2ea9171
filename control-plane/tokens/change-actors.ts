// Who asked the API server for which change of roles, bindings and policies, remembered from the review of it until the change
// comes into force, so that its event can name them. PURE.
import { isDeepStrictEqual } from "node:util";

/** A change as the webhook let it through: it may still fail, and another replica may have been asked. */
export interface AdmittedChange {
  readonly kind: string;
  /** `namespace/name`, or `name` of a cluster-scoped kind. */
  readonly name: string;
  /** The typed object; undefined: it is deleted. */
  readonly value: object | undefined;
  /** As the API server authenticated it. */
  readonly actor: string;
}

interface Seen {
  readonly change: AdmittedChange;
  readonly untilMs: number;
}

/** A watch brings a change within a second or two; later, somebody else's may be the same. */
const KEPT_MS = 60_000;
const MAX_SEEN = 2_000;
const MAX_ACTOR_CHARS = 256;

export class ChangeActors {
  /** Oldest first. */
  #seen: Seen[] = [];

  /** @param nowMs monotonic. */
  admitted(change: AdmittedChange, nowMs: number): void {
    if (this.#seen.length >= MAX_SEEN) this.#seen.shift();
    const actor = change.actor.slice(0, MAX_ACTOR_CHARS).toWellFormed();
    this.#seen.push({ change: { ...change, actor }, untilMs: nowMs + KEPT_MS });
  }

  /**
   * Who asked for exactly this change last; undefined: nobody that this replica knows of.
   *
   * @param value as it is in force now, undefined: it is gone. Generations are not compared.
   */
  of(kind: string, name: string, value: object | undefined, nowMs: number): string | undefined {
    this.#seen = this.#seen.filter(({ untilMs }) => nowMs < untilMs);
    const found = this.#seen.findLast(
      ({ change }) => change.kind === kind && change.name === name && isSame(change.value, value),
    );
    return found?.change.actor;
  }
}

function isSame(a: object | undefined, b: object | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return isDeepStrictEqual({ ...a, generation: 0 }, { ...b, generation: 0 });
}
