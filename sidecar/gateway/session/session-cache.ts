// What one replica keeps of the sessions that it read: opened, so that the next request costs a look-up. Kept only while
// the replica hears of ends; bounded in number and time. PURE.
import type { Session } from "./session.ts";

/** Also the longest that an end which nobody told of stays unknown. */
const KEPT_MS = 30_000;
/** About 4 KB each. */
const MAX_ENTRIES = 5_000;

export interface CachedSession {
  readonly session: Session;
  readonly readMs: number;
  touchedMs: number;
}

export class SessionCache {
  readonly #entries = new Map<string, CachedSession>();
  #trusted = false;
  #version = 0;

  /** Grows with everything that was heard; what was asked for under an older one may be out of date. */
  get version(): number {
    return this.#version;
  }

  /** Ends are heard of from now on. */
  trust(): void {
    this.distrust();
    this.#trusted = true;
  }

  /** They are not. */
  distrust(): void {
    this.#trusted = false;
    this.#version++;
    this.#entries.clear();
  }

  get(digest: string, nowMs: number): CachedSession | undefined {
    const entry = this.#entries.get(digest);
    if (entry === undefined || nowMs - entry.readMs < KEPT_MS) return entry;
    this.#entries.delete(digest);
    return undefined;
  }

  /** @param version when the session was asked for; undefined: it was written by this replica just now. */
  set(digest: string, session: Session, nowMs: number, version = this.#version): void {
    if (!this.#trusted || version !== this.#version) return;
    this.#entries.delete(digest);
    if (this.#entries.size >= MAX_ENTRIES) {
      const [oldest] = this.#entries.keys();
      if (oldest !== undefined) this.#entries.delete(oldest);
    }
    this.#entries.set(digest, { session, readMs: nowMs, touchedMs: nowMs });
  }

  delete(digest: string): void {
    this.#version++;
    this.#entries.delete(digest);
  }
}
