// A program's token: given by a click alone, to the program that asked, once; and what it is worth.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { CLIENT_ID, challengeOf, checkOf } from "../../../../sidecar/core/gateway/client-login.ts";
import { Browser, fieldOf, HOST, NAVIGATION, textOf } from "./browser.ts";
import { type LoginTest, ROUTE, startLogin } from "./world.ts";

const VERIFIER = "v".repeat(43);
const CALLBACK = "http://127.0.0.1:43210/callback";
const ASKED: Readonly<Record<string, string>> = {
  response_type: "code",
  client_id: CLIENT_ID,
  redirect_uri: CALLBACK,
  code_challenge: challengeOf(VERIFIER),
  code_challenge_method: "S256",
  state: "s".repeat(32),
};
const FORM = { "content-type": "application/x-www-form-urlencoded" };
const OWN_PAGE = { ...FORM, origin: `https://${HOST}` };

describe("a token for a program", () => {
  let world: LoginTest;
  let alice: Browser;
  const post = (path: string, form: Readonly<Record<string, string>>, fields = OWN_PAGE, browser = alice) =>
    browser.ask(`/.countersign/${path}`, { method: "POST", fields, body: String(new URLSearchParams(form)) });
  const address = (asked = ASKED): string => `/.countersign/authorize?${new URLSearchParams(asked)}`;
  /** A code as the person's click makes one. */
  const consent = async (): Promise<string> => {
    const to = new URL(fieldOf(await post("authorize", ASKED), "location") ?? "");
    expect(to.origin + to.pathname).toBe(CALLBACK);
    expect(to.searchParams.get("state")).toBe(ASKED["state"]);
    return to.searchParams.get("code") ?? "";
  };
  const redeem = async (code: string, more: Readonly<Record<string, string>> = {}) =>
    await post(
      "token",
      {
        grant_type: "authorization_code",
        client_id: CLIENT_ID,
        ...{ code, code_verifier: VERIFIER, redirect_uri: CALLBACK, ...more },
      },
      FORM as typeof OWN_PAGE,
      new Browser(world.part.people, ROUTE),
    );
  const tokenOf = async (): Promise<string> => JSON.parse(textOf(await redeem(await consent()))).access_token;
  const call = (token: string, route = ROUTE, fields: Readonly<Record<string, string>> = {}) =>
    new Browser(world.part.people, route).ask("/api", {
      fields: { authorization: `Bearer ${token}`, accept: "application/json", ...fields },
    });

  beforeAll(async () => {
    world = await startLogin();
  });
  afterAll(() => world?.close());
  beforeEach(async () => {
    world.tokens.refuse = undefined;
    world.time.offsetMs = 0;
    alice = new Browser(world.part.people, ROUTE, "alice");
    await alice.go("/lab");
  });

  test("who is not signed in signs in first, and comes back to the question", async () => {
    const { url, answer } = await new Browser(world.part.people, ROUTE, "bob").go(address());
    expect(url).toBe(`https://${HOST}${address()}`);
    expect(textOf(answer)).toContain("bob@acme.example");
    expect(textOf(answer)).toContain("port 43210");
    expect(textOf(answer)).toContain(checkOf(challengeOf(VERIFIER)));
    expect(fieldOf(answer, "content-security-policy")).toContain(
      "form-action 'self' http://127.0.0.1:43210;",
    );
    expect(fieldOf(answer, "x-frame-options")).toBe("DENY");
  });

  test("is given to who has the verifier, once, and lets them in wherever their person may go", async () => {
    const code = await consent();
    const given = JSON.parse(textOf(await redeem(code)));
    expect(given).toMatchObject({ token_type: "Bearer", expires_in: 3600, user: "acme|alice" });
    for (const access of ["Login", "Bearer", "LoginOrBearer"] as const)
      expect(await call(given.access_token, { ...ROUTE, access })).toMatchObject({ kind: "admitted" });
    const again = await redeem(code);
    expect([again.kind === "answer" && again.status, JSON.parse(textOf(again)).error]).toEqual([
      400,
      "invalid_grant",
    ]);
  });

  test.each<[string, Readonly<Record<string, string>>]>([
    ["another verifier", { code_verifier: "w".repeat(43) }],
    ["no verifier", { code_verifier: "" }],
    ["the challenge as verifier", { code_verifier: challengeOf(VERIFIER) }],
    ["another address", { redirect_uri: "http://127.0.0.1:43211/callback" }],
    ["another grant", { grant_type: "password" }],
  ])("not with %s, and the code is spent by trying", async (name, more) => {
    const code = await consent();
    expect(await redeem(code, more)).toMatchObject({ status: 400 });
    if (name !== "another grant") expect(await redeem(code)).toMatchObject({ status: 400 });
  });

  test("not at another host than the one that asked", async () => {
    const code = await consent();
    const form = { grant_type: "authorization_code", code, code_verifier: VERIFIER, redirect_uri: CALLBACK };
    const answer = await alice.ask("/.countersign/token", {
      ...{
        method: "POST",
        host: "other.acme.example",
        fields: FORM,
        body: String(new URLSearchParams(form)),
      },
    });
    expect(answer).toMatchObject({ status: 400 });
  });

  test("not with a code of a session that has ended, nor with one that was never given", async () => {
    const code = await consent();
    await post("logout", {});
    expect(await redeem(code)).toMatchObject({ status: 400 });
    expect(await redeem("")).toMatchObject({ status: 400 });
    expect(await redeem("c".repeat(43))).toMatchObject({ status: 400 });
  });

  test.each<[string, Readonly<Record<string, string>>]>([
    ["another page's form", { ...FORM, origin: "https://evil.example", "sec-fetch-site": "cross-site" }],
    ["a sandboxed page's form", { ...FORM, origin: "null", "sec-fetch-site": "cross-site" }],
    ["a form of who knows what", { ...FORM }],
    [
      "a sibling host's form",
      { ...FORM, origin: "https://evil.acme.example", "sec-fetch-site": "same-site" },
    ],
    ["a page on the loopback address", { ...FORM, origin: "http://127.0.0.1:43210" }],
  ])("never without the person's click: %s", async (_, fields) => {
    const answer = await post("authorize", ASKED, fields as typeof OWN_PAGE);
    expect(answer).toMatchObject({ status: 403 });
    expect(fieldOf(answer, "location")).toBeUndefined();
  });

  test("a click of who is not signed in, or a GET that says yes, gives nothing", async () => {
    const stranger = new Browser(world.part.people, ROUTE);
    expect(fieldOf(await post("authorize", ASKED, OWN_PAGE, stranger), "location")).toMatch(
      /^\/\.countersign\/login\?/,
    );
    const page = await alice.ask(`${address()}&decision=allow`, { fields: NAVIGATION });
    expect([page.kind === "answer" && page.status, fieldOf(page, "location")]).toEqual([200, undefined]);
  });

  test.each<[string, Readonly<Record<string, string>>]>([
    ["https", { redirect_uri: "https://127.0.0.1:43210/callback" }],
    ["a host name", { redirect_uri: "http://localhost:43210/callback" }],
    ["another address", { redirect_uri: "http://10.0.0.1:43210/callback" }],
    ["user information", { redirect_uri: "http://127.0.0.1:43210@evil.example/callback" }],
    ["another path", { redirect_uri: "http://127.0.0.1:43210/" }],
    ["a query", { redirect_uri: "http://127.0.0.1:43210/callback?x=1" }],
    ["a system's port", { redirect_uri: "http://127.0.0.1:1023/callback" }],
    ["no such port", { redirect_uri: "http://127.0.0.1:70000/callback" }],
    ["another client", { client_id: "evil" }],
    ["the plain method", { code_challenge_method: "plain" }],
    ["no challenge", { code_challenge: "" }],
    ["markup in the state", { state: '"><script>alert(1)</script>' }],
    ["another response type", { response_type: "token" }],
  ])("no question is asked, and nobody is sent anywhere, for %s", async (_, more) => {
    const answer = await alice.ask(address({ ...ASKED, ...more }), { fields: NAVIGATION });
    expect(answer).toMatchObject({ status: 400 });
    expect(fieldOf(answer, "location")).toBeUndefined();
    expect(textOf(answer)).not.toContain("<script");
    const twice = new URLSearchParams([...Object.entries(ASKED), ...Object.entries(more)]);
    expect(await alice.ask(`/.countersign/authorize?${twice}`, { fields: NAVIGATION })).toMatchObject({
      status: 400,
    });
  });

  test("lasts an hour at most, and no longer than the session", async () => {
    const token = await tokenOf();
    world.time.offsetMs = 3_599_000;
    await alice.ask("/lab");
    expect(await call(token)).toMatchObject({ kind: "admitted" });
    world.time.offsetMs = 3_601_000;
    expect(await call(token)).toMatchObject({ status: 401 });
  });

  test("ends with a sign-out in the browser, by revoking it, and by a new sign-in of that browser", async () => {
    const [first, second] = [await tokenOf(), await tokenOf()];
    expect(await post("revoke", { token: first }, FORM as typeof OWN_PAGE)).toMatchObject({ status: 200 });
    expect(await call(first)).toMatchObject({ status: 401 });
    expect(await call(second)).toMatchObject({ kind: "admitted" });
    // The browser's own session is none of a program's.
    expect(await alice.ask("/lab")).toMatchObject({ kind: "admitted" });
    await post("logout", {});
    expect(await call(second)).toMatchObject({ status: 401 });
    await alice.go("/lab");
    const third = await tokenOf();
    await alice.go("/.countersign/login");
    expect(await call(third)).toMatchObject({ status: 401 });
  });

  test("a token is no cookie, a cookie no token", async () => {
    const token = await tokenOf();
    const id = alice.jar.get(HOST, "__Host-countersign") ?? "";
    const thief = new Browser(world.part.people, ROUTE);
    thief.jar.put(HOST, "__Host-countersign", token);
    expect(await thief.ask("/lab", { fields: { accept: "application/json" } })).toMatchObject({
      status: 401,
    });
    for (const shown of [id, `countersign_${id}`, `${token}x`, token.toUpperCase()])
      expect(await call(shown)).toMatchObject({ status: 401 });
    // Who holds a token may not get another one by it.
    const asked = await thief.ask(address(), { fields: { ...NAVIGATION, authorization: `Bearer ${token}` } });
    expect(fieldOf(asked, "location")).toMatch(/^\/\.countersign\/login\?/);
  });

  test("is held to what a route asks of a sign-in", async () => {
    const route = { ...ROUTE, stepUp: { acr: "gold", maxAgeSeconds: undefined } };
    const answer = await call(await tokenOf(), route);
    expect([answer.kind === "answer" && answer.status, JSON.parse(textOf(answer)).reason]).toEqual([
      401,
      "STEP_UP_REQUIRED",
    ]);
  });

  test("says who it is of", async () => {
    const answer = await new Browser(world.part.people, ROUTE).ask("/.countersign/whoami", {
      fields: { authorization: `Bearer ${await tokenOf()}` },
    });
    expect(JSON.parse(textOf(answer))).toMatchObject({ signedIn: true, user: "acme|alice" });
  });
});
