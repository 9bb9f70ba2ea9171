// Tokens of identity providers, honest and hostile: what is accepted is accepted for the right reason, and nothing else is.
import { randomBytes } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { parseJwks } from "../../../../sidecar/core/idp/jwks.ts";
import type { IdpSettings } from "../../../../sidecar/core/idp/settings.ts";
import { IdpVerifier } from "../../../../sidecar/core/idp/verifier.ts";
import { must } from "../../../fakes/authority.ts";
import { FakeClock } from "../../../fakes/clock.ts";
import { confusedJwt, forgedJwt, type SigningKey, signingKey, signJwt } from "../../../fakes/idp.ts";

const NOW = Date.parse("2026-11-21T10:00:00Z");
const S = NOW / 1000;
const SETTINGS: IdpSettings = {
  name: "okta-main",
  issuer: "https://idp.example",
  clientId: "client",
  audiences: ["https://api.example"],
  algorithms: ["RS256", "ES256"],
  clockSkewSeconds: 60,
  allowInsecureIssuer: false,
};
const EC = signingKey("k1");
const RSA = signingKey("k2", "RS256");
const STRANGER = signingKey("k1");
const verifier = (
  settings: Partial<IdpSettings> = {},
  keys: readonly SigningKey[] = [EC, RSA],
): IdpVerifier => {
  const set = must(parseJwks(JSON.stringify({ keys: keys.map(({ jwk }) => jwk) })));
  return new IdpVerifier(
    { ...SETTINGS, ...settings },
    {
      keys: async (kid, alg) =>
        set.filter((one) => one.algorithms.includes(alg) && (kid === undefined || one.kid === kid)),
    },
    new FakeClock(NOW),
  );
};

const ID = { iss: SETTINGS.issuer, aud: "client", sub: "00u1", nonce: "n1", iat: S - 5, exp: S + 300 };
const ACCESS = {
  ...{ iss: SETTINGS.issuer, aud: ["https://api.example"], sub: "00u1", client_id: "cli", jti: "j1" },
  ...{ iat: S - 5, exp: S + 300 },
};
const LOGOUT = {
  ...{ iss: SETTINGS.issuer, aud: "client", iat: S - 1, exp: S + 100, jti: "l1", sub: "00u1", sid: "s1" },
  events: { "http://schemas.openid.net/event/backchannel-logout": {} },
};
const EXPECTED = { nonce: "n1", accessToken: undefined };
const errorOf = (result: { readonly ok: boolean; readonly error?: unknown }): unknown =>
  result.ok ? "accepted" : result.error;

