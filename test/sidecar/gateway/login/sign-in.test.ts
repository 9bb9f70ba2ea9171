// Signing in with a real OpenID Provider: the way there and back, and everything that may go wrong on it.
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { Browser, fieldOf, HOST, NAVIGATION, textOf } from "./browser.ts";
import { idpOf, type LoginTest, ROUTE, SECRET, startLogin } from "./world.ts";

const SESSION = "__Host-countersign";
const ID = /^[A-Za-z0-9_-]{43}$/;

describe("signing in", () => {
  let world: LoginTest;
  let browser: Browser;
  const browserOf = (user?: string): Browser => new Browser(world.part.people, ROUTE, user);

  beforeAll(async () => {
    world = await startLogin();
  });
  afterAll(() => world?.close());
  beforeEach(() => {
    browser = browserOf("alice");
    world.tokens.refuse = undefined;
    world.time.offsetMs = 0;
  });

  test("leads to the provider and back to the page that was asked for", async () => {
    const { url, answer, way } = await browser.go("/lab/tree?path=a%20b", { fields: NAVIGATION });
    expect(url).toBe(`https://${HOST}/lab/tree?path=a%20b`);
    expect(answer).toMatchObject({ kind: "admitted", session: expect.any(String), cookie: undefined });
    if (answer.kind !== "admitted") return;
    expect(answer.txn?.claims.sub).toBe("okta-main|alice");
    expect(way.map((each) => new URL(each).pathname.split("/").slice(0, 3).join("/"))).toEqual([
      "/lab/tree",
      "/.countersign/login",
      "/auth",
      expect.stringMatching(/^\/interaction/),
      expect.stringMatching(/^\/auth/),
      "/.countersign/callback",
      "/lab/tree",
    ]);
    expect(browser.jar.get(HOST, SESSION)).toMatch(ID);
    const opened = world.tokens.opened.at(-1);
    expect(opened).toMatchObject({ idp: "acme", claims: { sub: "alice", aud: "gateway" } });
    expect(opened?.nonce).toBe(opened?.claims["nonce"]);
    // Of the sign-in under way nothing is left, and what browsers keep says nothing.
    expect(browser.jar.field(HOST)).not.toContain("login-");
    expect(browser.jar.field(HOST)).not.toContain("alice");
  });

  test("asks with PKCE, state, nonce and the exact address to return to", async () => {
    const begun = await browser.ask("/.countersign/login?rd=/x");
    const url = new URL(fieldOf(begun, "location") ?? "");
    expect(Object.fromEntries(url.searchParams)).toEqual({
      client_id: "gateway",
      response_type: "code",
      redirect_uri: `https://${HOST}/.countersign/callback/acme`,
      scope: "openid email profile",
      state: expect.stringMatching(ID),
      nonce: expect.stringMatching(ID),
      code_challenge: expect.stringMatching(ID),
      code_challenge_method: "S256",
    });
  });

  test("a second request needs no sign-in and no new token; without the session it is a stranger's", async () => {
    await browser.go("/lab");
    const { minted } = world.tokens;
    expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    expect(world.tokens.minted).toBe(minted);
    expect(await browserOf().ask("/lab")).toMatchObject({ kind: "answer", status: 302 });
  });

  test("each sign-in makes a new session id, and the session before is over", async () => {
    await browser.go("/lab");
    const before = browser.jar.get(HOST, SESSION) ?? "";
    await browser.go("/.countersign/login?rd=/lab");
    const after = browser.jar.get(HOST, SESSION);
    expect(after).toMatch(ID);
    expect(after).not.toBe(before);
    const thief = browserOf();
    thief.jar.put(HOST, SESSION, before);
    expect(await thief.ask("/lab")).toMatchObject({ status: 302 });
  });

  test("an id that somebody planted before is never the session's (fixation)", async () => {
    const planted = "A".repeat(43);
    browser.jar.put(HOST, SESSION, planted);
    await browser.go("/lab");
    expect(browser.jar.get(HOST, SESSION)).not.toBe(planted);
    const thief = browserOf();
    thief.jar.put(HOST, SESSION, planted);
    expect(await thief.ask("/lab")).toMatchObject({ status: 302 });
  });

  test("a mutated, a shortened and a doubled cookie are nobody's", async () => {
    await browser.go("/lab");
    const id = browser.jar.get(HOST, SESSION) ?? "";
    for (const cookie of [
      `${SESSION}=${id.slice(0, -1)}${id.endsWith("A") ? "B" : "A"}`,
      `${SESSION}=${id.slice(0, -1)}`,
      `${SESSION}=${id}; ${SESSION}=${"B".repeat(43)}`,
      `countersign=${id}`,
    ])
      expect(await browserOf().ask("/lab", { fields: { ...NAVIGATION, cookie } })).toMatchObject({
        status: 302,
      });
    // Of the four the second and the third are such as no gateway sets.
    const { headerAnomalies } = world.metrics;
    expect(headerAnomalies.read(headerAnomalies.series("cookie"))).toBe(2);
  });

  test("several tabs sign in side by side", async () => {
    browser.user = undefined;
    const [one, two] = [
      await browser.ask("/.countersign/login?rd=/one"),
      await browser.ask("/.countersign/login?rd=/two"),
    ];
    browser.user = "alice";
    for (const [begun, path] of [
      [two, "/two"],
      [one, "/one"],
    ] as const) {
      const { url, answer } = await browser.go(fieldOf(begun, "location") ?? "");
      expect(url).toBe(`https://${HOST}${path}`);
      expect(answer).toMatchObject({ kind: "admitted" });
    }
  });

  describe("a callback is refused", () => {
    /** Goes as far as the callback, which is not asked. */
    const callback = async (user = "alice"): Promise<URL> => {
      browser.user = user;
      const begun = await browser.ask("/.countersign/login?rd=/lab");
      let url = new URL(fieldOf(begun, "location") ?? "");
      const spy = new Browser(
        {
          ...world.part.people,
          authenticate: () => ({ kind: "answer", status: 299, fields: [], body: "" }),
          serve: async () => ({ kind: "answer", status: 299, fields: [], body: "" }),
          explain: () => undefined,
          onSessionEnd: () => {},
        },
        ROUTE,
        user,
      );
      url = new URL((await spy.go(url.href)).url);
      expect(url.pathname).toBe("/.countersign/callback/acme");
      return url;
    };
    const refused = async (target: string, title: string): Promise<void> => {
      const answer = await browser.ask(target);
      expect(answer).toMatchObject({ kind: "answer", status: expect.any(Number) });
      expect(textOf(answer)).toContain(`<h1>${title}</h1>`);
      expect(browser.jar.get(HOST, SESSION)).toBeUndefined();
    };
    const EXPIRED = "This sign-in has expired";
    const INVALID = "The sign-in could not be verified";

    test("that is replayed", async () => {
      const url = await callback();
      const target = url.pathname + url.search;
      const cookie = browser.jar.field(HOST) ?? "";
      expect(fieldOf(await browser.ask(target), "location")).toBe("/lab");
      const again = browserOf();
      const answer = await again.ask(target, { fields: { ...NAVIGATION, cookie } });
      expect(textOf(answer)).toContain(EXPIRED);
    });

    test("in a browser that began none (CSRF)", async () => {
      const url = await callback();
      const victim = browserOf();
      const answer = await victim.ask(url.pathname + url.search);
      expect(answer).toMatchObject({ status: 400 });
      expect(textOf(answer)).toContain(EXPIRED);
      expect(victim.jar.field(HOST)).toBeUndefined();
    });

    test("with somebody else's code and one's own state", async () => {
      const [mine, theirs] = [await callback(), await callback("mallory")];
      mine.searchParams.set("code", theirs.searchParams.get("code") ?? "");
      await refused(mine.pathname + mine.search, INVALID);
    });

    test("after its time", async () => {
      const url = await callback();
      const store = world.part.people;
      expect(store).toBeDefined();
      // The record lasts as long as the cookie: without it the callback has nothing to go by.
      for (const pair of (browser.jar.field(HOST) ?? "").split("; "))
        if (pair.includes("login-")) browser.jar.take(HOST, [`${pair.split("=")[0]}=; Max-Age=0`]);
      await refused(url.pathname + url.search, EXPIRED);
    });

    test("from another issuer (mix-up, RFC 9207)", async () => {
      const url = await callback();
      url.searchParams.set("iss", "https://evil.example");
      await refused(url.pathname + url.search, INVALID);
    });

    test("without the issuer, where the provider names itself", async () => {
      const url = await callback();
      url.searchParams.delete("iss");
      await refused(url.pathname + url.search, INVALID);
    });

    test("at another host than it began at", async () => {
      const url = await callback();
      const cookie = browser.jar.field(HOST) ?? "";
      const answer = await browser.ask(url.pathname + url.search, {
        host: "other.acme.example",
        fields: { ...NAVIGATION, cookie },
      });
      expect(textOf(answer)).toContain(INVALID);
    });

    test.each([
      ["no state", (url: URL) => url.searchParams.delete("state")],
      ["an empty state", (url: URL) => url.searchParams.set("state", "")],
      ["another state", (url: URL) => url.searchParams.set("state", "A".repeat(43))],
    ])("with %s", async (_what, change) => {
      const url = await callback();
      change(url);
      await refused(url.pathname + url.search, EXPIRED);
    });

    test.each([
      ["two codes", (url: URL) => url.searchParams.append("code", "x")],
      ["two states", (url: URL) => url.searchParams.append("state", "x")],
      ["no code", (url: URL) => url.searchParams.delete("code")],
      ["a made up code", (url: URL) => url.searchParams.set("code", "x")],
    ])("with %s", async (_what, change) => {
      const url = await callback();
      change(url);
      await refused(url.pathname + url.search, INVALID);
    });

    test("when the person or the provider declined, with a page that says so and tells nothing of the provider's text", async () => {
      const begun = await browser.ask("/.countersign/login?rd=/lab");
      const state = new URL(fieldOf(begun, "location") ?? "").searchParams.get("state");
      const query = new URLSearchParams({
        ...{ error: "access_denied", error_description: "<script>alert(1)</script>", state: state ?? "" },
        iss: world.op.issuer,
      });
      const answer = await browser.ask(`/.countersign/callback/acme?${query}`);
      expect(answer).toMatchObject({ status: 403 });
      expect(textOf(answer)).toContain("You were not signed in");
      expect(textOf(answer)).not.toContain("script");
      expect(world.logged.at(-1)).toContain("access_denied");
      expect(world.notes.at(-1)).toMatchObject({
        ...{ action: "login", allowed: false, reason: "DECLINED", idp: "acme", status: 403 },
        request: { sourceIp: "203.0.113.7" },
        decisionId: expect.stringMatching(/^g-/),
      });
    });

    test("for a provider that the gateway does not have", async () => {
      const url = await callback();
      const answer = await browser.ask(`/.countersign/callback/other${url.search}`);
      expect(answer).toMatchObject({ status: 404 });
    });
  });

  describe("nobody is led elsewhere (open redirects)", () => {
    test.each([
      "https://evil.example/",
      "//evil.example/",
      "/\\evil.example/",
      "/%5cevil.example",
      "/\t/evil.example",
      "javascript:alert(1)",
      "\\\\evil.example",
      "/.countersign/logout",
      "/x/../.countersign/logout",
      "/%2ecountersign/logout",
      "/x\r\nset-cookie: a=b",
      "",
      `/${"a".repeat(3_000)}`,
    ])("%.40j", async (rd) => {
      const { url } = await browser.go(`/.countersign/login?${new URLSearchParams({ rd })}`);
      expect(new URL(url).host).toBe(HOST);
      expect(new URL(url).pathname).toBe(rd === "/%5cevil.example" ? "/%5cevil.example" : "/");
    });
  });

  test("who goes in circles is told, and may start over", async () => {
    for (let i = 0; i < 5; i++) await browser.go("/.countersign/login");
    const answer = await browser.ask("/.countersign/login?rd=/lab");
    expect(textOf(answer)).toContain("Signing in goes round in circles");
    expect(textOf(answer)).toContain('href="/.countersign/login?rd=%2Flab"');
    expect(fieldOf(await browser.ask("/.countersign/login?rd=/lab"), "location")).toContain(world.op.issuer);
  });

  test("a page for the token service's refusal, and none of its words", async () => {
    world.tokens.refuse = { reason: "TOKEN_INVALID", detail: "inner words", isTemporary: false };
    const { answer } = await browser.go("/lab");
    expect(answer).toMatchObject({ status: 403 });
    expect(textOf(answer)).toContain("This account may not sign in here");
    expect(textOf(answer)).not.toContain("inner words");
    const [, reference] = /<code>(g-[0-9a-f]+)<\/code>/.exec(textOf(answer)) ?? [];
    expect(world.logged.at(-1)).toContain(reference);
  });

  test("a token service that is away is nobody's fault", async () => {
    world.tokens.refuse = { reason: "UNAVAILABLE", detail: "away", isTemporary: true };
    const { answer } = await browser.go("/lab");
    expect(answer).toMatchObject({ status: 503 });
    expect(textOf(answer)).toContain("You are not doing anything wrong");
  });

  test("the client secret is read with each sign-in", async () => {
    const file = join(world.secretsDir, "oidc", "client-secret");
    writeFileSync(file, "another");
    expect(textOf((await browser.go("/lab")).answer)).toContain("could not be verified");
    rmSync(file);
    const { answer } = await browser.go("/lab");
    expect(textOf(answer)).toContain("Your sign-in service does not answer");
    expect(world.logged.at(-1)).toContain("there is no such file");
    writeFileSync(file, SECRET);
    expect((await browser.go("/lab")).answer).toMatchObject({ kind: "admitted" });
  });

  test("what became of sign-ins is counted", () => {
    const { logins } = world.metrics;
    for (const result of ["ok", "no_attempt", "declined", "invalid", "refused", "mesh_down", "provider_down"])
      expect([result, logins.read(logins.series("acme", result))]).toEqual([result, expect.any(Number)]);
    expect(logins.read(logins.series("acme", "ok"))).toBeGreaterThan(10);
    expect(logins.read(logins.series("acme", "refused"))).toBe(1);
    expect(logins.read(logins.series("", "in_circles"))).toBe(1);
  });
});

