// From a request of the application to the destination it means: what is refused before, what the table knows, and what
// the control plane has to be asked for.
import { upgradeOf } from "../core/http/websocket.ts";
import { REASONS, type Reason } from "../core/policy/reason.ts";
import type { Resolution } from "../discovery/resolver.ts";
import type { CallFacts } from "./call-facts.ts";
import { Destination, type FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

export interface OutboundRefusal {
  readonly kind: "refused";
  readonly reason: Reason;
  readonly detail: string;
}

/** A name or address that is not in the table. */
interface Question {
  readonly kind: "unknown";
  readonly host: string;
  readonly port: number;
}

export const refused = (reason: Reason, detail: string): OutboundRefusal => ({
  kind: "refused",
  reason,
  detail,
});

/** What the table says of a request. */
export function locate(
  { head, fixed, nowMs }: CallFacts,
  { state }: OutboundServices,
): Destination | Question | OutboundRefusal {
  const { directory, identityUntilMs } = state;
  if (head.method === "CONNECT")
    return refused("UNSUPPORTED", "CONNECT is carried over HTTP/1.1 on the proxy port only");
  const upgrade = upgradeOf(head.upgrade);
  if (upgrade === undefined || (upgrade !== "" && head.method !== "GET"))
    return refused("UNSUPPORTED", "of upgrades only those of a GET to one protocol are carried");
  if (directory === undefined || identityUntilMs === 0)
    return refused("NOT_READY", "no policy or identity yet");
  if (nowMs >= identityUntilMs) return refused("IDENTITY_EXPIRED", "the own certificate has expired");
  if (fixed !== undefined) return directory.ofFixed(fixed) ?? questionOf(fixed);
  if (head.authority === "") return refused("UNKNOWN_DESTINATION", "the request names no host");
  const found = directory.find(head.authority);
  if (found.kind === "destination") return found.destination;
  return found.kind === "bad" ? refused("REQ_MALFORMED", found.detail) : found;
}

/** The control plane is asked by name, as an application would name the service, or by address. */
export function questionOf(fixed: FixedDestination): Question {
  if (fixed.kind === "address") return { kind: "unknown", host: fixed.address, port: fixed.port };
  const [namespace, name] = fixed.service.split("/");
  return { kind: "unknown", host: `${name}.${namespace}`, port: fixed.port };
}

/** What the control plane says of it. Never rejects. */
export async function askFor(
  { host, port }: Question,
  facts: CallFacts,
  services: OutboundServices,
): Promise<Destination | OutboundRefusal> {
  let resolution: Resolution;
  try {
    resolution = await services.resolve(host, port);
  } catch {
    return refused("NOT_READY", "the control plane cannot be asked");
  }
  const { fixed, head } = facts;
  if (resolution.kind === "refused") {
    const known = Object.hasOwn(REASONS, resolution.reason);
    const reason = known ? (resolution.reason as Reason) : "UNKNOWN_DESTINATION"; // a key of REASONS
    // An address that was captured exists all the same; it is not a name that was mistyped.
    const isOutside = reason === "UNKNOWN_DESTINATION" && fixed?.kind === "address";
    return refused(
      isOutside ? "OUTBOUND_DENIED" : reason,
      `\`${host}:${port}\` cannot be called from this workload`,
    );
  }
  const { directory } = services.state;
  if (fixed !== undefined) {
    const destination = directory?.ofFixed(fixed);
    if (destination !== undefined) return destination;
    // An address of the mesh that the table does not lead to: nothing serves it for us at the moment.
    if (fixed.kind === "address") return refused("NO_ENDPOINTS", `nothing serves \`${host}:${port}\``);
  } else {
    const destination = directory?.ofService(resolution.service.id, port);
    if (destination !== undefined) return destination;
    const found = directory?.find(head.authority);
    if (found?.kind === "destination") return found.destination;
  }
  return refused("UNKNOWN_DESTINATION", `port ${port} is not declared by \`${host}\``);
}

/** Whether it is a destination, and not a reason against one. */
export function isDestination(located: Destination | Question | OutboundRefusal): located is Destination {
  return located instanceof Destination;
}
