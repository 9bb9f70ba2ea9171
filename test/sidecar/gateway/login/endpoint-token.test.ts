// A token for one serving endpoint: for whom the gateway knows, asked for by nobody else, and good at that endpoint alone.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { CLIENT_ID, challengeOf, TOKEN_EXCHANGE } from "../../../../sidecar/core/gateway/client-login.ts";
import { Revocations } from "../../../../sidecar/core/identity/revocations.ts";
import { Browser, fieldOf, HOST, textOf } from "./browser.ts";
import { type LoginTest, ROUTE, startLogin } from "./world.ts";

const VERIFIER = "v".repeat(43);
const CALLBACK = "http://127.0.0.1:43210/callback";
const FORM = { "content-type": "application/x-www-form-urlencoded" };
const OWN_PAGE = { ...FORM, origin: `https://${HOST}` };
const EXCHANGE = { grant_type: TOKEN_EXCHANGE.grantType, audience: "ml/scorer" };
type Form = Readonly<Record<string, string>>;

describe("a token for an endpoint", () => {
  let world: LoginTest;
  let alice: Browser;
  const ask = async (form: Form, fields: Form, browser = new Browser(world.part.people, ROUTE)) => {
    const body = String(new URLSearchParams(form));
    const answer = await browser.ask("/.countersign/token", { method: "POST", fields, body });
    return { answer, json: JSON.parse(textOf(answer)) as Record<string, unknown> };
  };
  const login = async (): Promise<string> => {
    const asked = { response_type: "code", client_id: CLIENT_ID, redirect_uri: CALLBACK };
    const challenge = { code_challenge: challengeOf(VERIFIER), code_challenge_method: "S256" };
    const body = String(new URLSearchParams({ ...asked, ...challenge, state: "s".repeat(32) }));
    const yes = await alice.ask("/.countersign/authorize", { method: "POST", fields: OWN_PAGE, body });
    const code = new URL(fieldOf(yes, "location") ?? "").searchParams.get("code") ?? "";
    const form = { code, code_verifier: VERIFIER, redirect_uri: CALLBACK };
    const { json } = await ask({ grant_type: "authorization_code", ...form }, FORM);
    return String(json["access_token"]);
  };
  const subject = (token: string): Form => ({
    ...{ subject_token: token, subject_token_type: TOKEN_EXCHANGE.accessToken },
  });

  beforeAll(async () => {
    world = await startLogin();
  });
  afterAll(() => world?.close());
  beforeEach(async () => {
    world.tokens.refuse = undefined;
    world.revocations = Revocations.none;
    world.notes.length = 0;
    world.tokens.endpointsAsked.length = 0;
    alice = new Browser(world.part.people, ROUTE, "alice");
    await alice.go("/lab");
  });

  test("is given for a token of `countersign login`, in the form or as bearer, and is written down", async () => {
    const token = await login();
    for (const [form, fields] of [
      [{ ...EXCHANGE, ...subject(token) }, FORM],
      [EXCHANGE, { ...FORM, authorization: `Bearer ${token}` }],
    ] as const) {
      const { answer, json } = await ask({ ...form, scope: "serving.invoke" }, fields);
      expect(answer).toMatchObject({ status: 200 });
      expect(fieldOf(answer, "cache-control")).toBe("no-store");
      expect(json).toEqual({
        ...{ access_token: "a.b.c", issued_token_type: TOKEN_EXCHANGE.accessToken, token_type: "Bearer" },
        ...{ expires_in: 300, scope: "serving.invoke" },
      });
    }
    expect(world.tokens.endpointsAsked[0]).toMatchObject({
      ...{ audience: "ml/scorer", scope: "serving.invoke", sid: expect.any(String) },
      handle: expect.stringMatching(/ alice$/),
    });
    expect(world.notes.filter(({ action }) => action === "token.exchange")).toMatchObject(
      [1, 2].map(() => ({ allowed: true, user: { id: "acme|alice" }, endpoint: "ml/scorer" })),
    );
    expect(world.logged.join()).not.toContain("a.b.c");
  });

  test("is given to a page of the gateway in the name of the browser's session, to no other page", async () => {
    expect((await ask(EXCHANGE, OWN_PAGE, alice)).answer).toMatchObject({ status: 200 });
    for (const fields of [
      FORM,
      { ...FORM, origin: "https://evil.example" },
      { ...FORM, origin: "https://evil.acme.example", "sec-fetch-site": "same-site" },
      { ...FORM, "sec-fetch-site": "cross-site" },
      { ...FORM, origin: "null" },
    ])
      expect((await ask(EXCHANGE, fields, alice)).answer).toMatchObject({ status: 403 });
    expect(world.tokens.endpointsAsked).toHaveLength(1);
    expect(world.notes.at(-1)).toMatchObject({ action: "token.exchange", reason: "ORIGIN_REFUSED" });
  });

  test("is given to nobody who shows nothing, something else, or what has ended", async () => {
    expect((await ask(EXCHANGE, FORM)).answer).toMatchObject({ status: 401 });
    expect((await ask(EXCHANGE, { ...OWN_PAGE, authorization: "Bearer a.b.c" }, alice)).answer).toMatchObject(
      {
        status: 401,
      },
    );
    const token = await login();
    await alice.ask("/.countersign/logout", { method: "POST", fields: OWN_PAGE });
    const { answer, json } = await ask({ ...EXCHANGE, ...subject(token) }, FORM);
    expect([answer.kind === "answer" && answer.status, json["error"]]).toEqual([400, "invalid_grant"]);
    expect(world.tokens.endpointsAsked).toEqual([]);
  });

  test.each<[string, Form, string]>([
    ["no audience", { audience: "" }, "invalid_request"],
    ["an actor", { actor_token: "x" }, "invalid_request"],
    ["a resource", { resource: "https://x.example" }, "invalid_request"],
    ["another type", { requested_token_type: "urn:ietf:params:oauth:token-type:jwt" }, "invalid_request"],
    ["a cookie's id as token", subject("A".repeat(43)), "invalid_request"],
    ["a token without its type", { subject_token: `countersign_${"A".repeat(43)}` }, "invalid_request"],
    ["a token that is nobody's", subject(`countersign_${"A".repeat(43)}`), "invalid_grant"],
  ])("is refused with %s", async (_, more, error) => {
    const { answer, json } = await ask({ ...EXCHANGE, ...more }, OWN_PAGE, alice);
    expect([answer.kind === "answer" && answer.status, json["error"]]).toEqual([400, error]);
    expect(world.tokens.endpointsAsked).toEqual([]);
  });

  test("is refused when a parameter comes twice", async () => {
    const body = `${new URLSearchParams(EXCHANGE)}&audience=ml%2Fother`;
    const answer = await alice.ask("/.countersign/token", { method: "POST", fields: OWN_PAGE, body });
    expect(answer).toMatchObject({ status: 400 });
  });

  test.each([
    ["TARGET_NOT_PERMITTED", false, 400, "invalid_target"],
    ["TARGET_UNKNOWN", false, 400, "invalid_target"],
    ["SCOPE_EXCEEDED", false, 400, "invalid_scope"],
    ["REVOKED", false, 400, "invalid_grant"],
    ["UNAVAILABLE", true, 503, "temporarily_unavailable"],
  ] as const)("says what the token service says: %s", async (reason, isTemporary, status, error) => {
    world.tokens.refuse = { reason, detail: "because", isTemporary };
    const { answer, json } = await ask(EXCHANGE, OWN_PAGE, alice);
    expect(answer).toMatchObject({ status });
    expect(json["error"]).toBe(error);
    expect(world.notes.at(-1)).toMatchObject({ action: "token.exchange", allowed: false, reason });
  });

  test("is given so often to one person, and still to the next", async () => {
    const statuses: unknown[] = [];
    const carol = new Browser(world.part.people, ROUTE, "carol");
    await carol.go("/lab");
    for (let i = 0; i < 40; i++) {
      const { answer } = await ask(EXCHANGE, OWN_PAGE, carol);
      statuses.push(answer.kind === "answer" && answer.status);
    }
    expect(statuses.slice(0, 30).every((status) => status === 200)).toBe(true);
    expect(statuses.at(-1)).toBe(429);
    const bob = new Browser(world.part.people, ROUTE, "bob");
    await bob.go("/lab");
    expect((await ask(EXCHANGE, OWN_PAGE, bob)).answer).toMatchObject({ status: 200 });
  });
});

