// The services that declared workloads name themselves (`spec.service`): their ports and endpoints; PURE.
import type { MeshService, ServicePort, Workload } from "../sources/store.ts";

/** Whether a key of `ClusterState.workloads` is that of a Workload object (`namespace/name`); those of pods are longer. */
export function isDeclared(key: string): boolean {
  return key.indexOf("/") === key.lastIndexOf("/");
}

const byKey = (a: readonly [string, unknown], b: readonly [string, unknown]): number =>
  a[0] < b[0] ? -1 : 1;

/**
 * Services by `namespace/name`. A service's ports are those of its workloads; where two declare the same port, the first
 * by key counts.
 *
 * @param previous services of the state before: what did not change is the same object.
 */
export function servicesOfWorkloads(
  workloads: ReadonlyMap<string, Workload>,
  previous: ReadonlyMap<string, MeshService>,
): Map<string, MeshService> {
  const members = new Map<string, [string, Workload][]>();
  for (const entry of workloads) {
    const { namespace, service } = entry[1];
    if (service === undefined) continue;
    const list = members.get(`${namespace}/${service}`);
    if (list) list.push(entry);
    else members.set(`${namespace}/${service}`, [entry]);
  }
  const services = new Map<string, MeshService>();
  for (const [id, list] of [...members].sort(byKey)) {
    const slash = id.indexOf("/");
    services.set(
      id,
      unchanged(
        {
          namespace: id.slice(0, slash),
          name: id.slice(slash + 1),
          addresses: [],
          ports: portsOf(list.sort(byKey)),
          members: list.map(([workload]) => workload),
          endpoints: list.flatMap(([workload, { addresses, meshPort, zone }]) =>
            addresses.map((address) => ({ address, meshPort, workload, zone })),
          ),
        },
        previous.get(id),
      ),
    );
  }
  return services;
}

function portsOf(members: readonly (readonly [string, Workload])[]): ServicePort[] {
  const ports = new Map<number, ServicePort>();
  for (const [, { ports: declared }] of members)
    for (const port of declared)
      if (!ports.has(port.port)) ports.set(port.port, { ...port, targetPort: port.port });
  return [...ports.values()].sort((a, b) => a.port - b.port);
}

/** @returns `before` where it says the same. */
export function unchanged<T>(now: T, before: T | undefined): T {
  return before !== undefined && JSON.stringify(before) === JSON.stringify(now) ? before : now;
}