describe("an ID token", () => {
  test.each([
    { name: "ES256", key: EC, claims: ID, header: {} },
    { name: "RS256", key: RSA, claims: ID, header: { typ: "JWT" } },
    { name: "no kid: every key is tried", key: EC, claims: ID, header: { kid: undefined } },
    {
      name: "several audiences, and we are `azp`",
      key: EC,
      claims: { ...ID, aud: ["client", "x"], azp: "client" },
      header: {},
    },
    { name: "expired within the skew", key: EC, claims: { ...ID, exp: S - 59 }, header: {} },
    { name: "x5t names a certificate and is not read", key: EC, claims: ID, header: { x5t: "abc" } },
  ])("is accepted: $name", async ({ key, claims, header }) => {
    const token = await signJwt(key, claims, header);
    const result = await verifier().verifyIdToken(token, EXPECTED);
    expect(result).toMatchObject({ ok: true, value: { sub: "00u1", issuedAt: S - 5 } });
  });

  test.each([
    { error: "signature", name: "another key of the same kid", token: () => signJwt(STRANGER, ID) },
    {
      error: "key_unknown",
      name: "a kid that is not published",
      token: () => signJwt(EC, ID, { kid: "k9" }),
    },
    {
      error: "key_unknown",
      name: "an algorithm that is not the key's",
      token: () => signJwt(RSA, ID, { kid: "k1" }),
    },
    { error: "algorithm", name: "alg none", token: async () => forgedJwt({ alg: "none", kid: "k1" }, ID) },
    {
      error: "malformed",
      name: "alg none, no signature",
      token: async () => `${forgedJwt({ alg: "none" }, ID, "")}`,
    },
    {
      error: "algorithm",
      name: "HS256 with the public key as secret",
      token: async () => confusedJwt(EC, ID),
    },
    {
      error: "malformed",
      name: "a key in the header",
      token: () => signJwt(STRANGER, ID, { jwk: STRANGER.jwk }),
    },
    {
      error: "malformed",
      name: "a place of keys in the header",
      token: () => signJwt(EC, ID, { jku: "https://evil.example/jwks" }),
    },
    {
      error: "malformed",
      name: "a place of certificates",
      token: () => signJwt(EC, ID, { x5u: "https://evil.example/x" }),
    },
    {
      error: "malformed",
      name: "certificates in the header",
      token: () => signJwt(EC, ID, { x5c: ["MII"] }),
    },
    {
      error: "malformed",
      name: "critical extensions",
      token: async () => forgedJwt({ alg: "ES256", crit: ["b64"], b64: false }, ID),
    },
    {
      error: "malformed",
      name: "an encrypted token (JWE bomb)",
      token: async () =>
        `${forgedJwt({ alg: "PBES2-HS256+A128KW", p2c: 2 ** 31, enc: "A256GCM" }, "")}.AA.AA`,
    },
    { error: "malformed", name: "a compressed payload", token: () => signJwt(EC, ID, { zip: "DEF" }) },
    { error: "malformed", name: "padding", token: async () => `${await signJwt(EC, ID)}==` },
    {
      error: "malformed",
      name: "a line feed",
      token: async () => (await signJwt(EC, ID)).replace(".", "\n."),
    },
    {
      error: "malformed",
      name: "unused bits of the last character set",
      token: async () => `${(await signJwt(EC, ID)).slice(0, -1)}B`,
    },
    {
      error: "malformed",
      name: "a claim twice",
      token: async () => forgedJwt({ alg: "ES256" }, `{"sub":"a","sub":"b"}`),
    },
    {
      error: "malformed",
      name: "a header member twice",
      token: async () => forgedJwt(`{"alg":"ES256","alg":"none"}`, ID),
    },
    {
      error: "malformed",
      name: "16 KiB and more",
      token: async () => forgedJwt({ alg: "ES256" }, { ...ID, x: "a".repeat(16_000) }),
    },
    {
      error: "malformed",
      name: "bytes that are no UTF-8",
      token: async () =>
        `${Buffer.from('{"alg":"ES256"}').toString("base64url")}.${Buffer.from([0x7b, 0xff, 0x7d]).toString("base64url")}.AA`,
    },
    { error: "type", name: "an access token", token: () => signJwt(EC, ID, { typ: "at+jwt" }) },
    { error: "type", name: "a logout token", token: () => signJwt(EC, { ...LOGOUT, nonce: "n1" }) },
    {
      error: "issuer",
      name: "another issuer",
      token: () => signJwt(EC, { ...ID, iss: "https://idp.example/" }),
    },
    { error: "audience", name: "another client", token: () => signJwt(EC, { ...ID, aud: "other" }) },
    {
      error: "audience",
      name: "another authorised party",
      token: () => signJwt(EC, { ...ID, aud: ["client", "x"], azp: "x" }),
    },
    {
      error: "audience",
      name: "several audiences and no authorised party",
      token: () => signJwt(EC, { ...ID, aud: ["client", "x"] }),
    },
    { error: "nonce", name: "another login", token: () => signJwt(EC, { ...ID, nonce: "n2" }) },
    { error: "nonce", name: "no nonce", token: () => signJwt(EC, { ...ID, nonce: undefined }) },
    { error: "expired", name: "expired", token: () => signJwt(EC, { ...ID, exp: S - 61 }) },
    { error: "expired", name: "issued long ago", token: () => signJwt(EC, { ...ID, iat: S - 400 }) },
    { error: "not_yet", name: "issued in the future", token: () => signJwt(EC, { ...ID, iat: S + 61 }) },
    { error: "not_yet", name: "not valid yet", token: () => signJwt(EC, { ...ID, nbf: S + 61 }) },
    { error: "claims", name: "a time beyond all times", token: () => signJwt(EC, { ...ID, exp: 1e300 }) },
    { error: "claims", name: "no expiry", token: () => signJwt(EC, { ...ID, exp: undefined }) },
    { error: "claims", name: "no subject", token: () => signJwt(EC, { ...ID, sub: "" }) },
    {
      error: "claims",
      name: "a subject with control characters",
      token: () => signJwt(EC, { ...ID, sub: "a\u0000b" }),
    },
  ])("is refused: $name ($error)", async ({ token, error }) => {
    expect(errorOf(await verifier().verifyIdToken(await token(), EXPECTED))).toBe(error);
  });

  test("a mutated token is never accepted", async () => {
    const token = await signJwt(EC, ID);
    await fc.assert(
      fc.asyncProperty(fc.nat(token.length - 1), fc.constantFrom(..."ABab01-_.=+/ "), async (at, char) => {
        const mutated = token.slice(0, at) + char + token.slice(at + 1);
        if (mutated === token) return;
        expect((await verifier().verifyIdToken(mutated, EXPECTED)).ok).toBe(false);
      }),
      { numRuns: 200 },
    );
  });

  test("and its access token belong together", async () => {
    const accessToken = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
    // The example of OpenID Connect Core 1.0, appendix A.3 (RS256).
    const token = await signJwt(RSA, { ...ID, at_hash: "77QmUPtjPfzWtF2AnpK9RQ" });
    expect((await verifier().verifyIdToken(token, { nonce: "n1", accessToken })).ok).toBe(true);
    expect(errorOf(await verifier().verifyIdToken(token, { nonce: "n1", accessToken: "x" }))).toBe(
      "access_token",
    );
  });

  test("is of the domain that people must have", async () => {
    const settings = { hostedDomain: "acme.example" };
    const inside = await signJwt(EC, { ...ID, hd: "acme.example" });
    expect((await verifier(settings).verifyIdToken(inside, EXPECTED)).ok).toBe(true);
    expect(errorOf(await verifier(settings).verifyIdToken(await signJwt(EC, ID), EXPECTED))).toBe("claims");
  });

  test("has one digest, whatever form its signature has", async () => {
    const [one, other] = [await signJwt(EC, ID), await signJwt(EC, ID)];
    expect(one).not.toBe(other);
    const read = async (token: string) => {
      const result = await verifier().verifyIdToken(token, EXPECTED);
      return result.ok ? result.value.digest : undefined;
    };
    expect(await read(one)).toMatch(/^[\w-]{43}$/);
    expect(await read(one)).toBe(await read(other));
  });
});