describe("such a token as bearer", () => {
  let world: LoginTest;
  beforeAll(async () => {
    world = await startLogin();
  });
  afterAll(() => world?.close());
  const jwt = (claims: object): string => {
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    return `${part({ alg: "ES256", typ: "at+jwt" })}.${part(claims)}.c2ln`;
  };
  // In this test the service `ml/scorer` leads to the workloads whose names end so.
  const SCORER = "spiffe://lake.example/ns/ml/sa/scorer/serving/ml/scorer";
  const OURS = { iss: "https://lake.example", aud: SCORER };
  const call = (claims: object, over: Partial<typeof ROUTE> = {}) =>
    new Browser(world.part.people, {
      ...{ ...ROUTE, access: "Bearer", backend: { kind: "service", id: "ml/scorer", port: undefined } },
      ...over,
    }).ask("/v2/models/m/infer", { fields: { authorization: `Bearer ${jwt(claims)}` } });

  test("lets its person in where the address leads to its endpoint", async () => {
    for (const access of ["Bearer", "LoginOrBearer"] as const)
      expect(await call(OURS, { access })).toMatchObject({
        kind: "admitted",
        txn: { claims: { sub: "okta-main|robot" } },
      });
  });

  test.each<[string, object, Partial<typeof ROUTE>]>([
    ["another service", OURS, { backend: { kind: "service", id: "ml/other", port: undefined } }],
    ["a host outside the mesh", OURS, { backend: { kind: "external", id: "ml/scorer" } }],
    ["another endpoint's token", { ...OURS, aud: `${SCORER}2` }, {}],
    ["a token for several", { ...OURS, aud: [`${SCORER}2`, SCORER] }, {}],
    ["the token of a provider that names a workload", { iss: "IDP", aud: `${SCORER}2` }, {}],
  ])("not for %s, and nobody is asked", async (_, claims, over) => {
    const before = world.tokens.exchanged.length;
    const iss = Reflect.get(claims, "iss") === "IDP" ? world.op.issuer : Reflect.get(claims, "iss");
    const answer = await call({ ...claims, iss }, over);
    expect(answer).toMatchObject({ status: 401 });
    expect(fieldOf(answer, "www-authenticate")).toContain("invalid_token");
    expect(world.tokens.exchanged).toHaveLength(before);
  });

  test("not where one has been let in before: each address is asked about", async () => {
    expect(await call(OURS)).toMatchObject({ kind: "admitted" });
    const other = { backend: { kind: "service", id: "ml/other", port: undefined } } as const;
    expect(await call(OURS, other)).toMatchObject({ status: 401 });
  });

  test("not where people sign in by a page", async () => {
    expect(await call(OURS, { access: "Login" })).not.toMatchObject({ kind: "admitted" });
  });

  test("not once its user is revoked", async () => {
    expect(await call(OURS)).toMatchObject({ kind: "admitted" });
    world.revocations = new Revocations([
      { spiffeId: "", pod: "", user: "okta-main|robot", beforeMs: Date.now() + 60_000 },
    ]);
    expect(await call(OURS)).toMatchObject({ status: 401 });
    world.revocations = Revocations.none;
  });
});
