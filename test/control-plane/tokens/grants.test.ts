// Tokens on demand: for sessions, for foreign tokens, for the user that a pod acts for; never more than the subject had.
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { createLocalJWKSet, jwtVerify } from "jose";
import type { TokenCaller } from "../../../control-plane/tokens/caller.ts";
import { GRANT_TYPE, Grants, SESSION_TOKEN, type TokenAnswer } from "../../../control-plane/tokens/grants.ts";
import { discoveryDocument, publicJwks } from "../../../control-plane/tokens/published-keys.ts";
import { Sessions } from "../../../control-plane/tokens/sessions.ts";
import type { AuditNote } from "../../../control-plane/tokens/token-service.ts";
import { holdTxn } from "../../../sidecar/core/identity/held-txn.ts";
import type { TxnClaims } from "../../../sidecar/core/identity/txn.ts";
import { must } from "../../fakes/authority.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { forgedJwt, signingKey, signJwt } from "../../fakes/idp.ts";
import {
  callerOf,
  createTestTokenService,
  IDP,
  identityProvider,
  idOf,
  PEOPLE,
  type TestTokenService,
  TRUST_DOMAIN,
} from "../../fakes/token-service.ts";

const KEY = signingKey("k1");
const TYPE = (name: string): string => `urn:ietf:params:oauth:token-type:${name}`;
let clock: FakeClock;
let service: TestTokenService;
let grants: Grants;
let sessions: Sessions;
let note: AuditNote;
beforeEach(async () => {
  clock = new FakeClock(Date.parse("2026-11-21T10:00:00Z"));
  service = await createTestTokenService(clock);
  service.idp.keys = [KEY];
  service.configured.set(IDP, identityProvider(service.idp.issuer, { servicePrincipalClaim: "sp" }));
  grants = new Grants(service);
  sessions = new Sessions(service);
  note = {};
});
afterEach(() => service.close());

const now = (): number => clock.nowMs() / 1000;
const ask = (fields: Record<string, unknown>, caller: TokenCaller = PEOPLE): Promise<TokenAnswer> =>
  grants.grant(
    caller,
    undefined,
    new Map(
      Object.entries({
        ...{ grant_type: GRANT_TYPE, requested_token_type: TYPE("txn_token"), ...fields },
      }),
    ),
    note,
  );
const claimsOf = ({ access_token }: TokenAnswer): TxnClaims => must(holdTxn(access_token)).claims;
const login = async (over: object = {}, caller = PEOPLE) =>
  sessions.open(
    caller,
    new Map<string, unknown>([
      ["idp", IDP],
      ["nonce", "n"],
      [
        "id_token",
        await signJwt(KEY, {
          ...{
            iss: service.idp.issuer,
            aud: "client",
            sub: "alice",
            nonce: "n",
            iat: now(),
            exp: now() + 300,
          },
          ...{ groups: ["ds"], amr: ["mfa"], auth_time: now() - 60, acr: "2", email: "a@x.example" },
          ...{ jti: Math.random().toString(), ...over },
        }),
      ],
    ]),
    {},
  );
const bySession = (handle: string, more: Record<string, unknown> = {}, caller = PEOPLE) =>
  ask({ subject_token_type: SESSION_TOKEN, subject_token: handle, ...more }, caller);

