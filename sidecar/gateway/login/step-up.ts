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
