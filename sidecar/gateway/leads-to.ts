// PURE. Which workloads a call to a service of the mesh may end at: whether a token for one of them counts there.
import type { SidecarTable } from "../discovery/table.ts";

/**
 * @param service `namespace/name`.
 * @returns whether a workload is among the endpoints of the service, or of a service that its routes send calls to. What gets
 *   copies of calls (mirrors) is not.
 */
export function leadsTo(
  table: Pick<SidecarTable, "endpoints" | "routes"> | undefined,
  service: string,
  spiffeId: string,
): boolean {
  const isEndpoint = (id: string): boolean =>
    table?.endpoints.get(id)?.some((endpoint) => endpoint.spiffeId === spiffeId) === true;
  if (isEndpoint(service)) return true;
  const rules = table?.routes.get(service)?.rules ?? [];
  return rules.some(({ backends }) =>
    backends.some(({ service: backend }) => backend !== undefined && isEndpoint(backend)),
  );
}
