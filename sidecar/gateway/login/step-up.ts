// Whether a sign-in is strong and fresh enough for a route (RFC 9470). PURE.
import type { GatewayIdp, GatewayRoute } from "../../core/gateway/gateway.ts";
import type { SessionUser } from "../session/session.ts";

/** What a route asks of a sign-in; both may be undefined. */
export interface Strength {
  readonly acr: string | undefined;
  readonly maxAgeSeconds: number | undefined;
}

/** What the route asks for beyond a session; `acr` falls back to that of the identity provider. */
export function strengthOf(
  { stepUp }: Pick<GatewayRoute, "stepUp">,
  idp: Pick<GatewayIdp, "stepUpAcr"> | undefined,
): Strength | undefined {
  if (stepUp === undefined) return undefined;
  const { acr, maxAgeSeconds } = stepUp;
  return { acr: acr ?? (maxAgeSeconds === undefined ? idp?.stepUpAcr : undefined), maxAgeSeconds };
}

/** The clocks of the provider and of the gateway may differ by so much. */
const SKEW_MS = 60_000;

export function isStrongEnough(
  user: Pick<SessionUser, "acr" | "authTimeMs">,
  { acr, maxAgeSeconds }: Strength,
  nowMs: number,
): boolean {
  if (acr !== undefined && user.acr !== acr) return false;
  return maxAgeSeconds === undefined || nowMs - user.authTimeMs <= maxAgeSeconds * 1_000 + SKEW_MS;
}

const ACR = /^[\x21\x23-\x5b\x5d-\x7e]{1,128}$/;
const MAX_AGE = /^\d{1,7}$/;

/** What an address of ours asks for; what is not understood is not asked for, and refused by the route later. */
export function strengthIn(query: URLSearchParams): Strength {
  const acr = query.get("acr");
  const maxAge = query.get("max_age");
  return {
    acr: acr !== null && ACR.test(acr) ? acr : undefined,
    maxAgeSeconds: maxAge !== null && MAX_AGE.test(maxAge) ? Number(maxAge) : undefined,
  };
}
