// To an application that speaks HTTP/2 with prior knowledge: few connections to each of its ports, many requests on each.
// A request waits until a connection has shown its settings and has a stream for it.
import { connect } from "node:net";
import type { Limits, SocketAddress, Timeouts } from "../config.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { Http2Shared } from "../wire/http2/shared.ts";
import { Http2AppConnection } from "./app-http2-connection.ts";
import { Http2Place } from "./app-http2-place.ts";
import type { AppExchange, AppPlace, AppSide } from "./app-side.ts";

export interface Http2AppDeps {
  readonly cache: FieldCache;
  readonly http2: Http2Shared;
  readonly clock: Clock;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
}

/** More are opened only when all streams of the others are taken. */
const MAX_CONNECTIONS = 16;

export class Http2AppSide implements AppSide {
  readonly #address: SocketAddress;
  readonly #deps: Http2AppDeps;
  readonly #connections = new Set<Http2AppConnection>();
  #waiting: Http2Place[] = [];
  #opening = 0;

  constructor(address: SocketAddress, deps: Http2AppDeps) {
    this.#address = address;
    this.#deps = deps;
  }

  get connections(): number {
    return this.#connections.size;
  }

  take(exchange: AppExchange, fresh: boolean, nowMs: number): AppPlace | undefined {
    const { timeouts, limits } = this.#deps;
    const place = new Http2Place(this, exchange, this.#deps, nowMs + timeouts.connectMs);
    const isFresh = fresh && this.#connections.size < MAX_CONNECTIONS;
    const connection = isFresh || this.#waiting.length > 0 ? undefined : this.#leastBusy();
    if (connection !== undefined && place.begin(connection)) return place;
    if (this.#waiting.length >= limits.pendingRequests) return undefined;
    this.#waiting.push(place);
    if (isFresh || this.#opening === 0) this.#open();
    return place;
  }

  /** The place is wanted no more. */
  forget(place: Http2Place): void {
    const at = this.#waiting.indexOf(place);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  /** Streams have become free, or a connection stands. */
  serve(connection: Http2AppConnection): void {
    if (this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    // A place that is served may end at once and let others come: what is left stands before them.
    const left = waiting.filter((place) => !place.over && !place.begin(connection));
    this.#waiting = left.concat(this.#waiting);
    if (this.#waiting.length > 0 && this.#opening === 0) this.#open();
  }

  onReady(connection: Http2AppConnection): void {
    this.#opening--;
    this.serve(connection);
  }

  onClosed(connection: Http2AppConnection, wasReady: boolean, detail: string): void {
    this.#connections.delete(connection);
    if (wasReady) {
      if (this.#waiting.length > 0 && this.#opening === 0) this.#open();
      return;
    }
    this.#opening--;
    // Nobody can be reached: those who wait would wait for nothing.
    if (this.#opening === 0 && this.#leastBusy() === undefined) {
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const place of waiting) place.fail("connect", detail, "nothing", 0);
    }
  }

  sweep(nowMs: number): void {
    for (const place of [...this.#waiting]) {
      if (nowMs < place.deadlineMs) continue;
      this.forget(place);
      place.fail("timeout", "the application had no room in time", "nothing", 0);
    }
    for (const connection of this.#connections) connection.sweep(nowMs);
  }

  close(): void {
    for (const connection of this.#connections) connection.destroy();
  }

  #leastBusy(): Http2AppConnection | undefined {
    let found: Http2AppConnection | undefined;
    for (const connection of this.#connections)
      if (connection.hasRoom && (found === undefined || connection.load < found.load)) found = connection;
    return found;
  }

  #open(): void {
    if (this.#connections.size >= MAX_CONNECTIONS) return;
    const raw =
      this.#address.kind === "unix"
        ? connect({ path: this.#address.path })
        : connect({ host: this.#address.host, port: this.#address.port });
    this.#opening++;
    this.#connections.add(new Http2AppConnection(this, raw, this.#deps));
  }
}
