// Who answers a request of the application: an exchange with the mesh, or, where it names a host outside of it that policy
// knows, one with that host.
import type { AppExchange, AppSide, AppStream, OutboundHead } from "./app-side.ts";
import { OutboundExchange } from "./exchange.ts";
import type { ExternalDestination } from "./external.ts";
import { ExternalExchange } from "./external-exchange.ts";
import type { FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

export function openExchange(
  services: OutboundServices,
  fixed: FixedDestination | undefined,
  app: AppSide,
  stream: AppStream,
  head: OutboundHead,
): AppExchange {
  const external = externalOf(services, fixed, head.authority);
  return external === undefined
    ? new OutboundExchange(services, app, stream, head)
    : new ExternalExchange(services, external, app, stream, head);
}

function externalOf(
  { state }: OutboundServices,
  fixed: FixedDestination | undefined,
  authority: string,
): ExternalDestination | undefined {
  const { externals } = state;
  if (externals === undefined) return undefined;
  if (fixed === undefined) return externals.find(authority);
  if (fixed.kind === "address") {
    // An address that has come to be one of the mesh leads there, whatever the request names.
    const isOutside = fixed.isOutside === true && state.directory?.ofAddress(fixed.key) === undefined;
    return isOutside ? externals.ofPlaintext(authority, fixed.port) : undefined;
  }
  const external = externals.ofId(fixed.service);
  return external?.port === fixed.port ? external : undefined;
}
