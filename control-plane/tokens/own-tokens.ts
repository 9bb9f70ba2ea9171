// Tokens that this token service made, brought back: Txn-Tokens to be replaced, and access tokens for one endpoint, which
// somebody showed a gateway: the claims of the Txn-Token that stands for the same person, scope and end. PURE.

import { verifyEs256 } from "../../sidecar/core/identity/ecdsa.ts";
import { holdTxn } from "../../sidecar/core/identity/held-txn.ts";
import { parseSpiffeId, type SpiffeId } from "../../sidecar/core/identity/spiffe-id.ts";
import { parseTxnClaims, type TxnClaims } from "../../sidecar/core/identity/txn.ts";
import { type JwtShape, readJwtShape } from "../../sidecar/core/idp/jwt-shape.ts";
import type { TxnSigner } from "../ca/token-service-keys.ts";
import { ACCESS_TOKEN_TYPE, IDP_CLAIM, TYPE_CLAIM } from "./mint.ts";
import { TokenRefusal } from "./refusal.ts";

export interface OwnTokenDeps {
  readonly trustDomain: string;
  readonly signers: readonly TxnSigner[];
  readonly nowMs: number;
}

export interface OwnToken {
  /** SPIFFE ID of the one endpoint that it is for. */
  readonly audience: SpiffeId;
  /** When the access token was made, Unix seconds: what is revoked by then covers it. */
  readonly issuedAt: number;
  /** Of a Txn-Token of now for `caller`; ends with the access token. */
  readonly claims: TxnClaims;
}

/** @throws TokenRefusal `TOKEN_INVALID`, `SESSION_EXPIRED`. */
export function readOwnToken(shape: JwtShape, caller: SpiffeId, deps: OwnTokenDeps): OwnToken {
  if (!isSigned(shape, ACCESS_TOKEN_TYPE, deps.signers))
    throw invalid("it is no access token that this token service signed");
  const { claims: raw } = shape;
  const { aud, iat: issuedAt, exp } = raw;
  const audience = typeof aud === "string" ? parseSpiffeId(aud) : undefined;
  if (audience?.ok !== true || typeof issuedAt !== "number" || typeof exp !== "number")
    throw invalid("it is for no endpoint, or for no time");
  const iat = Math.floor(deps.nowMs / 1000);
  if (iat >= exp) throw new TokenRefusal("SESSION_EXPIRED", "the access token has expired; ask for another");
  const parsed = parseTxnClaims({
    ...{ iat, exp, aud: deps.trustDomain, txn: raw["jti"], sub: raw["sub"], scope: raw["scope"] },
    req_wl: caller,
    tctx: {
      ...{ typ: raw[TYPE_CLAIM], idp: raw[IDP_CLAIM], roles: raw["roles"], amr: raw["amr"], acr: raw["acr"] },
      ...{ email: raw["email"], username: raw["preferred_username"], auth_time: raw["auth_time"] },
    },
    rctx: { sid: raw["sid"] },
  });
  if (!parsed.ok) throw invalid(parsed.error);
  return { audience: audience.value, issuedAt, claims: parsed.value };
}

/** @throws TokenRefusal `TOKEN_INVALID` for a token that this token service did not sign. */
export function readOwnTxn(
  token: string,
  { signers, trustDomain }: Pick<OwnTokenDeps, "signers" | "trustDomain">,
): TxnClaims {
  const refused = invalid("the subject token is no Txn-Token of this mesh");
  const shape = readJwtShape(token);
  if (!shape.ok || !isSigned(shape.value, "txntoken+jwt", signers)) throw refused;
  const held = holdTxn(token);
  if (!held.ok || held.value.claims.aud !== trustDomain) throw refused;
  return held.value.claims;
}

function isSigned(
  { signed, token, typ, alg, kid }: JwtShape,
  type: string,
  signers: readonly TxnSigner[],
): boolean {
  if (typ !== type || alg !== "ES256") return false;
  const signer = signers.find((each) => each.kid === kid);
  const signature = Buffer.from(token.slice(signed.length + 1), "base64url");
  return signer !== undefined && verifyEs256(Buffer.from(signed), signer.publicKey, signature);
}

const invalid = (detail: string): TokenRefusal => new TokenRefusal("TOKEN_INVALID", detail);
