// The claims of a transaction token (Txn-Token): on whose behalf a call is made. Signed by the token service, carried
// unmodified along the whole chain (draft-ietf-oauth-transaction-tokens-10). PURE.
import type { Result } from "../runtime/errors.ts";
import {
  ClaimError,
  type Json,
  object,
  optionalText,
  optionalTime,
  own,
  parsed,
  spiffeId,
  text,
  time,
} from "./claim-readers.ts";
import type { SpiffeId } from "./spiffe-id.ts";

/** The scope of a token that may be used for every operation that policy allows. */
export const TXN_SCOPE_ALL = "*";
/** `exp` is at most this far behind `iat` (DOMAIN 2.6). */
export const MAX_TXN_LIFETIME_SECONDS = 300;

const MAX_ROLES = 128;
const MAX_METHODS = 16;

/** `tctx`: who the subject is, as the token service established it. Times are Unix seconds. */
export interface TxnContext {
  readonly typ: "person" | "servicePrincipal";
  readonly roles: readonly string[];
  /** Name of the IdentityProvider. */
  readonly idp: string;
  /** Empty for a token that no login stands behind (session binding). */
  readonly amr: readonly string[];
  readonly acr?: string | undefined;
  readonly email?: string | undefined;
  readonly username?: string | undefined;
  /** When the person signed in; never refreshed. */
  readonly authTime?: number | undefined;
}

/** `rctx`: the request that the transaction began with. */
export interface TxnRequestContext {
  /** Address of the person's client. */
  readonly reqIp?: string | undefined;
  /** Id of the session, which may be revoked. */
  readonly sid?: string | undefined;
}

/** Times are Unix seconds, as in the token. */
export interface TxnClaims {
  readonly iat: number;
  readonly exp: number;
  /** The trust domain. */
  readonly aud: string;
  /** Id of the transaction: the same in each replacement. */
  readonly txn: string;
  /** `idp|user`. */
  readonly sub: string;
  /** Operations and all below them, separated by a space; `*` alone: every one. */
  readonly scope: string;
  /** The workload that asked for the token: the first hop of every chain that carries it. */
  readonly reqWl: SpiffeId;
  readonly tctx: TxnContext;
  readonly rctx: TxnRequestContext;
}

function texts(parent: Json, name: string, most: number): readonly string[] {
  const list = own(parent, name) ?? [];
  if (!Array.isArray(list) || list.length > most)
    throw new ClaimError(`claim \`${name}\` is not a short list`);
  const entries = list as readonly unknown[];
  if (!entries.every((each): each is string => typeof each === "string" && NAME.test(each)))
    throw new ClaimError(`an entry of \`${name}\` is not a name`);
  return entries;
}

// Roles and authentication methods: they go into header fields and metrics of applications, so visible ASCII alone.
const NAME = /^[\x21-\x2b\x2d-\x7e]{1,128}$/;
const SCOPE = /^(?:[\x21-\x7e]+(?: [\x21-\x7e]+)*)?$/;

function readContext(claims: Json): TxnContext {
  const tctx = object(claims, "tctx");
  const typ = own(tctx, "typ");
  if (typ !== "person" && typ !== "servicePrincipal") throw new ClaimError("claim `typ` is not known");
  return {
    typ,
    roles: texts(tctx, "roles", MAX_ROLES),
    idp: text(tctx, "idp"),
    amr: texts(tctx, "amr", MAX_METHODS),
    acr: optionalText(tctx, "acr"),
    email: optionalText(tctx, "email"),
    username: optionalText(tctx, "username"),
    authTime: optionalTime(tctx, "auth_time"),
  };
}

function readRequest(claims: Json): TxnRequestContext {
  if (own(claims, "rctx") === undefined) return {};
  const rctx = object(claims, "rctx");
  return { reqIp: optionalText(rctx, "req_ip"), sid: optionalText(rctx, "sid") };
}

function readTxn(claims: Json): TxnClaims {
  const scope = optionalText(claims, "scope");
  if (scope === undefined || !SCOPE.test(scope))
    throw new ClaimError("claim `scope` is missing or malformed");
  const iat = time(claims, "iat");
  const exp = time(claims, "exp");
  if (exp <= iat || exp - iat > MAX_TXN_LIFETIME_SECONDS)
    throw new ClaimError("claim `exp` is not within 300 s after `iat`");
  const tctx = readContext(claims);
  const sub = text(claims, "sub");
  // A provider speaks for its own users alone.
  if (!sub.startsWith(`${tctx.idp}|`) || sub.length === tctx.idp.length + 1)
    throw new ClaimError("claim `sub` is not a user of `idp`");
  return {
    iat,
    exp,
    aud: text(claims, "aud"),
    txn: text(claims, "txn"),
    sub,
    scope,
    reqWl: spiffeId(claims, "req_wl"),
    tctx,
    rctx: readRequest(claims),
  };
}

/** Types of a transaction token's claims set; every claim of the draft is required, `rctx` is not. */
export function parseTxnClaims(claims: Json): Result<TxnClaims, string> {
  return parsed(() => readTxn(claims));
}

/** The claims set as it goes into the token: what `signToken` takes. */
export function encodeTxnClaims({ reqWl, tctx, rctx, ...claims }: TxnClaims): Json {
  const { authTime, ...context } = tctx;
  return {
    ...claims,
    req_wl: reqWl,
    tctx: { ...context, auth_time: authTime },
    rctx: { req_ip: rctx.reqIp, sid: rctx.sid },
  };
}
