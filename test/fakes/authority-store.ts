// An authority's store in memory, with versions and conflicts as the API server has them.
import {
  type AuthorityStore,
  type StoredFiles,
  writeConflict,
} from "../../control-plane/ca/authority-store.ts";

export class MemoryStore implements AuthorityStore {
  readonly place = "memory";
  readonly another = "use another one";
  readonly shared: boolean;
  files: ReadonlyMap<string, string> = new Map();
  /** Thrown by the next save instead of writing. */
  failNext: Error | undefined;
  saves = 0;
  #version = 0;

  constructor(shared = true) {
    this.shared = shared;
  }

  async load(): Promise<StoredFiles> {
    return { files: this.files, version: this.#current() };
  }

  async save(files: ReadonlyMap<string, string>, expectedVersion: string | undefined): Promise<string> {
    const error = this.failNext;
    this.failNext = undefined;
    if (error !== undefined) throw error;
    if (expectedVersion !== this.#current()) throw writeConflict(this.place);
    this.files = new Map(files);
    this.saves += 1;
    this.#version += 1;
    return String(this.#version);
  }

  clear(): void {
    this.files = new Map();
  }

  #current(): string | undefined {
    return this.files.size === 0 ? undefined : String(this.#version);
  }
}
