// Inbound to outbound: which hop list a call of the application continues. The application passes `traceparent` on (any
// OpenTelemetry library does); while the inbound request with that trace id is open, and 10 s after, its outbound calls
// carry its hops. A trace id is never a grant: it only selects what this workload already received (DOMAIN 2.6).

import type { HeldTxn } from "../core/identity/held-txn.ts";

/** The chain that an outbound call continues: hops so far, the last one being who called this workload. */
export interface CallChain {
  readonly via: readonly { readonly s: string; readonly o: string }[];
  /** What hops have restricted the call to; goes on unchanged. */
  readonly caveat: { readonly scope?: string | undefined; readonly exp?: number | undefined } | undefined;
  /** On whose behalf; undefined: on that of the workloads alone. */
  readonly txn: HeldTxn | undefined;
  /** Equal for equal `via`, `caveat` and `txn`, so that caches need not look inside. */
  readonly key: string;
}

/** A chain that begins here: at a gateway, or at a workload that acts for its one user. */
export function originChain(txn: HeldTxn): CallChain {
  return { via: [], caveat: undefined, txn, key: txn.tth };
}

interface Entry {
  chain: CallChain | undefined;
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
    // Two chains under one trace id: no way to tell which one a call continues, so it continues none.
    if (entry.chain !== undefined && entry.chain.key !== chain.key) entry.chain = undefined;
    this.#current.set(traceId, entry);
  }

  end(traceId: string): void {
    const entry = this.#current.get(traceId) ?? this.#previous.get(traceId);
    if (entry === undefined) return;
    if (entry.open > 0) entry.open--;
    this.#current.set(traceId, entry);
  }

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
