// Two gateways on one Redis, as processes: any of them serves any session, a killed one signs nobody out, and what ends at
// one ends at the other. Without Redis nobody is let in.
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { request } from "node:https";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import WebSocket from "ws";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { RedisSessionStore } from "../../../sidecar/gateway/session/redis-store.ts";
import type { Session } from "../../../sidecar/gateway/session/session.ts";
import { until } from "../../demo/mesh-processes.ts";
import { freePorts } from "../../demo/process.ts";
import { REDIS, RedisServer } from "../../fakes/redis-server.ts";
import { canTest } from "../../left-out.ts";
import { fieldOf, textOf } from "../../sidecar/gateway/login/browser.ts";
import { HOST, type NetBrowser, type PeopleMesh, startPeopleMesh } from "./people-mesh.ts";

const SESSION = "__Host-countersign";
const API = { accept: "application/json" };
const canRedis = canTest("two gateways on one Redis", REDIS);

const whoIs = async (browser: NetBrowser): Promise<{ user?: string; session?: string }> =>
  JSON.parse(textOf(await browser.ask("/.countersign/whoami", { fields: API })));

(canRedis ? describe : describe.skip)("two gateways on one Redis", () => {
  let redis: RedisServer;
  let mesh: PeopleMesh;
  beforeAll(async () => {
    const [port = 0] = await freePorts(1);
    redis = new RedisServer(port);
    await redis.start();
    mesh = await startPeopleMesh({ replicas: 2, redisUrl: redis.url });
    mesh.op.claims.set("alice", { groups: ["fraud"] });
  });
  afterAll(async () => {
    await mesh?.close();
    await redis?.close();
  });

  const cookiesOf = (browser: NetBrowser) => browser.jar.field(HOST) ?? "";
  const signIns = (): number => mesh.op.asked.filter((asked) => asked === "GET /auth").length;

  async function openWebSocket(browser: NetBrowser): Promise<WebSocket> {
    const socket = new WebSocket(`wss://127.0.0.1:${browser.port}/channel`, {
      ...{ ca: mesh.ca, servername: HOST, origin: `https://${HOST}` },
      headers: { host: HOST, cookie: cookiesOf(browser) },
    });
    socket.on("error", () => {}); // told of by its end
    await once(socket, "open");
    socket.send("hello");
    expect(String((await once(socket, "message"))[0])).toBe("hello");
    return socket;
  }

  /** An event stream: what came so far, and whether it is over. */
  async function openEvents(browser: NetBrowser): Promise<{ text: string; isOver: boolean }> {
    const events = { text: "", isOver: false };
    const outgoing = request({
      ...{ host: "127.0.0.1", port: browser.port, servername: HOST, ca: mesh.ca, agent: false },
      ...{ path: "/events", headers: { host: HOST, cookie: cookiesOf(browser) } },
    });
    outgoing.on("error", () => {
      events.isOver = true;
    });
    outgoing.end();
    const [response] = (await once(outgoing, "response")) as [IncomingMessage];
    expect(response.statusCode).toBe(200);
    response.on("error", () => {});
    response.setEncoding("utf8").on("data", (text: string) => {
      events.text += text;
    });
    response.on("close", () => {
      events.isOver = true;
    });
    await until("the first event", () => (events.text.includes("hello") ? true : undefined), 30_000);
    return events;
  }

  /** What Redis has of the browser's session, changed. */
  async function changeSession(browser: NetBrowser, change: Partial<Session>): Promise<void> {
    const limits = { idleMs: 3_600_000, maxSessions: 1 };
    const prefix = "countersign:edge/people:";
    const store = await RedisSessionStore.open({ url: redis.url, prefix }, limits, silentLogger);
    try {
      const id = browser.jar.get(HOST, SESSION) ?? "";
      const session = await store.find(id, Date.now());
      if (session === undefined) throw new Error("there is no such session");
      expect(await store.replace(id, { ...session, ...change }, Date.now())).toBe(true);
    } finally {
      await store.close();
    }
  }

  test("either serves the session that one began", async () => {
    const alice = mesh.browser("alice");
    expect((await alice.go("/run")).answer).toMatchObject({ status: 200 });
    const before = await whoIs(alice);
    alice.at = 1;
    expect(await whoIs(alice)).toMatchObject({ user: "acme|alice", session: before.session });
    expect(await alice.ask("/run")).toMatchObject({ status: 200, body: '{"score":0.1}' });
  });

  test("a sign-in may be begun at one and finished at the other", async () => {
    const alice = mesh.browser("alice");
    const begun = fieldOf(await alice.ask("/.countersign/login?rd=/run"), "location") ?? "";
    alice.at = 1;
    expect((await alice.go(begun)).answer).toMatchObject({ status: 200, body: '{"score":0.1}' });
  });

  test("who signs out at one is out at the other, streams included", async () => {
    const alice = mesh.browser("alice");
    await alice.go("/run");
    alice.at = 1;
    const [socket, events] = [await openWebSocket(alice), await openEvents(alice)];
    const closed = once(socket, "close");
    alice.at = 0;
    const kept = cookiesOf(alice);
    await alice.ask("/.countersign/logout", { method: "POST", fields: { origin: `https://${HOST}` } });
    expect((await closed)[0]).toBe(1008);
    await until("the end of the events", () => (events.isOver ? true : undefined), 30_000);
    expect(events.text).toContain("event: error");
    // The cookie that somebody kept is good nowhere.
    const thief = mesh.browser();
    for (const at of [0, 1]) {
      thief.at = at;
      const answer = await thief.ask("/run", { fields: { ...API, cookie: kept } });
      expect(answer).toMatchObject({ status: 401 });
    }
  });

  test("without Redis nobody is let in and people are told; then it is all as it was", async () => {
    const alice = mesh.browser("alice");
    await alice.go("/run");
    const asked = signIns();
    await redis.stop();
    for (const at of [0, 1]) {
      alice.at = at;
      await until("the refusal", async () => {
        const { status } = await alice.ask("/run");
        return status === 503 ? true : undefined;
      });
      const page = await alice.ask("/run");
      expect(page).toMatchObject({ status: 503 });
      expect(fieldOf(page, "content-type")).toContain("text/html");
      expect(fieldOf(page, "retry-after")).toBe("2");
      expect(textOf(page)).toContain("not doing anything wrong");
      const problem = await alice.ask("/run", { fields: API });
      expect(problem).toMatchObject({ status: 503 });
      expect(JSON.parse(textOf(problem))).toMatchObject({ reason: "NOT_READY" });
      expect(await mesh.browser("alice").ask("/.countersign/login")).toMatchObject({ status: 503 });
    }
    await redis.start();
    for (const at of [0, 1]) {
      alice.at = at;
      await until("the session", async () => ((await alice.ask("/run")).status === 200 ? true : undefined));
    }
    expect(signIns()).toBe(asked);
  });

  // The last one: it leaves one gateway.
  test("a killed one signs nobody out, also in the middle of a refresh and of streams", async () => {
    const [alice, bob] = [mesh.browser("alice"), mesh.browser("bob")];
    await Promise.all([alice.go("/run"), bob.go("/run")]);
    const before = [await whoIs(alice), await whoIs(bob)];
    const asked = signIns();
    const [socket, events] = [await openWebSocket(alice), await openEvents(alice)];
    const closed = once(socket, "close");
    let refreshing = 0;
    mesh.op.beforeTokens = () => {
      refreshing++;
      return new Promise(() => {});
    };
    await changeSession(alice, { refreshAtMs: 1 });
    await until("a refresh under way", async () => {
      await alice.ask("/run");
      return refreshing === 0 ? undefined : true;
    });
    mesh.gateways[0]?.process.child.kill("SIGKILL");
    await closed;
    await until("the end of the events", () => (events.isOver ? true : undefined));
    mesh.op.beforeTokens = undefined;
    // Both browsers ask as before, and come to the other one.
    expect(await alice.ask("/run")).toMatchObject({ status: 200, body: '{"score":0.1}' });
    expect(await bob.ask("/run")).toMatchObject({ status: 403 });
    expect([alice.at, bob.at]).toEqual([1, 1]);
    expect([await whoIs(alice), await whoIs(bob)]).toEqual(before);
    (await openWebSocket(alice)).terminate();
    expect(await openEvents(alice)).toMatchObject({ isOver: false });
    expect(refreshing).toBe(1);
    expect(signIns()).toBe(asked);
  });
});
