// Rate limits of winning rules, per sidecar: GCRA (ITU-T I.371 annex A, virtual scheduling), one number per counter. A
// counter is kept for (policy, rule, key value, target); DOMAIN 3.3.
import { hash } from "node:crypto";
import type { Call } from "../core/policy/call.ts";
import type { CompiledProgram, Decision, WinningRule } from "../core/policy/decide.ts";
import type { LimitKey, RateLimit } from "../core/policy/rule.ts";

export type LimitVerdict =
  | { readonly allowed: true }
  | {
      readonly allowed: false;
      readonly retryAfterMs: number;
      readonly policy: string;
      readonly rule: string;
      readonly limit: RateLimit;
    };

/** What a limiter needs of a compiled program. */
export type LimitTarget = { readonly program: Pick<CompiledProgram["program"], "id"> };

export interface RateLimiter {
  /**
   * Checks every limit of the decision's winners, and counts the call in all of them only when each has room.
   *
   * @param program the one that decided; its id is part of every counter's key.
   * @param nowMs of a clock that does not go back; an earlier time than before only makes the limiter stricter.
   */
  admit(program: LimitTarget, decision: Pick<Decision, "winners">, call: Call, nowMs: number): LimitVerdict;
  readonly size: number;
  /** Policy, rule and theoretical arrival time (milliseconds) of every counter; for metrics. */
  counters(): Iterable<readonly [policy: string, rule: string, arrivalMs: number]>;
}

/** What is left of a limit, 0 to 1, when the theoretical arrival time of a counter is `arrivalMs`. */
export function remainingRatio(limit: RateLimit, arrivalMs: number, nowMs: number): number {
  const capacityMs = (limit.perMs / limit.requests) * Math.max(1, limit.burst);
  return Math.min(1, Math.max(0, 1 - Math.max(0, arrivalMs - nowMs) / capacityMs));
}

const ALLOWED: LimitVerdict = Object.freeze({ allowed: true });

/** Value of one key part; a missing user falls back to the workload, so that dropping a token gains nothing. */
function partOf(key: LimitKey, target: string, call: Call): string {
  switch (key) {
    case "user":
      return call.user === undefined ? `w:${call.caller.spiffeId}` : `u:${call.user.id}`;
    case "role":
      return call.user === undefined
        ? `w:${call.caller.spiffeId}`
        : `r:${[...call.user.roles].sort().join(",")}`;
    case "workload":
      return `w:${call.caller.spiffeId}`;
    case "namespace":
      return `n:${call.caller.trustDomain}/${call.caller.namespace}`;
    case "target":
      return `t:${target}`;
    case "resource":
      return call.resource.kind === "known"
        ? `k:${call.resource.type}:${call.resource.value}`
        : `k:${call.resource.kind}`;
  }
}

/** A resource may be 8 KiB of path: what is longer than this is kept as its digest, so that counters have a size. */
const MAX_KEY_LENGTH = 256;

function counterKey(parts: readonly LimitKey[], target: string, call: Call): string {
  const key = JSON.stringify(parts.map((part) => partOf(part, target, call)));
  return key.length <= MAX_KEY_LENGTH ? key : hash("sha256", key, "base64url");
}

/** The counters of one rule on one target: theoretical arrival time in milliseconds by key value. */
interface RuleCounters {
  readonly policy: string;
  readonly rule: string;
  readonly arrivals: Map<string, number>;
}

interface Due {
  readonly arrivals: Map<string, number>;
  readonly key: string;
  readonly next: number;
}

/** Key of the counter that all callers without one of their own share; keys are JSON or a digest, so no caller can name it. */
const OVERFLOW = "overflow";
/** Counters that one call looks at for one that is full again. */
const SWEEP = 32;
const PRUNE_EVERY_MS = 1000;

class GcraLimiter implements RateLimiter {
  readonly #maxKeys: number;
  readonly #maxKeysPerRule: number;
  readonly #rules = new Map<string, RuleCounters>();
  #size = 0;
  #prunedMs = Number.NEGATIVE_INFINITY;

