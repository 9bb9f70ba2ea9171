// Epochs of revocation: what was issued to a workload, pod, user or session before its epoch is refused (DOMAIN 2.5 V7).
// PURE.
import { SVID_BACKDATE_MS } from "./renewal.ts";
import type { SvidFacts } from "./svid.ts";
import type { TxnClaims } from "./txn.ts";

/** Exactly one of the subjects is set; the other is empty. */
export interface RevocationEntry {
  readonly spiffeId: string;
  /** UID of a pod. */
  readonly pod: string;
  /** `idp|user`. */
  readonly user?: string;
  /** `sid` of a session, or what stands before the `.` in it. */
  readonly session?: string;
  /** Unix milliseconds. */
  readonly beforeMs: number;
}

export type IssuedTo = Pick<SvidFacts, "spiffeId" | "instance" | "notBeforeMs">;

/** What is revoked, by subject; of several epochs of one subject the latest counts. */
export class Revocations {
  static readonly none = new Revocations([]);
  /** Workloads and pods. */
  readonly #bySubject = new Map<string, number>();
  readonly #byUser = new Map<string, number>();
  readonly #bySession = new Map<string, number>();

  constructor(entries: Iterable<RevocationEntry>) {
    for (const { spiffeId, pod, user = "", session = "", beforeMs } of entries) {
      if (user !== "") raise(this.#byUser, user, beforeMs);
      else if (session !== "") raise(this.#bySession, session, beforeMs);
      else raise(this.#bySubject, spiffeId === "" ? pod : spiffeId, beforeMs);
    }
  }

  get size(): number {
    return this.#bySubject.size + this.#byUser.size + this.#bySession.size;
  }

  /** Whether a transaction token is revoked: its user or its session has an epoch that is not before its `iat`. */
  coversTxn({ sub, iat, rctx }: Pick<TxnClaims, "sub" | "iat" | "rctx">): boolean {
    if (this.#byUser.size === 0 && this.#bySession.size === 0) return false;
    const ofSession = rctx.sid === undefined ? 0 : this.#sessionEpoch(rctx.sid);
    // Whole seconds: what was issued in the second of the epoch is revoked too.
    return iat * 1_000 < Math.max(this.#byUser.get(sub) ?? 0, ofSession);
  }

  /** A session id may begin with the name of the session at the identity provider, whose end is the end of all that came from it. */
  #sessionEpoch(sid: string): number {
    const dot = sid.indexOf(".");
    const ofGroup = dot < 0 ? 0 : (this.#bySession.get(sid.slice(0, dot)) ?? 0);
    return Math.max(this.#bySession.get(sid) ?? 0, ofGroup);
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

function raise(epochs: Map<string, number>, subject: string, beforeMs: number): void {
  epochs.set(subject, Math.max(beforeMs, epochs.get(subject) ?? 0));
}
