// How the sidecars of all replicas stand, known to the one that leads: each of the others reports to it.
import { networkInterfaces } from "node:os";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ProxyStatus } from "../discovery/server.ts";
import type { LeaseHolder } from "../leader/lease.ts";
import { ReplicaProxies } from "./replica-proxies.ts";
import { ReportClient } from "./report-client.ts";
import type { ReplicaMaterial } from "./report-connection.ts";
import { createReportServer } from "./report-server.ts";

export interface ReplicasOptions {
  readonly host: string;
  /** 16015; 0: the system chooses. */
  readonly port: number;
  /** Of this process among the replicas, as in the Lease. */
  readonly identity: string;
  readonly softwareVersion: string;
  readonly trustDomain: string;
  readonly material: ReplicaMaterial;
  /** The sidecars connected to this replica. */
  readonly local: () => readonly ProxyStatus[];
  /** Digest of the present table of a workload; undefined: there is no such workload. */
  readonly expectedDigest: (workload: string) => string | undefined;
  readonly revision: () => number;
  /** A report said something new. */
  readonly onChanged: () => void;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
}

export interface Replicas {
  readonly port: number;
  /** Where other replicas reach it, `host:port`, for the Lease; undefined on a machine without a network. */
  readonly address: string | undefined;
  /** Of all replicas where this one leads; else those connected here. */
  proxies(): readonly ProxyStatus[];
  /** One of our own sidecars came, went, or stands differently. */
  changed(): void;
  /** As the election says: who leads, and whether it is this replica. */
  follow(holder: LeaseHolder | undefined): void;
  lead(isLeader: boolean): void;
  /** Uses other certificates from the next connection on. */
  rotate(material: ReplicaMaterial): void;
  close(): Promise<void>;
}

/** Opens the port and reports to whoever leads. @throws MeshError `bad_config` when the port is taken. */
export async function createReplicas(options: ReplicasOptions): Promise<Replicas> {
  const { local } = options;
  const stop = new AbortController();
  let isLeader = false;
  let material = options.material;
  const reported = new ReplicaProxies({ ...options, signal: stop.signal });
  const server = await createReportServer({ ...options, isLeader: () => isLeader, proxies: reported });
  const client = new ReportClient({ ...options, material: () => material, proxies: local });
  const reporting = client.run(stop.signal);
  return {
    port: server.port,
    address: ownAddress(options.host, server.port),
    proxies: () => (isLeader ? reported.merge(local()) : local()),
    changed: () => client.changed(),
    follow: (holder) => client.follow(holder),
    lead(now) {
      isLeader = now;
      if (!now) server.endAll();
    },
    rotate(next) {
      material = next;
      server.rotate(next);
    },
    async close() {
      stop.abort();
      await server.close();
      await reporting;
    },
  };
}

/** A pod has one address, or one of each kind; the first that is not loopback, IPv4 before IPv6. */
function ownAddress(host: string, port: number): string | undefined {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  const outside = all.filter(({ internal, scopeid }) => !internal && (scopeid ?? 0) === 0);
  const first = outside.find(({ family }) => family === "IPv4") ?? outside[0];
  const isAny = host === "0.0.0.0" || host === "::";
  const address = isAny ? first?.address : host;
  if (address === undefined) return undefined;
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}
