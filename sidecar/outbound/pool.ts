// Connections to other sidecars, across tables: an upstream per endpoint, all with the identity in force, and a group of
// endpoints per port of a service.
import type { X509Certificate } from "node:crypto";
import { Anchors } from "../core/identity/anchors.ts";
import { ProofSigner } from "../core/identity/proofs.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import type { MeshEndpoint, SidecarTable } from "../discovery/table.ts";
import { EndpointGroup } from "./group.ts";
import { endpointName } from "./member.ts";
import { resolveTraffic, type ServiceTraffic, type TrafficDefaults } from "./service-traffic.ts";
import { Upstream } from "./upstream.ts";
import type { SigningIdentity, UpstreamDeps } from "./upstream-connection.ts";

interface KeptGroup {
  readonly group: EndpointGroup;
  /** Name of the one endpoint that it is about; undefined: all of the service's. */
  readonly only: string | undefined;
}

/** Every endpoint that was called, across tables. */
export class UpstreamPool {
  readonly #deps: UpstreamDeps;
  readonly #upstreams = new Map<string, Upstream>();
  /** No table names them any more; they finish what they have. */
  readonly #leaving = new Set<Upstream>();
  readonly #groups = new Map<string, KeptGroup>();
  readonly #defaults: TrafficDefaults;
  #signing: SigningIdentity | undefined;
  /** Of signers that were replaced; what they still sign for open connections is not counted. */
  readonly #signedBefore = { hits: 0, signed: 0 };

  constructor(deps: Omit<UpstreamDeps, "anchors">) {
    this.#deps = { ...deps, anchors: new Anchors() };
    const { timeouts, limits } = deps;
    this.#defaults = {
      connectMs: timeouts.connectMs,
      idleMs: timeouts.responseMs,
      pending: limits.pendingRequests,
    };
  }

  get signing(): SigningIdentity | undefined {
    return this.#signing;
  }

  /** Proofs taken from the cache and signed since the start. */
  get signed(): { readonly hits: number; readonly signed: number } {
    const stats = this.#signing?.signer.stats;
    return {
      hits: this.#signedBefore.hits + (stats?.hits ?? 0),
      signed: this.#signedBefore.signed + (stats?.signed ?? 0),
    };
  }

  get upstreams(): Iterable<Upstream> {
    return this.#upstreams.values();
  }

  get groups(): readonly EndpointGroup[] {
    return [...this.#groups.values()].map(({ group }) => group);
  }

  /** Groups with all endpoints of their service, whose health is asked for. */
  get checkedGroups(): readonly EndpointGroup[] {
    const checked: EndpointGroup[] = [];
    for (const { group, only } of this.#groups.values())
      if (only === undefined && group.traffic.healthCheck !== undefined) checked.push(group);
    return checked;
  }

  /**
   * The endpoints of a service as calls to one of its ports share them.
   *
   * @param key of the port, or of the one endpoint.
   * @param only the endpoint that is meant when it is not all of the service's.
   */
  group(
    key: string,
    of: Pick<EndpointGroup, "service" | "port">,
    table: SidecarTable,
    only?: MeshEndpoint,
  ): EndpointGroup {
    const { service } = of;
    const known = this.#groups.get(key);
    if (known !== undefined) return known.group;
    const name = only === undefined ? undefined : endpointName(only);
    const traffic = this.#trafficOf(service, table);
    const upstreams = this.#upstreamsOf(service, table, name, traffic);
    const group = new EndpointGroup(of, upstreams, traffic, this.#deps);
    this.#groups.set(key, { group, only: name });
    return group;
  }

  #trafficOf(service: string, table: SidecarTable): ServiceTraffic {
    return resolveTraffic(table.routes.get(service)?.traffic, this.#defaults);
  }

  #upstreamsOf(
    service: string,
    table: SidecarTable,
    only: string | undefined,
    { bounds }: ServiceTraffic,
  ): Upstream[] {
    const upstreams: Upstream[] = [];
    for (const endpoint of table.endpoints.get(service) ?? []) {
      const name = endpointName(endpoint);
      if (only !== undefined && only !== name) continue;
      let upstream = this.#upstreams.get(name);
      if (upstream === undefined) {
        upstream = new Upstream(endpoint, this, this.#deps, bounds);
        this.#upstreams.set(name, upstream);
      }
      // Its zone and ports may have changed; its name has not.
      upstream.endpoint = endpoint;
      upstreams.push(upstream);
    }
    return upstreams;
  }

  /** Endpoints by service and state, as gauges are read; a service called on several ports counts once. */
  endpointStates(): [string[], number][] {
    const seen = new Set<string>();
    const values: [string[], number][] = [];
    for (const { group, only } of this.#groups.values()) {
      if (only !== undefined || seen.has(group.service)) continue;
      seen.add(group.service);
      for (const [state, count] of group.states()) values.push([[group.service, state], count]);
    }
    return values;
  }

  /** From now on connections are made, and proofs signed, with this identity. */
  setIdentity(identity: WorkloadIdentity): void {
    const { meshNowMs, randomId } = this.#deps;
    Object.assign(this.#signedBefore, this.signed);
    this.#signing = {
      identity,
      signer: new ProofSigner({ identity: () => identity, nowMs: meshNowMs, randomId }),
    };
    for (const upstream of this.#upstreams.values()) upstream.renew();
  }

  /** What a new table says; endpoints that it no longer names are let go, their open requests end in peace. */
  adopt(table: SidecarTable): void {
    for (const [key, { group, only }] of this.#groups) {
      const traffic = this.#trafficOf(group.service, table);
      const upstreams = this.#upstreamsOf(group.service, table, only, traffic);
      group.update(upstreams, traffic);
      // A pod's address comes and goes, and has the pod's ports.
      const isThere =
        only === undefined
          ? table.services.get(group.service)?.ports.some(({ port }) => port === group.port)
          : upstreams.length > 0;
      if (isThere !== true) this.#groups.delete(key);
    }
    const named = new Set<string>();
    for (const endpoints of table.endpoints.values())
      for (const endpoint of endpoints) named.add(endpointName(endpoint));
    for (const [name, upstream] of this.#upstreams) {
      if (named.has(name)) continue;
      this.#upstreams.delete(name);
      upstream.leave();
      if (upstream.openExchanges > 0) this.#leaving.add(upstream);
    }
  }

  /** Ends connections to callees that these roots do not vouch for. */
  recheck(roots: readonly X509Certificate[]): void {
    for (const upstream of this.#upstreams.values()) upstream.recheck(roots);
    for (const upstream of this.#leaving) upstream.recheck(roots);
  }

  sweep(nowMs: number): void {
    for (const { group } of this.#groups.values()) group.sweep(nowMs);
    for (const upstream of this.#upstreams.values()) upstream.sweep(nowMs);
    for (const upstream of this.#leaving) {
      upstream.sweep(nowMs);
      if (upstream.openExchanges === 0) this.#leaving.delete(upstream);
    }
  }

  retire(): void {
    for (const upstream of this.#upstreams.values()) upstream.retire();
  }

  destroy(): void {
    for (const upstream of [...this.#upstreams.values(), ...this.#leaving]) upstream.destroy();
  }
}
