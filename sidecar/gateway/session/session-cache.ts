// What one replica keeps of the sessions that it read twice: opened, so that the next request costs a look-up. Kept only
// while the replica hears of ends; bounded in number, size and time. PURE.
import type { Session } from "./session.ts";

/** Also the longest that an end which nobody told of stays unknown. */
const KEPT_MS = 30_000;
/** Of handles and ID tokens together, which are most of a session: 1 600 with 2 KB of claims each. */
const MAX_CHARS = 8_000_000;
/** And whatever else they hold. */
const MAX_ENTRIES = 5_000;

/**
 * Of sessions that were read once. Those that are asked for now and then are not kept: what is kept for a while and then
 * dropped becomes garbage of the old generation, of which V8 lets several times as much gather as is alive.
 */
const READ_ONCE_SLOTS = 8_192;

export interface CachedSession {
  readonly session: Session;
  readonly readMs: number;
  touchedMs: number;
}

export class SessionCache {
  readonly #entries = new Map<string, CachedSession>();
  /** By the digest's first characters, what follows them; the newest takes the slot. */
  readonly #readOnce = new Uint32Array(READ_ONCE_SLOTS);
  #chars = 0;
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
    this.#chars = 0;
  }

  get(digest: string, nowMs: number): CachedSession | undefined {
    const entry = this.#entries.get(digest);
    if (entry === undefined || nowMs - entry.readMs < KEPT_MS) return entry;
    this.#forget(digest);
    return undefined;
  }

  /** @param version when the session was asked for. */
  set(digest: string, session: Session, nowMs: number, version: number): void {
    if (!this.#trusted || version !== this.#version || !this.#wasRead(digest)) return;
    this.#forget(digest);
    this.#chars += charsOf(session);
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size < MAX_ENTRIES && this.#chars <= MAX_CHARS) break;
      this.#forget(oldest);
    }
    this.#entries.set(digest, { session, readMs: nowMs, touchedMs: nowMs });
  }

  delete(digest: string): void {
    this.#version++;
    this.#forget(digest);
  }

  /** Whether it was asked about the same one before, not too many others ago. */
  #wasRead(digest: string): boolean {
    const number = Buffer.from(digest.slice(0, 12), "base64url");
    const [slot, rest] = [number.readUInt32LE(0) % READ_ONCE_SLOTS, number.readUInt32LE(4)];
    if (this.#readOnce[slot] === rest) return true;
    this.#readOnce[slot] = rest;
    return false;
  }

  #forget(digest: string): void {
    const entry = this.#entries.get(digest);
    if (entry === undefined) return;
    this.#chars -= charsOf(entry.session);
    this.#entries.delete(digest);
  }
}

function charsOf({ handle, idToken, refreshToken }: Session): number {
  return handle.length + (idToken?.length ?? 0) + (refreshToken?.length ?? 0);
}
