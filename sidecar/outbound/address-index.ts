// Which service an address and port means: cluster IPs of services, and the endpoints' own addresses (headless services,
// clients that were given a pod's address). Made from a table when first asked.
import { isIPv6, SocketAddress } from "node:net";
import type { MeshEndpoint, MeshService, ServicePort, SidecarTable } from "../discovery/table.ts";

export interface AddressedPort {
  readonly service: MeshService;
  readonly port: ServicePort;
  /** Set for the address of an endpoint: the call goes there and nowhere else. */
  readonly endpoint: MeshEndpoint | undefined;
}

/** Key of an address and port; IPv6 in its canonical form. */
export function addressKey(address: string, port: number): string {
  return `${canonical(address)} ${port}`;
}

function canonical(address: string): string {
  return isIPv6(address) ? new SocketAddress({ address, family: "ipv6" }).address : address;
}

/** A service's own address beats that of an endpoint; an endpoint of several services is that of the first. */
export function addressIndex(table: SidecarTable): ReadonlyMap<string, AddressedPort> {
  const index = new Map<string, AddressedPort>();
  for (const service of table.services.values())
    for (const address of service.addresses ?? [])
      for (const port of service.ports) {
        const key = addressKey(address, port.port);
        // While an address moves from one service to another both may have it for a moment.
        if (!index.has(key)) index.set(key, { service, port, endpoint: undefined });
      }
  for (const [id, endpoints] of table.endpoints) {
    const service = table.services.get(id);
    if (service === undefined) continue;
    for (const endpoint of endpoints)
      for (const port of endpoint.ports) {
        const key = addressKey(endpoint.address, port.port);
        if (!index.has(key)) index.set(key, { service, port, endpoint });
      }
  }
  return index;
}
