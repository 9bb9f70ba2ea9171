// The application's ports: for each one that is called a pool of connections, of the version of HTTP that is spoken there.
import type { Limits, SocketAddress, Timeouts } from "../config.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { Http2Shared } from "../wire/http2/shared.ts";
import { Http1AppSide } from "./app-http1.ts";
import { Http2AppSide } from "./app-http2.ts";
import type { AppSide } from "./app-side.ts";

export interface AppSidesDeps {
  readonly appHost: string;
  /** Of ports that are served elsewhere than on `appHost`. */
  readonly appPorts: ReadonlyMap<number, SocketAddress>;
  readonly cache: FieldCache;
  readonly http2: Http2Shared;
  readonly clock: Clock;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
}

export class AppSides {
  readonly #deps: AppSidesDeps;
  readonly #http1 = new Map<number, AppSide>();
  readonly #http2 = new Map<number, AppSide>();

  constructor(deps: AppSidesDeps) {
    this.#deps = deps;
  }

  /** Where the application serves a declared port. */
  addressOf(port: number): SocketAddress {
    const { appHost, appPorts } = this.#deps;
    return appPorts.get(port) ?? { kind: "tcp", host: appHost, port };
  }

  /** The application behind a declared port. @param isHttp2 whether it speaks HTTP/2. */
  of(port: number, isHttp2: boolean): AppSide {
    const sides = isHttp2 ? this.#http2 : this.#http1;
    let side = sides.get(port);
    if (side === undefined) {
      const address = this.addressOf(port);
      side = isHttp2
        ? new Http2AppSide(address, this.#deps)
        : new Http1AppSide(address, { ...this.#deps, shared: this.#deps.http2 });
      sides.set(port, side);
    }
    return side;
  }

  /** Ends what took too long. @param nowMs monotonic. */
  sweep(nowMs: number): void {
    for (const side of this.#all()) side.sweep(nowMs);
  }

  close(): void {
    for (const side of this.#all()) side.close();
  }

  #all(): readonly AppSide[] {
    return [...this.#http1.values(), ...this.#http2.values()];
  }
}
