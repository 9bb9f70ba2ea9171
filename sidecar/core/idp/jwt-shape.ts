// The strict look at a foreign JWT before any library sees it: one form per token, no key from the token itself. PURE.
// jose accepts padding, spaces and duplicate keys (RFC 8725 section 2.4 says what that leads to).
import { parseClaimsJson } from "../identity/claims.ts";
import { isCanonicalBase64url } from "../identity/token.ts";
import type { IdpResult } from "./settings.ts";
import { refuseIdp } from "./settings.ts";

/** Longest token, characters: an ID token with two hundred groups has about 9 KiB. */
export const MAX_JWT_CHARS = 16_384;

export type JwtClaims = Readonly<Record<string, unknown>>;

export interface JwtShape {
  readonly alg: string;
  readonly kid: string | undefined;
  /** Lower case, without `application/`; undefined: the token does not say. */
  readonly typ: string | undefined;
  readonly claims: JwtClaims;
  /** `header.payload`: one text per signed content, whatever form the signature has (RFC 7515 section 10.12). */
  readonly signed: string;
  readonly token: string;
}

/**
 * Members that bring a key along, or change what is signed. `x5t` and `x5t#S256` name a certificate and are ignored, as
 * `kid` says which key it is.
 */
const FORBIDDEN = ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "cty", "epk", "p2c"];

/** Splits and reads a token without believing it. */
export function readJwtShape(token: string): IdpResult<JwtShape> {
  if (token.length > MAX_JWT_CHARS) return refuseIdp("malformed", "larger than 16 KiB");
  const parts = token.split(".", 6);
  const [header, payload, signature] = parts;
  if (parts.length === 5) return refuseIdp("malformed", "encrypted; only signed tokens are taken");
  if (parts.length !== 3 || header === undefined || payload === undefined || signature === undefined)
    return refuseIdp("malformed", "does not have three segments");
  if (![header, payload, signature].every(isCanonicalBase64url))
    return refuseIdp("malformed", "a segment is not canonical base64url");
  const head = parseClaimsJson(Buffer.from(header, "base64url"));
  if (!head.ok) return refuseIdp("malformed", `header: ${head.error}`);
  const claims = parseClaimsJson(Buffer.from(payload, "base64url"), MAX_JWT_CHARS);
  if (!claims.ok) return refuseIdp("malformed", `claims: ${claims.error}`);
  const { alg, kid, typ } = head.value;
  const forbidden = FORBIDDEN.find((name) => Object.hasOwn(head.value, name));
  if (forbidden !== undefined) return refuseIdp("malformed", `header: \`${forbidden}\` is not permitted`);
  if (typeof alg !== "string") return refuseIdp("malformed", "header: `alg` is not a text");
  if (kid !== undefined && (typeof kid !== "string" || kid.length > 256))
    return refuseIdp("malformed", "header: `kid` is not a short text");
  if (typ !== undefined && typeof typ !== "string")
    return refuseIdp("malformed", "header: `typ` is not a text");
  return {
    ok: true,
    value: {
      ...{ alg, kid, token, claims: claims.value },
      typ: typ?.toLowerCase().replace(/^application\//, ""),
      signed: token.slice(0, header.length + 1 + payload.length),
    },
  };
}
