// Who a verified token is about: user id, groups, and what else its claims say. PURE.

import type { IdpSettings } from "../../sidecar/core/idp/settings.ts";
import { claimText, type VerifiedJwt } from "../../sidecar/core/idp/token-claims.ts";
import { TokenRefusal } from "./refusal.ts";
import type { Person } from "./session-handle.ts";

/** An IdentityProvider, as far as the token service is concerned. */
export interface IdpProvider extends IdpSettings {
  readonly userIdClaim: string;
  readonly groupsClaim: string;
  readonly emailClaim: string;
  readonly usernameClaim: string;
  /** Whoever has this claim is a service principal, and this is its id. */
  readonly servicePrincipalClaim: string | undefined;
}

type Claims = Readonly<Record<string, unknown>>;

/** Claims of the protocol: no binding asks for them, and each handle would carry them. */
const PROTOCOL = new Set([
  ...["iss", "aud", "exp", "iat", "nbf", "nonce", "jti", "at_hash", "c_hash", "s_hash", "azp"],
  ...["sid", "auth_time", "_claim_names", "_claim_sources", "hasgroups", "rh", "uti", "aio", "xms_st"],
]);
const MAX_GROUPS = 1_000;
const MAX_METHODS = 16;
const METHOD = /^[\x21-\x2b\x2d-\x7e]{1,64}$/;

/** A claim by its name, else by a path such as `realm_access.roles`. */
function claimAt(claims: Claims, path: string): unknown {
  if (Object.hasOwn(claims, path)) return claims[path];
  let value: unknown = claims;
  for (const name of path.split(".")) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) return undefined;
    value = Reflect.get(value, name);
  }
  return value;
}

/**
 * Groups that do not fit are left out by providers, who then say where to ask (`_claim_names`, Microsoft's `hasgroups`):
 * that is not the same as having none. A claim that is not there at all is none.
 */
function groupsOf(claims: Claims, name: string): Person["groups"] {
  const value = claimAt(claims, name);
  const elsewhere = claims["_claim_names"];
  const isElsewhere =
    typeof elsewhere === "object" && elsewhere !== null && Object.hasOwn(elsewhere, name.split(".")[0] ?? "");
  if (value === undefined) return isElsewhere || claims["hasgroups"] !== undefined ? "unknown" : [];
  const list = typeof value === "string" ? [value] : value;
  if (!Array.isArray(list) || list.length > MAX_GROUPS) return "unknown";
  const groups = list.filter((one): one is string => claimText(one, 512) !== undefined);
  return groups.length === list.length ? groups : "unknown";
}

function methodsOf(value: unknown): readonly string[] {
  const list = Array.isArray(value) ? value : [];
  return list
    .filter((one): one is string => typeof one === "string" && METHOD.test(one))
    .slice(0, MAX_METHODS);
}

/**
 * The person that a token is about.
 *
 * @param more claims of the provider's userinfo endpoint; those of the token count first.
 * @throws TokenRefusal `USER_UNKNOWN` when the claim with the user's id is missing.
 */
export function personOf(
  { claims, issuedAt }: VerifiedJwt,
  provider: IdpProvider,
  more: Claims = {},
): Person {
  const all: Claims = { ...more, ...claims };
  const principal =
    provider.servicePrincipalClaim === undefined
      ? undefined
      : claimText(claimAt(claims, provider.servicePrincipalClaim));
  const id = principal ?? claimText(claimAt(claims, provider.userIdClaim));
  if (id === undefined)
    throw new TokenRefusal(
      "USER_UNKNOWN",
      `the token has no claim \`${provider.userIdClaim}\`, which \`spec.userIdClaim\` names`,
    );
  return {
    idp: provider.name,
    id,
    type: principal === undefined ? "person" : "servicePrincipal",
    email: claimText(claimAt(all, provider.emailClaim), 320),
    username: claimText(claimAt(all, provider.usernameClaim)),
    groups: groupsOf(all, provider.groupsClaim),
    claims: Object.fromEntries(Object.entries(all).filter(([name]) => !PROTOCOL.has(name))),
    amr: methodsOf(claims["amr"]),
    acr: claimText(claims["acr"]),
    authTime: authTimeOf(claims["auth_time"]) ?? (principal === undefined ? undefined : issuedAt),
  };
}

/**
 * When the person signed in. A token that does not say so was perhaps issued on a login of last week: then nothing is known
 * (`max_age` makes providers say it). A service principal signs in for each token.
 */
function authTimeOf(value: unknown): number | undefined {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0 ? value : undefined;
}

/** Whether the userinfo endpoint could say what the token does not. */
export function lacksClaims({ claims }: VerifiedJwt, provider: IdpProvider): boolean {
  return [provider.groupsClaim, provider.emailClaim, provider.usernameClaim].some(
    (name) => claimAt(claims, name) === undefined,
  );
}

/** `idp|id`, the user id everywhere in the mesh. */
export function userIdOf({ idp, id }: Pick<Person, "idp" | "id">): string {
  return `${idp}|${id}`;
}
