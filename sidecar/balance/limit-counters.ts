// PURE. The counters of all limits of one sidecar: bounded in number, none of them ever reset by a caller who makes up
// keys. A counter is kept for (policy, rule, kind of limit, key value, target); DOMAIN 3.3.
import { hash } from "node:crypto";
import type { WinningRule } from "../core/policy/decide.ts";
import { type Bucket, type BucketLimit, capacityOf, refill } from "./token-bucket.ts";

export type LimitKind = "requests" | "tokens";

/** What this replica may give out of a limit that all replicas of the target share. */
export interface LimitShares {
  /** Replicas that share; 1: everything is ours. */
  readonly replicas: number;
  /** @param id of a counter. @returns above 0, at most 1. */
  shareOf(id: string, nowMs: number): number;
}

export const WHOLE: LimitShares = { replicas: 1, shareOf: () => 1 };

/** One limit on one key value. */
export class Counter implements Bucket {
  readonly rule: RuleCounters;
  readonly key: string;
  level: number;
  atMs: number;
  /** Units asked for since `LimitCounters.takePressed` last looked, refused ones too. */
  wanted = 0;
  refused = false;
  /** Units that a call was charged on average; of token limits only. */
  meanCharge = 0;
  #id: string | undefined;

  constructor(rule: RuleCounters, key: string, level: number, nowMs: number) {
    this.rule = rule;
    this.key = key;
    this.level = level;
    this.atMs = nowMs;
  }

  /** The same in every replica of the target, and says nothing of who calls: 16 characters of base64url. */
  get id(): string {
    const { policy, rule, kind } = this.rule;
    this.#id ??= hash("sha256", JSON.stringify([policy, rule, kind, this.key]), "base64url").slice(0, 16);
    return this.#id;
  }
}

/** The counters of one limit of a rule on one target. */
export interface RuleCounters {
  readonly policy: string;
  readonly rule: string;
  readonly kind: LimitKind;
  readonly counters: Map<string, Counter>;
  /** As the rule that was asked last has it. */
  limit: BucketLimit;
}

/** Key of the counter that all callers without one of their own share; keys are JSON or a digest, so no caller can name it. */
const OVERFLOW = "overflow";
/** Counters that one call looks at for one that is full again. */
const SWEEP = 32;
const PRUNE_EVERY_MS = 1_000;
/** Of what a bucket holds: below it is under pressure. */
const PRESSED = 0.5;

export class LimitCounters {
  readonly #maxKeys: number;
  readonly #maxKeysPerRule: number;
  readonly #shares: LimitShares;
  readonly #rules = new Map<string, RuleCounters>();
  #touched = new Set<Counter>();
  #size = 0;
  #prunedMs = Number.NEGATIVE_INFINITY;

  /**
   * @param maxKeys counters kept in all, and a quarter of them for one rule on one target. A caller without room for one
   *   of its own shares one with the others of its rule: whoever makes up keys (a resource is what the caller says) can
   *   neither push an exhausted counter out and start afresh nor take the room of other rules.
   */
  constructor(maxKeys: number, shares: LimitShares) {
    this.#maxKeys = maxKeys;
    this.#maxKeysPerRule = Math.ceil(maxKeys / 4);
    this.#shares = shares;
  }

  get size(): number {
    return this.#size;
  }

