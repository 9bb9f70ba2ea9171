// Callers with an access token of an identity provider (RFC 6750, RFC 9068): the token service exchanges it, once; later
// requests with the same one are a look-up. What cannot be such a token is refused without asking anybody.

import type { Gateway } from "../../core/gateway/gateway.ts";
import { GenerationCache } from "../../core/identity/generation-cache.ts";
import type { HeldTxn } from "../../core/identity/held-txn.ts";
import type { TokenRefusal, TokenService } from "./token-service.ts";

const MAX_TOKEN_CHARS = 8_192;
const MAX_KEPT_CHARS = 4_000;
const SHAPE = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;

/** The token of an `authorization` field; undefined: it has none of this scheme. */
export function parseBearer(authorization: string): string | undefined {
  return /^bearer +([^ ,]+)$/i.exec(authorization)?.[1];
}

/** A bearer token as it was shown. */
export interface ShownToken {
  readonly token: string;
  /** SPIFFE ID of the one workload that it is for; undefined: it names none. The token's word, which is verified elsewhere. */
  readonly audience: string | undefined;
}

/** Tokens by the field that they came in: the same string has its hash already, where a new one is hashed over 1 KB. */
export class BearerFields {
  readonly #known = new GenerationCache<ShownToken>({ maxEntries: 2_048, maxWeight: 4 * 1024 * 1024 });

  /** The token of an `authorization` field; undefined: it has none of this scheme. */
  read(authorization: string | undefined): ShownToken | undefined {
    if (authorization === undefined) return undefined;
    const known = this.#known.get(authorization);
    if (known !== undefined) return known;
    const token = parseBearer(authorization);
    if (token === undefined) return undefined;
    const shown = { token, audience: audienceOf(token) };
    // Longer fields may be a part of a whole head, which a cache would keep alive.
    if (authorization.length <= MAX_KEPT_CHARS) this.#known.set(authorization, shown, authorization.length);
    return shown;
  }
}

/** Whether one of the gateway's providers could have issued it for callers: cheap, and says nothing of its truth. */
export function isCandidate(token: string, gateway: Pick<Gateway, "idps">): boolean {
  const issuer = claimOf(token, "iss");
  return gateway.idps.some((idp) => idp.audiences.length > 0 && idp.issuer === issuer);
}

/** An audience that is a workload: the token service makes such tokens, and no others. */
function audienceOf(token: string): string | undefined {
  const audience = claimOf(token, "aud");
  const list: readonly unknown[] = Array.isArray(audience) ? audience : [audience];
  return list.find((each): each is string => typeof each === "string" && each.startsWith("spiffe://"));
}

/** A claim of what has the shape of a JWT, unverified. */
function claimOf(token: string, name: string): unknown {
  if (token.length > MAX_TOKEN_CHARS || !SHAPE.test(token)) return undefined;
  try {
    const claims: unknown = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8"));
    return typeof claims === "object" && claims !== null ? Reflect.get(claims, name) : undefined;
  } catch {
    return undefined;
  }
}

const NOT_OURS: TokenRefusal = {
  reason: "TOKEN_INVALID",
  detail: "it is no access token that an identity provider of this gateway issued for it",
  isTemporary: false,
};

/** On whose behalf the bearer of a token calls; at once where the token was seen before. */
export function exchangeBearer(
  tokens: TokenService,
  gateway: Pick<Gateway, "idps">,
  { token, audience }: ShownToken,
  reqIp: string,
): HeldTxn | TokenRefusal | Promise<HeldTxn | TokenRefusal> {
  const held = tokens.heldForToken(token, { reqIp });
  if (held !== undefined) return held;
  if (audience === undefined && !isCandidate(token, gateway)) return NOT_OURS;
  return tokens.exchange(token, { reqIp }).then((answer) => (answer.ok ? answer.value : answer.error));
}
