// Sessions: opened by a login that is verified here, refreshed, ended; whatever a gateway makes up is refused.
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { SessionHandles } from "../../../control-plane/tokens/session-handle.ts";
import { type SessionAnswer, Sessions } from "../../../control-plane/tokens/sessions.ts";
import type { AuditNote } from "../../../control-plane/tokens/token-service.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { signingKey, signJwt } from "../../fakes/idp.ts";
import {
  callerOf,
  createTestTokenService,
  IDP,
  identityProvider,
  PEOPLE,
  type TestTokenService,
} from "../../fakes/token-service.ts";

const KEY = signingKey("k1");
const HOUR = 3_600;
let clock: FakeClock;
let service: TestTokenService;
let sessions: Sessions;
let note: AuditNote;
beforeEach(async () => {
  clock = new FakeClock(Date.parse("2026-11-21T10:00:00Z"));
  service = await createTestTokenService(clock);
  service.idp.keys = [KEY];
  sessions = new Sessions(service);
  note = {};
});
afterEach(() => service.close());

const now = (): number => clock.nowMs() / 1000;
const claims = (over: object = {}): Record<string, unknown> => ({
  ...{ iss: service.idp.issuer, aud: "client", sub: "alice", nonce: "n1", iat: now(), exp: now() + 300 },
  ...{ email: "alice@acme.example", preferred_username: "alice", groups: ["ds"], amr: ["pwd", "mfa"] },
  ...{ auth_time: now() - 60, jti: Math.random().toString() },
  ...over,
});
const idToken = (over: object = {}): Promise<string> => signJwt(KEY, claims(over));
const request = (fields: Record<string, unknown>): Map<string, unknown> => new Map(Object.entries(fields));
const open = async (
  over: object = {},
  more: Record<string, unknown> = {},
  caller = PEOPLE,
): Promise<SessionAnswer> =>
  sessions.open(caller, request({ idp: IDP, nonce: "n1", id_token: await idToken(over), ...more }), note);

