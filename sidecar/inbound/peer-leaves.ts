// PURE. The newest certificate that each workload instance has shown on the mesh port: an open stream lives on while its
// caller has shown a newer one than that of its connection (DOMAIN 2.5 V1).
import type { PeerFacts } from "../core/identity/svid.ts";

/** Instances that are remembered; then those whose certificates have ended are forgotten, at worst all. */
const MAX_INSTANCES = 20_000;

export class PeerLeaves {
  readonly #untilMs = new Map<string, number>();

  /** A peer was accepted with this certificate. */
  note(peer: PeerFacts, nowMs: number): void {
    const key = keyOf(peer);
    if (this.#untilMs.size >= MAX_INSTANCES && !this.#untilMs.has(key)) this.#forget(nowMs);
    this.#untilMs.set(key, Math.max(this.#untilMs.get(key) ?? 0, peer.notAfterMs));
  }

  /** Whether this instance of the workload still has a certificate, as far as it was shown. */
  isCurrent(peer: PeerFacts, nowMs: number): boolean {
    // Good up to and including the second of its end.
    return nowMs < peer.notAfterMs + 1_000 || nowMs < (this.#untilMs.get(keyOf(peer)) ?? 0) + 1_000;
  }

  #forget(nowMs: number): void {
    for (const [key, untilMs] of this.#untilMs) if (untilMs + 1_000 <= nowMs) this.#untilMs.delete(key);
    if (this.#untilMs.size >= MAX_INSTANCES) this.#untilMs.clear();
  }
}

function keyOf({ spiffeId, instance }: PeerFacts): string {
  return `${spiffeId} ${instance}`;
}
