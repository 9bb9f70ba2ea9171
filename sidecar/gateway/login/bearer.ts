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
function parseBearer(authorization: string): string | undefined {
  return /^bearer +([^ ,]+)$/i.exec(authorization)?.[1];
}

/** Tokens by the field that they came in: the same string has its hash already, where a new one is hashed over 1 KB. */
export class BearerFields {
  readonly #known = new GenerationCache<string>({ maxEntries: 2_048, maxWeight: 4 * 1024 * 1024 });

  /** The token of an `authorization` field; undefined: it has none of this scheme. */
  read(authorization: string | undefined): string | undefined {
    if (authorization === undefined) return undefined;
    const known = this.#known.get(authorization);
    if (known !== undefined) return known;
    const token = parseBearer(authorization);
    // Longer fields may be a part of a whole head, which a cache would keep alive.
    if (token !== undefined && authorization.length <= MAX_KEPT_CHARS)
      this.#known.set(authorization, token, authorization.length);
    return token;
  }
}

/** Whether one of the gateway's providers could have issued it for callers: cheap, and says nothing of its truth. */
export function isCandidate(token: string, gateway: Pick<Gateway, "idps">): boolean {
  if (token.length > MAX_TOKEN_CHARS || !SHAPE.test(token)) return false;
  const payload = token.split(".")[1] ?? "";
  try {
    const claims: unknown = JSON.parse(Buffer.from(payload, "base64url").toString("utf8"));
    const issuer = typeof claims === "object" && claims !== null ? Reflect.get(claims, "iss") : undefined;
    return gateway.idps.some((idp) => idp.audiences.length > 0 && idp.issuer === issuer);
  } catch {
    return false;
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
  token: string,
  reqIp: string,
): HeldTxn | TokenRefusal | Promise<HeldTxn | TokenRefusal> {
  const held = tokens.heldForToken(token, { reqIp });
  if (held !== undefined) return held;
  if (!isCandidate(token, gateway)) return NOT_OURS;
  return tokens.exchange(token, { reqIp }).then((answer) => (answer.ok ? answer.value : answer.error));
}
