// What a sidecar is told about a destination that is not in its table. PURE.
import type { Compiled } from "../policy/compile.ts";

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

/**
 * Answers for one caller.
 *
 * @returns the service when policy lets the caller call some member of it, otherwise the reason that a call would get.
 */
export function resolveDestination(
  compiled: Compiled,
  cache: ResourceCache,
  caller: string,
  host: string,
  port: number,
): ResolveAnswer {
  const service = serviceOfHost(host, caller.split("/")[0] ?? "");
  const members = service === undefined ? undefined : cache.members(service);
  if (service === undefined || !members) return { reason: "UNKNOWN_DESTINATION" };
  // Port 0 or one that no member declares: as unknown as the name would be, unless the host alone decides (port 80).
  const declared = members.some((member) => member.ports.some((one) => one.port === port));
  if (!declared && port !== 80 && port !== 0) return { reason: "UNKNOWN_DESTINATION" };
  const callees = compiled.callees.get(caller);
  const ids = members.map((member) => `${member.namespace}/${member.name}`);
  if (ids.some((id) => callees?.has(id))) return { service };
  const isSelected = ids.some((id) =>
    compiled.programs
      .get(id)
      ?.policies.some(({ action, enforcement }) => action === "Allow" && enforcement === "Enforce"),
  );
  return { reason: isSelected ? "NO_MATCHING_ALLOW" : "DEFAULT_DENY" };
}
