// Sessions in memory: for one replica, whose restart signs everybody out. Packed, but for those that were used last.
import { hash } from "node:crypto";
import { GenerationCache } from "../../core/identity/generation-cache.ts";
import { MeshError } from "../../core/runtime/errors.ts";
import { DigestIndex } from "./digest-index.ts";
import { packSession, unpackSession } from "./packed-session.ts";
import {
  digestOf,
  isOf,
  type Session,
  type SessionLimits,
  type SessionStore,
  type SessionsOf,
} from "./session.ts";
import { nameHash, SessionRows } from "./session-rows.ts";
import { Slabs } from "./slabs.ts";

/** A session as it was when it was unpacked last. */
interface Opened {
  readonly row: number;
  readonly version: number;
  readonly session: Session;
}

/** Sessions that need not be unpacked, about 6 KB each; found by id, so that nothing has to be hashed. */
const OPENED = { maxEntries: 2_000, maxWeight: 2_000 };
/**
 * Whose last use is longer ago stays packed: what is kept for a while and then dropped becomes garbage of the old generation,
 * of which V8 lets as much gather as is alive, and more.
 */
const OPENED_AFTER_MS = 1_000;

/** Between two looks at everything that is over. */
const SWEEP_MS = 60_000;
/** Sign-ins under way, which anybody may begin: beyond, the oldest are forgotten. */
const MAX_RECORDS = 20_000;

export class MemorySessionStore implements SessionStore {
  readonly #limits: SessionLimits;
  readonly #index = new DigestIndex();
  readonly #rows = new SessionRows();
  readonly #slabs = new Slabs();
  readonly #opened = new GenerationCache<Opened>(OPENED);
  /** Until when, monotonic milliseconds. */
  readonly #refreshing = new Map<string, number>();
  /** The oldest first. */
  readonly #records = new Map<string, { readonly record: object; readonly untilMs: number }>();
  readonly #listeners: ((sid: string) => void)[] = [];
  #sweepAtMs = 0;

  constructor(limits: SessionLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#index.size;
  }

  find(id: string, nowMs: number): Session | undefined {
    const opened = this.#opened.get(id);
    const isOpen = opened !== undefined && this.#rows.versions[opened.row] === opened.version;
    const row = isOpen ? opened.row : this.#index.find(bytesOf(id));
    if (row === undefined) return undefined;
    if (this.#isOver(row, nowMs)) {
      this.#delete(row);
      return undefined;
    }
    const isInUse = nowMs - (this.#rows.seenMs[row] ?? 0) < OPENED_AFTER_MS;
    this.#rows.seenMs[row] = nowMs;
    if (isOpen) return opened.session;
    const session = this.#open(row);
    if (isInUse) this.#opened.set(id, { row, version: this.#rows.versions[row] ?? 0, session }, 1);
    return session;
  }

  async create(id: string, session: Session, nowMs: number): Promise<void> {
    if (nowMs >= this.#sweepAtMs || this.size >= this.#limits.maxSessions) this.#sweep(nowMs);
    if (this.size >= this.#limits.maxSessions)
      throw new MeshError(
        "not_ready",
        `the gateway holds ${this.size} sessions, as many as it may; people who sign out or stay away make room`,
      );
    const digest = bytesOf(id);
    const before = this.#index.find(digest);
    if (before !== undefined) this.#delete(before);
    const row = this.#index.add(digest);
    this.#rows.set(row, session, this.#slabs.put(packSession(session)));
    this.#rows.seenMs[row] = nowMs;
  }

  async replace(id: string, session: Session, nowMs: number): Promise<boolean> {
    if (nowMs >= this.#sweepAtMs) this.#sweep(nowMs);
    const row = this.#index.find(bytesOf(id));
    if (row === undefined || this.#isOver(row, nowMs)) return false;
    const packed = packSession(session);
    this.#slabs.free(this.#rows.placeOf(row));
    this.#rows.set(row, session, this.#slabs.put(packed));
    return true;
  }

  async lockRefresh(id: string, ttlMs: number): Promise<boolean> {
    const digest = digestOf(id);
    const now = performance.now();
    if ((this.#refreshing.get(digest) ?? 0) > now) return false;
    this.#refreshing.set(digest, now + ttlMs);
    return true;
  }

  async unlockRefresh(id: string): Promise<void> {
    this.#refreshing.delete(digestOf(id));
  }

  async end(id: string): Promise<Session | undefined> {
    const row = this.#index.find(bytesOf(id));
    return row === undefined ? undefined : this.#drop(row);
  }

  async endAll(of: SessionsOf): Promise<number> {
    const wanted = nameHash(of);
    let count = 0;
    for (let row = 0; row < this.#index.bound; row++) {
      if (!this.#rows.mayBe(row, wanted) || !isOf(this.#open(row), of)) continue;
      this.#drop(row);
      count++;
    }
    return count;
  }

  async keep(id: string, record: object, ttlMs: number): Promise<void> {
    const nowMs = performance.now();
    for (const [digest, { untilMs }] of this.#records) {
      if (untilMs > nowMs && this.#records.size < MAX_RECORDS) break;
      this.#records.delete(digest);
    }
    this.#records.set(digestOf(id), { record, untilMs: nowMs + ttlMs });
  }

  async take(id: string): Promise<unknown> {
    const digest = digestOf(id);
    const kept = this.#records.get(digest);
    this.#records.delete(digest);
    return kept === undefined || kept.untilMs <= performance.now() ? undefined : kept.record;
  }

  onEnd(listener: (sid: string) => void): void {
    this.#listeners.push(listener);
  }

  async close(): Promise<void> {
    for (let row = 0; row < this.#index.bound; row++) if (this.#rows.isInUse(row)) this.#delete(row);
    this.#opened.clear();
  }

  #drop(row: number): Session {
    const session = this.#open(row);
    this.#delete(row);
    for (const listener of this.#listeners) listener(session.sid);
    return session;
  }

  #delete(row: number): void {
    this.#slabs.free(this.#rows.placeOf(row));
    this.#rows.clear(row);
    this.#index.delete(row);
  }

  #open(row: number): Session {
    return unpackSession(this.#slabs.read(this.#rows.placeOf(row)));
  }

  #isOver(row: number, nowMs: number): boolean {
    const { endsMs, seenMs } = this.#rows;
    return nowMs >= (endsMs[row] ?? 0) || nowMs - (seenMs[row] ?? 0) >= this.#limits.idleMs;
  }

  /** Takes away what is over, and gives back memory of which little is used. */
  #sweep(nowMs: number): void {
    this.#sweepAtMs = nowMs + SWEEP_MS;
    const rows = this.#rows;
    for (let row = 0; row < this.#index.bound; row++)
      if (rows.isInUse(row) && this.#isOver(row, nowMs)) this.#delete(row);
    for (let row = 0; row < this.#index.bound; row++)
      if (rows.isInUse(row) && this.#slabs.isSparse(rows.slabOf(row)))
        rows.move(row, this.#slabs.move(rows.placeOf(row)));
    const now = performance.now();
    for (const [digest, untilMs] of this.#refreshing) if (untilMs <= now) this.#refreshing.delete(digest);
  }
}

function bytesOf(id: string): Buffer {
  return hash("sha256", id, "buffer");
}
