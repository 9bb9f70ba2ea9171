// The transaction tokens that were delivered to the application (propagation mode `forward`), each with the chain it came
// by. What the application sends of them goes on; any other token was found somewhere, and is refused (DOMAIN 2.6).
import type { CallChain } from "./correlation.ts";

/** Tokens beyond which the oldest are forgotten. */
const MAX_HELD = 20_000;
/** An expired token is still known for what it is, so that who sends it learns that it is over. */
const KEPT_AFTER_MS = 60_000;
const SWEEP_MS = 1_000;

export class HeldChains {
  /** By token, oldest delivery first. */
  readonly #chains = new Map<string, CallChain>();
  #sweepAtMs = 0;
  /** Grows with each change. */
  version = 0;

  get size(): number {
    return this.#chains.size;
  }

  /** The application gets this chain's token. */
  deliver(chain: CallChain): void {
    const { txn } = chain;
    if (txn === undefined) return;
    const known = this.#chains.get(txn.token);
    // One token by two ways: which of them a call continues cannot be told, so it is the longer one, which may do less.
    const kept = known !== undefined && known.via.length > chain.via.length ? known : chain;
    if (known?.key === kept.key) return;
    if (known === undefined && this.#chains.size >= MAX_HELD) this.#forgetOldest();
    this.#chains.set(txn.token, kept);
    this.version++;
  }

  /** The chain by which a token came; undefined: it was never delivered here. */
  find(token: string): CallChain | undefined {
    return this.#chains.get(token);
  }

  /** Forgets what has been over for a while. */
  sweep(nowMs: number): void {
    if (nowMs < this.#sweepAtMs) return;
    this.#sweepAtMs = nowMs + SWEEP_MS;
    for (const [token, { txn }] of this.#chains) {
      if (nowMs < (txn?.claims.exp ?? 0) * 1_000 + KEPT_AFTER_MS) continue;
      this.#chains.delete(token);
      this.version++;
    }
  }

  chains(): Iterable<CallChain> {
    return this.#chains.values();
  }

  #forgetOldest(): void {
    for (const token of this.#chains.keys()) {
      this.#chains.delete(token);
      return;
    }
  }
}
