// The ports of a gateway: TLS 1.3 with a certificate by server name, HTTP/1.1 or HTTP/2 by ALPN; and the plain port that
// redirects. Limits as on the mesh port: handshakes are counted apart, no address has all the places.
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer, type SecureContext, type TLSSocket } from "node:tls";
import type { Limits, Timeouts } from "../config.ts";
import type { GatewayListener } from "../core/gateway/gateway.ts";
import { MeshError, messageOf } from "../core/runtime/errors.ts";
import { Handshakes, MAX_HANDSHAKES } from "../core/runtime/handshakes.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { SidecarMetrics } from "../metrics.ts";
import type { CreateExchange } from "../outbound/app-side.ts";
import type { AppConversation } from "../outbound/app-socket.ts";
import { EDGE_TLS, type EdgeCertificates } from "./certificates.ts";
import { addressFields, EdgeExchange } from "./exchange.ts";
import type { Front } from "./front.ts";
import type { HostNames } from "./host-names.ts";
import { Places } from "./places.ts";
import { RedirectExchange } from "./redirect.ts";
import { listenersByName } from "./route-table.ts";
import { clientOf, plainAddress } from "./source-address.ts";

export interface EdgeListenerDeps {
  readonly front: Front;
  readonly certificates: EdgeCertificates;
  readonly limits: Limits;
  readonly timeouts: Timeouts;
  readonly metrics: SidecarMetrics;
  readonly log: Logger;
  /** Takes a connection whose requests are answered by what `create` makes. */
  readonly converse: (
    socket: Socket,
    isHttp2: boolean,
    create: CreateExchange,
    isDraining: () => boolean,
    onClosed: (conversation: AppConversation) => void,
  ) => AppConversation;
}

export class EdgeListener {
  readonly #deps: EdgeListenerDeps;
  readonly #connections = new Set<AppConversation>();
  readonly #handshakes = new Handshakes((detail) => this.#refuse(detail));
  readonly #places: Places;
  #names: HostNames<GatewayListener>;
  #listeners: readonly GatewayListener[];
  #server: Server | undefined;
  #draining = false;

  /** @param listeners of one port; none: the port redirects. */
  constructor(listeners: readonly GatewayListener[], deps: EdgeListenerDeps) {
    this.#deps = deps;
    this.#listeners = listeners;
    this.#names = listenersByName(listeners);
    this.#places = new Places(deps.limits.connectionsPerSource);
  }

  get connections(): number {
    return this.#connections.size;
  }

  get busy(): number {
    let busy = 0;
    for (const connection of this.#connections) if (connection.busy) busy++;
    return busy;
  }

  /** What the port serves from now on; open connections stay. */
  adopt(listeners: readonly GatewayListener[]): void {
    this.#listeners = listeners;
    this.#names = listenersByName(listeners);
  }

  /**
   * Binds the port.
   *
   * @throws MeshError `io_failed` when it cannot be bound.
   */
  listen(host: string, port: number): Promise<number> {
    const server = this.#listeners.length === 0 ? this.#plain() : this.#tls();
    this.#server = server;
    server.maxConnections = this.#deps.limits.connections + MAX_HANDSHAKES;
    server.on("drop", () => this.#refuse("too many connections"));
    return new Promise((resolve, reject) => {
      server.once("error", (error) =>
        reject(
          new MeshError("io_failed", `cannot listen on gateway port \`${host}:${port}\`: ${error.message}`, {
            cause: error,
          }),
        ),
      );
      // A TCP server's address is an object once it listens.
      server.listen(port, host, () => resolve((server.address() as AddressInfo).port));
    });
  }

  #plain(): Server {
    const server = createTcpServer({ noDelay: true, pauseOnConnect: true, allowHalfOpen: true });
    server.on("connection", (socket) => {
      socket.on("error", () => {});
      const address = this.#place(socket);
      if (address === undefined) return;
      const { front } = this.#deps;
      this.#converse(socket, false, (app, stream, head) => new RedirectExchange(front, app, stream, head));
      socket.resume();
    });
    return server;
  }

  #tls(): Server {
    const { timeouts } = this.#deps;
    const server = createTlsServer({
      ...EDGE_TLS,
      ALPNProtocols: ["h2", "http/1.1"],
      handshakeTimeout: timeouts.handshakeMs,
      SNICallback: (name, done) => {
        const context = this.#contextOf(name.toLowerCase());
        if (context === undefined) done(new Error("no certificate for that name"));
        else done(null, context);
      },
    });
    server.on("connection", (socket: Socket) => this.#begin(socket));
    server.on("secureConnection", (socket) => {
      this.#handshakes.done(socket);
      this.#accept(socket);
    });
    server.on("tlsClientError", (error, socket) => {
      // Node only tells; it is ours to close (a silent client would stay for ever).
      this.#refuse(messageOf(error));
      socket.destroy();
    });
    return server;
  }

  #contextOf(name: string): SecureContext | undefined {
    const listener = this.#names.get(name);
    return listener === undefined ? undefined : this.#deps.certificates.get(listener.secretName)?.context;
  }

  /** A connection before its handshake. */
  #begin(socket: Socket): void {
    if (this.#place(socket) !== undefined) this.#handshakes.begin(socket);
  }

  /** Takes a place for the address it comes from; undefined: there is none, and the socket is closed. */
  #place(socket: Socket): string | undefined {
    const address = plainAddress(socket.remoteAddress ?? "");
    const isProxy = this.#deps.front.rules?.trusted.isTrusted(address) === true;
    const isFull = this.#connections.size >= this.#deps.limits.connections;
    // A proxy in front brings everybody from one address.
    const client = clientOf(address);
    if (this.#draining || isFull || address === "" || (!isProxy && !this.#places.take(client))) {
      this.#refuse("too many connections");
      socket.destroy();
      return undefined;
    }
    if (!isProxy) socket.once("close", () => this.#places.leave(client));
    return address;
  }

  #accept(socket: TLSSocket): void {
    socket.on("error", () => {});
    const name = typeof socket.servername === "string" ? socket.servername.toLowerCase() : "";
    const listener = this.#names.get(name);
    const peer = plainAddress(socket.remoteAddress ?? "");
    if (listener === undefined || peer === "" || this.#draining) {
      this.#refuse("no such name");
      socket.destroy();
      return;
    }
    const { front, metrics } = this.#deps;
    metrics.connections.add(metrics.connections.series("gateway", "accepted"));
    const place = { peer, listener: listener.name, peerFields: addressFields(front, peer) };
    this.#converse(
      socket,
      socket.alpnProtocol === "h2",
      (app, stream, head) => new EdgeExchange(front, place, app, stream, head),
    );
  }

  #converse(socket: Socket, isHttp2: boolean, create: CreateExchange): void {
    this.#connections.add(
      this.#deps.converse(
        socket,
        isHttp2,
        create,
        () => this.#draining,
        (closed) => this.#connections.delete(closed),
      ),
    );
  }

  #refuse(detail: string): void {
    const { metrics, log } = this.#deps;
    metrics.connections.add(metrics.connections.series("gateway", "refused"));
    log.debug("gateway connection refused", { detail });
  }

  sweep(nowMs: number): void {
    for (const connection of this.#connections) connection.sweep(nowMs);
  }

  /** Accepts nothing more; every answer from now on is the last of its connection. */
  drain(): void {
    this.#draining = true;
    this.#server?.close();
  }

  /** Ends the connections that have no request. */
  drainIdle(): void {
    for (const connection of this.#connections) connection.drain();
  }

  destroy(): void {
    this.drain();
    this.#handshakes.destroy();
    for (const connection of this.#connections) connection.destroy();
  }
}
