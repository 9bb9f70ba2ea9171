// Sessions in Redis or Valkey: any replica of the gateway serves any session, and a restart signs nobody out. What is
// stored is sealed (sealed-record.ts). A replica keeps what it read as long as it hears of ends by publish and subscribe.
import { Redis } from "ioredis";
import { MeshError, messageOf } from "../../core/runtime/errors.ts";
import type { Logger } from "../../core/runtime/log.ts";
import { open, seal } from "./sealed-record.ts";
import { digestOf, type Session, type SessionLimits, type SessionStore, type SessionsOf } from "./session.ts";
import { SessionCache } from "./session-cache.ts";

export interface RedisSettings {
  /** `redis://` or `rediss://` with user, password and database. */
  readonly url: string;
  /** Certificate authorities of `rediss://`, PEM; undefined: the system's. */
  readonly caPem?: string | undefined;
  /** Of all keys and channels: gateways with different sessions have different ones. */
  readonly prefix: string;
}

const COMMAND_MS = 2_000;
const CONNECT_MS = 5_000;
const RETRY_MS = { first: 50, most: 2_000 };
/** Indexes outlive every session in them; no session is longer than 12 h. */
const INDEX_MS = 13 * 3_600_000;
/** A session's use is written down once in this part of its idle time. */
const TOUCHES_PER_IDLE = 20;
const MAX_ENDED_AT_ONCE = 10_000;

export class RedisSessionStore implements SessionStore {
  readonly #limits: SessionLimits;
  readonly #prefix: string;
  readonly #log: Logger;
  readonly #redis: Redis;
  /** A connection that subscribes can do nothing else. */
  readonly #subscriber: Redis;
  readonly #cache = new SessionCache();
  readonly #reading = new Map<string, Promise<Session | undefined>>();
  readonly #listeners: ((sid: string) => void)[] = [];

