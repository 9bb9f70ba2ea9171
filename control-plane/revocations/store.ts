// Where revocations are kept, and the list in force in this process.
import { type IssuedTo, Revocations } from "../../sidecar/core/identity/revocations.ts";
import type { Revocation } from "./revocation.ts";

export interface RevocationStore {
  /** In force, oldest first; the same list until it changes. */
  list(): readonly Revocation[];
  /** Resolves once it is kept. @throws MeshError `io_failed`. */
  add(revocation: Revocation): Promise<void>;
  /** Deletes those that have expired. @returns how many. */
  purge(nowMs: number): Promise<number>;
}

/** The list in force; tells of each change. */
export class RevocationList {
  #list: readonly Revocation[] = [];
  #index = Revocations.none;
  readonly #onChanged: () => void;

  constructor(onChanged: () => void) {
    this.#onChanged = onChanged;
  }

  get all(): readonly Revocation[] {
    return this.#list;
  }

  covers(issued: IssuedTo): boolean {
    return this.#index.covers(issued);
  }

  /** Takes the place of the list before. */
  replace(revocations: Iterable<Revocation>): void {
    const next = [...revocations].sort((a, b) => a.beforeMs - b.beforeMs || (a.id < b.id ? -1 : 1));
    if (next.map(({ id }) => id).join() === this.#list.map(({ id }) => id).join()) return;
    this.#list = next;
    this.#index = new Revocations(next);
    this.#onChanged();
  }
}
