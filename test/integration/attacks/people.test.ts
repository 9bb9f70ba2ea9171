// Attacks on people through a whole mesh of processes: gateway, token service and sidecars on their own ports, a real OpenID
// Provider, and a second one that says whatever the test wants.
import { once } from "node:events";
import { request as httpsRequest } from "node:https";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { WebSocket } from "ws";
import { until } from "../../demo/mesh-processes.ts";
import { confusedJwt, type FakeIdp, forgedJwt, signingKey, signJwt, startFakeIdp } from "../../fakes/idp.ts";
import { fieldOf, NAVIGATION, textOf } from "../../sidecar/gateway/login/browser.ts";
import { HOST, type NetBrowser, type PeopleMesh, startPeopleMesh } from "../gateway/people-mesh.ts";

const COOKIE = "__Host-countersign";
const KEY = signingKey("k1");
const STRANGER = signingKey("k1");
const now = (): number => Math.floor(Date.now() / 1_000);

let robots: FakeIdp;
let mesh: PeopleMesh;
beforeAll(async () => {
  robots = await startFakeIdp();
  robots.keys = [KEY];
  mesh = await startPeopleMesh({ robots: robots.issuer });
  mesh.op.claims.set("alice", { groups: ["fraud"] });
  mesh.op.claims.set("bob", { groups: ["other"] });
});
afterAll(async () => {
  await mesh?.close();
  await robots?.close();
});

const edgeEvents = () => mesh.gateways[0]?.edgeEvents() ?? [];
const login = (): string => "/.countersign/login?idp=acme&rd=";
const signIn = async (user: string, returnTo = "/run"): Promise<NetBrowser> => {
  const browser = mesh.browser(user);
  await browser.go(`${login()}${encodeURIComponent(returnTo)}`);
  return browser;
};
const sessionOf = (browser: NetBrowser): string => browser.jar.get(HOST, COOKIE) ?? "";
const withCookie = (cookie: string) => ({ fields: { ...NAVIGATION, cookie } });

/** Goes to the provider and back up to the callback, which the browser does not open. */
async function callbackOf(browser: NetBrowser): Promise<URL> {
  const begun = await browser.ask(`${login()}%2Frun`);
  const trap = mesh.browser(browser.user);
  let opened: string | undefined;
  trap.ask = async (target) => {
    opened = target;
    return { kind: "answer", status: 200, fields: [], body: "" };
  };
  await trap.go(fieldOf(begun, "location") ?? "");
  return new URL(opened ?? "", `https://${HOST}`);
}

describe("a callback", () => {
  test("counts once, in the browser that began it, and from the provider it began with", async () => {
    const alice = mesh.browser("alice");
    const url = await callbackOf(alice);
    const target = url.pathname + url.search;
    const cookies = alice.jar.field(HOST) ?? "";
    // CSRF: another browser is made to open it.
    const victim = mesh.browser();
    expect(await victim.ask(target)).toMatchObject({ status: 400 });
    expect(sessionOf(victim)).toBe("");
    // It signs in its own browser, and is worth nothing then, with all its cookies.
    expect(fieldOf(await alice.ask(target), "location")).toBe("/run");
    const replay = await mesh.browser().ask(target, withCookie(cookies));
    expect(replay).toMatchObject({ status: 400 });
    expect(fieldOf(replay, "set-cookie") ?? "").not.toMatch(/countersign=[A-Za-z0-9_-]{43}/);
    // Mix-up: another issuer, and another provider's address.
    const mixed = await callbackOf(alice);
    mixed.searchParams.set("iss", robots.issuer);
    expect(await alice.ask(mixed.pathname + mixed.search)).toMatchObject({ status: 400 });
    const moved = await callbackOf(alice);
    expect(await alice.ask(`/.countersign/callback/robots${moved.search}`)).toMatchObject({ status: 400 });
    for (const reason of ["NO_ATTEMPT", "ALLOWED", "INVALID"])
      await until(`the event of a login that is ${reason}`, () =>
        edgeEvents().find(({ actionName, decision }) => actionName === "login" && decision.reason === reason),
      );
  });

  test.each(["https://evil.example/", "//evil.example", "/\\evil.example", "/..//evil.example", "/%0a/evil"])(
    "leads to nobody's page but the host's own: %s",
    async (returnTo) => {
      const browser = mesh.browser("alice");
      const { url } = await browser.go(`${login()}${encodeURIComponent(returnTo)}`);
      expect(new URL(url).host).toBe(HOST);
    },
  );
});

