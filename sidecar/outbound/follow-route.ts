// What a route makes of one call: where it goes instead, how it is changed, and who gets a copy of it.
import type { Classified } from "../core/policy/classified.ts";
import type { Result } from "../core/runtime/errors.ts";
import type { CallFacts } from "./call-facts.ts";
import { labelOf } from "./operation-label.ts";
import type { Destination } from "./resolve.ts";
import type { DestinationRoute, MirrorTarget } from "./route.ts";

/** Why a routed call goes nowhere. */
export interface RouteRefusal {
  readonly reason: "NO_ENDPOINTS" | "REQ_MALFORMED" | "UNSUPPORTED";
  readonly detail: string;
}

/**
 * Applies a route to a call that is classified for the service it names. A backend may know other operations on its port,
 * and both sides must put the same one into the proof: then the call is classified again.
 *
 * @param classify for another destination.
 * @returns who gets copies, or why the call is refused.
 */
export function followRoute(
  route: DestinationRoute,
  facts: CallFacts,
  classify: (destination: Destination) => Result<Classified, string>,
): readonly MirrorTarget[] | RouteRefusal {
  const { destination, classified, head } = facts;
  if (destination === undefined || classified === undefined) return NO_MIRRORS;
  const choice = route.choose({
    method: head.method,
    fields: head.fields,
    classified,
    claims: facts.chain?.txn?.claims,
  });
  if (choice === undefined) return NO_MIRRORS;
  facts.route = choice.effects;
  if (choice.destination === undefined)
    return { reason: "NO_ENDPOINTS", detail: "the route of this service leads to one that does not exist" };
  if (choice.destination !== destination) {
    const { protocol } = choice.destination.port;
    if (protocol === "tcp" || protocol === "tls")
      return { reason: "UNSUPPORTED", detail: `the route leads to a port of protocol \`${protocol}\`` };
    facts.destination = choice.destination;
    if (choice.destination.packsDigest !== destination.packsDigest) {
      const again = classify(choice.destination);
      if (!again.ok) return { reason: "REQ_MALFORMED", detail: again.error };
      facts.classified = again.value;
      facts.operation = labelOf(again.value);
    }
  }
  return choice.mirrors;
}

const NO_MIRRORS: readonly MirrorTarget[] = [];

export function isRouteRefusal(found: readonly MirrorTarget[] | RouteRefusal): found is RouteRefusal {
  return "reason" in found;
}
