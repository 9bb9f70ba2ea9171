// Leases as an API server keeps them: one object per name, and a replacement only of the version that was read.
import type { V1Lease } from "@kubernetes/client-node";
import type { LeaseApi } from "../../control-plane/leader/lease-object.ts";

/** As the typed API rejects. */
export function apiError(code: number): Error {
  return Object.assign(new Error(`HTTP ${code}`), { code });
}

export class FakeLeases {
  lease: V1Lease | undefined;
  #version = 0;
  writes = 0;

  read(): V1Lease {
    if (this.lease === undefined) throw apiError(404);
    return structuredClone(this.lease);
  }

  create(body: V1Lease): V1Lease {
    if (this.lease !== undefined) throw apiError(409);
    return this.#store(body);
  }

  replace(body: V1Lease): V1Lease {
    if (this.lease === undefined) throw apiError(404);
    if (this.lease.metadata?.resourceVersion !== body.metadata?.resourceVersion) throw apiError(409);
    return this.#store(body);
  }

  #store(body: V1Lease): V1Lease {
    this.writes += 1;
    // Through JSON, as over the wire: times come back as text.
    this.lease = JSON.parse(JSON.stringify(body));
    if (this.lease)
      this.lease.metadata = { ...this.lease.metadata, resourceVersion: String(++this.#version) };
    return this.read();
  }

  /** @param call carries one request there and its answer back. */
  api(call: <T>(run: () => T) => Promise<T> = async (run) => run()): LeaseApi {
    return {
      readNamespacedLease: () => call(() => this.read()),
      createNamespacedLease: ({ body }) => call(() => this.create(body)),
      replaceNamespacedLease: ({ body }) => call(() => this.replace(body)),
    };
  }
}
