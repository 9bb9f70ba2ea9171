// Makes the tokens of the token service: Txn-Tokens, and short access tokens for one serving endpoint.
import { randomUUID } from "node:crypto";
import { MAX_TOKEN_BYTES, TOKEN_TYPES } from "../../sidecar/core/identity/claims.ts";
import { signEs256 } from "../../sidecar/core/identity/ecdsa.ts";
import type { SpiffeId } from "../../sidecar/core/identity/spiffe-id.ts";
import { signToken } from "../../sidecar/core/identity/token.ts";
import { encodeTxnClaims, type TxnClaims, type TxnRequestContext } from "../../sidecar/core/identity/txn.ts";
import type { TxnSigner } from "../ca/token-service-keys.ts";
import { userIdOf } from "./person.ts";
import { TokenRefusal } from "./refusal.ts";
import type { Person } from "./session-handle.ts";

const MAX_ROLES = 128;

export interface MintInput {
  readonly trustDomain: string;
  readonly signer: TxnSigner;
  readonly caller: SpiffeId;
  readonly person: Person;
  readonly roles: readonly string[];
  readonly scope: string;
  readonly request: TxnRequestContext;
  readonly nowMs: number;
  readonly ttlSeconds: number;
  /** Unix seconds that the token may not outlive. */
  readonly until: number;
}

export interface Minted {
  readonly token: string;
  readonly claims: TxnClaims;
}

/** @throws TokenRefusal `SESSION_EXPIRED` when nothing is left of the time it may live. */
function times({ nowMs, ttlSeconds, until }: MintInput): { readonly iat: number; readonly exp: number } {
  const iat = Math.floor(nowMs / 1000);
  const exp = Math.min(iat + ttlSeconds, Math.floor(until));
  if (exp <= iat) throw new TokenRefusal("SESSION_EXPIRED", "the session has ended; sign in again");
  return { iat, exp };
}

/** @throws TokenRefusal `SESSION_EXPIRED`, `TOKEN_INVALID` (more roles than a token can carry). */
export function mintTxn(input: MintInput): Minted {
  const { person, roles } = input;
  const { idp, type: typ, amr, acr, email, username, authTime } = person;
  const claims: TxnClaims = {
    ...times(input),
    aud: input.trustDomain,
    txn: randomUUID(),
    sub: userIdOf(person),
    scope: input.scope,
    reqWl: input.caller,
    tctx: { typ, roles, idp, amr, acr, email, username, authTime },
    rctx: input.request,
  };
  return { token: signTxn(claims, input.signer), claims };
}

/** @throws TokenRefusal `TOKEN_INVALID`. */
export function signTxn(claims: TxnClaims, { kid, key }: TxnSigner): string {
  const token =
    claims.tctx.roles.length > MAX_ROLES
      ? undefined
      : signToken({ typ: TOKEN_TYPES.txn, kid }, encodeTxnClaims(claims), key);
  if (token === undefined || token.length > MAX_TOKEN_BYTES)
    throw new TokenRefusal(
      "TOKEN_INVALID",
      `\`${claims.sub.slice(0, 128)}\` has more roles than a token can carry; see \`countersign roles\``,
    );
  return token;
}

/**
 * An access token (RFC 9068) for one audience: for callees that read those, and for gateways, who have it exchanged again.
 *
 * @throws TokenRefusal `SESSION_EXPIRED`.
 */
export function mintAccessToken(
  input: MintInput & { readonly issuer: string; readonly audience: string },
): Minted {
  const { claims } = mintTxn(input);
  const { sub, iat, exp, scope, txn, tctx, rctx } = claims;
  const { kid, key } = input.signer;
  const head = Buffer.from(JSON.stringify({ alg: "ES256", typ: ACCESS_TOKEN_TYPE, kid })).toString(
    "base64url",
  );
  const body = Buffer.from(
    JSON.stringify({
      ...{ iss: input.issuer, sub, aud: input.audience, iat, exp, jti: txn, client_id: input.caller, scope },
      // RFC 9068 section 2.2: how and when the person signed in, who that is, and what for.
      ...{ auth_time: tctx.authTime, acr: tctx.acr, amr: tctx.amr, sid: rctx.sid },
      ...{ email: tctx.email, preferred_username: tctx.username, roles: tctx.roles },
      ...{ [IDP_CLAIM]: tctx.idp, [TYPE_CLAIM]: tctx.typ },
    }),
  ).toString("base64url");
  const signed = `${head}.${body}`;
  return { token: `${signed}.${signEs256(Buffer.from(signed), key).toString("base64url")}`, claims };
}

/** `typ` of access tokens, as `readJwtShape` gives it. */
export const ACCESS_TOKEN_TYPE = "at+jwt";
/** Claims of ours in them. */
export const IDP_CLAIM = "countersign.dev/idp";
export const TYPE_CLAIM = "countersign.dev/type";