  *all(): Iterable<Counter> {
    for (const { counters } of this.#rules.values()) yield* counters.values();
  }

  share(counter: Counter, nowMs: number): number {
    return this.#shares.replicas <= 1 ? 1 : this.#shares.shareOf(counter.id, nowMs);
  }

  /** The limit's counters on a target. */
  of({ policy, rule }: WinningRule, kind: LimitKind, target: string, limit: BucketLimit): RuleCounters {
    const id = JSON.stringify([policy, rule, kind, target]);
    let found = this.#rules.get(id);
    if (found === undefined) {
      found = { policy, rule, kind, counters: new Map(), limit };
      this.#rules.set(id, found);
    }
    found.limit = limit;
    return found;
  }

  /** The counter of a key, brought up to `nowMs`; one that did not exist is full and kept only by `keep`. */
  find(rule: RuleCounters, key: string, nowMs: number): Counter {
    const { counters } = rule;
    const kept = this.#hasRoom(rule, key, nowMs) ? key : OVERFLOW;
    let counter = counters.get(kept);
    if (counter === undefined) {
      counter = new Counter(rule, kept, Number.POSITIVE_INFINITY, nowMs);
      // What is more than an even part comes with time, also where the counter was forgotten.
      const share = Math.min(this.share(counter, nowMs), 1 / this.#shares.replicas);
      counter.level = capacityOf(rule.limit, share);
    } else refill(counter, rule.limit, this.share(counter, nowMs), nowMs);
    return counter;
  }

  /** Takes units from a counter. */
  take(counter: Counter, units: number): void {
    const { counters } = counter.rule;
    if (!counters.has(counter.key)) {
      counters.set(counter.key, counter);
      this.#size++;
    }
    counter.level -= units;
    this.want(counter, units, false);
  }

  /** Notes that units were asked for. */
  want(counter: Counter, units: number, refused: boolean): void {
    if (this.#shares.replicas <= 1) return;
    counter.wanted += units;
    counter.refused ||= refused;
    this.#touched.add(counter);
  }

  /**
   * Counters of which more is asked than this replica's share easily gives, and those that `isLeased`, with the units
   * asked for since the last time.
   *
   * @param max what asks for most comes first.
   */
  takePressed(
    max: number,
    isLeased: (id: string) => boolean,
    nowMs: number,
  ): { readonly id: string; readonly wanted: number }[] {
    const touched = this.#touched;
    this.#touched = new Set();
    const reported: { readonly id: string; readonly wanted: number }[] = [];
    for (const counter of touched) {
      const { limit } = counter.rule;
      const share = this.share(counter, nowMs);
      refill(counter, limit, share, nowMs);
      const pressed = counter.refused || counter.level < PRESSED * capacityOf(limit, share);
      if (pressed || isLeased(counter.id)) reported.push({ id: counter.id, wanted: counter.wanted });
      counter.wanted = 0;
      counter.refused = false;
    }
    if (reported.length <= max) return reported;
    return reported.sort((a, b) => b.wanted - a.wanted).slice(0, max);
  }

  /** Makes room where that is due; call it before `find`. */
  tidy(nowMs: number): void {
    if (this.#size < this.#maxKeys && this.#rules.size < this.#maxKeys) return;
    if (nowMs - this.#prunedMs < PRUNE_EVERY_MS) return;
    this.#prunedMs = nowMs;
    for (const [id, { counters }] of this.#rules) {
      for (const [key, counter] of counters) {
        if (!this.#isFullAgain(counter, nowMs)) continue;
        counters.delete(key);
        this.#size--;
      }
      if (counters.size === 0) this.#rules.delete(id);
    }
  }

  /** Whether forgetting it changes nothing. */
  #isFullAgain(counter: Counter, nowMs: number): boolean {
    const { limit } = counter.rule;
    const share = this.share(counter, nowMs);
    refill(counter, limit, share, nowMs);
    return counter.level >= capacityOf(limit, share) * (1 - 1e-9);
  }

  #isFull(counters: ReadonlyMap<string, Counter>): boolean {
    return counters.size >= this.#maxKeysPerRule || this.#size >= this.#maxKeys;
  }

  /** Whether a key has a counter or may get one. Only counters that are full again are forgotten, so nothing is reset. */
  #hasRoom({ counters }: RuleCounters, key: string, nowMs: number): boolean {
    if (counters.has(key) || !this.#isFull(counters)) return true;
    let looks = Math.min(SWEEP, counters.size);
    for (const [other, counter] of counters) {
      if (looks === 0) break;
      looks--;
      counters.delete(other);
      if (this.#isFullAgain(counter, nowMs)) this.#size--;
      else counters.set(other, counter); // to the end: the next sweep begins behind it
    }
    return !this.#isFull(counters);
  }
}
