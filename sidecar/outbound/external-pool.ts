// The connections to one host and port of one ExternalService. Which version of HTTP they speak is the host's to choose, at
// each handshake (ALPN, RFC 7301): requests share HTTP/2 connections, over HTTP/1.1 each has one to itself.
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls, TLSSocket } from "node:tls";
import { ExternalHttp1, type Http1Owner } from "./external-http1.ts";
import { ExternalHttp2, type Http2Owner } from "./external-http2.ts";
import { EXTERNAL_IDLE_MS, type ExternalDeps, type ExternalUser } from "./external-place.ts";

/** How a host is spoken to: over TLS what it chooses, without TLS what its ExternalService says. */
export type HostProtocol = "tls" | "http" | "h2c";

export interface HostAddress {
  readonly host: string;
  readonly port: number;
  readonly protocol: HostProtocol;
}

interface Waiting {
  readonly user: ExternalUser;
  /** Monotonic milliseconds. */
  readonly deadlineMs: number;
}

/** A connection that does not stand yet. */
interface Dial {
  readonly raw: Socket;
  /** Of a WebSocket: nobody else may have it. */
  readonly alone: ExternalUser | undefined;
  /** Monotonic milliseconds. */
  readonly deadlineMs: number;
}

/** Of TCP: address translation on the way forgets connections after some minutes of silence. */
const KEEP_ALIVE_MS = 30_000;
/** More are opened only when all streams of the others are taken. */
const MAX_HTTP2_CONNECTIONS = 16;
const VERSIONS = ["h2", "http/1.1"];
/** WebSockets are asked for in the words of HTTP/1.1. */
const HTTP1_ALONE = ["http/1.1"];

export class ExternalPool implements Http1Owner, Http2Owner {
  readonly #address: HostAddress;
  readonly #deps: ExternalDeps;
  readonly #dials = new Set<Dial>();
  readonly #http1 = new Set<ExternalHttp1>();
  readonly #idle: ExternalHttp1[] = [];
  readonly #http2 = new Set<ExternalHttp2>();
  #waiting: Waiting[] = [];
  /** HTTP/2 connections without settings yet, and connections that do not stand, but for WebSockets. */
  #opening = 0;
  /** What the last connection came to; undefined: there was none. */
  #speaks: "http/1.1" | "h2" | undefined;

  constructor(address: HostAddress, deps: ExternalDeps) {
    this.#address = address;
    this.#deps = deps;
    if (address.protocol !== "tls") this.#speaks = address.protocol === "h2c" ? "h2" : "http/1.1";
  }

  get size(): number {
    return this.#dials.size + this.#http1.size + this.#http2.size;
  }

  get isUnused(): boolean {
    return this.size === 0 && this.#waiting.length === 0;
  }

