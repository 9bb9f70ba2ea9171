// What every store of sessions promises, held by both: memory, and a real Redis where there is one.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { createLogger } from "../../../../sidecar/core/runtime/log.ts";
import { createSessionId } from "../../../../sidecar/gateway/session/cookies.ts";
import { MemorySessionStore } from "../../../../sidecar/gateway/session/memory-store.ts";
import { RedisSessionStore } from "../../../../sidecar/gateway/session/redis-store.ts";
import type { SessionStore } from "../../../../sidecar/gateway/session/session.ts";
import { freePorts } from "../../../demo/process.ts";
import { REDIS, RedisServer } from "../../../fakes/redis-server.ts";
import { canTest } from "../../../left-out.ts";
import { sessionOf, T0 } from "./sessions.ts";

const LIMITS = { idleMs: 3_600_000, maxSessions: 1_000 };
const HOUR_MS = 3_600_000;
const canRedis = canTest("sessions in Redis", REDIS);
const log = createLogger("silent", {});

async function until<T>(what: string, look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  for (let tries = 0; tries < 3_000; tries++) {
    const seen = await look();
    if (seen !== undefined) return seen;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never: ${what}`);
}

function promises(open: () => Promise<SessionStore>): void {
  let store: SessionStore;
  beforeEach(async () => {
    store = await open();
  });
  afterEach(() => store.close());

  test("finds what was created, by its id alone", async () => {
    const [id, other] = [createSessionId(), createSessionId()];
    await store.create(id, sessionOf("s1"), T0);
    expect(await store.find(id, T0 + 1)).toEqual(sessionOf("s1"));
    expect(await store.find(other, T0 + 1)).toBeUndefined();
  });

  test("a session is over at its absolute end, however busy", async () => {
    const id = createSessionId();
    await store.create(id, sessionOf("s1", { endsMs: T0 + HOUR_MS }), T0);
    for (let ms = 0; ms < HOUR_MS; ms += HOUR_MS / 10) expect(await store.find(id, T0 + ms)).toBeDefined();
    expect(await store.find(id, T0 + HOUR_MS)).toBeUndefined();
  });

  test("an end is told with its name, and lasts", async () => {
    const ended: string[] = [];
    store.onEnd((sid) => ended.push(sid));
    const id = createSessionId();
    await store.create(id, sessionOf("s1"), T0);
    expect(await store.end(id)).toMatchObject({ sid: "s1" });
    expect(await store.find(id, T0)).toBeUndefined();
    expect(await store.end(id)).toBeUndefined();
    expect(await store.replace(id, sessionOf("s1"), T0)).toBe(false);
    expect(await store.find(id, T0)).toBeUndefined();
    await until("the end", () => ended[0]);
    expect(ended).toEqual(["s1"]);
  });

  test("a refreshed session takes the place of the old one", async () => {
    const id = createSessionId();
    await store.create(id, sessionOf("s1"), T0);
    expect(await store.replace(id, sessionOf("s1", { handle: "newer" }), T0 + 1)).toBe(true);
    expect(await store.find(id, T0 + 2)).toMatchObject({ handle: "newer" });
  });

  test("a sign-in under way is taken out once, and not by others", async () => {
    const [id, other] = [createSessionId(), createSessionId()];
    await store.keep(id, { state: "s" }, 60_000);
    expect(await store.take(other)).toBeUndefined();
    expect(await store.take(id)).toEqual({ state: "s" });
    expect(await store.take(id)).toBeUndefined();
    await store.keep(other, { state: "t" }, 20);
    await new Promise((resolve) => setTimeout(resolve, 40));
    expect(await store.take(other)).toBeUndefined();
  });

  test("a sign-in that took too long is gone, though the browser still has its cookie", async () => {
    await store.keep("late", { state: "x" }, 1);
    const untilMs = performance.now() + 50;
    while (performance.now() < untilMs) await new Promise((resolve) => setImmediate(resolve));
    expect(await store.take("late")).toBeUndefined();
  });

  test("one refresh at a time", async () => {
    const id = createSessionId();
    expect(await store.lockRefresh(id, 10_000)).toBe(true);
    expect(await store.lockRefresh(id, 10_000)).toBe(false);
    expect(await store.lockRefresh(createSessionId(), 10_000)).toBe(true);
    await store.unlockRefresh(id);
    expect(await store.lockRefresh(id, 10_000)).toBe(true);
  });

  test.each([
    ["a user", { user: "okta-main|alice" }, ["s1", "s2"]],
    ["a session at the identity provider", { idp: "okta-main", idpSid: "idp-s2" }, ["s2"]],
    ["a name", { sid: "s1" }, ["s1"]],
    ["somebody else", { user: "okta-main|bob" }, []],
    ["another identity provider's", { idp: "entra", idpSid: "idp-s2" }, []],
  ])("ends the sessions of %s", async (_whose, of, expected) => {
    const ended: string[] = [];
    const ids = new Map<string, string>();
    store.onEnd((sid) => ended.push(sid));
    for (const sid of ["s1", "s2"]) {
      ids.set(sid, createSessionId());
      await store.create(ids.get(sid) ?? "", sessionOf(sid), T0);
    }
    expect(await store.endAll(of)).toBe(expected.length);
    for (const [sid, id] of ids)
      expect((await store.find(id, T0)) === undefined).toBe((expected as string[]).includes(sid));
    await until("the ends", () => (ended.length === expected.length ? true : undefined));
    expect(ended.sort()).toEqual(expected);
  });
}

describe("in memory", () => {
  promises(async () => new MemorySessionStore(LIMITS));

  test("a session that nobody uses is over; one in use goes on", async () => {
    const store = new MemorySessionStore(LIMITS);
    const id = createSessionId();
    await store.create(id, sessionOf("s1"), T0);
    expect(store.find(id, T0 + HOUR_MS - 1)).toBeDefined();
    expect(store.find(id, T0 + 2 * HOUR_MS - 2)).toBeDefined();
    expect(store.find(id, T0 + 3 * HOUR_MS - 2)).toBeUndefined();
    expect(store.size).toBe(0);
  });

  test("of sign-ins that strangers begin without end the oldest are forgotten", async () => {
    const store = new MemorySessionStore(LIMITS);
    for (let i = 0; i <= 20_000; i++) await store.keep(`id-${i}`, { i }, 60_000);
    expect(await store.take("id-0")).toBeUndefined();
    expect(await store.take("id-1")).toEqual({ i: 1 });
    expect(await store.take("id-20000")).toEqual({ i: 20_000 });
  });

  test("as many as it may hold, and what is over makes room", async () => {
    const store = new MemorySessionStore({ idleMs: HOUR_MS, maxSessions: 2 });
    await store.create(createSessionId(), sessionOf("s1"), T0);
    await store.create(createSessionId(), sessionOf("s2"), T0 + 1);
    await expect(store.create(createSessionId(), sessionOf("s3"), T0 + 2)).rejects.toMatchObject({
      code: "not_ready",
    });
    await store.create(createSessionId(), sessionOf("s3"), T0 + HOUR_MS);
    expect(store.size).toBe(2);
  });
});

(canRedis ? describe : describe.skip)("in Redis", () => {
  let server: RedisServer;
  let count = 0;
  const open = (prefix = `t${count++}:`, idleMs = LIMITS.idleMs): Promise<RedisSessionStore> =>
    RedisSessionStore.open({ url: server.url, prefix }, { ...LIMITS, idleMs }, log);

  beforeAll(async () => {
    const [port = 0] = await freePorts(1);
    server = new RedisServer(port);
    await server.start();
  });
  afterAll(() => server?.close());

  promises(() => open());

  test("another replica serves the session, and hears of its end", async () => {
    const [one, two] = [await open("r:"), await open("r:")];
    const id = createSessionId();
    const ended: string[] = [];
    two.onEnd((sid) => ended.push(sid));
    await one.create(id, sessionOf("s1"), T0);
    expect(await two.find(id, T0)).toEqual(sessionOf("s1"));
    // Kept by now: the next answer comes at once.
    await until("the session in the cache", () => (two.find(id, T0) instanceof Promise ? undefined : true));
    await one.end(id);
    await until("the end", () => ended[0]);
    expect(await two.find(id, T0)).toBeUndefined();
    await Promise.all([one.close(), two.close()]);
  });

  test("another replica takes over a refreshed session", async () => {
    const [one, two] = [await open("rr:"), await open("rr:")];
    const id = createSessionId();
    await one.create(id, sessionOf("s1"), T0);
    await two.find(id, T0);
    await one.replace(id, sessionOf("s1", { handle: "newer" }), T0);
    await until("the newer session", async () =>
      (await two.find(id, T0))?.handle === "newer" ? true : undefined,
    );
    await Promise.all([one.close(), two.close()]);
  });

  test("Redis forgets a session that nobody uses", async () => {
    // Longer than a busy machine takes from one command to the next.
    const IDLE_MS = 3_000;
    const store = await open("idle:", IDLE_MS);
    const id = createSessionId();
    const nowMs = Date.now();
    await store.create(id, sessionOf("s1", { endsMs: nowMs + HOUR_MS }), nowMs);
    const other = await open("idle:", IDLE_MS);
    expect(await other.find(id, nowMs)).toBeDefined();
    await other.close();
    await until("the end of it", async () => {
      const fresh = await open("idle:", IDLE_MS);
      // A read counts as use, so each look waits longer than the idle time.
      await new Promise((resolve) => setTimeout(resolve, IDLE_MS + 300));
      const found = await fresh.find(id, nowMs);
      await fresh.close();
      return found === undefined ? true : undefined;
    });
    await store.close();
  });

  test("without Redis nobody is let in, and afterwards everybody is again", async () => {
    const store = await open("down:");
    const id = createSessionId();
    await store.create(id, sessionOf("s1"), T0);
    expect(await store.find(id, T0)).toBeDefined();
    await server.stop();
    await until("the refusal", async () => {
      try {
        await store.find(id, T0);
        return undefined;
      } catch (error) {
        return error;
      }
    });
    await expect((async () => store.find(id, T0))()).rejects.toMatchObject({ code: "io_failed" });
    await expect(store.create(createSessionId(), sessionOf("s2"), T0)).rejects.toMatchObject({
      code: "io_failed",
    });
    await server.start();
    const again = createSessionId();
    await until("Redis again", () =>
      store.create(again, sessionOf("s3"), T0).then(
        () => true,
        () => undefined,
      ),
    );
    expect(await store.find(again, T0)).toBeDefined();
    await store.close();
  });

  test("what is not ours is no session", async () => {
    const store = await open("odd:");
    const id = createSessionId();
    const raw = new (await import("ioredis")).Redis(server.url);
    await raw.set(`odd:session:${(await import("node:crypto")).hash("sha256", id, "base64url")}`, "{}");
    expect(await store.find(id, T0)).toBeUndefined();
    raw.disconnect();
    await store.close();
  });

  test.each(["http://127.0.0.1:1", "redis:", "127.0.0.1:6379", ""])(
    "refuses the address `%s`",
    async (url) => {
      await expect(RedisSessionStore.open({ url, prefix: "" }, LIMITS, log)).rejects.toMatchObject({
        code: "bad_config",
      });
    },
  );
});