  private constructor(settings: RedisSettings, limits: SessionLimits, log: Logger) {
    this.#limits = limits;
    this.#prefix = settings.prefix;
    this.#log = log;
    this.#redis = connectionTo(settings);
    this.#subscriber = connectionTo(settings);
    let isDown = false;
    this.#redis.on("error", (error) => {
      if (!isDown) log.warn("sessions_unreachable", { error: messageOf(error) });
      isDown = true;
    });
    this.#redis.on("ready", () => {
      if (isDown) log.info("sessions_reachable_again");
      isDown = false;
    });
    // Its errors are those of the other connection.
    this.#subscriber.on("error", () => {});
    this.#subscriber.on("close", () => this.#cache.distrust());
    this.#subscriber.on("message", (_channel, message) => this.#ended(message));
    this.#subscriber.on("ready", () => void this.#listen());
  }

  /**
   * Connects; resolves also when Redis is not there yet: people are refused until it is.
   *
   * @throws MeshError `bad_config` for an address that is none.
   */
  static async open(settings: RedisSettings, limits: SessionLimits, log: Logger): Promise<RedisSessionStore> {
    if (!/^rediss?:\/\/./.test(settings.url) || !URL.canParse(settings.url))
      throw new MeshError("bad_config", "the address of Redis is no `redis://` or `rediss://` URL");
    const store = new RedisSessionStore(settings, limits, log);
    const opened = [store.#redis.connect(), store.#subscriber.connect()];
    await Promise.allSettled(opened);
    return store;
  }

  find(id: string, nowMs: number): Session | undefined | Promise<Session | undefined> {
    const digest = digestOf(id);
    const cached = this.#cache.get(digest, nowMs);
    if (cached === undefined) return this.#read(id, digest, nowMs);
    if (nowMs >= cached.session.endsMs) return undefined;
    if (nowMs - cached.touchedMs >= this.#limits.idleMs / TOUCHES_PER_IDLE) {
      cached.touchedMs = nowMs;
      this.#touch(digest, cached.session, nowMs);
    }
    return cached.session;
  }

  async create(id: string, session: Session, nowMs: number): Promise<void> {
    const digest = digestOf(id);
    const member = `${digest} ${session.sid}`;
    // First the indexes, in one round trip: a session that none of them names could not be ended. One key in each command,
    // for a Redis Cluster.
    await Promise.all(
      this.#indexesOf(session).flatMap((index) => [
        this.#run(() => this.#redis.sadd(index, member)),
        this.#run(() => this.#redis.pexpire(index, INDEX_MS)),
      ]),
    );
    const sealed = seal(id, digest, session);
    const lifeMs = this.#lifeMs(session, nowMs);
    if (lifeMs <= 0) return;
    await this.#run(() => this.#redis.set(this.#key(digest), sealed, "PX", lifeMs, "NX"));
  }

  async replace(id: string, session: Session, nowMs: number): Promise<boolean> {
    const digest = digestOf(id);
    const lifeMs = this.#lifeMs(session, nowMs);
    if (lifeMs <= 0) return false;
    const sealed = seal(id, digest, session);
    const done = await this.#run(() => this.#redis.set(this.#key(digest), sealed, "PX", lifeMs, "XX"));
    this.#cache.delete(digest);
    // The other replicas read it anew.
    if (done !== null) await this.#run(() => this.#redis.publish(this.#channel, `changed ${digest}`));
    return done !== null;
  }

  async lockRefresh(id: string, ttlMs: number): Promise<boolean> {
    const key = this.#lockKey(digestOf(id));
    return (await this.#run(() => this.#redis.set(key, "1", "PX", ttlMs, "NX"))) !== null;
  }

  async unlockRefresh(id: string): Promise<void> {
    await this.#run(() => this.#redis.del(this.#lockKey(digestOf(id))));
  }

  async end(id: string): Promise<Session | undefined> {
    const digest = digestOf(id);
    const sealed = await this.#run(() => this.#redis.getdelBuffer(this.#key(digest)));
    this.#cache.delete(digest);
    if (sealed === null) return undefined;
    const session = openSession(id, digest, sealed);
    if (session === undefined) return undefined;
    const member = `${digest} ${session.sid}`;
    for (const index of this.#indexesOf(session)) await this.#run(() => this.#redis.srem(index, member));
    await this.#run(() => this.#redis.publish(this.#channel, `ended ${member}`));
    return session;
  }

  async endAll(of: SessionsOf): Promise<number> {
    const index = this.#indexOf(of);
    const members = await this.#run(() => this.#redis.smembers(index));
    let count = 0;
    for (const member of members.slice(0, MAX_ENDED_AT_ONCE)) {
      const [digest = ""] = member.split(" ");
      count += await this.#run(() => this.#redis.del(this.#key(digest)));
      this.#cache.delete(digest);
      await this.#run(() => this.#redis.srem(index, member));
      await this.#run(() => this.#redis.publish(this.#channel, `ended ${member}`));
    }
    return members.length > MAX_ENDED_AT_ONCE ? count + (await this.endAll(of)) : count;
  }

  async keep(id: string, record: object, ttlMs: number): Promise<void> {
    const digest = digestOf(id);
    await this.#run(() => this.#redis.set(this.#recordKey(digest), seal(id, digest, record), "PX", ttlMs));
  }

  async take(id: string): Promise<unknown> {
    const digest = digestOf(id);
    const sealed = await this.#run(() => this.#redis.getdelBuffer(this.#recordKey(digest)));
    return sealed === null ? undefined : open(id, digest, sealed);
  }

  onEnd(listener: (sid: string) => void): void {
    this.#listeners.push(listener);
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
    this.#subscriber.disconnect();
  }

  get #channel(): string {
    return `${this.#prefix}ends`;
  }

  #key(digest: string): string {
    return `${this.#prefix}session:${digest}`;
  }

  #recordKey(digest: string): string {
    return `${this.#prefix}attempt:${digest}`;
  }

  #lockKey(digest: string): string {
    return `${this.#prefix}refreshing:${digest}`;
  }

  /** Digests: keys of a store are seen by whoever may list them. */
  #indexOf(of: SessionsOf): string {
    if ("user" in of) return `${this.#prefix}user:${digestOf(of.user)}`;
    if ("sid" in of) return `${this.#prefix}sid:${digestOf(of.sid)}`;
    return `${this.#prefix}idp:${digestOf(`${of.idp} ${of.idpSid}`)}`;
  }

  #indexesOf({ sid, user, idp, idpSid }: Session): readonly string[] {
    return [
      this.#indexOf({ user: user.id }),
      this.#indexOf({ sid }),
      ...(idpSid === undefined ? [] : [this.#indexOf({ idp, idpSid })]),
    ];
  }

  #lifeMs(session: Session, nowMs: number): number {
    return Math.floor(Math.min(this.#limits.idleMs, session.endsMs - nowMs));
  }

  /** One question per session, however many requests wait for it. */
  #read(id: string, digest: string, nowMs: number): Promise<Session | undefined> {
    let reading = this.#reading.get(digest);
    if (reading === undefined) {
      const version = this.#cache.version;
      reading = this.#run(() => this.#redis.getBuffer(this.#key(digest)))
        .then((sealed) => {
          const session = sealed === null ? undefined : openSession(id, digest, sealed);
          if (session === undefined || nowMs >= session.endsMs) return undefined;
          // An end that was heard of while the answer was on its way counts.
          this.#cache.set(digest, session, nowMs, version);
          this.#touch(digest, session, nowMs);
          return session;
        })
        .finally(() => this.#reading.delete(digest));
      this.#reading.set(digest, reading);
    }
    return reading;
  }

  #touch(digest: string, session: Session, nowMs: number): void {
    const lifeMs = this.#lifeMs(session, nowMs);
    // Not waited for, and not grave when lost: the next one comes soon.
    if (lifeMs > 0) this.#redis.pexpire(this.#key(digest), lifeMs).catch(() => {});
  }

  async #listen(): Promise<void> {
    try {
      await this.#subscriber.subscribe(this.#channel);
      this.#cache.trust();
    } catch (error) {
      this.#log.warn("sessions_not_followed", { error: messageOf(error) });
      this.#cache.distrust();
    }
  }

  #ended(message: string): void {
    const [what, digest = "", sid = ""] = message.split(" ");
    this.#cache.delete(digest);
    if (what === "ended") for (const listener of this.#listeners) listener(sid);
  }

  async #run<T>(command: () => Promise<T>): Promise<T> {
    try {
      return await command();
    } catch (error) {
      throw new MeshError("io_failed", `the store of sessions cannot be used: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }
}

/** What is authentic has the shape that this file gave it. */
function openSession(id: string, digest: string, sealed: Buffer): Session | undefined {
  return open(id, digest, sealed) as Session | undefined;
}

function connectionTo({ url, caPem }: RedisSettings): Redis {
  return new Redis(url, {
    lazyConnect: true,
    // A request is refused at once rather than held until Redis is back.
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    commandTimeout: COMMAND_MS,
    connectTimeout: CONNECT_MS,
    autoResubscribe: false,
    retryStrategy: (attempt) => Math.min(RETRY_MS.first * 2 ** Math.min(attempt, 10), RETRY_MS.most),
    ...(url.startsWith("rediss:") ? { tls: caPem === undefined ? {} : { ca: caPem } } : {}),
  });
}