describe("a cookie", () => {
  test("that was planted is never the session's", async () => {
    const planted = "A".repeat(43);
    const alice = mesh.browser("alice");
    alice.jar.put(HOST, COOKIE, planted);
    await alice.go(`${login()}%2Frun`);
    expect(sessionOf(alice)).not.toBe(planted);
    expect(await mesh.browser().ask("/run", withCookie(`${COOKIE}=${planted}`))).toMatchObject({
      status: 302,
    });
  });

  test("that is tossed, mutated or hidden behind a space of no header signs nobody in", async () => {
    const [alice, mallory] = [await signIn("alice"), await signIn("bob")];
    const [hers, his] = [sessionOf(alice), sessionOf(mallory)];
    const changed = `${hers.slice(0, -1)}${hers.endsWith("A") ? "B" : "A"}`;
    for (const cookie of [
      `${COOKIE}=${hers}; ${COOKIE}=${his}`,
      `${COOKIE}=${changed}`,
      `${COOKIE}="${hers}"`,
      `\u00a0${COOKIE}=${his}`,
      `${COOKIE.toLowerCase()}=${his}`,
    ])
      expect([cookie, (await mesh.browser().ask("/run", withCookie(cookie))).status]).toEqual([cookie, 302]);
    expect(await mesh.browser().ask("/run", withCookie(`${COOKIE}=${hers}`))).toMatchObject({ status: 200 });
  });
});

describe("a trace id of somebody's choice", () => {
  test("ties nobody to anybody: the gateway begins its own", async () => {
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const [alice, bob] = [await signIn("alice"), await signIn("bob")];
    const answers = await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const browser = i % 2 === 0 ? alice : bob;
        return [i % 2, (await browser.ask("/run", { fields: { ...NAVIGATION, traceparent } })).status];
      }),
    );
    for (const [who, status] of answers) expect([who, status]).toEqual([who, who === 0 ? 200 : 403]);
    expect(String(mesh.seen.headers["traceparent"])).not.toContain("0af7651916cd43dd8448eb211c80319c");
  });
});