describe("from a session", () => {
  test("says on whose behalf, for five minutes, and verifies under the published keys", async () => {
    const { handle, sid } = await login();
    const answer = await bySession(handle, {
      request_context: { req_ip: "10.20.3.4", sid },
      audience: TRUST_DOMAIN,
    });
    expect(answer).toMatchObject({
      token_type: "N_A",
      issued_token_type: TYPE("txn_token"),
      expires_in: 300,
    });
    expect(claimsOf(answer)).toEqual({
      ...{ iat: now(), exp: now() + 300, aud: TRUST_DOMAIN, sub: "okta-main|alice", scope: "*" },
      txn: expect.stringMatching(/^[0-9a-f-]{36}$/),
      reqWl: PEOPLE.spiffeId,
      tctx: {
        ...{ typ: "person", roles: ["role-ds"], idp: IDP, amr: ["mfa"], acr: "2", email: "a@x.example" },
        authTime: now() - 60,
      },
      rctx: { reqIp: "10.20.3.4", sid },
    });
    const keys = createLocalJWKSet(
      publicJwks(service.ca.txnSigners) as Parameters<typeof createLocalJWKSet>[0],
    );
    const verified = await jwtVerify(answer.access_token, keys, {
      ...{ typ: "txntoken+jwt", audience: TRUST_DOMAIN, algorithms: ["ES256"] },
      currentDate: new Date(clock.nowMs()),
    });
    expect(verified.protectedHeader).toEqual({ alg: "ES256", typ: "txntoken+jwt", kid: service.ca.txn.kid });
    expect(note).toEqual({ user: "okta-main|alice", idp: IDP, sid, txn: verified.payload["txn"] });
  });

  test("is a transaction of its own each time, and ends with the session", async () => {
    const { handle, expiresAt } = await login();
    const [one, other] = [await bySession(handle), await bySession(handle)];
    expect(claimsOf(one).txn).not.toBe(claimsOf(other).txn);
    clock.advance((expiresAt - now() - 100) * 1000);
    expect((await bySession(handle)).expires_in).toBe(100);
    clock.advance(100_000);
    await expect(bySession(handle)).rejects.toMatchObject({ reason: "SESSION_EXPIRED" });
  });

  test("is for the gateway that the person signed in at", async () => {
    const { handle } = await login();
    await expect(bySession(handle, {}, callerOf("gateway", "other"))).rejects.toMatchObject({
      reason: "SESSION_INVALID",
    });
    await expect(bySession(handle, {}, callerOf("notebook", "people"))).rejects.toMatchObject({
      reason: "CALLER_NOT_PERMITTED",
    });
  });

  test("has the roles of now", async () => {
    const { handle } = await login();
    expect(claimsOf(await bySession(handle)).tctx.roles).toEqual(["role-ds"]);
    grants = new Grants({ ...service, rolesOf: () => ["fewer"] });
    expect(claimsOf(await bySession(handle)).tctx.roles).toEqual(["fewer"]);
    grants = new Grants({ ...service, rolesOf: () => Array.from({ length: 129 }, (_, at) => `r${at}`) });
    await expect(bySession(handle)).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    grants = new Grants({
      ...service,
      rolesOf: () => Array.from({ length: 100 }, (_, at) => `${at}`.padEnd(100, "r")),
    });
    await expect(bySession(handle)).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
  });

  test("ends with the user's revocation, the session's, and the provider", async () => {
    const { handle } = await login();
    service.configured.delete(IDP);
    await expect(bySession(handle)).rejects.toMatchObject({ reason: "IDP_UNKNOWN" });
    service.configured.set(IDP, identityProvider(service.idp.issuer));
    service.revoked.push({ spiffeId: "", pod: "", user: "okta-main|alice", beforeMs: clock.nowMs() + 1 });
    await expect(bySession(handle)).rejects.toMatchObject({ reason: "REVOKED" });
    clock.advance(1_000);
    await expect(bySession((await login()).handle)).resolves.toBeDefined();
    await expect(bySession(handle)).rejects.toMatchObject({ reason: "REVOKED" });
  });

  test.each([
    { fields: { scope: "serving.invoke mlflow" }, scope: "serving.invoke mlflow" },
    { fields: { scope: "serving.invoke serving.invoke" }, scope: "serving.invoke" },
    { fields: { scope: "*" }, scope: "*" },
    { fields: { scope: "nothing.known" }, reason: "SCOPE_EXCEEDED" },
    { fields: { scope: " " }, reason: "SCOPE_EXCEEDED" },
    { fields: { audience: "other.example" }, reason: "TARGET_UNKNOWN" },
    { fields: { request_context: { sid: "another" } }, reason: "REQUEST_MALFORMED" },
    { fields: { request_context: { req_ip: "evil\r\nheader" } }, reason: "REQUEST_MALFORMED" },
    { fields: { request_context: "[]" }, reason: "REQUEST_MALFORMED" },
    { fields: { requested_token_type: TYPE("refresh_token") }, reason: "TYPE_UNSUPPORTED" },
    { fields: { subject_token_type: TYPE("saml2") }, reason: "TYPE_UNSUPPORTED" },
    { fields: { grant_type: "password" }, reason: "REQUEST_MALFORMED" },
    { fields: { actor_token: "x" }, reason: "REQUEST_MALFORMED" },
  ])("asked with $fields: $scope$reason", async ({ fields, scope, reason }) => {
    const { handle } = await login();
    const asked = bySession(handle, fields);
    if (scope === undefined) await expect(asked).rejects.toMatchObject({ reason });
    else expect(claimsOf(await asked).scope).toBe(scope);
  });
});