  /**
   * Has `onExternalReady` called, at once or later.
   *
   * @param fresh not on one of HTTP/1.1 that was used before.
   * @returns false: there are as many as there may be.
   */
  take(user: ExternalUser, fresh: boolean): boolean {
    const { clock, limits, timeouts } = this.#deps;
    if (user.accept !== undefined) {
      if (this.size >= limits.appConnections) return false;
      this.#dial(user);
      return true;
    }
    if (this.#leastBusy()?.begin(user) === true) return true;
    while (!fresh && !user.needsHttp2) {
      const kept = this.#idle.pop();
      if (kept === undefined) break;
      if (kept.closed) continue;
      kept.begin(user);
      return true;
    }
    const isFull = this.#speaks === "http/1.1" && this.size >= limits.appConnections;
    if (isFull || this.#waiting.length >= limits.pendingRequests) return false;
    this.#waiting.push({ user, deadlineMs: clock.monotonicMs() + timeouts.connectMs });
    this.#openAsNeeded();
    return true;
  }

  /** A place is wanted no more by who has none yet. */
  cancel(user: ExternalUser): void {
    const at = this.#waiting.findIndex((one) => one.user === user);
    if (at >= 0) this.#waiting.splice(at, 1);
    for (const dial of this.#dials) if (dial.alone === user) dial.raw.destroy();
  }

  sweep(nowMs: number): void {
    for (const dial of this.#dials)
      if (nowMs >= dial.deadlineMs) dial.raw.destroy(new Error("connecting took too long"));
    for (const connection of this.#http1) if (nowMs >= connection.deadlineMs) connection.abandon();
    for (const connection of this.#http2) connection.sweep(nowMs);
    const late = this.#waiting.filter(({ deadlineMs }) => nowMs >= deadlineMs);
    if (late.length > 0) {
      this.#waiting = this.#waiting.filter(({ deadlineMs }) => nowMs < deadlineMs);
      fail(late, "the host had no room in time");
    }
    this.#openAsNeeded();
  }

  close(): void {
    this.#waiting = [];
    for (const dial of this.#dials) dial.raw.destroy();
    for (const connection of this.#http1) connection.abandon();
    for (const connection of this.#http2) connection.destroy();
  }

  // --- from the connections --------------------------------------------------------------------------------------

  keep(connection: ExternalHttp1): void {
    const next = this.#nextOfHttp1();
    if (next !== undefined) connection.begin(next);
    else if (this.#idle.length >= this.#deps.limits.idleAppConnections) connection.abandon();
    else {
      connection.deadlineMs = this.#deps.clock.monotonicMs() + EXTERNAL_IDLE_MS;
      this.#idle.push(connection);
    }
  }

  forget(connection: ExternalHttp1): void {
    this.#http1.delete(connection);
    const at = this.#idle.indexOf(connection);
    if (at >= 0) this.#idle.splice(at, 1);
  }

  onReady(connection: ExternalHttp2): void {
    this.#opening--;
    this.#speaks = "h2";
    this.onRoom(connection);
  }

  onRoom(connection: ExternalHttp2): void {
    if (this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    // Who is served may end at once and let others come: what is left stands before them.
    const left = waiting.filter(({ user }) => !connection.begin(user));
    this.#waiting = left.concat(this.#waiting);
    this.#openAsNeeded();
  }

  onClosed(connection: ExternalHttp2, wasReady: boolean, detail: string): void {
    this.#http2.delete(connection);
    if (wasReady) this.#openAsNeeded();
    else this.#onFailed(detail);
  }

  // --- opening ---------------------------------------------------------------------------------------------------

  #leastBusy(): ExternalHttp2 | undefined {
    let found: ExternalHttp2 | undefined;
    for (const connection of this.#http2)
      if (connection.hasRoom && (found === undefined || connection.load < found.load)) found = connection;
    return found;
  }

  /** HTTP/2 connections that take requests, if not at the moment. */
  get #usable(): number {
    let count = 0;
    for (const connection of this.#http2) if (connection.isUsable) count++;
    return count;
  }

  /** Over HTTP/1.1 one for each who waits; else one at a time, which may serve them all. */
  #openAsNeeded(): void {
    const wanted = this.#speaks === "http/1.1" ? this.#waiting.length : Math.min(1, this.#waiting.length);
    while (
      this.#opening < wanted &&
      this.size < this.#deps.limits.appConnections &&
      this.#usable < MAX_HTTP2_CONNECTIONS
    ) {
      this.#opening++;
      this.#dial(undefined);
    }
  }

  #dial(alone: ExternalUser | undefined): void {
    const { clock, timeouts } = this.#deps;
    const raw = this.#connect(alone === undefined ? VERSIONS : HTTP1_ALONE);
    const dial: Dial = { raw, alone, deadlineMs: clock.monotonicMs() + timeouts.connectMs };
    this.#dials.add(dial);
    let problem: Error | undefined;
    raw.on("error", (error) => {
      problem ??= error;
    });
    raw.once("close", () => {
      if (!this.#dials.delete(dial)) return;
      const detail = problem?.message ?? "the host closed the connection";
      if (alone === undefined) this.#onFailed(detail);
      else alone.onExternalFailed({ kind: "connect", detail, untouched: true, code: 0 });
    });
    raw.once(this.#address.protocol === "tls" ? "secureConnect" : "connect", () => {
      this.#dials.delete(dial);
      // What may be silent as long as it likes, a WebSocket or a gRPC stream: this alone tells that its host is gone.
      raw.setKeepAlive(true, KEEP_ALIVE_MS);
      this.#onStanding(dial);
    });
  }

  #connect(versions: readonly string[]): Socket {
    const { host, port, protocol } = this.#address;
    if (protocol !== "tls") return connectTcp({ host, port });
    return connectTls({
      host,
      port,
      servername: host,
      ALPNProtocols: [...versions],
      secureContext: this.#deps.context(),
    });
  }

  #onStanding({ raw, alone }: Dial): void {
    const { protocol } = this.#address;
    // A host that makes no choice speaks HTTP/1.1.
    const spoken = raw instanceof TLSSocket ? raw.alpnProtocol : protocol;
    if (alone === undefined && (spoken === "h2" || spoken === "h2c")) {
      const scheme = protocol === "tls" ? "https" : "http";
      this.#http2.add(new ExternalHttp2(this, raw, scheme, this.#deps));
      return;
    }
    const connection = new ExternalHttp1(this, raw, this.#deps);
    this.#http1.add(connection);
    if (alone !== undefined) {
      connection.begin(alone);
      return;
    }
    this.#opening--;
    this.#speaks = "http/1.1";
    const unserved = this.#waiting.filter(({ user }) => user.needsHttp2);
    this.#waiting = this.#waiting.filter(({ user }) => !user.needsHttp2);
    this.keep(connection);
    this.#openAsNeeded();
    fail(unserved, "the host takes HTTP/1.1 alone, and gRPC needs HTTP/2");
  }

  #nextOfHttp1(): ExternalUser | undefined {
    const at = this.#waiting.findIndex(({ user }) => !user.needsHttp2);
    return at < 0 ? undefined : this.#waiting.splice(at, 1)[0]?.user;
  }

  /** A connection did not come to stand. */
  #onFailed(detail: string): void {
    this.#opening--;
    // Those of HTTP/2 that stand will have streams again.
    if (this.#usable > 0) return;
    const isOneEach = this.#speaks === "http/1.1" && this.#opening > 0;
    const failed = isOneEach
      ? this.#waiting.splice(0, 1)
      : this.#opening === 0
        ? this.#waiting.splice(0)
        : [];
    fail(failed, detail);
  }
}

function fail(waiting: readonly Waiting[], detail: string): void {
  for (const { user } of waiting)
    user.onExternalFailed({ kind: "connect", detail, untouched: true, code: 0 });
}