describe("an access token (RFC 9068)", () => {
  test("is accepted", async () => {
    const token = await signJwt(EC, ACCESS, { typ: "application/at+jwt" });
    expect(await verifier().verifyAccessToken(token)).toMatchObject({ ok: true, value: { sub: "00u1" } });
  });

  test("is accepted where `azp` alone names the client, as Keycloak has it", async () => {
    const token = await signJwt(EC, { ...ACCESS, client_id: undefined, azp: "cli" }, { typ: "at+jwt" });
    expect(await verifier().verifyAccessToken(token)).toMatchObject({ ok: true });
  });

  test.each([
    {
      error: "type",
      name: "an ID token",
      claims: { ...ACCESS, aud: "https://api.example" },
      header: { typ: "JWT" },
    },
    { error: "type", name: "no type", claims: ACCESS, header: {} },
    {
      error: "audience",
      name: "for another API",
      claims: { ...ACCESS, aud: "https://other.example" },
      header: { typ: "at+jwt" },
    },
    {
      error: "audience",
      name: "for the client",
      claims: { ...ACCESS, aud: "client" },
      header: { typ: "at+jwt" },
    },
    {
      error: "claims",
      name: "no client",
      claims: { ...ACCESS, client_id: undefined },
      header: { typ: "at+jwt" },
    },
    {
      error: "claims",
      name: "a client that is none",
      claims: { ...ACCESS, client_id: 7, azp: "cli" },
      header: { typ: "at+jwt" },
    },
    { error: "claims", name: "no id", claims: { ...ACCESS, jti: undefined }, header: { typ: "at+jwt" } },
    {
      error: "claims",
      name: "valid for days",
      claims: { ...ACCESS, exp: S + 90_000 },
      header: { typ: "at+jwt" },
    },
    { error: "expired", name: "expired", claims: { ...ACCESS, exp: S - 61 }, header: { typ: "at+jwt" } },
    {
      error: "claims",
      name: "bound to a key that nobody here asks for (DPoP)",
      claims: { ...ACCESS, cnf: { jkt: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } },
      header: { typ: "at+jwt" },
    },
  ])("is refused: $name", async ({ claims, header, error }) => {
    expect(errorOf(await verifier().verifyAccessToken(await signJwt(EC, claims, header)))).toBe(error);
  });

  test("is refused where the provider has no audiences", async () => {
    const token = await signJwt(EC, ACCESS, { typ: "at+jwt" });
    expect(errorOf(await verifier({ audiences: [] }).verifyAccessToken(token))).toBe("audience");
  });
});

