// Rate limits of winning rules, per sidecar: GCRA (ITU-T I.371 annex A, virtual scheduling), one number per counter. A
// counter is kept for (policy, rule, key value, target); DOMAIN 3.3.
import type { Call } from "../core/policy/call.ts";
import type { CompiledProgram, Decision } from "../core/policy/decide.ts";
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

class GcraLimiter implements RateLimiter {
  readonly #maxKeys: number;
  /** Theoretical arrival time in milliseconds by counter, in order of last use. */
  readonly #arrivals = new Map<string, number>();

  constructor(maxKeys: number) {
    this.#maxKeys = maxKeys;
  }

  get size(): number {
    return this.#arrivals.size;
  }

  *counters(): Iterable<readonly [string, string, number]> {
    for (const [key, arrivalMs] of this.#arrivals) {
      // Written by `admit`: policy and rule come first.
      const [policy = "", rule = ""] = JSON.parse(key) as string[];
      yield [policy, rule, arrivalMs];
    }
  }

  admit(program: LimitTarget, decision: Pick<Decision, "winners">, call: Call, nowMs: number): LimitVerdict {
    const target = program.program.id;
    const due: { key: string; next: number }[] = [];
    let refused: LimitVerdict = ALLOWED;
    for (const winner of decision.winners) {
      const limit = winner.with?.rateLimit;
      if (limit === undefined) continue;
      const key = JSON.stringify([
        winner.policy,
        winner.rule,
        target,
        ...limit.key.map((part) => partOf(part, target, call)),
      ]);
      const intervalMs = limit.perMs / limit.requests;
      const arrival = Math.max(nowMs, this.#arrivals.get(key) ?? nowMs);
      // The small allowance keeps sums of fractions from refusing the last call of a full burst.
      const waitMs = arrival - nowMs - intervalMs * (Math.max(1, limit.burst) - 1) - 1e-6 * intervalMs;
      if (waitMs <= 0) due.push({ key, next: arrival + intervalMs });
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
    for (const { key, next } of due) {
      this.#arrivals.delete(key);
      this.#arrivals.set(key, next);
    }
    if (this.#arrivals.size > this.#maxKeys) this.#shrink(nowMs);
    return ALLOWED;
  }

  /** Drops counters that are full again, from the longest unused; if none is, the longest unused itself. */
  #shrink(nowMs: number): void {
    let looked = 0;
    for (const [key, arrival] of this.#arrivals) {
      if (arrival <= nowMs) this.#arrivals.delete(key);
      looked += 1;
      if (looked >= 64) break;
    }
    for (const key of this.#arrivals.keys()) {
      if (this.#arrivals.size <= this.#maxKeys) return;
      this.#arrivals.delete(key);
    }
  }
}

/** @param options.maxKeys counters kept at most; beyond it the longest unused are forgotten. */
export function createRateLimiter(options: { readonly maxKeys: number }): RateLimiter {
  return new GcraLimiter(options.maxKeys);
}
