// Tokens from the token service by what they were asked for with: one request under way for each, renewed at 60 % of their
// life as long as somebody uses them, and asked for no faster than refusals and failures allow.
import type { HeldTxn } from "../core/identity/held-txn.ts";
import { SKEW_SECONDS } from "../core/identity/token.ts";
import { backoffMs } from "../core/runtime/backoff.ts";
import type { TokenRefusal, TokenResult } from "./token-transport.ts";

export type Mint = () => Promise<TokenResult<HeldTxn>>;

export interface MintedTokensLimits {
  readonly maxSubjects: number;
  /** Of one subject; beyond, the oldest is forgotten. */
  readonly maxContexts: number;
}

/** People have few addresses at once; a client that takes a new one for every request pays with a request of its own. */
const LIMITS: MintedTokensLimits = { maxSubjects: 100_000, maxContexts: 16 };

export interface MintedTokensDeps {
  /** Control plane's time, Unix milliseconds. */
  readonly nowMs: () => number;
  /** In [0, 1). */
  readonly random: () => number;
}

class Entry {
  readonly mint: Mint;
  held: HeldTxn | undefined;
  refusal: TokenRefusal | undefined;
  /** From here on it is asked for again. */
  dueMs = 0;
  /** Asked since the last good answer. */
  failures = 0;
  underWay: Promise<TokenResult<HeldTxn>> | undefined;

  constructor(mint: Mint) {
    this.mint = mint;
  }
}

const RENEW_AT = 0.6;
const FAILED = { firstMs: 500, maxMs: 15_000 };
/** A token that ends sooner is not begun with. */
const LEAST_LEFT_MS = 2_000;
/** What nobody was refused for good is asked again after this time: bindings and sessions change. */
const REFUSED_FOR_MS = 10_000;
const SWEEP_MS = 30_000;

export class MintedTokens {
  readonly #deps: MintedTokensDeps;
  readonly #limits: MintedTokensLimits;
  /** By subject, then by context: the hash of a subject of 3 KB stays with its string, that of a joined key would not. */
  readonly #subjects = new Map<string, Map<string, Entry>>();
  #sweepAtMs = 0;

  constructor(deps: MintedTokensDeps, limits: MintedTokensLimits = LIMITS) {
    this.#deps = deps;
    this.#limits = limits;
  }

  get size(): number {
    let size = 0;
    for (const entries of this.#subjects.values()) size += entries.size;
    return size;
  }

  /**
   * The token that was asked for before, if it is good now; renews it in the background when that is due.
   *
   * @param subject on whose behalf. @param context of the request: there is one token for each.
   */
  peek(subject: string, context = ""): HeldTxn | undefined {
    const entry = this.#entry(subject, context);
    if (entry?.held === undefined) return undefined;
    const nowMs = this.#deps.nowMs();
    if (nowMs >= entry.dueMs && entry.underWay === undefined) void this.#ask(entry);
    return isGood(entry.held, nowMs) ? entry.held : undefined;
  }

  /** The token as it is; renews nothing. */
  look(subject: string, context = ""): HeldTxn | undefined {
    return this.#entry(subject, context)?.held;
  }

  /** The token that is held, or a new one. Never rejects. */
  get(subject: string, context: string, mint: Mint): Promise<TokenResult<HeldTxn>> {
    const held = this.peek(subject, context);
    if (held !== undefined) return Promise.resolve({ ok: true, value: held });
    this.#sweep();
    const entry = this.#entry(subject, context) ?? this.#add(subject, context, new Entry(mint));
    if (entry.underWay !== undefined) return entry.underWay;
    const refusal = standing(entry, this.#deps.nowMs());
    return refusal === undefined ? this.#ask(entry) : Promise.resolve({ ok: false, error: refusal });
  }

  /** The last refusal, while it stands: asking again would only repeat it. */
  refused(subject: string, context = ""): TokenRefusal | undefined {
    const entry = this.#entry(subject, context);
    return entry === undefined ? undefined : standing(entry, this.#deps.nowMs());
  }

  /** Asks for another token in the background; the one that is held goes on until then. */
  renew(subject: string, context = ""): void {
    const entry = this.#entry(subject, context);
    if (entry?.held !== undefined && entry.underWay === undefined) void this.#ask(entry);
  }

  /** Takes in a token that was held before. */
  put(subject: string, held: HeldTxn, mint: Mint): void {
    this.#take(this.#add(subject, "", new Entry(mint)), held);
  }

  /** Forgets what a subject has got; the next one is asked for. */
  drop(subject: string): void {
    this.#subjects.delete(subject);
  }

  #entry(subject: string, context: string): Entry | undefined {
    return this.#subjects.get(subject)?.get(context);
  }

  #add(subject: string, context: string, entry: Entry): Entry {
    const { maxSubjects, maxContexts } = this.#limits;
    let entries = this.#subjects.get(subject);
    if (entries === undefined) {
      if (this.#subjects.size >= maxSubjects) forgetOldest(this.#subjects);
      entries = new Map();
      this.#subjects.set(subject, entries);
    }
    if (entries.size >= maxContexts && !entries.has(context)) forgetOldest(entries);
    entries.set(context, entry);
    return entry;
  }

  async #ask(entry: Entry): Promise<TokenResult<HeldTxn>> {
    entry.underWay = entry.mint();
    const result = await entry.underWay;
    entry.underWay = undefined;
    if (result.ok) {
      this.#take(entry, result.value);
      return result;
    }
    entry.refusal = result.error;
    const pauseMs = result.error.isTemporary
      ? backoffMs(entry.failures++, FAILED, this.#deps.random())
      : REFUSED_FOR_MS;
    entry.dueMs = this.#deps.nowMs() + pauseMs;
    // The token service has spoken: what it gave before counts no more.
    if (!result.error.isTemporary) entry.held = undefined;
    return result;
  }

  #take(entry: Entry, held: HeldTxn): void {
    const { iat, exp } = held.claims;
    entry.held = held;
    entry.refusal = undefined;
    entry.failures = 0;
    entry.dueMs = (iat + (exp - iat) * RENEW_AT) * 1_000;
  }

  /** Forgets tokens that are over and that nobody waits for. */
  #sweep(): void {
    const nowMs = this.#deps.nowMs();
    if (nowMs < this.#sweepAtMs && this.#sweepAtMs <= nowMs + SWEEP_MS) return;
    this.#sweepAtMs = nowMs + SWEEP_MS;
    for (const [subject, entries] of this.#subjects) {
      for (const [context, { held, dueMs, underWay }] of entries)
        if (underWay === undefined && nowMs >= dueMs && (held === undefined || !isGood(held, nowMs)))
          entries.delete(context);
      if (entries.size === 0) this.#subjects.delete(subject);
    }
  }
}

function forgetOldest(map: Map<string, unknown>): void {
  for (const key of map.keys()) {
    map.delete(key);
    return;
  }
}

/** A refusal that asking again would only repeat; none stands for longer than the longest pause, however a clock is set. */
function standing({ refusal, dueMs }: Entry, nowMs: number): TokenRefusal | undefined {
  return nowMs < dueMs && dueMs - nowMs <= FAILED.maxMs ? refusal : undefined;
}

/** Callees refuse a token from the future, which one is after a clock was set back. */
function isGood({ claims: { iat, exp } }: HeldTxn, nowMs: number): boolean {
  return nowMs < exp * 1_000 - LEAST_LEFT_MS && nowMs >= (iat - SKEW_SECONDS) * 1_000;
}
