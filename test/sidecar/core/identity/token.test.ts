import { createHmac, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { importJWK, jwtVerify, SignJWT } from "jose";
import { parseClaimsJson, parseWptClaims } from "../../../../sidecar/core/identity/claims.ts";
import type { PeerFacts } from "../../../../sidecar/core/identity/svid.ts";
import {
  bearerToken,
  signToken,
  splitToken,
  tokenHash,
  tokenKeyOf,
  verifyWit,
  verifyWpt,
} from "../../../../sidecar/core/identity/token.ts";
import type { WorkloadIdentity } from "../../../../sidecar/core/identity/workload-identity.ts";
import {
  createTestAuthority,
  issueTestIdentity,
  must,
  peerOf,
  type TestAuthority,
  testId,
} from "../../../fakes/authority.ts";
import { run as fuzz } from "../../../fuzz/sidecar/core/identity/token.fuzz.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
const S = NOW / 1000;
const OWN = testId("callee");
const HOP = "countersign.dev/hop";
let authority: TestAuthority;
let identity: WorkloadIdentity;
let peer: PeerFacts;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
  identity = issueTestIdentity(authority, testId("caller"), NOW);
  peer = peerOf(identity);
});
afterAll(() => authority.close());

const b64 = (value: unknown): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
/** A token of any header and payload text, correctly signed over them. */
function raw(header: unknown, payload: unknown, key: KeyObject): string {
  const signed = `${b64(header)}.${b64(payload)}`;
  return `${signed}.${sign("sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}
type Claims = Record<string, unknown>;
const witHeader = () => ({ alg: "ES256", typ: "wit+jwt", kid: authority.ca.wit.kid });
function witClaims(change: Claims = {}): Claims {
  const claims = JSON.parse(Buffer.from(identity.wit.split(".")[1]!, "base64url").toString());
  return { ...claims, ...change };
}
const wit = (change: Claims = {}, header: Claims = {}) =>
  raw({ ...witHeader(), ...header }, witClaims(change), authority.ca.wit.key);
const checkWit = (text: string, nowMs = NOW) =>
  verifyWit(text, { bundle: authority.bundle, peerSpiffeId: peer.spiffeId, nowMs });

const hop = (change: Claims = {}): Claims => ({
  op: "mlflow.runs.get",
  packs: "d",
  n: 1,
  via: [],
  ...change,
});
const wptClaims = (change: Claims = {}): Claims => ({
  aud: OWN,
  iat: S,
  exp: S + 60,
  jti: "j1",
  wth: tokenHash(identity.wit),
  cnf: { "x5t#S256": peer.leafThumbprint },
  [HOP]: hop(),
  ...change,
});
const wpt = (change: Claims = {}, header: Claims = {}) =>
  raw({ alg: "ES256", typ: "wpt+jwt", ...header }, wptClaims(change), identity.tokenKey);
function checkWpt(
  text: string,
  change: { authorization?: string; txnToken?: string; nowMs?: number; alg?: string } = {},
) {
  const claims = must(checkWit(identity.wit));
  return verifyWpt(text, {
    wit: identity.wit,
    witJwk: { ...claims.jwk, alg: change.alg ?? "ES256" },
    witKey: tokenKeyOf(claims.jwk)!,
    authorization: change.authorization,
    txnToken: change.txnToken,
    ownSpiffeId: OWN,
    peerLeafThumbprint: peer.leafThumbprint,
    nowMs: change.nowMs ?? NOW,
  });
}
/** The same bytes in another encoding: the last character of a segment with an unused bit set. */
function withTrailingBit(token: string, segment: number): string {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const parts = token.split(".");
  const text = parts[segment]!;
  parts[segment] = text.slice(0, -1) + alphabet[alphabet.indexOf(text.at(-1)!) | 1]!;
  return parts.join(".");
}
const hs256 = (token: string) => {
  const signed = `${b64({ alg: "HS256", typ: "wpt+jwt" })}.${token.split(".")[1]}`;
  return `${signed}.${createHmac("sha512", "x").update(signed).digest().toString("base64url")}`;
};

describe("verifyWit", () => {
  test("accepts what the authority minted, and jose does too", async () => {
    expect(must(checkWit(identity.wit))).toMatchObject({
      sub: testId("caller"),
      workload: { kind: "service", name: "caller", env: "dev" },
    });
    const made = await new SignJWT(witClaims()).setProtectedHeader(witHeader()).sign(authority.ca.wit.key);
    expect(checkWit(made).ok).toBe(true);
  });

  const shape = "AUTHN_PROOF_INVALID";
  const content = "AUTHN_WIT_INVALID";
  const cases: { name: string; token: () => string; reason: string; nowMs?: number }[] = [
    { name: "alg none", token: () => wit({}, { alg: "none" }), reason: shape },
    { name: "alg RS256", token: () => wit({}, { alg: "RS256" }), reason: shape },
    { name: "alg in lower case", token: () => wit({}, { alg: "es256" }), reason: shape },
    { name: "typ of a proof", token: () => wit({}, { typ: "wpt+jwt" }), reason: shape },
    { name: "typ with application/", token: () => wit({}, { typ: "application/wit+jwt" }), reason: shape },
    {
      name: "no typ",
      token: () => raw({ alg: "ES256", kid: "x" }, witClaims(), authority.ca.wit.key),
      reason: shape,
    },
    { name: "a crit header", token: () => wit({}, { crit: ["exp"] }), reason: shape },
    { name: "a jwk header", token: () => wit({}, { jwk: {} }), reason: shape },
    { name: "a kid that is a number", token: () => wit({}, { kid: 1 }), reason: shape },
    {
      name: "a header key twice",
      token: () => raw(`{"alg":"ES256","alg":"ES256","typ":"wit+jwt"}`, witClaims(), authority.ca.wit.key),
      reason: shape,
    },
    { name: "padding", token: () => `${identity.wit}==`, reason: shape },
    { name: "a space", token: () => identity.wit.replace(".", ". "), reason: shape },
    { name: "a line break at the end", token: () => `${identity.wit}\n`, reason: shape },
    { name: "two segments", token: () => identity.wit.split(".").slice(0, 2).join("."), reason: shape },
    { name: "four segments", token: () => `${identity.wit}.e30`, reason: shape },
    { name: "an empty segment", token: () => identity.wit.replace(/\.[^.]+\./, ".."), reason: shape },
    { name: "trailing bits in the signature", token: () => withTrailingBit(identity.wit, 2), reason: shape },
    { name: "standard base64 characters", token: () => `+/${identity.wit.slice(2)}`, reason: shape },
    { name: "a short signature", token: () => identity.wit.slice(0, -2), reason: shape },
    { name: "more than 4 KiB", token: () => wit({ x: "a".repeat(4096) }), reason: shape },
    {
      name: "no kid",
      token: () => raw({ alg: "ES256", typ: "wit+jwt" }, witClaims(), authority.ca.wit.key),
      reason: content,
    },
    { name: "an unknown kid", token: () => wit({}, { kid: "wit-x" }), reason: content },
    { name: "kid __proto__", token: () => wit({}, { kid: "__proto__" }), reason: content },
    {
      name: "a signature by another key",
      token: () => raw(witHeader(), witClaims(), identity.tokenKey),
      reason: content,
    },
    { name: "claims changed after signing", token: () => tampered(identity.wit), reason: content },
    { name: "aud present", token: () => wit({ aud: OWN }), reason: content },
    { name: "aud null", token: () => wit({ aud: null }), reason: content },
    { name: "sub of another workload", token: () => wit({ sub: testId("other") }), reason: content },
    {
      name: "sub of another trust domain",
      token: () => wit({ sub: testId("caller", "other.example") }),
      reason: content,
    },
    { name: "sub that is no SPIFFE ID", token: () => wit({ sub: "caller" }), reason: content },
    { name: "no sub", token: () => wit({ sub: undefined }), reason: content },
    { name: "no exp", token: () => wit({ exp: undefined }), reason: content },
    { name: "exp as text", token: () => wit({ exp: String(S + 60) }), reason: content },
    { name: "exp 1e300", token: () => wit({ exp: 1e300 }), reason: content },
    { name: "a fractional exp", token: () => wit({ exp: S + 0.5 }), reason: content },
    { name: "exp 60 s ago", token: () => wit({ exp: S - 60 }), reason: content },
    { name: "nbf 61 s ahead", token: () => wit({ nbf: S + 61 }), reason: content },
    { name: "iat 61 s ahead", token: () => wit({ iat: S + 61 }), reason: content },
    { name: "no cnf", token: () => wit({ cnf: undefined }), reason: content },
    {
      name: "cnf without alg",
      token: () => wit({ cnf: { jwk: { ...jwk(), alg: undefined } } }),
      reason: content,
    },
    {
      name: "an RSA key in cnf",
      token: () => wit({ cnf: { jwk: { alg: "RS256", kty: "RSA", n: "x", e: "AQAB" } } }),
      reason: content,
    },
    {
      name: "a private key in cnf",
      token: () => wit({ cnf: { jwk: { ...jwk(), d: "x" } } }),
      reason: content,
    },
    {
      name: "a claim twice",
      token: () =>
        raw(witHeader(), `{"sub":"x",${JSON.stringify(witClaims()).slice(1)}`, authority.ca.wit.key),
      reason: content,
    },
    {
      name: "a claim twice, once escaped",
      token: () =>
        raw(witHeader(), `{"s\\u0075b":"x",${JSON.stringify(witClaims()).slice(1)}`, authority.ca.wit.key),
      reason: content,
    },
    {
      name: "a nested key twice",
      token: () =>
        raw(
          witHeader(),
          JSON.stringify(witClaims()).replace('"kty"', '"crv":"P-256","kty"'),
          authority.ca.wit.key,
        ),
      reason: content,
    },
    {
      name: "a __proto__ key",
      token: () =>
        raw(witHeader(), `{"__proto__":{},${JSON.stringify(witClaims()).slice(1)}`, authority.ca.wit.key),
      reason: content,
    },
    {
      name: "claims in an array",
      token: () => raw(witHeader(), [witClaims()], authority.ca.wit.key),
      reason: content,
    },
    {
      name: "claims that are no JSON",
      token: () => raw(witHeader(), "{", authority.ca.wit.key),
      reason: content,
    },
    {
      name: "workload facts of wrong types",
      token: () => wit({ "countersign.dev/wl": { kind: 1, name: "x" } }),
      reason: content,
    },
  ];
  function jwk(): Claims {
    return (witClaims()["cnf"] as { jwk: Claims }).jwk;
  }
  function tampered(token: string): string {
    const [header, , signature] = token.split(".");
    return `${header}.${b64(witClaims({ exp: S + 99_999 }))}.${signature}`;
  }
  test.each(cases)("refuses $name with $reason", ({ token, reason }) => {
    const result = checkWit(token());
    expect(result).toMatchObject({ ok: false, error: reason });
    if (!result.ok) expect(result.detail).not.toContain(token().slice(0, 20) || "?");
  });

  test("allows 60 s of skew on both sides", () => {
    expect(checkWit(wit({ exp: S - 59 })).ok).toBe(true);
    expect(checkWit(wit({ nbf: S + 60, iat: S + 60 })).ok).toBe(true);
  });
});

describe("verifyWpt", () => {
  test("accepts a proof, with bearer token and transaction token bound", () => {
    expect(must(checkWpt(wpt()))).toMatchObject({
      aud: OWN,
      hop: { op: "mlflow.runs.get", n: 1, via: [], cav: undefined },
    });
    expect(checkWpt(wpt({ ath: tokenHash("abc") }), { authorization: "Bearer abc" }).ok).toBe(true);
    expect(checkWpt(wpt({ tth: tokenHash("txn") }), { txnToken: "txn" }).ok).toBe(true);
  });

  test("is what jose verifies, and verifies what jose signs", async () => {
    const key = await importJWK({ ...must(checkWit(identity.wit)).jwk }, "ES256");
    const ours = signToken({ typ: "wpt+jwt" }, wptClaims(), identity.tokenKey);
    const { payload } = await jwtVerify(ours, key, {
      algorithms: ["ES256"],
      typ: "wpt+jwt",
      audience: OWN,
      currentDate: new Date(NOW),
    });
    expect(payload).toEqual(wptClaims());
    const theirs = await new SignJWT(wptClaims())
      .setProtectedHeader({ alg: "ES256", typ: "wpt+jwt" })
      .sign(identity.tokenKey);
    expect(checkWpt(theirs).ok).toBe(true);
  });

  test("takes the twin of a signature: replay memory goes by jti", () => {
    const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
    const token = wpt();
    const bytes = Buffer.from(token.split(".")[2]!, "base64url");
    const twin = (order - BigInt(`0x${bytes.subarray(32).toString("hex")}`)).toString(16).padStart(64, "0");
    const signature = Buffer.concat([bytes.subarray(0, 32), Buffer.from(twin, "hex")]).toString("base64url");
    expect(checkWpt(`${token.split(".").slice(0, 2).join(".")}.${signature}`).ok).toBe(true);
  });

  const cases: {
    name: string;
    token: () => string;
    with?: Parameters<typeof checkWpt>[1];
    reason?: string;
  }[] = [
    { name: "alg none", token: () => wpt({}, { alg: "none" }) },
    { name: "alg HS256 over the public key", token: () => hs256(wpt()) },
    { name: "alg ES384", token: () => wpt({}, { alg: "ES384" }) },
    { name: "a WIT as proof", token: () => identity.wit },
    { name: "typ JWT", token: () => wpt({}, { typ: "JWT" }) },
    { name: "a kid", token: () => wpt({}, { kid: "x" }) },
    { name: "an alg that is not that of cnf.jwk", token: () => wpt(), with: { alg: "ES384" } },
    { name: "padding", token: () => `${wpt()}=` },
    { name: "trailing bits", token: () => withTrailingBit(wpt(), 2) },
    {
      name: "a signature by the TLS key",
      token: () => raw({ alg: "ES256", typ: "wpt+jwt" }, wptClaims(), identity.tlsKey),
    },
    {
      name: "a signature by any key",
      token: () =>
        raw(
          { alg: "ES256", typ: "wpt+jwt" },
          wptClaims(),
          generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey,
        ),
    },
    { name: "another audience", token: () => wpt({ aud: testId("other") }) },
    { name: "two audiences", token: () => wpt({ aud: [OWN, testId("other")] }) },
    { name: "no audience", token: () => wpt({ aud: undefined }) },
    { name: "another WIT", token: () => wpt({ wth: tokenHash("x") }) },
    { name: "no wth", token: () => wpt({ wth: undefined }) },
    { name: "another leaf", token: () => wpt({ cnf: { "x5t#S256": tokenHash("x") } }) },
    { name: "no leaf", token: () => wpt({ cnf: {} }) },
    { name: "no cnf", token: () => wpt({ cnf: undefined }) },
    { name: "no jti", token: () => wpt({ jti: undefined }) },
    { name: "no exp", token: () => wpt({ exp: undefined }) },
    { name: "exp 121 s ahead", token: () => wpt({ exp: S + 121 }) },
    { name: "exp 60 s ago", token: () => wpt({ exp: S - 60 }) },
    { name: "iat 61 s ahead", token: () => wpt({ iat: S + 61 }) },
    { name: "nbf 61 s ahead", token: () => wpt({ nbf: S + 61 }) },
    { name: "a bearer token without ath", token: () => wpt(), with: { authorization: "Bearer abc" } },
    {
      name: "another bearer token",
      token: () => wpt({ ath: tokenHash("abc") }),
      with: { authorization: "bearer abd" },
    },
    { name: "ath without a bearer token", token: () => wpt({ ath: tokenHash("abc") }) },
    { name: "no hop", token: () => wpt({ [HOP]: undefined }) },
    { name: "a hop without operation", token: () => wpt({ [HOP]: hop({ op: undefined }) }) },
    { name: "n that does not count the hops", token: () => wpt({ [HOP]: hop({ n: 2 }) }) },
    { name: "via that is no list", token: () => wpt({ [HOP]: hop({ via: {} }) }) },
    {
      name: "a hop that is no SPIFFE ID",
      token: () => wpt({ [HOP]: hop({ n: 2, via: [{ s: "x", o: "y" }] }) }),
    },
    { name: "a null hop", token: () => wpt({ [HOP]: hop({ n: 2, via: [null] }) }) },
    { name: "an unknown caveat", token: () => wpt({ [HOP]: hop({ cav: { users: "x" } }) }) },
    { name: "a caveat that is no object", token: () => wpt({ [HOP]: hop({ cav: "x" }) }) },
    {
      name: "a duplicate claim",
      token: () =>
        raw(
          { alg: "ES256", typ: "wpt+jwt" },
          JSON.stringify(wptClaims()).replace("{", '{"aud":"x",'),
          identity.tokenKey,
        ),
    },
    {
      name: "tth without a transaction token",
      token: () => wpt({ tth: tokenHash("txn") }),
      reason: "AUTHN_TXN_INVALID",
    },
    {
      name: "a transaction token without tth",
      token: () => wpt(),
      with: { txnToken: "txn" },
      reason: "AUTHN_TXN_INVALID",
    },
  ];
  test.each(cases)("refuses $name", ({ token, with: change, reason }) => {
    expect(checkWpt(token(), change ?? {})).toMatchObject({
      ok: false,
      error: reason ?? "AUTHN_PROOF_INVALID",
    });
  });

  test("allows exp up to 120 s ahead and 59 s ago", () => {
    expect(checkWpt(wpt({ exp: S + 120 })).ok).toBe(true);
    expect(checkWpt(wpt({ exp: S - 59 })).ok).toBe(true);
  });
});

describe("token text", () => {
  test("any claims come back as they were signed", () => {
    fc.assert(
      fc.property(
        fc.dictionary(
          fc.string({ maxLength: 5 }).filter((key) => key !== "__proto__"),
          fc.jsonValue({ maxDepth: 2 }),
          { maxKeys: 4 },
        ),
        (claims) => {
          const token = signToken({ typ: "wpt+jwt" }, claims, identity.tokenKey);
          if (token.length > 4096) return;
          const parsed = must(parseClaimsJson(Buffer.from(must(splitToken(token)).payload, "base64url")));
          expect(parsed).toEqual(JSON.parse(JSON.stringify(claims)));
        },
      ),
      { numRuns: 100 },
    );
  });

  test("a key is found twice exactly when JSON.parse would drop one", () => {
    const key = fc.constantFrom("a", "b", "\\u0061", 'c\\"', "d\\\\");
    fc.assert(
      fc.property(fc.array(key, { maxLength: 4 }), fc.boolean(), (keys, nested) => {
        const inner = `{${keys.map((name, i) => `"${name}": [${i}, "{,"]`).join(" , ")}}`;
        const text = nested ? `{"x": [1, ${inner}], "y": "a"}` : inner;
        const kept = Object.keys(JSON.parse(inner)).length;
        expect(parseClaimsJson(Buffer.from(text)).ok).toBe(kept === keys.length);
      }),
    );
  });

  test("invalid UTF-8 is refused", () => {
    expect(parseClaimsJson(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))).toEqual({
      ok: false,
      error: "not UTF-8",
    });
  });

  test("claims are read from the object alone, not from its prototype", () => {
    expect(parseWptClaims(Object.create(wptClaims()) as Claims).ok).toBe(false);
  });

  test.each([
    [undefined, undefined],
    ["Basic abc", undefined],
    ["Bearer", undefined],
    ["Bearer abc", "abc"],
    ["BEARER  abc ", "abc"],
  ])("the bearer token of %p is %p", (value, expected) => {
    expect(bearerToken(value)).toBe(expected);
  });

  test("holds against random and mutated tokens", async () => {
    expect((await fuzz({ seconds: 0.5, seed: 1 })).cases).toBeGreaterThan(100);
  });
});
