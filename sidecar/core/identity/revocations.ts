// Epochs of revocation: what was issued to a workload or a pod before its epoch is refused (DOMAIN 2.5 V7). PURE.
import { SVID_BACKDATE_MS } from "./renewal.ts";
import type { SvidFacts } from "./svid.ts";

/** Exactly one of the subjects is set; the other is empty. */
export interface RevocationEntry {
  readonly spiffeId: string;
  /** UID of a pod. */
  readonly pod: string;
  /** Unix milliseconds. */
  readonly beforeMs: number;
}

export type IssuedTo = Pick<SvidFacts, "spiffeId" | "instance" | "notBeforeMs">;

/** What is revoked, by subject; of several epochs of one subject the latest counts. */
export class Revocations {
  static readonly none = new Revocations([]);
  readonly #bySubject = new Map<string, number>();

  constructor(entries: Iterable<RevocationEntry>) {
    for (const { spiffeId, pod, beforeMs } of entries) {
      const subject = spiffeId === "" ? pod : spiffeId;
      this.#bySubject.set(subject, Math.max(beforeMs, this.#bySubject.get(subject) ?? 0));
    }
  }

  get size(): number {
    return this.#bySubject.size;
  }

  /**
   * Whether a certificate is revoked. It counts as issued when its `notBefore`, which lies back, says: a peer cannot
   * escape by dropping tokens. Seconds are rounded down, so one issued in the second of the epoch is revoked too.
   */
  covers({ spiffeId, instance, notBeforeMs }: IssuedTo): boolean {
    if (this.#bySubject.size === 0) return false;
    const epoch = Math.max(
      this.#bySubject.get(spiffeId) ?? 0,
      instance === "" ? 0 : (this.#bySubject.get(instance) ?? 0),
    );
    return notBeforeMs + SVID_BACKDATE_MS < epoch;
  }
}