describe("an access token", () => {
  let count = 0;
  const claims = (over: object = {}) => ({
    ...{
      iss: robots.issuer,
      aud: "https://api.acme.example",
      sub: "robot",
      client_id: "ci",
      groups: ["fraud"],
    },
    ...{ iat: now() - 1, exp: now() + 300, jti: `t-${count++}`, ...over },
  });
  const AT = { typ: "at+jwt" };
  const ask = async (token: string): Promise<number> =>
    (
      await mesh.browser().ask("/api/run", {
        method: "POST",
        fields: { authorization: `Bearer ${token}`, accept: "application/json" },
      })
    ).status;

  test("of the provider counts, also where its clock is off by a minute", async () => {
    expect(await ask(await signJwt(KEY, claims(), AT))).toBe(200);
    for (const offset of [-50, 50])
      expect(
        await ask(await signJwt(KEY, claims({ iat: now() + offset, exp: now() + offset + 300 }), AT)),
      ).toBe(200);
  });

  test.each<[string, () => Promise<string> | string]>([
    ["clock ten minutes ahead", () => signJwt(KEY, claims({ iat: now() + 600, exp: now() + 900 }), AT)],
    ["clock ten minutes behind", () => signJwt(KEY, claims({ iat: now() - 900, exp: now() - 600 }), AT)],
    ["alg none", () => forgedJwt({ alg: "none", ...AT }, claims())],
    ["alg none without signature", () => forgedJwt({ alg: "None", ...AT }, claims(), "")],
    ["the public key as secret", () => confusedJwt(KEY, claims())],
    ["another key of the same name", () => signJwt(STRANGER, claims(), AT)],
    ["a key of its own", () => signJwt(STRANGER, claims(), { ...AT, jwk: STRANGER.jwk })],
    ["keys from elsewhere", () => signJwt(KEY, claims(), { ...AT, jku: `${robots.issuer}/evil` })],
    ["another audience", () => signJwt(KEY, claims({ aud: "https://other.example" }), AT)],
    ["another issuer", () => signJwt(KEY, claims({ iss: mesh.op.issuer }), AT)],
    ["the type of an ID token", () => signJwt(KEY, claims(), { typ: "JWT" })],
    [
      "a JWE bomb",
      () => `${forgedJwt({ alg: "PBES2-HS256+A128KW", p2c: 2 ** 31, enc: "A256GCM" }, "")}.AA.AA`,
    ],
    ["compressed", () => signJwt(KEY, claims(), { ...AT, zip: "DEF" })],
    ["a claim twice", () => forgedJwt({ alg: "ES256", kid: "k1", ...AT }, '{"iss":"a","sub":"a","sub":"b"}')],
    ["padding", async () => `${await signJwt(KEY, claims(), AT)}==`],
    ["bound to a key (DPoP)", () => signJwt(KEY, claims({ cnf: { jkt: "x" } }), AT)],
    ["16 KiB", () => signJwt(KEY, claims({ x: "y".repeat(7_000) }), AT)],
  ])("with %s does not", async (_name, make) => {
    expect(await ask(await make())).toBe(401);
    expect(await ask(await signJwt(KEY, claims(), AT))).toBe(200);
  });

  test("counts under new keys at once, and on while the provider is down, answers garbage or without end", async () => {
    const next = signingKey("k2");
    robots.keys = [KEY, next];
    expect(await ask(await signJwt(next, claims(), AT))).toBe(200);
    const unknown = signingKey("k3");
    for (const answer of ["down", "garbage", "endless"] as const) {
      let sent = 0;
      robots.answers.set("/jwks", (response) => {
        if (answer === "down") response.writeHead(503).end();
        else if (answer === "garbage") response.end('{"keys":[{"kty":"EC"}]}');
        else {
          response.writeHead(200, { "content-type": "application/json" });
          const more = (): void => {
            if (response.destroyed || sent > 64 * 1024 * 1024) return;
            sent += 65_536;
            if (response.write(Buffer.alloc(65_536, 0x20))) setImmediate(more);
            else response.once("drain", more);
          };
          more();
        }
      });
      // Either asks the provider, or has asked too often: nobody is let in by it, and nothing hangs.
      expect(await ask(await signJwt(unknown, claims(), AT))).toBe(401);
      for (const key of [KEY, next]) expect(await ask(await signJwt(key, claims(), AT))).toBe(200);
      expect(sent).toBeLessThan(64 * 1024 * 1024);
    }
    robots.answers.clear();
  });

  test("ends with the provider's logout, streams too, and the logout token counts once", async () => {
    const token = await signJwt(KEY, claims({ sub: "leaver", iat: now() - 2 }), AT);
    expect(await ask(token)).toBe(200);
    const logout = await signJwt(
      KEY,
      {
        ...{ iss: robots.issuer, aud: "gateway", sub: "leaver", iat: now(), exp: now() + 120, jti: "l-1" },
        events: { "http://schemas.openid.net/event/backchannel-logout": {} },
      },
      { typ: "logout+jwt" },
    );
    const send = (body: string) =>
      mesh.browser().ask("/.countersign/backchannel-logout/robots", {
        ...{ method: "POST", body },
        fields: { "content-type": "application/x-www-form-urlencoded" },
      });
    const forged = await signJwt(STRANGER, { iss: robots.issuer, aud: "gateway" });
    expect(await send(`logout_token=${forged}`)).toMatchObject({ status: 400 });
    expect(await ask(token)).toBe(200);
    expect(await send(`logout_token=${logout}`)).toMatchObject({ status: 200 });
    await until("the end of the token", async () => ((await ask(token)) === 401 ? true : undefined));
    expect(await send(`logout_token=${logout}`)).toMatchObject({ status: 400 });
    expect(await ask(await signJwt(KEY, claims(), AT))).toBe(200);
  });
});

