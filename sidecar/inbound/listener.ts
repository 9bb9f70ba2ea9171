// The mesh port: mutual TLS 1.3, HTTP/2 (ALPN `h2`) or HTTP/1.1 (`http/1.1`, or none). Certificate and trust bundle are swapped without ending a connection.
import type { AddressInfo, Socket } from "node:net";
import { createServer, type Server, type TLSSocket, type TlsOptions } from "node:tls";
import type { SocketAddress } from "../config.ts";
import { parseSvid, SVID_PROBLEMS } from "../core/identity/svid.ts";
import { MeshError, messageOf } from "../core/runtime/errors.ts";
import { Handshakes, MAX_HANDSHAKES } from "../core/runtime/handshakes.ts";
import type { Logger } from "../core/runtime/log.ts";
import { MeshSocket } from "../wire/socket.ts";
import type { InboundStream } from "./caller-side.ts";
import { type CallerConnection, relieve } from "./connection-peer.ts";
import { Http1Connection } from "./http1-connection.ts";
import { MeshPeer } from "./mesh-peer.ts";
import { PeerConnection } from "./peer-connection.ts";
import type { InboundServices } from "./services.ts";
import { PeerVerifier, type VerifierDeps } from "./verify.ts";

export interface InboundListenerDeps {
  readonly services: InboundServices;
  readonly verifier: VerifierDeps;
  readonly ownSpiffeId: () => string;
  readonly log: Logger;
}

interface MeshConnection extends CallerConnection {
  /** Adds its open streams. */
  collect(into: InboundStream[]): void;
  /** Like `drain`, and ends what is still open at `untilMs` (monotonic). */
  expel(untilMs: number): void;
}

/** Between the keep-alive probes of TCP on HTTP/1.1 connections, which have no ping of their own. */
const KEEP_ALIVE_MS = 60_000;

export class InboundListener {
  readonly #deps: InboundListenerDeps;
  readonly #connections = new Set<MeshConnection>();
  /** Peers that have shown no certificate must not take the places of those that have. */
  readonly #handshakes = new Handshakes((detail) => this.#refuse(detail));
  #server: Server | undefined;
  #draining = false;

  constructor(deps: InboundListenerDeps) {
    this.#deps = deps;
  }

  get connections(): ReadonlySet<MeshConnection> {
    return this.#connections;
  }

  /**
   * Binds the port.
   *
   * @throws MeshError `io_failed` when it cannot be bound.
   */
  listen(address: SocketAddress & { readonly kind: "tcp" }, options: TlsOptions): Promise<number> {
    const { timeouts } = this.#deps.services;
    const server = createServer({
      ...options,
      handshakeTimeout: timeouts.handshakeMs,
      pauseOnConnect: false,
    });
    this.#server = server;
    server.maxConnections = this.#deps.services.limits.connections + MAX_HANDSHAKES;
    server.on("connection", (socket: Socket) => this.#handshakes.begin(socket));
    server.on("secureConnection", (socket) => {
      this.#handshakes.done(socket);
      this.#accept(socket);
    });
    server.on("tlsClientError", (error, socket) => {
      // Node only tells; it is ours to close (a silent client would stay for ever).
      this.#refuse(
        socket.authorizationError === undefined || socket.authorizationError === null
          ? messageOf(error)
          : String(socket.authorizationError),
      );
      socket.destroy();
    });
    server.on("drop", () => this.#refuse("too many connections"));
    return new Promise((resolve, reject) => {
      server.once("error", (error) =>
        reject(
          new MeshError(
            "io_failed",
            `cannot listen on mesh port \`${address.host}:${address.port}\`: ${error.message}`,
            { cause: error },
          ),
        ),
      );
      server.listen(address.port, address.host, () => {
        // A TCP server's address is an object once it listens.
        resolve((server.address() as AddressInfo).port);
      });
    });
  }

  /** New connections get the new certificate and bundle; open ones stay. */
  setTlsOptions(options: TlsOptions): void {
    this.#server?.setSecureContext(options);
  }

  /**
   * A root left the bundle. Which peers rest on it cannot be told (Node shows a server the peer's leaf alone), so all
   * connect again: no new requests on the old connections, and `drainMs` for the open ones.
   */
  expelAll(nowMs: number): void {
    if (this.#connections.size === 0) return;
    this.#deps.log.info("a root was withdrawn: callers connect again", {
      connections: this.#connections.size,
    });
    const { drainMs } = this.#deps.services.timeouts;
    for (const connection of this.#connections) connection.expel(nowMs + drainMs);
  }

  /**
   * The own certificate was replaced because its root is about to leave the bundle: callers connect again, and what is
   * open goes on. Otherwise they would end their connections, with what is open, when the root leaves theirs.
   */
  reconnectAll(): void {
    for (const connection of this.#connections) connection.drain();
  }

  #refuse(detail: string): void {
    const { connections } = this.#deps.services.metrics;
    connections.add(connections.series("mesh", "refused"));
    this.#deps.log.debug("mesh connection refused", { detail });
  }

  #accept(socket: TLSSocket): void {
    // INVARIANT: rejectUnauthorized is set, so the chain was verified against the bundle in force at the handshake.
    const der = socket.getPeerX509Certificate()?.raw;
    const facts = der === undefined ? undefined : parseSvid(der);
    const isFull = this.#connections.size >= this.#deps.services.limits.connections;
    if (!socket.authorized || facts === undefined || !facts.ok || this.#draining || isFull) {
      const otherwise = isFull ? "too many connections" : "no usable certificate";
      this.#refuse(facts !== undefined && !facts.ok ? SVID_PROBLEMS[facts.error] : otherwise);
      socket.on("error", () => {});
      socket.destroy();
      return;
    }
    const { services, verifier } = this.#deps;
    services.metrics.connections.add(services.metrics.connections.series("mesh", "accepted"));
    services.leaves.note(facts.value, services.meshNowMs());
    const peer = new PeerVerifier(facts.value, this.#deps.ownSpiffeId(), verifier);
    const { log } = this.#deps;
    const deps = {
      services,
      log,
      peer: new MeshPeer(peer, services.limits.head, log),
      isDraining: () => this.#draining,
      onClosed: (closed: MeshConnection) => this.#connections.delete(closed),
    };
    const isHttp2 = socket.alpnProtocol === "h2";
    if (!isHttp2) socket.setKeepAlive(true, KEEP_ALIVE_MS);
    const accepted = new MeshSocket(socket);
    this.#connections.add(isHttp2 ? new PeerConnection(accepted, deps) : new Http1Connection(accepted, deps));
  }

  /** Adds every open stream. */
  collect(into: InboundStream[]): void {
    for (const connection of this.#connections) connection.collect(into);
  }

  /** Closes connections that have been quiet for too long. */
  sweep(nowMs: number): void {
    for (const connection of this.#connections) connection.sweep(nowMs);
    const bytes = relieve(this.#connections, this.#deps.services.limits.unreadBytes);
    if (bytes > 0) this.#deps.log.warn("answers that callers do not read were given up", { bytes });
  }

  /** Accepts nothing more and lets every connection finish what it has. */
  drain(): void {
    this.#draining = true;
    this.#server?.close();
    for (const connection of this.#connections) connection.drain();
  }

  get openExchanges(): number {
    let open = 0;
    for (const connection of this.#connections) open += connection.openExchanges;
    return open;
  }

  destroy(): void {
    this.#draining = true;
    this.#server?.close();
    for (const connection of this.#connections) connection.destroy();
  }
}
