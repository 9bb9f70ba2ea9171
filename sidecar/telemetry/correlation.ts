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
/** Trace ids remembered at most; beyond, the oldest generation is forgotten early. */
const MAX_ENTRIES = 50_000;

/** Trace ids in two generations of `LINGER_MS`; requests that are still open are carried over. */
export class Correlation {
  #current = new Map<string, Entry>();
  #previous = new Map<string, Entry>();
  #turnsAtMs = 0;

  begin(traceId: string, chain: CallChain, nowMs: number): void {
    if (nowMs >= this.#turnsAtMs || this.#current.size >= MAX_ENTRIES) this.#turn(nowMs);
    const entry = this.#current.get(traceId) ?? this.#previous.get(traceId);
    if (entry === undefined) {
      this.#current.set(traceId, { chain, open: 1 });
      return;
    }
    entry.open++;
    // Two chains under one trace id: no way to tell which one a call continues, so it continues none. Of two that are
    // alike the later token lives longer.
    if (entry.chain !== AMBIGUOUS && entry.chain.key !== chain.key)
      entry.chain = entry.chain.line === chain.line ? chain : AMBIGUOUS;
    this.#current.set(traceId, entry);
  }

  end(traceId: string): void {
    const entry = this.#current.get(traceId) ?? this.#previous.get(traceId);
    if (entry === undefined) return;
    if (entry.open > 0) entry.open--;
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
