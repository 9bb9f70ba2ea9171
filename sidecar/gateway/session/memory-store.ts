// Sessions in memory: for one replica, whose restart signs everybody out. Packed, but for those that were used last.
import { GenerationCache } from "../../core/identity/generation-cache.ts";
import { MeshError } from "../../core/runtime/errors.ts";
import { packSession, unpackSession } from "./packed-session.ts";
import {
  digestOf,
  isOf,
  type Session,
  type SessionLimits,
  type SessionNames,
  type SessionStore,
  type SessionsOf,
} from "./session.ts";
import { type Place, Slabs } from "./slabs.ts";

class Entry implements SessionNames {
  readonly sid: string;
  readonly idp: string;
  readonly user: { readonly id: string };
  idpSid: string | undefined;
  place: Place;
  endsMs: number;
  seenMs: number;
  isOver = false;
  /** Grows with each refresh. */
  version = 0;

  constructor(session: Session, place: Place, nowMs: number) {
    this.sid = session.sid;
    this.idp = session.idp;
    this.idpSid = session.idpSid;
    this.user = { id: session.user.id };
    this.place = place;
    this.endsMs = session.endsMs;
    this.seenMs = nowMs;
  }

  /** After a refresh: of the same person, by the same name. */
  take(session: Session, place: Place): void {
    this.idpSid = session.idpSid;
    this.place = place;
    this.endsMs = session.endsMs;
    this.version++;
  }
}

/** An entry as it was when it was opened last. */
interface Opened {
  readonly entry: Entry;
  readonly version: number;
  readonly session: Session;
}

/** Sessions that need not be unpacked, about 6 KB each; found by id, so that nothing has to be hashed. */
const OPENED = { maxEntries: 2_000, maxWeight: 2_000 };

/** Between two looks at everything that is over. */
const SWEEP_MS = 60_000;
/** Sign-ins under way, which anybody may begin: beyond, the oldest are forgotten. */
const MAX_RECORDS = 20_000;

export class MemorySessionStore implements SessionStore {
  readonly #limits: SessionLimits;
  readonly #byDigest = new Map<string, Entry>();
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
    return this.#byDigest.size;
  }

  find(id: string, nowMs: number): Session | undefined {
    const opened = this.#opened.get(id);
    const entry = opened?.entry ?? this.#byDigest.get(digestOf(id));
    if (entry === undefined || entry.isOver) return undefined;
    if (this.#isOver(entry, nowMs)) {
      this.#delete(digestOf(id), entry);
      return undefined;
    }
    entry.seenMs = nowMs;
    if (opened !== undefined && opened.version === entry.version) return opened.session;
    const session = this.#open(entry);
    this.#opened.set(id, { entry, version: entry.version, session }, 1);
    return session;
  }

  async create(id: string, session: Session, nowMs: number): Promise<void> {
    if (nowMs >= this.#sweepAtMs || this.#byDigest.size >= this.#limits.maxSessions) this.#sweep(nowMs);
    if (this.#byDigest.size >= this.#limits.maxSessions)
      throw new MeshError(
        "not_ready",
        `the gateway holds ${this.#byDigest.size} sessions, as many as it may; people who sign out or stay away make room`,
      );
    this.#byDigest.set(digestOf(id), new Entry(session, this.#slabs.put(packSession(session)), nowMs));
  }

  async replace(id: string, session: Session, nowMs: number): Promise<boolean> {
    const entry = this.#byDigest.get(digestOf(id));
    if (entry === undefined || this.#isOver(entry, nowMs)) return false;
    const place = this.#slabs.put(packSession(session));
    this.#slabs.free(entry.place);
    entry.take(session, place);
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
    const digest = digestOf(id);
    const entry = this.#byDigest.get(digest);
    if (entry === undefined) return undefined;
    const session = this.#open(entry);
    this.#drop(digest, entry);
    return session;
  }

  async endAll(of: SessionsOf): Promise<number> {
    let count = 0;
    for (const [digest, entry] of this.#byDigest) {
      if (!isOf(entry, of)) continue;
      this.#drop(digest, entry);
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
    this.#byDigest.clear();
  }

  #drop(digest: string, entry: Entry): void {
    this.#delete(digest, entry);
    for (const listener of this.#listeners) listener(entry.sid);
  }

  #delete(digest: string, entry: Entry): void {
    entry.isOver = true;
    this.#slabs.free(entry.place);
    this.#byDigest.delete(digest);
  }

  #open({ place }: Entry): Session {
    return unpackSession(this.#slabs.read(place));
  }

  #isOver({ endsMs, seenMs }: Entry, nowMs: number): boolean {
    return nowMs >= endsMs || nowMs - seenMs >= this.#limits.idleMs;
  }

  #sweep(nowMs: number): void {
    this.#sweepAtMs = nowMs + SWEEP_MS;
    for (const [digest, entry] of this.#byDigest) if (this.#isOver(entry, nowMs)) this.#delete(digest, entry);
    const now = performance.now();
    for (const [digest, untilMs] of this.#refreshing) if (untilMs <= now) this.#refreshing.delete(digest);
  }
}
