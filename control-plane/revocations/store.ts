// Where revocations are kept, and the list in force in this process.
import { type IssuedTo, Revocations } from "../../sidecar/core/identity/revocations.ts";
import { MAX_TXN_LIFETIME_SECONDS, type TxnClaims } from "../../sidecar/core/identity/txn.ts";
import type { Revocation } from "./revocation.ts";

export interface RevocationStore {
  /** In force, oldest first; the same list until it changes. */
  list(): readonly Revocation[];
  /** Resolves once it is kept. @throws MeshError `io_failed`. */
  add(revocation: Revocation): Promise<void>;
  /** Deletes those that have expired. @returns how many. */
  purge(nowMs: number): Promise<number>;
}

/** A transaction token that was issued before an epoch has ended by then, with any clock. */
const TXN_GONE_MS = 2 * MAX_TXN_LIFETIME_SECONDS * 1000;

/** The list in force; tells of each change. */
export class RevocationList {
  #list: readonly Revocation[] = [];
  #published: readonly Revocation[] = [];
  #index = Revocations.none;
  readonly #onChanged: () => void;
  readonly #nowMs: () => number;

  constructor(onChanged: () => void, nowMs: () => number) {
    this.#onChanged = onChanged;
    this.#nowMs = nowMs;
  }

  get all(): readonly Revocation[] {
    return this.#list;
  }

  /**
   * What sidecars have to know, as of the last change: that a session ended is known here until its handle is worth nothing,
   * and there until its tokens have ended. People sign out all day, and the list goes to every sidecar.
   */
  get published(): readonly Revocation[] {
    return this.#published;
  }

  covers(issued: IssuedTo): boolean {
    return this.#index.covers(issued);
  }

  coversTxn(token: Pick<TxnClaims, "sub" | "iat" | "rctx">): boolean {
    return this.#index.coversTxn(token);
  }

  /** Takes the place of the list before. */
  replace(revocations: Iterable<Revocation>): void {
    const next = [...revocations].sort((a, b) => a.beforeMs - b.beforeMs || (a.id < b.id ? -1 : 1));
    if (next.map(({ id }) => id).join() === this.#list.map(({ id }) => id).join()) return;
    this.#list = next;
    const nowMs = this.#nowMs();
    this.#published = next.filter(
      ({ user, session, beforeMs }) =>
        (user === undefined && session === undefined) || nowMs < beforeMs + TXN_GONE_MS,
    );
    this.#index = new Revocations(next);
    this.#onChanged();
  }
}
