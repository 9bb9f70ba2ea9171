// Every host outside the mesh that was called, by the ExternalService that it was called as: no connection is shared between
// two of them, whatever hosts they name.
import type { ExternalDeps } from "./external-place.ts";
import { ExternalPool, type HostAddress } from "./external-pool.ts";

export class ExternalPools {
  readonly #deps: ExternalDeps;
  readonly #pools = new Map<string, ExternalPool>();

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

  sweep(nowMs: number): void {
    for (const [key, pool] of this.#pools) {
      pool.sweep(nowMs);
      if (pool.isUnused) this.#pools.delete(key);
    }
  }

  close(): void {
    for (const pool of this.#pools.values()) pool.close();
  }
}
