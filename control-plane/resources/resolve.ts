// What a sidecar is told about a destination that is not in its table. PURE.
import type { Compiled } from "../policy/compile.ts";
import { isIpAddress } from "../policy/obligation-fields.ts";
import type { MeshService } from "../sources/store.ts";
import type { ResourceCache } from "./cache.ts";

export type ResolveAnswer = { readonly service: string } | { readonly reason: string };

const HOST_SUFFIXES = [".svc.cluster.local", ".svc", ""];

/** `name.namespace`, its longer forms, or a bare name in the caller's namespace, to a service id. */
function serviceOfHost(host: string, callerNamespace: string): string | undefined {
  const name = host.toLowerCase().replace(/\.$/, "");
  const suffix = HOST_SUFFIXES.find((one) => one !== "" && name.endsWith(one)) ?? "";
  const [service, namespace, rest] = name.slice(0, name.length - suffix.length).split(".");
  if (!service || rest !== undefined) return undefined;
  return `${namespace ?? callerNamespace}/${service}`;
}

/** Ports that a call may name at this host: those of the service, or the workload's own where it names a pod. */
function declares(
  compiled: Compiled,
  service: MeshService,
  host: string,
  port: number,
  isAddress: boolean,
): boolean {
  if (!isAddress || service.addresses.includes(host)) return service.ports.some((one) => one.port === port);
  return service.endpoints.some(
    ({ address, workload }) =>
      address === host &&
      compiled.state.workloads.get(workload)?.ports.some((one) => one.port === port) === true,
  );
}

/**
 * Answers for one caller.
 *
 * @param host a name, or the IP address that a captured connection goes to: of a Service or of a pod.
 * @returns the service when policy lets the caller call some member of it, otherwise the reason that a call would get.
 */
export function resolveDestination(
  compiled: Compiled,
  cache: ResourceCache,
  caller: string,
  host: string,
  port: number,
): ResolveAnswer {
  const isAddress = isIpAddress(host);
  const named = serviceOfHost(host, caller.split("/")[0] ?? "");
  const candidates = isAddress ? cache.servicesAt(host) : named === undefined ? [] : [named];
  let denied: ResolveAnswer | undefined;
  for (const id of candidates) {
    const service = cache.service(id);
    // Port 0 or one that no member declares: as unknown as the name would be, unless the host alone decides (port 80).
    const hostDecides = !isAddress && (port === 80 || port === 0);
    if (!service) continue;
    if (!hostDecides && !declares(compiled, service, host, port, isAddress)) continue;
    const isPod = isAddress && !service.addresses.includes(host);
    const members = new Set(
      isPod
        ? service.endpoints.filter(({ address }) => address === host).map(({ workload }) => workload)
        : service.members,
    );
    const callees = compiled.callees.get(caller);
    if ([...members].some((member) => callees?.has(member))) return { service: id };
    if (!isPod && leadsToCallee(compiled, id, callees)) return { service: id };
    denied ??= { reason: reasonOf(compiled, members) };
  }
  return denied ?? { reason: "UNKNOWN_DESTINATION" };
}

/** Whether the service's route leads to something that the caller may call: then it is told of the service, too. */
function leadsToCallee(
  { routes, state }: Compiled,
  service: string,
  callees: ReadonlySet<string> | undefined,
): boolean {
  if (callees === undefined) return false;
  return (routes.leadsTo.get(service) ?? []).some((name) =>
    state.services.get(name)?.members.some((member) => callees.has(member)),
  );
}

function reasonOf(compiled: Compiled, members: ReadonlySet<string>): string {
  const isSelected = [...members].some((id) =>
    compiled.programs
      .get(id)
      ?.policies.some(({ action, enforcement }) => action === "Allow" && enforcement === "Enforce"),
  );
  return isSelected ? "NO_MATCHING_ALLOW" : "DEFAULT_DENY";
}