describe("for the user that a pod acts for", () => {
  const POD = callerOf("notebook", "nb-alice", { actsFor: "okta-main|alice", owner: "okta-main|alice" });
  const self = (caller = POD, more = {}) => ask({ subject_token_type: TYPE("self_signed"), ...more }, caller);

  test("without a login nothing says that anybody signed in", async () => {
    expect(claimsOf(await self())).toMatchObject({
      ...{ sub: "okta-main|alice", reqWl: POD.spiffeId, rctx: {} },
      tctx: { typ: "person", roles: [], amr: [], authTime: undefined },
    });
  });

  test("with a login its values, roles and end; after it ended, without them", async () => {
    const { sid, handle } = await login();
    expect(claimsOf(await self())).toMatchObject({
      rctx: { sid },
      tctx: { amr: ["mfa"], authTime: now() - 60, roles: ["role-ds"] },
    });
    await sessions.end(PEOPLE, new Map([["handle", handle]]), {});
    clock.advance(4_000);
    expect(claimsOf(await self())).toMatchObject({ rctx: {}, tctx: { amr: [], roles: [] } });
  });

  test.each([
    { name: "nobody", caller: callerOf("notebook", "x"), reason: "CALLER_NOT_PERMITTED" },
    { name: "a name without provider", caller: { ...POD, actsFor: "alice" }, reason: "USER_UNKNOWN" },
    {
      name: "a provider that is not there",
      caller: { ...POD, actsFor: "evil|alice" },
      reason: "IDP_UNKNOWN",
    },
    { name: "no id", caller: { ...POD, actsFor: "okta-main|" }, reason: "USER_UNKNOWN" },
  ])("is refused for a pod that acts for $name", async ({ caller, reason }) => {
    await expect(self(caller)).rejects.toMatchObject({ reason });
  });

  test("names nobody else, and needs the pod's own identity token", async () => {
    await expect(self(POD, { subject_token: "x" })).rejects.toMatchObject({ reason: "REQUEST_MALFORMED" });
    grants = new Grants({
      ...service,
      callers: {
        checkFacts: () => {
          throw new Error("checked");
        },
      },
    });
    await expect(self()).rejects.toThrow("checked");
  });
});

