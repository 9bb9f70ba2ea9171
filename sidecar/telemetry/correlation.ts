// Inbound to outbound: which hop list a call of the application continues, and on whose behalf. The application passes
// `traceparent` on (any OpenTelemetry library does); while the inbound request with that trace id is open, and 10 s after,
// its outbound calls carry its hops and its transaction token. A trace id is never a grant: it only selects what this
// workload already received (DOMAIN 2.6).
import type { HeldTxn } from "../core/identity/held-txn.ts";

interface ChainHop {
  readonly s: string;
  readonly o: string;
}

interface ChainCaveat {
  readonly scope?: string | undefined;
  readonly exp?: number | undefined;
}

/** The chain that an outbound call continues: hops so far, the last one being who called this workload. */
export interface CallChain {
  readonly via: readonly ChainHop[];
  /** What hops have restricted the call to; goes on unchanged. */
  readonly caveat: ChainCaveat | undefined;
  /** On whose behalf; undefined: on that of the workloads alone. */
  readonly txn: HeldTxn | undefined;
  /** Equal for equal `via`, `caveat` and `txn`, so that caches need not look inside. */
  readonly key: string;
  /**
   * Equal for chains that no policy can tell apart: the same workloads (whatever they served), the same limits, the same
   * person by the same login. Which one of those a call continues makes no difference.
   */
  readonly line: string;
}

/** The chain of calls that are made while a call with these hops is served. */
export function chainOf(
  via: readonly ChainHop[],
  caveat: ChainCaveat | undefined,
  txn: HeldTxn | undefined,
): CallChain {
  const hops = via.map((hop) => `${hop.s} ${hop.o}`).join("\n");
  const limits = caveat === undefined ? "" : `\n${caveat.exp ?? ""} ${caveat.scope ?? "*"}`;
  const workloads = via.map((hop) => hop.s).join("\n");
  return {
    via,
    caveat,
    txn,
    key: `${hops}${limits}${txn === undefined ? "" : `\n${txn.tth}`}`,
    line: `${workloads}${limits}${txn === undefined ? "" : personLine(txn)}`,
  };
}

/** A token that was renewed speaks for the same login: its time and its id may differ, nothing else. */
function personLine({ claims: { sub, scope, reqWl, tctx, rctx } }: HeldTxn): string {
  return `\n${JSON.stringify([sub, scope, reqWl, tctx, rctx])}`;
}

/** A chain that begins here: at a gateway, or at a workload that acts for its one user. */
export function originChain(txn: HeldTxn): CallChain {
  return chainOf([], undefined, txn);
}

/** What a call continues whose trace id stands for two different chains: nobody's. */
export const AMBIGUOUS: CallChain = chainOf([], undefined, undefined);

interface Entry {
  chain: CallChain;
  open: number;
}

const LINGER_MS = 10_000;
/** Trace ids remembered at most in one generation; beyond, those of ended requests are forgotten early. */
const MAX_ENTRIES = 50_000;
/** Forgetting early must make room worth the walk through all entries; when so many are open, none is added. */
const MAX_OPEN_TO_TURN = MAX_ENTRIES / 2;

/**
 * Trace ids in two generations of `LINGER_MS`; requests that are still open are carried over. Times are monotonic
 * milliseconds: a clock that is set must neither forget nor keep anybody.
 */
export class Correlation {
  #current = new Map<string, Entry>();
  #previous = new Map<string, Entry>();
  /** Entries with an open request. */
  #openEntries = 0;
  #turnsAtMs = 0;

  /** @returns false when there is no room: calls under this trace id continue nothing, and `end` must not be told. */
  begin(traceId: string, chain: CallChain, nowMs: number): boolean {
    if (nowMs >= this.#turnsAtMs) this.#turn(nowMs);
    const entry = this.#current.get(traceId) ?? this.#previous.get(traceId);
    if (entry === undefined) return this.#add(traceId, chain, nowMs);
    if (entry.open++ === 0) this.#openEntries++;
    // Two chains under one trace id: no way to tell which one a call continues, so it continues none. Of two that are
    // alike the one whose token lives longer.
    if (entry.chain !== AMBIGUOUS && entry.chain.key !== chain.key) {
      if (entry.chain.line !== chain.line) entry.chain = AMBIGUOUS;
      else if (endOf(chain) >= endOf(entry.chain)) entry.chain = chain;
    }
    this.#current.set(traceId, entry);
    return true;
  }

  end(traceId: string, nowMs: number): void {
    // Before it ends: what ended before the turn would count as old by then, however long nothing was asked.
    if (nowMs >= this.#turnsAtMs) this.#turn(nowMs);
    const entry = this.#current.get(traceId) ?? this.#previous.get(traceId);
    if (entry === undefined || entry.open === 0) return;
    if (--entry.open === 0) this.#openEntries--;
    this.#current.set(traceId, entry);
  }

  /** @returns `AMBIGUOUS` for a trace id of two different chains; undefined: this workload serves no such trace. */
  find(traceId: string, nowMs: number): CallChain | undefined {
    if (nowMs >= this.#turnsAtMs) this.#turn(nowMs);
    return (this.#current.get(traceId) ?? this.#previous.get(traceId))?.chain;
  }

  get size(): number {
    return this.#current.size + this.#previous.size;
  }

  #add(traceId: string, chain: CallChain, nowMs: number): boolean {
    if (this.#current.size >= MAX_ENTRIES) {
      if (this.#openEntries > MAX_OPEN_TO_TURN) return false;
      this.#turn(nowMs);
    }
    this.#current.set(traceId, { chain, open: 1 });
    this.#openEntries++;
    return true;
  }

  #turn(nowMs: number): void {
    // After a quiet time longer than a generation both are old.
    const stale = nowMs >= this.#turnsAtMs + LINGER_MS;
    const kept = new Map<string, Entry>();
    for (const map of [this.#previous, this.#current]) {
      for (const [id, entry] of map) if (entry.open > 0) kept.set(id, entry);
    }
    this.#previous = stale ? new Map() : this.#current;
    this.#current = kept;
    this.#turnsAtMs = nowMs + LINGER_MS;
  }
}

/** Unix seconds. */
function endOf({ txn }: CallChain): number {
  return txn?.claims.exp ?? 0;
}
