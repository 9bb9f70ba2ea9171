// Scopes of transactions: operations and all below them, separated by a space; `*` alone is every one. Never more than the
// subject had. PURE.
import { TXN_SCOPE_ALL } from "../../sidecar/core/identity/txn.ts";
import { coversOperation } from "../../sidecar/core/policy/scope.ts";
import type { UserOperations } from "../policy/user-operations.ts";
import { TokenRefusal } from "./refusal.ts";

/** Scopes of access tokens that say nothing about operations (OpenID Connect Core 5.4 and 11, and what providers add). */
const ABOUT_THE_USER = new Set([
  ...["openid", "profile", "email", "address", "phone", "offline_access", "groups", "roles", "acr"],
  ...["web-origins", "microprofile-jwt", "basic", "service_account"],
]);
const EVERYTHING = "all-apis";
const MAX_SCOPE_CHARS = 1_024;

function entriesOf(text: string): readonly string[] {
  return text.split(" ").filter((entry) => entry !== "");
}

/**
 * The scope of a token that is asked for.
 *
 * @param asked undefined: all that the subject has.
 * @param held of the subject.
 * @param isKnown whether some operation has this name, or lies below it.
 * @throws TokenRefusal `SCOPE_EXCEEDED` for an operation that nobody knows, or that the subject does not have.
 */
export function narrowedScope(
  asked: string | undefined,
  held: string,
  isKnown: (pattern: string) => boolean,
): string {
  if (asked === undefined || asked === held) return held;
  const entries = entriesOf(asked);
  if (asked.length > MAX_SCOPE_CHARS || entries.length === 0)
    throw new TokenRefusal("SCOPE_EXCEEDED", "`scope` names no operation, or too many");
  const holds = held === TXN_SCOPE_ALL ? undefined : entriesOf(held);
  for (const entry of entries) {
    if (entry === TXN_SCOPE_ALL || !isKnown(entry))
      throw new TokenRefusal("SCOPE_EXCEEDED", `\`${entry.slice(0, 64)}\` is no operation of this mesh`);
    if (holds !== undefined && !holds.some((pattern) => coversOperation(pattern, entry)))
      throw new TokenRefusal(
        "SCOPE_EXCEEDED",
        `\`${entry.slice(0, 64)}\` is more than the subject token has`,
      );
  }
  return [...new Set(entries)].join(" ");
}

/**
 * What an access token of a provider may be used for: the operations in its `scope`. One that has scopes of some other
 * API only was not made for this one.
 *
 * @param claim `scope` (RFC 9068 section 2.2.3); undefined: the user's rights are the only limit.
 * @throws TokenRefusal `SCOPE_EXCEEDED`.
 */
export function scopeOfAccessToken(claim: unknown, isKnown: (pattern: string) => boolean): string {
  if (claim === undefined) return TXN_SCOPE_ALL;
  if (typeof claim !== "string" || claim.length > 8_192)
    throw new TokenRefusal("SCOPE_EXCEEDED", "`scope` of the subject token is no text");
  const entries = entriesOf(claim).filter((entry) => !ABOUT_THE_USER.has(entry));
  if (entries.length === 0 || entries.includes(EVERYTHING)) return TXN_SCOPE_ALL;
  const operations = entries.filter(isKnown);
  if (operations.length === 0)
    throw new TokenRefusal(
      "SCOPE_EXCEEDED",
      "the subject token has scopes, and none of them is an operation of this mesh",
    );
  return operations.join(" ");
}

/**
 * The scope of a token for one endpoint: no operation that policies do not let its subject do there.
 *
 * @param asked whether the request names a scope; otherwise all that is held and allowed is meant.
 * @param scope what it may be at most, as `narrowedScope` says.
 * @throws TokenRefusal `TARGET_NOT_PERMITTED` when nothing is left, `SCOPE_EXCEEDED` for an entry of which a part is not allowed.
 */
export function endpointScope(
  asked: boolean,
  scope: string,
  { every, allowed, others }: UserOperations,
): string {
  if (every) return scope;
  if (allowed.length === 0)
    throw new TokenRefusal(
      "TARGET_NOT_PERMITTED",
      "policies let the user do no operation of this endpoint that a token can name; see `countersign roles`",
    );
  const entries = scope === TXN_SCOPE_ALL ? undefined : entriesOf(scope);
  if (asked && entries !== undefined) {
    for (const entry of entries)
      if (
        !allowed.some((name) => coversOperation(entry, name)) ||
        others.some((name) => coversOperation(entry, name))
      )
        throw new TokenRefusal(
          "SCOPE_EXCEEDED",
          `policies do not let the user do all of \`${entry.slice(0, 64)}\` at this endpoint`,
        );
    return scope;
  }
  const left = allowed.filter((name) => entries?.some((entry) => coversOperation(entry, name)) ?? true);
  const text = left.join(" ");
  if (left.length === 0)
    throw new TokenRefusal("SCOPE_EXCEEDED", "the subject token has none of the operations that are allowed");
  if (text.length > MAX_SCOPE_CHARS)
    throw new TokenRefusal("SCOPE_EXCEEDED", "too many operations for one token; name some in `scope`");
  return text;
}