describe("for a token of an identity provider", () => {
  const access = (over: object = {}, header: object = { typ: "at+jwt" }) =>
    signJwt(
      KEY,
      {
        ...{ iss: service.idp.issuer, aud: "https://api.example", sub: "alice", client_id: "cli", jti: "j" },
        ...{ iat: now(), exp: now() + 120, groups: ["ds"], ...over },
      },
      { ...header },
    );
  const exchange = async (token: string, type = "access_token", caller: TokenCaller = PEOPLE, more = {}) =>
    ask({ subject_token_type: TYPE(type), subject_token: token, ...more }, caller);

  test("an access token at a gateway: its user, and no longer than it", async () => {
    const answer = await exchange(await access());
    expect(answer.expires_in).toBe(120);
    expect(claimsOf(answer)).toMatchObject({
      sub: "okta-main|alice",
      scope: "*",
      tctx: { roles: ["role-ds"], typ: "person" },
    });
    expect(claimsOf(answer).tctx.authTime).toBeUndefined();
  });

  test("a service principal by its own claim", async () => {
    expect(claimsOf(await exchange(await access({ sp: "nightly" })))).toMatchObject({
      sub: "okta-main|nightly",
      tctx: { typ: "servicePrincipal", authTime: now() },
    });
  });

  test.each([
    { scope: "openid serving.invoke", asked: undefined, expected: "serving.invoke" },
    { scope: "openid email", asked: "mlflow", expected: "mlflow" },
    { scope: "all-apis", asked: undefined, expected: "*" },
    { scope: "serving", asked: "serving.invoke.predict", expected: "serving.invoke.predict" },
    { scope: "serving.invoke", asked: "serving", expected: "SCOPE_EXCEEDED" },
    { scope: "serving.invoke", asked: "mlflow", expected: "SCOPE_EXCEEDED" },
    { scope: "other-api.read", asked: undefined, expected: "SCOPE_EXCEEDED" },
  ])("scope $scope, asked for $asked: $expected", async ({ scope, asked, expected }) => {
    const result = exchange(
      await access({ scope }),
      "access_token",
      PEOPLE,
      asked === undefined ? {} : { scope: asked },
    );
    if (expected === "SCOPE_EXCEEDED") await expect(result).rejects.toMatchObject({ reason: expected });
    else expect(claimsOf(await result).scope).toBe(expected);
  });

  test("a JWT of a CI system: service principals only, for gateways and trusted spawners", async () => {
    const ci = await access({ sp: "ci", client_id: undefined }, {});
    const spawner = callerOf("service", "scheduler", { isTrustedSpawner: true });
    for (const caller of [PEOPLE, spawner])
      expect(claimsOf(await exchange(ci, "jwt", caller))).toMatchObject({
        sub: "okta-main|ci",
        reqWl: caller.spiffeId,
      });
    await expect(exchange(ci, "jwt", callerOf("job", "x"))).rejects.toMatchObject({
      reason: "CALLER_NOT_PERMITTED",
    });
    await expect(exchange(await access({}, {}), "jwt")).rejects.toMatchObject({ reason: "USER_UNKNOWN" });
    await expect(exchange(await access({ sp: "ci" }), "jwt")).rejects.toMatchObject({
      reason: "TOKEN_INVALID",
    });
    await expect(exchange(await access(), "access_token", spawner)).rejects.toMatchObject({
      reason: "CALLER_NOT_PERMITTED",
    });
  });

  test("is refused when it is of nobody, forged, for another API, an ID token, or of a revoked user", async () => {
    await expect(exchange(await access({ iss: "https://evil.example" }))).rejects.toMatchObject({
      reason: "IDP_UNKNOWN",
    });
    await expect(exchange("x.y.z")).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    await expect(exchange(await access({ aud: "client" }))).rejects.toMatchObject({
      reason: "TOKEN_INVALID",
    });
    await expect(exchange(await access({}, { typ: "JWT" }))).rejects.toMatchObject({
      reason: "TOKEN_INVALID",
    });
    const { access_token } = await exchange(await access());
    await expect(exchange(access_token)).rejects.toMatchObject({ reason: "IDP_UNKNOWN" });
    service.revoked.push({ spiffeId: "", pod: "", user: "okta-main|alice", beforeMs: clock.nowMs() + 1 });
    await expect(exchange(await access())).rejects.toMatchObject({ reason: "REVOKED" });
  });

  test("not by a gateway that signs nobody in with that provider, nor with a session of before", async () => {
    const { handle } = await login();
    service.gatewayIdps.splice(0);
    const refused = { reason: "CALLER_NOT_PERMITTED" };
    await expect(exchange(await access())).rejects.toMatchObject(refused);
    await expect(bySession(handle)).rejects.toMatchObject(refused);
  });

  test("finds the right one of two clients at one provider", async () => {
    const second = identityProvider(service.idp.issuer, {
      name: "second",
      audiences: ["https://other.example"],
    });
    service.configured.set("second", second);
    const answer = await exchange(await access({ aud: "https://other.example" }));
    expect(claimsOf(answer).sub).toBe("second|alice");
  });
});

describe("in place of a Txn-Token", () => {
  const replace = (token: string, more: Record<string, unknown> = {}, caller = PEOPLE) =>
    ask({ subject_token_type: TYPE("txn_token"), subject_token: token, ...more }, caller);

  test("a narrower one: same transaction, user and end", async () => {
    const first = await bySession((await login()).handle);
    clock.advance(100_000);
    const second = await replace(first.access_token, { scope: "serving" });
    const [before, after] = [claimsOf(first), claimsOf(second)];
    expect(after).toEqual({ ...before, iat: now(), scope: "serving" });
    expect(second.expires_in).toBe(200);
    await expect(replace(second.access_token, { scope: "mlflow" })).rejects.toMatchObject({
      reason: "SCOPE_EXCEEDED",
    });
    await expect(replace(second.access_token, { scope: "*" })).rejects.toMatchObject({
      reason: "SCOPE_EXCEEDED",
    });
    clock.advance(200_000);
    await expect(replace(first.access_token)).rejects.toMatchObject({ reason: "SESSION_EXPIRED" });
  });

  test("only for who asked for it; a stolen, forged or revoked one brings nothing", async () => {
    const { access_token: token } = await bySession((await login()).handle);
    await expect(replace(token, {}, callerOf("notebook", "thief"))).rejects.toMatchObject({
      reason: "CALLER_NOT_PERMITTED",
    });
    const [header, payload] = token.split(".");
    for (const forged of [
      `${header}.${payload}.${"A".repeat(86)}`,
      forgedJwt(
        { alg: "none", typ: "txntoken+jwt", kid: service.ca.txn.kid },
        claimsOf({ access_token: token } as TokenAnswer),
      ),
      await signJwt({ ...KEY, kid: service.ca.txn.kid }, { sub: "x" }, { typ: "txntoken+jwt" }),
    ])
      await expect(replace(forged)).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    await expect(replace(token, { requested_token_type: TYPE("access_token") })).rejects.toMatchObject({
      reason: "TYPE_UNSUPPORTED",
    });
    service.revoked.push({ spiffeId: "", pod: "", user: "okta-main|alice", beforeMs: clock.nowMs() + 1 });
    await expect(replace(token)).rejects.toMatchObject({ reason: "REVOKED" });
  });
});