describe("an assertion of a CI system", () => {
  const CI = { iss: SETTINGS.issuer, aud: "https://api.example", sub: "repo:a/b", iat: S - 5, exp: S + 300 };
  test("is accepted; tokens of logins are not", async () => {
    expect((await verifier().verifyAssertion(await signJwt(EC, CI))).ok).toBe(true);
    for (const [more, header] of [
      [{ nonce: "n" }, {}],
      [{ at_hash: "x" }, {}],
      [{ events: {} }, {}],
      [{}, { typ: "at+jwt" }],
    ] as const)
      expect(errorOf(await verifier().verifyAssertion(await signJwt(EC, { ...CI, ...more }, header)))).toBe(
        "type",
      );
    expect(errorOf(await verifier().verifyAssertion(await signJwt(EC, { ...CI, aud: "client" })))).toBe(
      "audience",
    );
  });
});

describe("a logout token", () => {
  test.each([
    { name: "with session and subject", claims: LOGOUT, header: { typ: "logout+jwt" } },
    { name: "with a subject", claims: { ...LOGOUT, sid: undefined }, header: {} },
    {
      name: "with a session, of an older provider",
      claims: { ...LOGOUT, sub: undefined },
      header: { typ: "JWT" },
    },
  ])("is accepted: $name", async ({ claims, header }) => {
    expect(await verifier().verifyLogoutToken(await signJwt(EC, claims, header))).toMatchObject({
      ok: true,
      value: { sub: claims.sub, sid: claims.sid },
    });
  });

  test.each([
    { error: "type", name: "an ID token", claims: ID, header: {} },
    { error: "type", name: "no event", claims: { ...LOGOUT, events: {} }, header: {} },
    { error: "type", name: "a nonce", claims: { ...LOGOUT, nonce: "n1" }, header: {} },
    { error: "type", name: "another type", claims: LOGOUT, header: { typ: "at+jwt" } },
    { error: "audience", name: "of another client", claims: { ...LOGOUT, aud: "x" }, header: {} },
    { error: "expired", name: "an old one", claims: { ...LOGOUT, iat: S - 400 }, header: {} },
    { error: "claims", name: "nobody", claims: { ...LOGOUT, sub: undefined, sid: undefined }, header: {} },
    { error: "claims", name: "no id", claims: { ...LOGOUT, jti: undefined }, header: {} },
  ])("is refused: $name", async ({ claims, header, error }) => {
    expect(errorOf(await verifier().verifyLogoutToken(await signJwt(EC, claims, header)))).toBe(error);
  });
});

describe("a key set", () => {
  const usable = (keys: readonly unknown[]): number => {
    const parsed = parseJwks(JSON.stringify({ keys }));
    return parsed.ok ? parsed.value.length : 0;
  };
  test.each([
    { name: "a shared secret", jwk: { kty: "oct", k: randomBytes(32).toString("base64url"), alg: "HS256" } },
    { name: "a key for encryption", jwk: { ...RSA.jwk, use: "enc" } },
    { name: "a key that may not verify", jwk: { ...EC.jwk, key_ops: ["sign"] } },
    { name: "an algorithm of another type", jwk: { ...EC.jwk, alg: "RS256" } },
    { name: "no point on the curve", jwk: { ...EC.jwk, x: "AAAA" } },
    { name: "another curve", jwk: { ...EC.jwk, crv: "secp256k1" } },
    { name: "a short RSA key", jwk: { kty: "RSA", n: `x${"A".repeat(170)}`, e: "AQAB" } },
    { name: "no object", jwk: 7 },
    { name: "null", jwk: null },
  ])("leaves out $name", ({ jwk }) => {
    expect(usable([jwk])).toBe(0);
    expect(usable([jwk, RSA.jwk])).toBe(1);
  });

  test.each([
    "",
    "[]",
    "{}",
    '{"keys":{}}',
    '{"keys":[]}',
    "{".repeat(100),
    `{"keys":[${"0,".repeat(64)}0]}`,
  ])("that is none is wrong: %s", (text) => {
    expect(parseJwks(text).ok).toBe(false);
  });

  test("a published private part is not read", () => {
    const jwk = { ...EC.key.export({ format: "jwk" }), kid: "p" };
    expect(must(parseJwks(JSON.stringify({ keys: [jwk] })))[0]?.key.type).toBe("public");
  });
});
