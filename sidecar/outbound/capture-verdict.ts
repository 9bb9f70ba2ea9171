// What a captured connection is by the address that it was going to: one to the mesh, or one to the outside that settings
// let pass or do not.
import type { OriginalDestination } from "../wire/original-destination.ts";
import { addressKey } from "./address-index.ts";
import type { Destination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

export type Verdict =
  | { readonly kind: "mesh"; readonly destination: Destination }
  /** Nothing of the mesh, as far as anybody knows. */
  | { readonly kind: "pass" }
  /** `why` is a reason, or words for the log; `isOutside`: nobody knows it as an address of the mesh. */
  | { readonly kind: "refuse"; readonly why: string; readonly isOutside?: true };

const ARRIVAL_STEP_MS = 25;
const ARRIVAL_ATTEMPTS = 20;

/** Asks the control plane once where the table does not know the address. */
export async function judge(
  { address, port }: OriginalDestination,
  services: OutboundServices,
): Promise<Verdict> {
  const { directory } = services.state;
  if (directory === undefined) return { kind: "refuse", why: "there is no policy yet" };
  const key = addressKey(address, port);
  let destination = directory.ofAddress(key);
  let reason = "";
  if (destination === undefined) {
    const resolution = await services.resolve(address, port);
    if (resolution.kind === "service") {
      destination = await whenArrived(key, services);
      // Of the mesh, but nothing in the table serves it: never a stranger, or it would be called without an identity.
      if (destination === undefined) return { kind: "refuse", why: "NO_ENDPOINTS" };
    } else reason = resolution.reason;
  }
  if (destination !== undefined) return { kind: "mesh", destination };
  // With the control plane away nobody can say whose address it is; a workload of the mesh refuses plaintext itself.
  const isStranger = reason === "UNKNOWN_DESTINATION" || reason === "NOT_READY";
  const { settings } = (services.state.directory ?? directory).table;
  if (isStranger && settings.outbound === "Allow") return { kind: "pass" };
  if (!isStranger) return { kind: "refuse", why: reason };
  return { kind: "refuse", why: reason === "NOT_READY" ? reason : "OUTBOUND_DENIED", isOutside: true };
}

/** A pod that has just come may be known to the control plane a moment before it is here. */
async function whenArrived(key: string, services: OutboundServices): Promise<Destination | undefined> {
  for (let attempt = 0; attempt < ARRIVAL_ATTEMPTS; attempt++) {
    const destination = services.state.directory?.ofAddress(key);
    if (destination !== undefined) return destination;
    await services.clock.sleep(ARRIVAL_STEP_MS);
  }
  return undefined;
}