describe("an access token for one serving endpoint", () => {
  test("is of the published issuer, for that endpoint alone", async () => {
    const { handle, sid } = await login();
    for (const audience of ["edge/scorer", idOf("serving", "scorer")]) {
      const answer = await bySession(handle, {
        requested_token_type: TYPE("access_token"),
        audience,
        scope: "serving.invoke",
      });
      expect(answer).toMatchObject({ token_type: "Bearer", expires_in: 300 });
      const keys = createLocalJWKSet(
        publicJwks(service.ca.txnSigners) as Parameters<typeof createLocalJWKSet>[0],
      );
      const { payload } = await jwtVerify(answer.access_token, keys, {
        ...{ typ: "at+jwt", issuer: "https://mesh.example", audience: idOf("serving", "scorer") },
        currentDate: new Date(clock.nowMs()),
      });
      expect(payload).toMatchObject({ sub: "okta-main|alice", scope: "serving.invoke", roles: ["role-ds"] });
      expect(payload).toMatchObject({ sid, acr: "2", amr: ["mfa"], auth_time: now() - 60 });
      expect(note).toMatchObject({ audience: idOf("serving", "scorer"), sid, txn: payload.jti });
      // It is no Txn-Token.
      await expect(
        ask({ subject_token_type: TYPE("txn_token"), subject_token: answer.access_token }),
      ).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    }
    for (const audience of ["edge/nb-alice", "edge/nobody", TRUST_DOMAIN])
      await expect(
        bySession(handle, { requested_token_type: TYPE("access_token"), audience }),
      ).rejects.toMatchObject({ reason: "TARGET_UNKNOWN" });
  });

  const forScorer = async (more: Record<string, unknown> = {}, over: object = {}) =>
    bySession((await login(over)).handle, {
      ...{ requested_token_type: TYPE("access_token"), audience: "edge/scorer", ...more },
    });

  test.each([
    { asked: undefined, scope: "serving.invoke.predict" },
    { asked: "serving.invoke", scope: "serving.invoke" },
    { asked: "serving", reason: "SCOPE_EXCEEDED" },
    { asked: "mlflow", reason: "SCOPE_EXCEEDED" },
    { asked: "*", scope: "serving.invoke.predict" },
  ])(
    "asked for $asked it says no more than policies allow: $scope$reason",
    async ({ asked, scope, reason }) => {
      const minted = forScorer(asked === undefined ? {} : { scope: asked });
      if (scope === undefined) await expect(minted).rejects.toMatchObject({ reason });
      else expect((await minted).scope).toBe(scope);
    },
  );

  test("is not for an endpoint of which policies allow nothing", async () => {
    await expect(forScorer({}, { groups: [] })).rejects.toMatchObject({ reason: "TARGET_NOT_PERMITTED" });
  });

  describe("that a gateway is shown", () => {
    const show = (token: string, more: Record<string, unknown> = {}, caller: TokenCaller = PEOPLE) =>
      ask({ subject_token_type: TYPE("access_token"), subject_token: token, ...more }, caller);

    test("stands for the same person, scope and transaction, and ends when it does", async () => {
      const { access_token: token } = await forScorer({ scope: "serving.invoke" });
      const { txn, sid } = note;
      clock.advance(100_000);
      note = {};
      const answer = await show(
        token,
        { request_context: { req_ip: "10.1.2.3" } },
        callerOf("gateway", "other"),
      );
      expect(answer.expires_in).toBe(200);
      expect(claimsOf(answer)).toEqual({
        ...{ iat: now(), exp: now() + 200, aud: TRUST_DOMAIN, sub: "okta-main|alice", txn },
        ...{ scope: "serving.invoke", reqWl: idOf("gateway", "other"), rctx: { reqIp: "10.1.2.3", sid } },
        tctx: {
          ...{ typ: "person", roles: ["role-ds"], idp: IDP, amr: ["mfa"], acr: "2", email: "a@x.example" },
          authTime: now() - 160,
        },
      });
      expect(note).toMatchObject({ user: "okta-main|alice", txn, audience: idOf("serving", "scorer") });
      clock.advance(200_000);
      await expect(show(token)).rejects.toMatchObject({ reason: "SESSION_EXPIRED" });
    });

    test("becomes no wider and no other access token", async () => {
      const { access_token: token } = await forScorer({ scope: "serving.invoke" });
      await expect(show(token, { scope: "mlflow" })).rejects.toMatchObject({ reason: "SCOPE_EXCEEDED" });
      await expect(
        show(token, { requested_token_type: TYPE("access_token"), audience: "edge/scorer" }),
      ).rejects.toMatchObject({ reason: "TYPE_UNSUPPORTED" });
    });

    test("is refused of workloads, of gateways of other providers, and once the provider is gone", async () => {
      const { access_token: token } = await forScorer();
      await expect(show(token, {}, callerOf("notebook", "nb-alice"))).rejects.toMatchObject({
        reason: "CALLER_NOT_PERMITTED",
      });
      service.gatewayIdps.splice(0);
      await expect(show(token)).rejects.toMatchObject({ reason: "CALLER_NOT_PERMITTED" });
      service.configured.delete(IDP);
      await expect(show(token)).rejects.toMatchObject({ reason: "IDP_UNKNOWN" });
    });

    test("ends with its session and its user", async () => {
      const { handle } = await login();
      const { access_token: token } = await bySession(handle, {
        ...{ requested_token_type: TYPE("access_token"), audience: "edge/scorer" },
      });
      await sessions.end(PEOPLE, new Map([["handle", handle]]), {});
      await expect(show(token)).rejects.toMatchObject({ reason: "REVOKED" });
      clock.advance(5_000);
      const { access_token: other } = await forScorer();
      await expect(show(other)).resolves.toBeDefined();
      service.revoked.push({ spiffeId: "", pod: "", user: "okta-main|alice", beforeMs: clock.nowMs() + 1 });
      await expect(show(other)).rejects.toMatchObject({ reason: "REVOKED" });
    });

    test("is refused when a byte of it is another, or another key signed it", async () => {
      const { access_token: token } = await forScorer();
      const [head = "", body = "", signature = ""] = token.split(".");
      const changed = (over: object): string =>
        Buffer.from(
          JSON.stringify({ ...JSON.parse(Buffer.from(body, "base64url").toString()), ...over }),
        ).toString("base64url");
      const typ = (name: string): string =>
        Buffer.from(
          JSON.stringify({ ...JSON.parse(Buffer.from(head, "base64url").toString()), typ: name }),
        ).toString("base64url");
      for (const bad of [
        `${head}.${changed({ sub: "okta-main|bob" })}.${signature}`,
        `${head}.${changed({ roles: ["admin"] })}.${signature}`,
        `${head}.${changed({ exp: now() + 9_999 })}.${signature}`,
        `${typ("txntoken+jwt")}.${body}.${signature}`,
        `${typ("wit+jwt")}.${body}.${signature}`,
        `${head}.${body}.${Buffer.alloc(64).toString("base64url")}`,
        `${head}.${body}.`,
        await signJwt(KEY, JSON.parse(Buffer.from(body, "base64url").toString()), { typ: "at+jwt" }),
      ])
        await expect(show(bad)).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    });
  });

  test("the discovery document names where the keys are", () => {
    expect(discoveryDocument("https://mesh.example/")).toMatchObject({
      jwks_uri: "https://mesh.example/.well-known/jwks.json",
      token_endpoint: "https://mesh.example/.countersign/token",
    });
  });
});
