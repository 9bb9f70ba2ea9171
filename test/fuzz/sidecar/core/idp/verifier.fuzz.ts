// Foreign tokens and key sets from random and mutated text: verifiers always answer, never throw, and accept nothing whose
// signed part is not exactly what was signed.
import fc from "fast-check";
import { parseJwks } from "../../../../../sidecar/core/idp/jwks.ts";
import { IdpVerifier } from "../../../../../sidecar/core/idp/verifier.ts";
import { must } from "../../../../fakes/authority.ts";
import { FakeClock } from "../../../../fakes/clock.ts";
import { forgedJwt, signingKey, signJwt } from "../../../../fakes/idp.ts";

const NOW = Date.parse("2026-11-21T10:00:00Z");
const S = NOW / 1000;
const LOGOUT = "http://schemas.openid.net/event/backchannel-logout";

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const key = signingKey("k1");
  const set = must(parseJwks(JSON.stringify({ keys: [key.jwk] })));
  const verifier = new IdpVerifier(
    {
      ...{ name: "main", issuer: "https://idp.example", clientId: "client", audiences: ["api"] },
      ...{ algorithms: ["ES256", "RS256"], clockSkewSeconds: 60, allowInsecureIssuer: false },
    },
    { keys: async () => set },
    new FakeClock(NOW),
  );
  const claims = {
    ...{ iss: "https://idp.example", aud: ["client", "api"], azp: "client", sub: "a", iat: S, exp: S + 60 },
    ...{ client_id: "c", jti: "j" },
  };
  const signed = [
    await signJwt(key, { ...claims, nonce: "n" }),
    await signJwt(key, claims, { typ: "at+jwt" }),
    await signJwt(key, { ...claims, events: { [LOGOUT]: {} } }, { typ: "logout+jwt" }),
  ];
  const known = new Set(signed.map((token) => token.slice(0, token.lastIndexOf("."))));
  const mutated = fc
    .tuple(fc.constantFrom(...signed), fc.nat(800), fc.string({ unit: "binary", maxLength: 3 }), fc.nat(3))
    .map(([token, at, text, cut]) => token.slice(0, at) + text + token.slice(at + cut));
  const header = fc.record(
    {
      alg: fc.constantFrom("ES256", "RS256", "HS256", "none", "es256"),
      ...{ typ: fc.anything(), kid: fc.anything(), crit: fc.anything(), jwk: fc.anything() },
    },
    { requiredKeys: ["alg"] },
  );
  const forged = fc
    .tuple(header, fc.jsonValue(), fc.base64String())
    .map(([head, body, signature]) => forgedJwt(head, body ?? null, signature.replace(/[+/=]/g, "")));
  let cases = 0;
  await fc.assert(
    fc.asyncProperty(fc.oneof(mutated, forged, fc.string()), async (token) => {
      cases++;
      parseJwks(token);
      for (const result of [
        await verifier.verifyIdToken(token, { nonce: undefined, accessToken: "x" }),
        await verifier.verifyAccessToken(token),
        await verifier.verifyAssertion(token),
        await verifier.verifyLogoutToken(token),
      ])
        if (result.ok && !known.has(token.slice(0, token.lastIndexOf("."))))
          throw new Error(`accepted ${token}`);
    }),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  return { cases };
}
