// PURE. Rate and token limits of the winning rules of one call: all are asked, then all are counted (DOMAIN 3.3). Calls
// are paid when they are admitted, model tokens when the answer has said how many they were.
import type { Call } from "../core/policy/call.ts";
import type { CompiledProgram, Decision, WinningRule } from "../core/policy/decide.ts";
import type { LimitKey, RateLimit, TokenLimit } from "../core/policy/rule.ts";
import { type Counter, LimitCounters, type LimitKind, type LimitShares, WHOLE } from "./limit-counters.ts";
import { counterKey } from "./limit-key.ts";
import { type BucketLimit, capacityOf, fullInMs, refill, waitMs } from "./token-bucket.ts";

/** Model tokens of one call. */
export interface TokenCount {
  readonly input: number;
  readonly output: number;
}

/** One limit as the call that fell under it, and its answer, see it. */
export interface AppliedLimit {
  readonly policy: string;
  readonly rule: string;
  readonly kind: LimitKind;
  /** Key parts joined by `+`. */
  readonly keyType: string;
  /** Units allowed in `perMs`. */
  readonly quota: number;
  readonly perMs: number;
}

/** A limit that a call was admitted under. */
export interface HeldLimit extends AppliedLimit {
  /** What is left for the same key now, of this replica's share, whole units. */
  remaining(nowMs: number): number;
  /** Milliseconds until all of it is there again. */
  resetMs(nowMs: number): number;
  /** Pays for model tokens, when it counts them; may be called more than once. */
  charge(tokens: TokenCount, nowMs: number): void;
}

export type LimitVerdict =
  | { readonly allowed: true; readonly held: readonly HeldLimit[] }
  | {
      readonly allowed: false;
      readonly retryAfterMs: number;
      readonly policy: string;
      readonly rule: string;
      readonly limit: AppliedLimit;
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
  /** The same question without counting. */
  check(program: LimitTarget, decision: Pick<Decision, "winners">, call: Call, nowMs: number): LimitVerdict;
  readonly size: number;
  /** Policy, rule and kind of every counter, and how full it is, 0 to 1; for metrics. */
  counters(nowMs: number): Iterable<readonly [policy: string, rule: string, kind: LimitKind, left: number]>;
  /** See `LimitCounters.takePressed`. */
  takePressed: LimitCounters["takePressed"];
}

const NONE: LimitVerdict = Object.freeze({ allowed: true, held: Object.freeze([]) });

class Held implements HeldLimit {
  readonly #counters: LimitCounters;
  readonly #counter: Counter;
  readonly #counts: TokenLimit["count"] | undefined;
  readonly keyType: string;
  #charged = 0;

  constructor(
    counters: LimitCounters,
    counter: Counter,
    key: readonly LimitKey[],
    counts: TokenLimit["count"] | undefined,
  ) {
    this.#counters = counters;
    this.#counter = counter;
    this.#counts = counts;
    this.keyType = key.join("+");
  }

  get policy(): string {
    return this.#counter.rule.policy;
  }

  get rule(): string {
    return this.#counter.rule.rule;
  }

  get kind(): LimitKind {
    return this.#counter.rule.kind;
  }

  get quota(): number {
    return this.#counter.rule.limit.amount;
  }

  get perMs(): number {
    return this.#counter.rule.limit.perMs;
  }

