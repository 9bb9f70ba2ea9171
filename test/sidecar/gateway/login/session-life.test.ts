// A session from its first request to its end: who asks, how strongly they signed in, whether they still are who they
// were, and how it ends.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import type { GatewayRoute } from "../../../../sidecar/core/gateway/gateway.ts";
import { Revocations } from "../../../../sidecar/core/identity/revocations.ts";
import { txnClaims } from "../../../fakes/txn.ts";
import { Browser, fieldOf, HOST, NAVIGATION, textOf } from "./browser.ts";
import { idpOf, type LoginTest, ROUTE, startLogin } from "./world.ts";

const NOTHING_OPEN = (): boolean => false;
const SESSION = "__Host-countersign";
const API = { accept: "application/json", "sec-fetch-mode": "cors", "sec-fetch-site": "same-origin" };
const GOOD_ORIGIN = { origin: `https://${HOST}`, "sec-fetch-site": "same-origin" };

async function until(what: string, isSo: () => boolean): Promise<void> {
  for (let tries = 0; !isSo(); tries++) {
    if (tries === 9_000) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

describe("a session", () => {
  let world: LoginTest;
  let browser: Browser;

  beforeAll(async () => {
    world = await startLogin({
      idps: (issuer) => [idpOf("acme", issuer, { offlineAccess: true, stepUpAcr: "gold" })],
      refreshTokens: true,
    });
  });
  afterAll(() => world?.close());
  beforeEach(async () => {
    world.tokens.refuse = undefined;
    world.time.offsetMs = 0;
    world.revocations = Revocations.none;
    browser = new Browser(world.part.people, ROUTE, "alice");
    await browser.go("/lab");
  });

  describe("without one", () => {
    test.each([
      ["a script", { method: "GET", fields: API }],
      ["an API client", { method: "POST", fields: { accept: "*/*", origin: `https://${HOST}` } }],
      ["a WebSocket", { isUpgrade: true, fields: GOOD_ORIGIN }],
      [
        "an image",
        { fields: { "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image", accept: "text/html" } },
      ],
      ["XMLHttpRequest", { fields: { accept: "text/html", "x-requested-with": "XMLHttpRequest" } }],
    ])("%s gets 401 with the address to sign in at, no redirect", async (_who, asked) => {
      const answer = await new Browser(world.part.people, ROUTE).ask("/lab", asked);
      expect(answer).toMatchObject({ kind: "answer", status: 401 });
      expect(fieldOf(answer, "content-type")).toBe("application/problem+json");
      expect(fieldOf(answer, "www-authenticate")).toBe(
        `Bearer resource_metadata="https://${HOST}/.countersign/oauth-protected-resource"`,
      );
      expect(JSON.parse(textOf(answer))).toMatchObject({
        reason: "LOGIN_REQUIRED",
        login: `https://${HOST}/.countersign/login`,
      });
    });

    test("an old browser that asks for a page is sent to sign in", async () => {
      const answer = await new Browser(world.part.people, ROUTE).ask("/lab", {
        fields: { accept: "text/html,application/xhtml+xml" },
      });
      expect(fieldOf(answer, "location")).toBe("/.countersign/login?rd=%2Flab");
    });
  });

  describe("does nothing for pages of others", () => {
    test.each([
      ["a WebSocket of another origin", { isUpgrade: true, fields: { origin: "https://evil.example" } }],
      ["a WebSocket without an origin", { isUpgrade: true, fields: {} }],
      [
        "a WebSocket of a sibling host",
        { isUpgrade: true, fields: { origin: "https://other.acme.example" } },
      ],
      ["a POST of another origin", { method: "POST", fields: { origin: "https://evil.example" } }],
      ["a POST from a page without origin", { method: "POST", fields: { origin: "null" } }],
      ["a DELETE that says nothing", { method: "DELETE", fields: {} }],
      ["a POST of a sibling host", { method: "POST", fields: { "sec-fetch-site": "same-site" } }],
      ["a POST over plain HTTP", { method: "POST", fields: { origin: `http://${HOST}` } }],
    ])("%s", async (_what, asked) => {
      const answer = await browser.ask("/lab", asked);
      expect(answer).toMatchObject({ kind: "answer", status: 403 });
      expect(JSON.parse(textOf(answer))).toMatchObject({ reason: "ORIGIN_REFUSED" });
    });

    test.each([
      ["a WebSocket of its own", { isUpgrade: true, fields: GOOD_ORIGIN }],
      ["a POST of its own", { method: "POST", fields: { origin: `https://${HOST}` } }],
      ["a POST by Fetch Metadata alone", { method: "POST", fields: { "sec-fetch-site": "same-origin" } }],
      ["a GET from anywhere", { fields: { ...NAVIGATION, "sec-fetch-site": "cross-site" } }],
    ])("but %s passes", async (_what, asked) => {
      expect(await browser.ask("/lab", asked)).toMatchObject({ kind: "admitted" });
    });

    test("and one that the route's CORS permits", async () => {
      const route: GatewayRoute = {
        ...ROUTE,
        cors: {
          allowOrigins: ["https://ui.acme.example"],
          ...{
            allowMethods: ["POST"],
            allowHeaders: [],
            exposeHeaders: [],
            allowCredentials: true,
            maxAgeSeconds: 0,
          },
        },
      };
      const fields = { origin: "https://ui.acme.example" };
      expect(await browser.ask("/lab", { method: "POST", fields, route })).toMatchObject({
        kind: "admitted",
      });
    });
  });

  test("our cookies do not reach the application, others do", async () => {
    browser.jar.put(HOST, "_xsrf", "2|x");
    const answer = await browser.ask("/lab");
    expect(answer).toMatchObject({ kind: "admitted" });
    expect(answer.kind === "admitted" && answer.cookie).toMatch(/^_xsrf=2\|x$/);
  });

  test("a public route needs none, and still keeps our cookies", async () => {
    const route: GatewayRoute = { ...ROUTE, access: "Public" };
    const answer = await browser.ask("/health", { route });
    expect(answer).toMatchObject({ kind: "admitted", txn: undefined, session: undefined, cookie: undefined });
  });

  test("is over at its absolute end, and streams with it", async () => {
    const ended: string[] = [];
    world.part.people.onSessionEnd((sid) => ended.push(sid), NOTHING_OPEN);
    for (let hour = 1; hour < 12; hour++) {
      world.time.offsetMs = hour * 3_600_000 - 60_000 * hour;
      expect(await browser.ask("/lab", { fields: NAVIGATION })).toMatchObject({ kind: "admitted" });
    }
    world.time.offsetMs = 12 * 3_600_000;
    expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    world.part.sweep();
    expect(ended.length).toBeGreaterThan(0);
  });

  test("is kept in mind for what hangs on it, and forgotten when nothing does", async () => {
    const { people } = world.part;
    const bound = new Set<string>();
    const ended: string[] = [];
    people.onSessionEnd(
      (sid) => ended.push(sid),
      (sid) => bound.has(sid),
    );
    const sweep = (): void => {
      for (let times = 0; times < 25; times++) world.part.sweep();
    };
    const found = await browser.ask("/lab");
    const sid = found.kind === "admitted" ? (found.session ?? "") : "";
    bound.add(sid);
    sweep();
    expect(people.openSessions).toBe(1);
    bound.clear();
    world.part.sweep();
    await browser.ask("/lab");
    expect(people.openSessions).toBe(1);
    sweep();
    expect(people.openSessions).toBe(0);
    expect(ended).toEqual([]);
    expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    bound.add(sid);
    sweep();
    const user = txnClaims("alice", Date.now()).sub;
    world.revocations = new Revocations([{ spiffeId: "", pod: "", user, beforeMs: Date.now() + 3_000 }]);
    world.part.revoked();
    expect(ended).toEqual([sid]);
  });

  test("is over when nobody used it for its idle time", async () => {
    world.time.offsetMs = 3_600_001;
    expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
  });

  test("is over when the token service gives no token for it any more", async () => {
    await browser.ask("/lab");
    world.tokens.refuse = { reason: "REVOKED", detail: "", isTemporary: false };
    expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    world.tokens.refuse = undefined;
    expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
  });

  describe("that was revoked", () => {
    const revoked = (entry: { user?: string; session?: string }, beforeMs: number): Revocations =>
      new Revocations([{ spiffeId: "", pod: "", ...entry, beforeMs }]);
    const admittedSession = async (): Promise<string> => {
      const found = await browser.ask("/lab");
      return found.kind === "admitted" ? (found.session ?? "") : "";
    };

    test("ends what is open at once, and asks to sign in", async () => {
      const ended: string[] = [];
      world.part.people.onSessionEnd((sid) => ended.push(sid), NOTHING_OPEN);
      const session = await admittedSession();
      const user = txnClaims("alice", Date.now()).sub;
      world.revocations = revoked({ user: `${user}-of-another-name` }, Date.now() + 3_000);
      world.part.revoked();
      expect(ended).toEqual([]);
      world.revocations = revoked({ user }, Date.now() + 3_000);
      world.part.revoked();
      expect(ended).toContain(session);
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
      expect(await browser.ask("/lab", { fields: API })).toMatchObject({ status: 401 });
      // For good: the session itself is gone, not only its token.
      world.revocations = Revocations.none;
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    });

    test("is written down, with who, where and why", async () => {
      const session = await admittedSession();
      world.notes.splice(0);
      world.revocations = revoked({ user: txnClaims("alice", Date.now()).sub }, Date.now() + 3_000);
      world.part.revoked();
      await browser.ask("/lab");
      const ends = world.notes.filter((note) => note.session === session);
      expect(ends).toMatchObject([
        { action: "session.end", allowed: false, reason: "REVOKED", user: { id: "okta-main|alice" } },
        { action: "session.end", reason: "REVOKED", user: { id: "acme|alice" }, request: { target: "/lab" } },
      ]);
    });

    test("before its token was looked at again", async () => {
      await admittedSession();
      world.revocations = revoked({ user: txnClaims("alice", Date.now()).sub }, Date.now() + 3_000);
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    });

    test("before, ends nothing of who signed in since", async () => {
      await admittedSession();
      world.revocations = revoked({ user: txnClaims("alice", Date.now()).sub }, Date.now() - 60_000);
      world.part.revoked();
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    });
  });

  test("a token service that is away ends nothing", async () => {
    world.tokens.refuse = { reason: "UNAVAILABLE", detail: "away", isTemporary: true };
    const answer = await browser.ask("/lab");
    expect(answer).toMatchObject({ status: 503 });
    expect(fieldOf(answer, "retry-after")).toBe("2");
    expect(await browser.ask("/lab", { fields: API })).toMatchObject({ status: 503 });
    world.tokens.refuse = undefined;
    expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
  });

  describe("stays alive", () => {
    const refreshes = (): number => world.op.asked.filter((each) => each === "POST /token").length;

    test("by one silent refresh, however many requests come at once", async () => {
      const before = [refreshes(), world.tokens.refreshed.length];
      world.time.offsetMs = 120_000;
      const answers = await Promise.all(Array.from({ length: 20 }, () => browser.ask("/lab")));
      for (const answer of answers) expect(answer).toMatchObject({ kind: "admitted" });
      await until("the refresh", () => world.tokens.refreshed.length !== before[1]);
      expect(refreshes()).toBe((before[0] ?? 0) + 1);
      expect(world.tokens.refreshed.length).toBe((before[1] ?? 0) + 1);
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    });

    test("when an answer with new tokens is lost, for an hour; the refresh token is not good twice", async () => {
      world.op.beforeTokens = (socket) => void socket.destroy();
      world.time.offsetMs = 120_000;
      const before = refreshes();
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
      const wasLogged = (event: string) => world.logged.some((line) => line.startsWith(event));
      await until("the answer that is lost", () => wasLogged("session not refreshed"));
      world.op.beforeTokens = undefined;
      world.time.offsetMs = 240_000;
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
      await until("the refusal", () => wasLogged("refresh token lost, session goes on without"));
      world.time.offsetMs = 240_000 + 3_500_000;
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
      expect(refreshes()).toBe(before + 2);
      world.time.offsetMs = 240_000 + 3_700_000;
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    });

    test("not when the provider has ended it", async () => {
      // The account is gone: the provider refuses the refresh token.
      world.op.gone.add("alice");
      world.time.offsetMs = 200_000;
      const ended: string[] = [];
      world.part.people.onSessionEnd((sid) => ended.push(sid), NOTHING_OPEN);
      await browser.ask("/lab");
      await until("its end", () => ended.length > 0);
      world.op.gone.delete("alice");
      expect(ended.length).toBe(1);
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    });
  });

  describe("that is too weak", () => {
    const strong: GatewayRoute = { ...ROUTE, stepUp: { acr: undefined, maxAgeSeconds: undefined } };
    const fresh: GatewayRoute = { ...ROUTE, stepUp: { acr: undefined, maxAgeSeconds: 300 } };

    test("is sent to sign in more strongly; a script is told how", async () => {
      const page = await browser.ask("/admin", { route: strong });
      expect(fieldOf(page, "location")).toBe("/.countersign/login?idp=acme&rd=%2Fadmin&acr=gold");
      const script = await browser.ask("/admin", { route: strong, fields: API });
      expect(script).toMatchObject({ status: 401 });
      expect(fieldOf(script, "www-authenticate")).toContain(
        'error="insufficient_user_authentication", acr_values="gold"',
      );
      expect(JSON.parse(textOf(script))).toMatchObject({ reason: "STEP_UP_REQUIRED" });
    });

    test("asks the provider for what is missing, and does not take less", async () => {
      const begun = await browser.ask("/.countersign/login?idp=acme&rd=/admin&acr=gold&max_age=300");
      const url = new URL(fieldOf(begun, "location") ?? "");
      expect(url.searchParams.get("acr_values")).toBe("gold");
      expect(url.searchParams.get("max_age")).toBe("300");
      // This provider signs people in, but knows no second factor.
      const { answer } = await browser.go(url.href);
      expect(textOf(answer)).toContain("A stronger sign-in is needed");
    });

    test("passes where it is fresh enough, until it is not", async () => {
      await browser.go("/.countersign/login?rd=/lab&max_age=300");
      expect(await browser.ask("/lab", { route: fresh })).toMatchObject({ kind: "admitted" });
      world.time.offsetMs = 600_000;
      const answer = await browser.ask("/lab", { route: fresh });
      expect(fieldOf(answer, "location")).toContain("max_age=300");
    });
  });

  describe("ends by the person", () => {
    test("who is asked first", async () => {
      const page = textOf(await browser.ask("/.countersign/logout"));
      expect(page).toContain("alice@acme.example");
      expect(page).toContain('<form method="post" action="/.countersign/logout">');
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    });

    test("here, in the mesh and at the provider", async () => {
      const ended: string[] = [];
      world.part.people.onSessionEnd((sid) => ended.push(sid), NOTHING_OPEN);
      const before = world.tokens.ended.length;
      const answer = await browser.ask("/.countersign/logout", {
        method: "POST",
        fields: { origin: `https://${HOST}` },
      });
      expect(answer).toMatchObject({ status: 303 });
      const to = new URL(fieldOf(answer, "location") ?? "");
      expect(to.origin).toBe(world.op.issuer);
      expect(to.searchParams.get("post_logout_redirect_uri")).toBe(`https://${HOST}/.countersign/signed-out`);
      expect(to.searchParams.get("id_token_hint")).toMatch(/^ey/);
      expect(world.tokens.ended.length).toBe(before + 1);
      expect(ended.length).toBe(1);
      expect(world.notes.at(-1)).toMatchObject({
        ...{ action: "logout", allowed: true, user: { id: "acme|alice" }, idp: "acme", session: ended[0] },
      });
      expect(browser.jar.get(HOST, SESSION)).toBeUndefined();
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    });

    test("never by somebody else's page", async () => {
      const answer = await browser.ask("/.countersign/logout", {
        method: "POST",
        fields: { origin: "https://evil.example" },
      });
      expect(answer).toMatchObject({ status: 403 });
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    });
  });

  describe("ends by the provider", () => {
    const sidOf = (): string => String(world.tokens.opened.at(-1)?.claims["sid"]);
    const tokenWith = (claims: object): string =>
      `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.sig`;

    test("through the back channel, once the token service has verified the token", async () => {
      const body = new URLSearchParams({
        logout_token: tokenWith({ sub: "alice", sid: sidOf() }),
      }).toString();
      const fields = { "content-type": "application/x-www-form-urlencoded" };
      const answer = await new Browser(world.part.people, ROUTE).ask(
        "/.countersign/backchannel-logout/acme",
        {
          ...{ method: "POST", fields, body },
        },
      );
      expect(answer).toMatchObject({ status: 200 });
      expect(world.tokens.ended.at(-1)).toMatchObject({ idp: "acme", logoutToken: expect.any(String) });
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    });

    test("of all sessions of a person", async () => {
      const other = new Browser(world.part.people, ROUTE, "alice");
      await other.go("/lab");
      const body = new URLSearchParams({ logout_token: tokenWith({ sub: "alice" }) }).toString();
      const fields = { "content-type": "application/x-www-form-urlencoded" };
      await browser.ask("/.countersign/backchannel-logout/acme", { method: "POST", fields, body });
      for (const each of [browser, other]) expect(await each.ask("/lab")).toMatchObject({ status: 302 });
    });

    test.each([
      ["a GET", { method: "GET" }],
      ["no token", { method: "POST", body: "x=1" }],
      ["two tokens", { method: "POST", body: "logout_token=a&logout_token=b" }],
      [
        "JSON",
        { method: "POST", body: '{"logout_token":"a"}', fields: { "content-type": "application/json" } },
      ],
    ])("not by %s", async (_what, asked) => {
      const before = world.tokens.ended.length;
      const fields = { "content-type": "application/x-www-form-urlencoded" };
      const answer = await browser.ask("/.countersign/backchannel-logout/acme", { fields, ...asked });
      expect(answer).toMatchObject({ status: 400 });
      expect(world.tokens.ended.length).toBe(before);
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    });

    test("not by a token that the token service refuses", async () => {
      const { endSession } = world.tokens;
      world.tokens.endSession = async () =>
        ({ ok: false, error: { reason: "TOKEN_INVALID", detail: "", isTemporary: false } }) as never;
      const body = new URLSearchParams({ logout_token: tokenWith({ sub: "alice" }) }).toString();
      const fields = { "content-type": "application/x-www-form-urlencoded" };
      const answer = await browser.ask("/.countersign/backchannel-logout/acme", {
        method: "POST",
        fields,
        body,
      });
      world.tokens.endSession = endSession;
      expect(answer).toMatchObject({ status: 400 });
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    });

    test("through the browser's frame", async () => {
      const query = new URLSearchParams({ iss: world.op.issuer, sid: sidOf() });
      const frame = new Browser(world.part.people, ROUTE);
      const answer = await frame.ask(`/.countersign/frontchannel-logout/acme?${query}`);
      expect(answer).toMatchObject({ status: 200, body: "" });
      expect(fieldOf(answer, "content-security-policy")).toBe(
        `default-src 'none'; frame-ancestors ${world.op.issuer}`,
      );
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
      // In the mesh, too; and once, however often it is asked.
      const named = { idp: "acme", idpSid: query.get("sid") };
      expect(world.tokens.ended.filter((each) => "idpSid" in each)).toEqual([named]);
      for (const sid of [named.idpSid ?? "", "one that was never here"])
        expect(
          await frame.ask(
            `/.countersign/frontchannel-logout/acme?${new URLSearchParams({ iss: world.op.issuer, sid })}`,
          ),
        ).toMatchObject({ status: 200, body: "" });
      expect(world.tokens.ended.filter((each) => "idpSid" in each)).toEqual([named]);
    });

    test("through the browser's frame, also when the mesh cannot be told", async () => {
      const { endSession } = world.tokens;
      world.tokens.endSession = async () =>
        ({ ok: false, error: { reason: "UNAVAILABLE", detail: "away", isTemporary: true } }) as never;
      const query = new URLSearchParams({ iss: world.op.issuer, sid: sidOf() });
      const answer = await browser.ask(`/.countersign/frontchannel-logout/acme?${query}`);
      world.tokens.endSession = endSession;
      expect(answer).toMatchObject({ status: 200 });
      expect(world.logged.join("\n")).toContain("session not revoked in the mesh");
      expect(await browser.ask("/lab")).toMatchObject({ status: 302 });
    });

    test.each([
      ["another issuer", (sid: string) => ({ iss: "https://evil.example", sid })],
      ["no session", () => ({ iss: world.op.issuer })],
    ])("not through a frame with %s", async (_what, parameters) => {
      const query = new URLSearchParams(parameters(sidOf()) as Record<string, string>);
      expect(await browser.ask(`/.countersign/frontchannel-logout/acme?${query}`)).toMatchObject({
        status: 400,
      });
      expect(await browser.ask("/lab")).toMatchObject({ kind: "admitted" });
    });
  });

  test("tells who it is", async () => {
    expect(JSON.parse(textOf(await browser.ask("/.countersign/whoami", { fields: API })))).toMatchObject({
      ...{
        signedIn: true,
        user: "acme|alice",
        email: "alice@acme.example",
        roles: ["fraud-ds"],
        idp: "acme",
      },
      logout: `https://${HOST}/.countersign/logout`,
    });
    const stranger = await new Browser(world.part.people, ROUTE).ask("/.countersign/whoami", { fields: API });
    expect(JSON.parse(textOf(stranger))).toEqual({
      signedIn: false,
      login: `https://${HOST}/.countersign/login`,
    });
  });
});

describe("a caller with an access token", () => {
  let world: LoginTest;
  beforeAll(async () => {
    world = await startLogin();
  });
  afterAll(() => world?.close());
  beforeEach(() => {
    world.tokens.refuse = undefined;
  });

  const route: GatewayRoute = { ...ROUTE, access: "LoginOrBearer" };
  const jwt = (claims: object): string =>
    `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.c2ln`;
  const ask = (token: string, on = route) =>
    new Browser(world.part.people, on).ask("/api", {
      method: "POST",
      fields: { authorization: `Bearer ${token}` },
    });

  test("is exchanged once", async () => {
    const token = jwt({ iss: world.op.issuer, n: 1 });
    for (let i = 0; i < 3; i++)
      expect(await ask(token)).toMatchObject({
        kind: "admitted",
        session: undefined,
        txn: { claims: { sub: "okta-main|robot" } },
      });
    expect(world.tokens.exchanged).toEqual([token]);
  });

  test.each([
    ["of an issuer that is none of ours", () => jwt({ iss: "https://evil.example" })],
    ["that is no JWT", () => "abc"],
    ["with four parts", () => `${jwt({ iss: world.op.issuer })}.x`],
    ["with padding", () => `${jwt({ iss: world.op.issuer })}=`],
    ["without an issuer", () => jwt({})],
    ["that is too long", () => jwt({ iss: world.op.issuer, pad: "x".repeat(9_000) })],
    ["whose payload is no JSON", () => "e30.eHg.c2ln"],
  ])("%s is refused without asking anybody", async (_what, token) => {
    const before = world.tokens.exchanged.length;
    const answer = await ask(token());
    expect(answer).toMatchObject({ kind: "answer", status: 401 });
    expect(fieldOf(answer, "www-authenticate")).toMatch(/^Bearer error="invalid_token", resource_metadata="/);
    expect(world.tokens.exchanged.length).toBe(before);
  });

  test("that the token service refuses gets 401, and 503 when it is away", async () => {
    world.tokens.refuse = { reason: "TOKEN_INVALID", detail: "expired", isTemporary: false };
    expect(await ask(jwt({ iss: world.op.issuer, n: 2 }))).toMatchObject({ status: 401 });
    world.tokens.refuse = { reason: "UNAVAILABLE", detail: "away", isTemporary: true };
    expect(await ask(jwt({ iss: world.op.issuer, n: 3 }))).toMatchObject({ status: 503 });
  });

  test("is not looked at where people alone come", async () => {
    expect(await ask(jwt({ iss: world.op.issuer, n: 1 }), ROUTE)).toMatchObject({ status: 401 });
  });

  test("is the only way where routes ask for it", async () => {
    const answer = await new Browser(world.part.people, { ...ROUTE, access: "Bearer" }).ask("/api");
    expect(answer).toMatchObject({ status: 401 });
    expect(JSON.parse(textOf(answer))).not.toHaveProperty("login");
  });

  test("finds where tokens come from (RFC 9728)", async () => {
    const answer = await new Browser(world.part.people, ROUTE).ask("/.countersign/oauth-protected-resource");
    expect(JSON.parse(textOf(answer))).toEqual({
      ...{ resource: `https://${HOST}/`, authorization_servers: [world.op.issuer] },
      bearer_methods_supported: ["header"],
    });
  });
});
