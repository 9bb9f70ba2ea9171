// PURE. The memory behind `replay: Strict`: each proof is good for one request (DOMAIN 2.4). It holds what could still be
// shown again, forgets by time, and takes nothing new when it is full.
import { hash } from "node:crypto";
import type { VerifiedCaller } from "../core/identity/proofs.ts";
import { SKEW_SECONDS } from "../core/identity/token.ts";

/** Proofs of one slot of time are forgotten together. */
const SLOT_MS = 10_000;

export type ReplayProblem = "no proof" | "used before" | "too old" | "full";

export class ReplayMemory {
  readonly #maxEntries: number;
  /** By slot of the time at which the last proof in it has expired. */
  readonly #slots = new Map<number, Set<string>>();
  readonly #startedMonotonicMs: number;
  #size = 0;

  /** @param startedMonotonicMs what was signed before may have been used already. */
  constructor(maxEntries: number, startedMonotonicMs: number) {
    this.#maxEntries = maxEntries;
    this.#startedMonotonicMs = startedMonotonicMs;
  }

  get size(): number {
    return this.#size;
  }

  /**
   * Uses up the caller's proof.
   *
   * @param nowMs Unix milliseconds, control plane's time.
   * @returns why it is not good for a request; undefined: it was.
   */
  use(caller: VerifiedCaller | undefined, nowMs: number, monotonicMs: number): ReplayProblem | undefined {
    const proof = caller?.wpt;
    if (caller === undefined || proof === undefined) return "no proof";
    this.#forget(nowMs);
    // By age, since the control plane's time may be set right after the start; `iat` is cut to seconds.
    const startedMs = nowMs - (monotonicMs - this.#startedMonotonicMs);
    if (((proof.iat ?? 0) + 1) * 1_000 <= startedMs) return "too old";
    const slot = Math.ceil(((proof.exp + SKEW_SECONDS) * 1_000) / SLOT_MS);
    let used = this.#slots.get(slot);
    const id = hash("sha256", `${caller.peer.spiffeId}\n${proof.jti}`, "base64url");
    if (used?.has(id)) return "used before";
    if (this.#size >= this.#maxEntries) return "full";
    if (used === undefined) {
      used = new Set();
      this.#slots.set(slot, used);
    }
    used.add(id);
    this.#size++;
    return undefined;
  }

  #forget(nowMs: number): void {
    const now = Math.floor(nowMs / SLOT_MS);
    for (const [slot, used] of this.#slots) {
      if (slot > now) continue;
      this.#slots.delete(slot);
      this.#size -= used.size;
    }
  }
}