  remaining(nowMs: number): number {
    return Math.max(0, Math.floor(this.#current(nowMs).level + 1e-6));
  }

  resetMs(nowMs: number): number {
    const counter = this.#current(nowMs);
    return fullInMs(counter, counter.rule.limit, this.#counters.share(counter, nowMs));
  }

  charge({ input, output }: TokenCount, nowMs: number): void {
    if (this.#counts === undefined) return;
    const units = this.#counts === "input" ? input : this.#counts === "output" ? output : input + output;
    if (units <= 0) return;
    const counter = this.#current(nowMs);
    this.#charged += units;
    counter.meanCharge += (this.#charged - counter.meanCharge) / 8;
    this.#counters.take(counter, units);
  }

  #current(nowMs: number): Counter {
    const counter = this.#counter;
    refill(counter, counter.rule.limit, this.#counters.share(counter, nowMs), nowMs);
    return counter;
  }
}

const requestBucket = ({ requests, perMs, burst }: RateLimit): BucketLimit => ({
  amount: requests,
  perMs,
  burst: Math.max(1, burst),
  floor: 1,
});
const tokenBucket = ({ tokens, perMs }: TokenLimit): BucketLimit => ({
  amount: tokens,
  perMs,
  burst: tokens,
  floor: 0,
});

class Limiter implements RateLimiter {
  readonly #counters: LimitCounters;
  /** Limits as buckets; programs keep their rules, so each is turned into one once. */
  readonly #buckets = new WeakMap<RateLimit | TokenLimit, BucketLimit>();
  readonly #held: Held[] = [];
  readonly #due: Counter[] = [];
  #refused: Extract<LimitVerdict, { allowed: false }> | undefined;

  constructor(maxKeys: number, shares: LimitShares) {
    this.#counters = new LimitCounters(maxKeys, shares);
  }

  get size(): number {
    return this.#counters.size;
  }

  *counters(nowMs: number): Iterable<readonly [string, string, LimitKind, number]> {
    for (const counter of this.#counters.all()) {
      const { policy, rule, kind, limit } = counter.rule;
      const share = this.#counters.share(counter, nowMs);
      refill(counter, limit, share, nowMs);
      yield [policy, rule, kind, Math.min(1, Math.max(0, counter.level / capacityOf(limit, share)))];
    }
  }

  takePressed(
    max: number,
    isLeased: (id: string) => boolean,
    nowMs: number,
  ): { readonly id: string; readonly wanted: number }[] {
    return this.#counters.takePressed(max, isLeased, nowMs);
  }

  check(program: LimitTarget, decision: Pick<Decision, "winners">, call: Call, nowMs: number): LimitVerdict {
    this.#ask(program, decision, call, nowMs);
    return this.#refused ?? NONE;
  }

  admit(program: LimitTarget, decision: Pick<Decision, "winners">, call: Call, nowMs: number): LimitVerdict {
    this.#ask(program, decision, call, nowMs);
    if (this.#refused !== undefined) return this.#refused;
    if (this.#held.length === 0) return NONE;
    for (const counter of this.#due) this.#counters.take(counter, 1);
    return { allowed: true, held: [...this.#held] };
  }

  #ask(program: LimitTarget, { winners }: Pick<Decision, "winners">, call: Call, nowMs: number): void {
    this.#held.length = 0;
    this.#due.length = 0;
    this.#refused = undefined;
    const target = program.program.id;
    this.#counters.tidy(nowMs);
    for (const winner of winners) {
      const { rateLimit, tokenLimit } = winner.with ?? {};
      if (rateLimit !== undefined) {
        const counter = this.#find(winner, "requests", rateLimit, target, call, nowMs);
        this.#due.push(counter);
        this.#take(
          counter,
          rateLimit.key,
          undefined,
          waitMs(counter, counter.rule.limit, this.#counters.share(counter, nowMs), 1),
        );
      }
      if (tokenLimit !== undefined) {
        const counter = this.#find(winner, "tokens", tokenLimit, target, call, nowMs);
        // One is enough: what the call costs is known when it is over.
        const share = this.#counters.share(counter, nowMs);
        const least = Math.min(1, capacityOf(counter.rule.limit, share));
        const wait = waitMs(counter, counter.rule.limit, share, least);
        this.#take(counter, tokenLimit.key, tokenLimit.count, wait);
      }
    }
  }

  #find(
    winner: WinningRule,
    kind: LimitKind,
    limit: RateLimit | TokenLimit,
    target: string,
    call: Call,
    nowMs: number,
  ): Counter {
    let bucket = this.#buckets.get(limit);
    if (bucket === undefined) {
      bucket = "tokens" in limit ? tokenBucket(limit) : requestBucket(limit);
      this.#buckets.set(limit, bucket);
    }
    const rule = this.#counters.of(winner, kind, target, bucket);
    return this.#counters.find(rule, counterKey(limit.key, target, call), nowMs);
  }

  #take(
    counter: Counter,
    key: readonly LimitKey[],
    counts: TokenLimit["count"] | undefined,
    wait: number,
  ): void {
    const held = new Held(this.#counters, counter, key, counts);
    if (wait <= 0) {
      this.#held.push(held);
      return;
    }
    this.#counters.want(counter, counts === undefined ? 1 : Math.max(1, counter.meanCharge), true);
    const retryAfterMs = Math.ceil(wait);
    if (this.#refused === undefined || retryAfterMs > this.#refused.retryAfterMs)
      this.#refused = { allowed: false, retryAfterMs, policy: held.policy, rule: held.rule, limit: held };
  }
}

/** @param options.maxKeys see `LimitCounters`. @param options.shares default: the whole limit is this replica's. */
export function createRateLimiter(options: {
  readonly maxKeys: number;
  readonly shares?: LimitShares;
}): RateLimiter {
  return new Limiter(options.maxKeys, options.shares ?? WHOLE);
}
