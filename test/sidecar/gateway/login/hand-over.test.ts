// One sign-in for many hosts, and what somebody may try with it.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { challengeOf } from "../../../../sidecar/core/gateway/client-login.ts";
import { loginHostFor } from "../../../../sidecar/gateway/login/hand-over.ts";
import { Browser, fieldOf, HOST, NAVIGATION } from "./browser.ts";
import { gatewayOf, type LoginTest, ROUTE, startLogin } from "./world.ts";

/** The only one that the provider knows. */
const LOGIN = HOST;
const A = "alice.nb.acme.example";
const B = "bob.nb.acme.example";
const SESSION = "__Host-countersign";
const VERIFIER = "v".repeat(43);
const STATE = "s".repeat(43);

describe("signed in at one host", () => {
  let world: LoginTest;
  let browser: Browser;
  const browserOf = (user?: string): Browser => new Browser(world.part.people, ROUTE, user);
  const handOver = (more: Readonly<Record<string, string>> = {}): string =>
    `/.countersign/hand-over?${new URLSearchParams({ to: A, state: STATE, challenge: challengeOf(VERIFIER), ...more })}`;
  /** Where a host sends a browser that is to sign in, and what then comes back for it. */
  const begin = async (who: Browser, host = A, target = "/lab"): Promise<URL> =>
    new URL(fieldOf(await who.ask(`/.countersign/login?rd=${target}`, { host }), "location") ?? "");
  const answered = async (who: Browser, asked: URL): Promise<URL> =>
    new URL(fieldOf(await who.ask(asked.pathname + asked.search, { host: asked.host }), "location") ?? "");
  const come = (who: Browser, to: URL, host = to.host) => who.ask(to.pathname + to.search, { host });

  beforeAll(async () => {
    const { session, listeners } = gatewayOf([]);
    const [listener] = listeners;
    if (listener === undefined) throw new Error("no listener");
    world = await startLogin({
      gateway: {
        session: { ...session, loginHost: LOGIN },
        listeners: [{ ...listener, hosts: [LOGIN, "*.nb.acme.example"] }],
      },
    });
  });
  afterAll(() => world?.close());
  beforeEach(() => {
    world.tokens.refuse = undefined;
    world.time.offsetMs = 0;
    browser = browserOf("alice");
  });

  test("a person is known at the others, the provider asked once, by an address that it knows", async () => {
    const first = await browser.go("/lab?x=1", { host: A });
    expect(first).toMatchObject({ url: `https://${A}/lab?x=1`, answer: { kind: "admitted" } });
    expect(first.way.map((each) => new URL(each).host)).toContain(LOGIN);
    const { length } = world.op.asked;
    const second = await browser.go("/tree", { host: B });
    expect(second).toMatchObject({ url: `https://${B}/tree`, answer: { kind: "admitted" } });
    expect(world.op.asked).toHaveLength(length);
    // Nothing but the session is left in the browser, and no cookie is one for other hosts.
    for (const host of [A, B]) expect(browser.jar.field(host)).not.toContain("hand-");
  });

  test("signing out anywhere is signing out everywhere", async () => {
    await browser.go("/lab", { host: A });
    await browser.go("/lab", { host: B });
    const answer = await browser.ask("/.countersign/logout", {
      ...{ method: "POST", host: A, fields: { origin: `https://${A}` } },
    });
    const there = new URL(fieldOf(answer, "location") ?? "");
    expect(there.searchParams.get("post_logout_redirect_uri")).toBe(
      `https://${LOGIN}/.countersign/signed-out`,
    );
    for (const host of [A, B, LOGIN])
      expect(await browser.ask("/lab", { host, fields: { accept: "application/json" } })).toMatchObject({
        status: 401,
      });
  });

  test("a stronger sign-in is asked for at the login host, and counts where it was needed", async () => {
    const route = { ...ROUTE, stepUp: { acr: "gold", maxAgeSeconds: undefined } };
    await browser.go("/lab", { host: A });
    const answer = await browser.ask("/lab", { host: A, route });
    const login = fieldOf(answer, "location") ?? "";
    expect(login).toContain("acr=gold");
    const asked = new URL(fieldOf(await browser.ask(login, { host: A }), "location") ?? "");
    expect(asked.searchParams.get("acr")).toBe("gold");
    const there =
      fieldOf(await browser.ask(asked.pathname + asked.search, { host: LOGIN }), "location") ?? "";
    expect(there).toMatch(/^\/\.countersign\/login\?.*acr=gold/);
  });

  test("login CSRF: an attacker's code is worth nothing in another browser, nor to the attacker then", async () => {
    const mallory = browserOf("mallory");
    await mallory.go("/lab", { host: A });
    const mine = await answered(mallory, await begin(mallory, B));
    const victim = browserOf();
    expect(await come(victim, mine)).toMatchObject({ status: 400 });
    expect(victim.jar.get(B, SESSION)).toBeUndefined();
    // Also when the victim has a sign-in of their own under way.
    const other = await answered(mallory, await begin(mallory, B));
    const theirs = await begin(victim, B);
    other.searchParams.set("state", theirs.searchParams.get("state") ?? "");
    expect(await come(victim, other)).toMatchObject({ status: 400 });
    expect(victim.jar.get(B, SESSION)).toBeUndefined();
    expect(await come(mallory, mine)).toMatchObject({ status: 400 });
  });

  test("code injection: a stolen code does not fit into another sign-in", async () => {
    await browser.go("/lab", { host: LOGIN });
    const stolen = await answered(browser, await begin(browser));
    const thief = browserOf();
    const own = await begin(thief);
    stolen.searchParams.set("state", own.searchParams.get("state") ?? "");
    expect(await come(thief, stolen)).toMatchObject({ status: 400 });
    expect(thief.jar.get(A, SESSION)).toBeUndefined();
    // It was burnt.
    const late = new URL(stolen);
    late.searchParams.set("state", (await begin(browser)).searchParams.get("state") ?? "");
    expect(await come(browser, late)).toMatchObject({ status: 400 });
  });

  test("a link that somebody else made hands nothing to them", async () => {
    await browser.go("/lab", { host: LOGIN });
    // The challenge is the attacker's: what comes back goes to the gateway, in a browser that began nothing.
    const answer = await browser.ask(handOver(), { host: LOGIN, fields: NAVIGATION });
    const to = new URL(fieldOf(answer, "location") ?? "");
    expect(to.origin + to.pathname).toBe(`https://${A}/.countersign/handed-over`);
    expect(await come(browser, to)).toMatchObject({ status: 400 });
  });

  test("a code is good once, at its host, for half a minute, as long as the session is", async () => {
    await browser.go("/lab", { host: LOGIN });
    const used = await answered(browser, await begin(browser));
    expect(await come(browser, used)).toMatchObject({ status: 303 });
    expect(await come(browser, used)).toMatchObject({ status: 400 });
    const elsewhere = await answered(browser, await begin(browser));
    expect(await come(browser, elsewhere, B)).toMatchObject({ status: 400 });
    const ended = await answered(browser, await begin(browser));
    await browser.ask("/.countersign/logout", {
      ...{ method: "POST", host: LOGIN, fields: { origin: `https://${LOGIN}` } },
    });
    expect(await come(browser, ended)).toMatchObject({ status: 400 });
  });

  test("fixation: the session of the login host is a new one with each sign-in, and an old one is not handed over", async () => {
    const fixed = "f".repeat(43);
    browser.jar.put(LOGIN, SESSION, fixed);
    browser.jar.put(A, SESSION, fixed);
    await browser.go("/lab", { host: A });
    expect(browser.jar.get(A, SESSION)).not.toBe(fixed);
    expect(browser.jar.get(A, SESSION)).toBe(browser.jar.get(LOGIN, SESSION));
  });

  test.each<[string, Readonly<Record<string, string>>, string]>([
    ["a host that is not the gateway's", { to: "evil.example" }, LOGIN],
    ["a port of somebody else", { to: `${A}:8444` }, LOGIN],
    ["user information", { to: `${A}@evil.example` }, LOGIN],
    ["a path", { to: `${A}/x` }, LOGIN],
    ["a deeper name than the wildcard's", { to: `x.${A}` }, LOGIN],
    ["the login host itself", { to: LOGIN }, LOGIN],
    ["nothing", { to: "" }, LOGIN],
    ["a state that is none", { state: "x" }, LOGIN],
    ["no challenge", { challenge: "" }, LOGIN],
    ["another host than the login host", { to: B }, A],
  ])("no code for %s", async (_, more, host) => {
    await browser.go("/lab", { host: LOGIN });
    await browser.go("/lab", { host: A });
    const answer = await browser.ask(handOver(more), { host });
    expect(answer).toMatchObject({ status: 400 });
    expect(fieldOf(answer, "location")).toBeUndefined();
  });

  test("the port that a client came to is kept, a link cannot choose it", async () => {
    const session = { ...gatewayOf([]).session, loginHost: LOGIN };
    expect(loginHostFor({ session }, `${A}:8443`)).toBe(`${LOGIN}:8443`);
    expect(loginHostFor({ session }, A)).toBe(LOGIN);
    expect(loginHostFor({ session }, `${LOGIN.toUpperCase()}:8443`)).toBeUndefined();
    expect(loginHostFor({ session: { ...session, loginHost: undefined } }, A)).toBeUndefined();
  });
});