describe("opening", () => {
  test("waits out a revocation of the user that lies ahead, by four seconds at most", async () => {
    const revoke = (aheadMs: number): void => {
      const beforeMs = clock.nowMs() + aheadMs;
      service.revoked.push({ spiffeId: "", pod: "", user: "okta-main|alice", beforeMs });
    };
    const opened = async (): Promise<SessionAnswer | "REVOKED"> => {
      const answer = open().catch((error: unknown) => {
        expect(error).toMatchObject({ reason: "REVOKED" });
        return "REVOKED" as const;
      });
      let isOver = false;
      void answer.then(() => {
        isOver = true;
      });
      while (!isOver) {
        if (clock.sleeping > 0) clock.advance(1_001);
        await new Promise((resolve) => setImmediate(resolve));
      }
      return answer;
    };
    revoke(3_000);
    const began = now();
    const answer = await opened();
    expect(Math.floor(now() - began)).toBe(3);
    expect(answer).toMatchObject({ expiresAt: began + 3 + 12 * HOUR });
    revoke(60_000);
    expect(await opened()).toBe("REVOKED");
    expect(Math.floor(now() - began)).toBe(7);
  });

  test("answers who signed in, and a handle that nobody can read", async () => {
    const answer = await open();
    expect(answer).toMatchObject({
      sid: expect.stringMatching(/^[\w-]{22}$/),
      expiresAt: now() + 12 * HOUR,
      user: {
        ...{
          id: "okta-main|alice",
          idp: IDP,
          type: "person",
          email: "alice@acme.example",
          username: "alice",
        },
        ...{ roles: ["role-ds"], amr: ["pwd", "mfa"], authTime: now() - 60 },
      },
    });
    expect(answer.handle.split(".")).toHaveLength(5);
    expect(Buffer.from(answer.handle.split(".")[3] ?? "", "base64url").toString("latin1")).not.toContain(
      "alice",
    );
    expect(note).toEqual({ idp: IDP, user: "okta-main|alice", sid: answer.sid });
  });

  test("an ID token counts once, also in two requests at once", async () => {
    const token = await idToken();
    const ask = () => sessions.open(PEOPLE, request({ idp: IDP, nonce: "n1", id_token: token }), note);
    const outcomes = await Promise.allSettled([ask(), ask()]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    await expect(ask()).rejects.toMatchObject({ reason: "TOKEN_REPLAYED" });
  });

  test.each([
    { name: "another login's nonce", over: { nonce: "n2" }, reason: "TOKEN_INVALID" },
    { name: "another client", over: { aud: "other" }, reason: "TOKEN_INVALID" },
    { name: "another issuer", over: { iss: "https://evil.example" }, reason: "TOKEN_INVALID" },
    { name: "an old token", over: { iat: 1_700_000_000 }, reason: "TOKEN_INVALID" },
  ])("refuses $name", async ({ over, reason }) => {
    await expect(open(over)).rejects.toMatchObject({ reason });
    expect(service.used.size).toBe(0);
  });

  test("refuses a token that somebody else signed, and a provider that nobody configured", async () => {
    const forged = await signJwt(signingKey("k1"), claims());
    const ask = (fields: object) =>
      sessions.open(PEOPLE, request({ idp: IDP, nonce: "n1", id_token: forged, ...fields }), note);
    await expect(ask({})).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    await expect(ask({ idp: "evil" })).rejects.toMatchObject({ reason: "IDP_UNKNOWN" });
    service.configured.set("third", identityProvider(service.idp.issuer, { name: "third" }));
    await expect(ask({ idp: "third" })).rejects.toMatchObject({ reason: "CALLER_NOT_PERMITTED" });
  });

  test.each(["notebook", "serving", "agent", "job", "service"])("is not for a %s", async (kind) => {
    await expect(open({}, {}, callerOf(kind, "x"))).rejects.toMatchObject({ reason: "CALLER_NOT_PERMITTED" });
    await expect(sessions.end(callerOf(kind, "x"), request({}), note)).rejects.toMatchObject({
      reason: "CALLER_NOT_PERMITTED",
    });
    await expect(sessions.refresh(callerOf(kind, "x"), request({}), note)).rejects.toMatchObject({
      reason: "CALLER_NOT_PERMITTED",
    });
  });

  test("is not possible while the provider was never reached", async () => {
    service.configured.set("second", identityProvider("http://127.0.0.1:1", { name: "second" }));
    const token = await signJwt(KEY, claims({ iss: "http://127.0.0.1:1" }));
    await expect(
      sessions.open(PEOPLE, request({ idp: "second", nonce: "n1", id_token: token }), note),
    ).rejects.toMatchObject({ reason: "IDP_UNAVAILABLE" });
  });

  test.each([
    { name: "an unknown field", fields: { x: "1" } },
    { name: "no nonce", fields: { nonce: undefined } },
    { name: "an object for a token", fields: { id_token: {} } },
  ])("refuses a request with $name", async ({ fields }) => {
    const all = { idp: IDP, nonce: "n1", id_token: await idToken(), ...fields };
    const given = new Map(Object.entries(all).filter(([, value]) => value !== undefined));
    await expect(sessions.open(PEOPLE, given, note)).rejects.toMatchObject({ reason: "REQUEST_MALFORMED" });
  });

  test("what the provider does not say of groups is unknown; nothing there is none", async () => {
    const rolesAnd = async (over: object) => {
      const { handle, user } = await open(over);
      return [(await service.handles.open(handle)).person.groups, user.roles];
    };
    expect(await rolesAnd({ groups: undefined, _claim_names: { groups: "src1" } })).toEqual(["unknown", []]);
    expect(await rolesAnd({ groups: undefined, hasgroups: true })).toEqual(["unknown", []]);
    expect(await rolesAnd({ groups: ["a", 7] })).toEqual(["unknown", []]);
    expect(await rolesAnd({ groups: undefined })).toEqual([[], []]);
    expect(await rolesAnd({ groups: "one" })).toEqual([["one"], ["role-one"]]);
  });

  test("a provider that does not say when the person signed in has not just let them in", async () => {
    expect((await open({ auth_time: undefined })).user.authTime).toBeUndefined();
  });

  test("asks the provider for what the ID token leaves out, and only believes it of the same user", async () => {
    service.idp.userinfo = { sub: "alice", email: "a@acme.example", groups: ["late"] };
    const lean = { email: undefined, groups: undefined };
    const answer = await open(lean, { access_token: "at", userinfo: { sub: "alice", groups: ["admin"] } });
    expect(answer.user).toMatchObject({ email: "a@acme.example", roles: ["role-late"] });
    service.idp.userinfo = { sub: "mallory", groups: ["admin"] };
    await expect(open(lean, { access_token: "at" })).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    service.idp.answers.set("/me", (response) => response.writeHead(500).end());
    expect(
      (await service.handles.open((await open(lean, { access_token: "at" })).handle)).person.groups,
    ).toBe("unknown");
  });
});

describe("a handle", () => {
  test.each([
    ["changed", (handle: string) => `${handle.slice(0, -3)}AAA`],
    ["cut", (handle: string) => handle.slice(0, -10)],
    ["made up", () => "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..AAAA.AAAA.AAAA"],
    ["no handle", () => "x"],
    ["huge", () => `a.b.${"c".repeat(50_000)}.d.e`],
  ])("that is %s is refused", async (_, change) => {
    const { handle } = await open();
    await expect(service.handles.open(change(handle))).rejects.toMatchObject({ reason: "SESSION_INVALID" });
  });

  test("is opened by every replica, while its key is kept", async () => {
    const { handle } = await open();
    const other = new SessionHandles(() => service.authority.ca.handleKeys);
    expect((await other.open(handle)).subject).toBe("alice");
    await expect(new SessionHandles(() => []).open(handle)).rejects.toMatchObject({
      reason: "SESSION_INVALID",
    });
  });
});

describe("refreshing", () => {
  const refresh = async (handle: string, over: object = {}, caller = PEOPLE): Promise<SessionAnswer> =>
    sessions.refresh(
      caller,
      request({ handle, id_token: await idToken({ nonce: undefined, ...over }) }),
      note,
    );

  test("takes newer claims, and keeps id, end, and when and how the person signed in", async () => {
    const first = await open();
    clock.advance(HOUR * 1000);
    const second = await refresh(first.handle, { groups: ["new"], amr: ["kba"], auth_time: now() });
    expect(second).toMatchObject({
      ...{ sid: first.sid, expiresAt: first.expiresAt },
      user: { roles: ["role-new"], amr: ["pwd", "mfa"], authTime: first.user.authTime },
    });
  });

  test("is refused for another user, another gateway, a used token, and after the end", async () => {
    const { handle } = await open();
    await expect(refresh(handle, { sub: "bob" })).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    await expect(refresh(handle, {}, callerOf("gateway", "other"))).rejects.toMatchObject({
      reason: "SESSION_INVALID",
    });
    const token = await idToken({ nonce: undefined });
    const ask = () => sessions.refresh(PEOPLE, request({ handle, id_token: token }), note);
    await ask();
    await expect(ask()).rejects.toMatchObject({ reason: "TOKEN_REPLAYED" });
    clock.advance(12 * HOUR * 1000);
    await expect(refresh(handle)).rejects.toMatchObject({ reason: "SESSION_EXPIRED" });
  });

  test("brings nothing back that was revoked", async () => {
    const { handle } = await open();
    await sessions.end(PEOPLE, request({ handle }), note);
    await expect(refresh(handle)).rejects.toMatchObject({ reason: "REVOKED" });
  });
});

describe("ending", () => {
  const LOGOUT = { "http://schemas.openid.net/event/backchannel-logout": {} };
  const logout = async (over: object): Promise<object> =>
    sessions.end(
      PEOPLE,
      request({
        idp: IDP,
        logout_token: await signJwt(
          KEY,
          claims({ nonce: undefined, events: LOGOUT, sub: undefined, ...over }),
        ),
      }),
      note,
    );

  test("revokes the session; a second time changes nothing", async () => {
    const { handle, sid } = await open();
    expect(await sessions.end(PEOPLE, request({ handle }), note)).toEqual({ ended: { sid } });
    expect(await sessions.end(PEOPLE, request({ handle }), note)).toEqual({ ended: { sid } });
    expect(service.asked).toEqual([{ kind: "session", session: sid }]);
    await expect(sessions.end(callerOf("gateway", "other"), request({ handle }), note)).rejects.toMatchObject(
      { reason: "SESSION_INVALID" },
    );
  });

  test("by the provider's session: all of ours that came from it", async () => {
    const one = await open({ sid: "idp-1" });
    const other = await open({ sid: "idp-1" });
    const third = await open({ sid: "idp-2" });
    const group = one.sid.split(".")[0];
    expect([other, third].map(({ sid }) => sid.split(".")[0] === group)).toEqual([true, false]);
    expect(await logout({ sid: "idp-1" })).toEqual({ ended: { sessionGroup: group } });
    for (const { handle } of [one, other])
      await expect(sessions.refresh(PEOPLE, request({ handle, id_token: "x" }), note)).rejects.toMatchObject({
        reason: "REVOKED",
      });
    await expect(
      sessions.refresh(PEOPLE, request({ handle: third.handle, id_token: "x" }), note),
    ).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
  });

  test("by the name of the provider's session, of providers of the gateway alone", async () => {
    const { handle, sid } = await open({ sid: "idp-1" });
    const other = await open({ sid: "idp-2" });
    const named = { idp: IDP, idp_sid: "idp-1" };
    for (const caller of [callerOf("notebook", "people"), callerOf("gateway", "nobody")])
      await expect(sessions.end(caller, request(named), {})).rejects.toMatchObject({
        reason: "CALLER_NOT_PERMITTED",
      });
    await expect(sessions.end(PEOPLE, request({ ...named, idp: "unknown" }), {})).rejects.toMatchObject({
      reason: "IDP_UNKNOWN",
    });
    await expect(sessions.end(PEOPLE, request({ ...named, handle }), {})).rejects.toMatchObject({
      reason: "REQUEST_MALFORMED",
    });
    expect(service.asked).toEqual([]);
    const ending: AuditNote = {};
    const group = sid.split(".")[0];
    expect(await sessions.end(PEOPLE, request(named), ending)).toEqual({ ended: { sessionGroup: group } });
    expect(ending).toEqual({ idp: IDP, sid: group });
    expect(service.asked).toEqual([{ kind: "session", session: group }]);
    expect(other.sid.startsWith(`${group}.`)).toBe(false);
  });

  test("by user, where the provider names no session", async () => {
    expect(await logout({ sub: "alice" })).toEqual({ ended: { user: "okta-main|alice" } });
    expect(service.asked).toEqual([{ kind: "user", user: "okta-main|alice" }]);
  });

  test("a logout token counts once, and an ID token is none", async () => {
    const token = await signJwt(KEY, claims({ nonce: undefined, events: LOGOUT, sid: "s" }));
    const ask = () => sessions.end(PEOPLE, request({ idp: IDP, logout_token: token }), note);
    await ask();
    await expect(ask()).rejects.toMatchObject({ reason: "TOKEN_REPLAYED" });
    await expect(
      sessions.end(PEOPLE, request({ idp: IDP, logout_token: await idToken() }), note),
    ).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    expect(service.asked).toHaveLength(1);
  });
});