describe("revoking a user", () => {
  /** An answer that goes on: resolves when it ends, with all of it. */
  const events = (browser: NetBrowser): Promise<{ readonly ended: Promise<string> }> =>
    new Promise((resolve, reject) => {
      const headers = { host: HOST, cookie: browser.jar.field(HOST) ?? "", accept: "text/event-stream" };
      const where = { host: "127.0.0.1", port: browser.port, servername: HOST, ca: mesh.ca, path: "/events" };
      httpsRequest({ ...where, headers, agent: false }, (response) => {
        let text = "";
        const ended = new Promise<string>((end) => response.once("close", () => end(text)));
        response.on("error", () => {});
        response.on("data", (chunk: Buffer) => {
          text += chunk.toString();
          resolve({ ended });
        });
      })
        .on("error", reject)
        .end();
    });
  const socketOf = async (browser: NetBrowser): Promise<WebSocket> => {
    const socket = new WebSocket(`wss://127.0.0.1:${browser.port}/socket`, {
      ...{ servername: HOST, ca: mesh.ca, origin: `https://${HOST}` },
      headers: { host: HOST, cookie: browser.jar.field(HOST) ?? "" },
    });
    await once(socket, "open");
    return socket;
  };

  test("ends what is open with words, asks to sign in again, leaves others alone, and is written down", async () => {
    const [alice, bob] = [await signIn("alice"), await signIn("bob")];
    const stream = await events(alice);
    const [hers, his] = [await socketOf(alice), await socketOf(bob)];
    const closed = once(hers, "close");
    const revoked = await mesh.controlPlane.manage("POST", "/v1/revocations", {
      ...{ user: "acme|alice", reason: "left the company" },
    });
    expect(revoked.status).toBe(200);
    expect(await stream.ended).toContain("event: error");
    expect((await closed)[0]).toBe(1008);
    expect(await alice.ask("/run")).toMatchObject({ status: 302 });
    // Bob's goes on.
    his.send("still here");
    expect(String((await once(his, "message"))[0])).toBe("still here");
    his.terminate();
    const end = await until("the event", () =>
      edgeEvents().find(({ actionName }) => actionName === "session.end"),
    );
    expect(end).toMatchObject({
      userIdentity: { id: "acme|alice" },
      decision: { effect: "Deny", reason: "REVOKED" },
      session: expect.any(String),
    });
  });
});

test("whoever is refused at the front is written down, and a flood of it is one line", async () => {
  const stranger = mesh.browser();
  const fields = { accept: "application/json", "user-agent": "flood" };
  for (let i = 0; i < 40; i++) expect(await stranger.ask("/run", { fields })).toMatchObject({ status: 401 });
  const ofLogin = () => edgeEvents().filter(({ decision }) => decision.reason === "LOGIN_REQUIRED");
  const lines = await until("the events", () => (ofLogin().length >= 10 ? ofLogin() : undefined));
  expect(lines[0]).toMatchObject({
    ...{ actionName: "request", userIdentity: null, decision: { effect: "Deny" } },
    request: { sourceIp: "127.0.0.1" },
  });
  expect(lines.length).toBeLessThanOrEqual(30);
  expect(textOf(await stranger.ask("/run", { fields }))).toContain("LOGIN_REQUIRED");
});