  constructor(maxKeys: number) {
    this.#maxKeys = maxKeys;
    this.#maxKeysPerRule = Math.ceil(maxKeys / 4);
  }

  get size(): number {
    return this.#size;
  }

  *counters(): Iterable<readonly [string, string, number]> {
    for (const { policy, rule, arrivals } of this.#rules.values())
      for (const arrivalMs of arrivals.values()) yield [policy, rule, arrivalMs];
  }

  admit(program: LimitTarget, decision: Pick<Decision, "winners">, call: Call, nowMs: number): LimitVerdict {
    const target = program.program.id;
    const due: Due[] = [];
    let refused: LimitVerdict = ALLOWED;
    if (this.#size >= this.#maxKeys || this.#rules.size >= this.#maxKeys) this.#prune(nowMs);
    for (const winner of decision.winners) {
      const limit = winner.with?.rateLimit;
      if (limit === undefined) continue;
      const { arrivals } = this.#countersOf(winner, target);
      const own = counterKey(limit.key, target, call);
      const key = this.#hasRoom(arrivals, own, nowMs) ? own : OVERFLOW;
      const intervalMs = limit.perMs / limit.requests;
      const arrival = Math.max(nowMs, arrivals.get(key) ?? nowMs);
      // The small allowance keeps sums of fractions from refusing the last call of a full burst.
      const waitMs = arrival - nowMs - intervalMs * (Math.max(1, limit.burst) - 1) - 1e-6 * intervalMs;
      if (waitMs <= 0) due.push({ arrivals, key, next: arrival + intervalMs });
      else if (refused.allowed || waitMs > refused.retryAfterMs) {
        refused = {
          allowed: false,
          retryAfterMs: Math.ceil(waitMs),
          policy: winner.policy,
          rule: winner.rule,
          limit,
        };
      }
    }
    if (!refused.allowed) return refused;
    for (const { arrivals, key, next } of due) {
      if (!arrivals.has(key)) this.#size += 1;
      arrivals.set(key, next);
    }
    return ALLOWED;
  }

  #countersOf({ policy, rule }: WinningRule, target: string): RuleCounters {
    const id = JSON.stringify([policy, rule, target]);
    let counters = this.#rules.get(id);
    if (counters === undefined) {
      counters = { policy, rule, arrivals: new Map() };
      this.#rules.set(id, counters);
    }
    return counters;
  }

  #isFull(arrivals: ReadonlyMap<string, number>): boolean {
    return arrivals.size >= this.#maxKeysPerRule || this.#size >= this.#maxKeys;
  }

  /** Whether a key has a counter or may get one. Only counters that are full again are forgotten, so nothing is reset. */
  #hasRoom(arrivals: Map<string, number>, key: string, nowMs: number): boolean {
    if (arrivals.has(key) || !this.#isFull(arrivals)) return true;
    let looks = Math.min(SWEEP, arrivals.size);
    for (const [other, arrival] of arrivals) {
      if (looks === 0) break;
      looks -= 1;
      arrivals.delete(other);
      if (arrival <= nowMs) this.#size -= 1;
      else arrivals.set(other, arrival); // to the end: the next sweep begins behind it
    }
    return !this.#isFull(arrivals);
  }

  /** Forgets the counters that are full again, of rules that are no more too. */
  #prune(nowMs: number): void {
    if (nowMs - this.#prunedMs < PRUNE_EVERY_MS) return;
    this.#prunedMs = nowMs;
    for (const [id, { arrivals }] of this.#rules) {
      for (const [key, arrival] of arrivals) {
        if (arrival > nowMs) continue;
        arrivals.delete(key);
        this.#size -= 1;
      }
      if (arrivals.size === 0) this.#rules.delete(id);
    }
  }
}

/**
 * @param options.maxKeys counters kept in all, and a quarter of them for one rule on one target. A caller without room for
 *   one of its own shares one with the others of its rule: whoever makes up keys (a resource is what the caller says)
 *   can neither push an exhausted counter out and start afresh nor take the room of other rules.
 */
export function createRateLimiter(options: { readonly maxKeys: number }): RateLimiter {
  return new GcraLimiter(options.maxKeys);
}
