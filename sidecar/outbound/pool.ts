// Connections to other sidecars, across tables: an upstream per endpoint, all with the identity in force.
import type { X509Certificate } from "node:crypto";
import { Anchors } from "../core/identity/anchors.ts";
import { ProofSigner } from "../core/identity/proofs.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import type { MeshEndpoint } from "../discovery/table.ts";

import { Upstream } from "./upstream.ts";
import type { SigningIdentity, UpstreamDeps } from "./upstream-connection.ts";

/** Every endpoint that was called, across tables. */
export class UpstreamPool {
  readonly #deps: UpstreamDeps;
  readonly #upstreams = new Map<string, Upstream>();
  /** No table names them any more; they finish what they have. */
  readonly #leaving = new Set<Upstream>();
  #signing: SigningIdentity | undefined;
  /** Of signers that were replaced; what they still sign for open connections is not counted. */
  readonly #signedBefore = { hits: 0, signed: 0 };

  constructor(deps: Omit<UpstreamDeps, "anchors">) {
    this.#deps = { ...deps, anchors: new Anchors() };
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

  upstream(endpoint: MeshEndpoint): Upstream {
    const key = keyOf(endpoint);
    let upstream = this.#upstreams.get(key);
    if (upstream === undefined) {
      upstream = new Upstream(endpoint, this, this.#deps);
      this.#upstreams.set(key, upstream);
    }
    return upstream;
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

  /** Lets go of endpoints that the table no longer names; their open requests end in peace. */
  keep(endpoints: Iterable<MeshEndpoint>): void {
    const named = new Set<string>();
    for (const endpoint of endpoints) named.add(keyOf(endpoint));
    for (const [key, upstream] of this.#upstreams) {
      if (named.has(key)) continue;
      this.#upstreams.delete(key);
      upstream.retire();
      if (upstream.openExchanges > 0) this.#leaving.add(upstream);
    }
  }

  /** Ends connections to callees that these roots do not vouch for. */
  recheck(roots: readonly X509Certificate[]): void {
    for (const upstream of this.#upstreams.values()) upstream.recheck(roots);
    for (const upstream of this.#leaving) upstream.recheck(roots);
  }

  sweep(nowMs: number): void {
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

function keyOf(endpoint: MeshEndpoint): string {
  return `${endpoint.spiffeId} ${endpoint.address} ${endpoint.meshPort}`;
}