describe("several identity providers", () => {
  let world: LoginTest;
  beforeAll(async () => {
    world = await startLogin({
      idps: (issuer) => [
        idpOf("acme", issuer),
        idpOf("partner", "http://127.0.0.1:9/", { displayName: "Partner <b>&</b> Co" }),
      ],
    });
  });
  afterAll(() => world?.close());

  test("are offered, escaped, and each link begins its own sign-in", async () => {
    const browser = new Browser(world.part.people, ROUTE, "alice");
    const { answer, url } = await browser.go("/lab");
    expect(url).toBe(`https://${HOST}/.countersign/login?rd=%2Flab`);
    const text = textOf(answer);
    expect(text).toContain("Acme staff");
    expect(text).toContain("Partner &lt;b&gt;&amp;&lt;/b&gt; Co");
    expect(text).toContain('href="/.countersign/login?idp=acme&amp;rd=%2Flab"');
    expect((await browser.go("/.countersign/login?idp=acme&rd=/lab")).answer).toMatchObject({
      kind: "admitted",
    });
  });

  test("one that is down holds up nobody who signs in elsewhere", async () => {
    const browser = new Browser(world.part.people, ROUTE, "alice");
    expect(textOf((await browser.go("/.countersign/login?idp=partner")).answer)).toContain("does not answer");
    expect((await browser.go("/.countersign/login?idp=acme&rd=/lab")).answer).toMatchObject({
      kind: "admitted",
    });
  });

  test("a callback at the other one's address is a mix-up", async () => {
    const browser = new Browser(world.part.people, ROUTE, "alice");
    const begun = await browser.ask("/.countersign/login?idp=acme");
    const state = new URL(fieldOf(begun, "location") ?? "").searchParams.get("state") ?? "";
    const answer = await browser.ask(
      `/.countersign/callback/partner?${new URLSearchParams({ code: "x", state })}`,
    );
    expect(textOf(answer)).toContain("could not be verified");
  });
});
