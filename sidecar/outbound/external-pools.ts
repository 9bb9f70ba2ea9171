// Every host outside the mesh that was called, by the ExternalService that it was called as: no connection is shared between
// two of them, whatever hosts they name.
import type { ExternalDeps } from "./external-place.ts";
import { ExternalPool, type HostAddress } from "./external-pool.ts";

export class ExternalPools {
  readonly #deps: ExternalDeps;
  readonly #pools = new Map<string, ExternalPool>();
  /** Of authorities that counted before: calls under way end there, new ones do not go there. */
  readonly #retired = new Set<ExternalPool>();

  constructor(deps: ExternalDeps) {
    this.#deps = deps;
  }

  /** @param service id of the ExternalService. */
  of(service: string, address: HostAddress): ExternalPool {
    const key = `${service} ${address.protocol}://${address.host}:${address.port}`;
    let pool = this.#pools.get(key);
    if (pool === undefined) {
      pool = new ExternalPool(address, this.#deps);
      this.#pools.set(key, pool);
    }
    return pool;
  }

  /** From now on connections are made anew: other authorities count than those that were there vouched for. */
  renew(): void {
    for (const pool of this.#pools.values()) this.#retired.add(pool);
    this.#pools.clear();
  }

  sweep(nowMs: number): void {
    for (const pool of this.#retired) {
      pool.sweep(nowMs);
      if (pool.isUnused) this.#retired.delete(pool);
    }
    for (const [key, pool] of this.#pools) {
      pool.sweep(nowMs);
      if (pool.isUnused) this.#pools.delete(key);
    }
  }

  close(): void {
    for (const pool of this.#retired) pool.close();
    for (const pool of this.#pools.values()) pool.close();
  }
}
