// Where iptables sends connections from outside that did not come to the mesh port: callers without mutual TLS. They are
// refused (in words where they speak HTTP), unless the namespace is in `Permissive` mode: then they are decided on as
// callers of whom nothing is known.
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { OWN_PORTS } from "../capture/rules.ts";
import { problemJson, proxyStatus } from "../core/http/problem.ts";
import { MeshError } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { CLOSE_LINE, statusLine } from "../wire/http1/serializer.ts";
import type { OriginalDestination, OriginalDestinationReader } from "../wire/original-destination.ts";
import { sniffSocket } from "../wire/sniff.ts";
import { MeshSocket } from "../wire/socket.ts";
import type { InboundStream } from "./caller-side.ts";
import { relieve } from "./connection-peer.ts";
import { PlaintextConnection } from "./plaintext-connection.ts";
import { PlaintextPeer } from "./plaintext-peer.ts";
import { PlaintextStreams } from "./plaintext-streams.ts";
import type { InboundServices } from "./services.ts";
import { IdentifiedCaller } from "./verify.ts";

export interface PlaintextListenerDeps {
  readonly services: InboundServices;
  readonly originalOf: OriginalDestinationReader;
  readonly log: Logger;
}

/** What became of a connection; label values of `countersign_captured_connections_total`. */
type PlaintextResult = "refused" | "reset" | "loop" | "plaintext" | "passed";

/** As long as a refused client may take to say that it speaks HTTP, and so be told the reason in words. */
const SNIFF_MS = 1_000;
const KEEP_ALIVE_MS = 60_000;
/** Of the connections to the application; the rest is left to callers of the mesh. */
const SHARE = 0.75;
/** How long a refused peer may take to read its answer. */
const LINGER_MS = 1_000;
/** Refusals cost little, but an unlimited number of half-open ones would not. */
const MAX_REFUSALS = 1_024;
const REASON = "AUTHN_MTLS_REQUIRED";

export class PlaintextListener {
  readonly #deps: PlaintextListenerDeps;
  readonly #sockets = new Set<Socket>();
  /** Connections by the address they come from. */
  readonly #sources = new Map<string, number>();
  readonly #connections = new Set<PlaintextConnection>();
  readonly #caller = new IdentifiedCaller(undefined, "");
  readonly #streams: PlaintextStreams;
  #refusals = 0;
  #server: Server | undefined;
  #draining = false;

  constructor(deps: PlaintextListenerDeps) {
    this.#deps = deps;
    this.#streams = new PlaintextStreams({ services: deps.services, caller: this.#caller });
  }

  get connections(): number {
    return this.#sockets.size;
  }

  /** Requests that are under way. */
  get busy(): number {
    let busy = 0;
    for (const connection of this.#connections) busy += connection.openExchanges;
    return busy;
  }

  /**
   * Binds `port` on all addresses, of both families where the namespace has both.
   *
   * @throws MeshError `io_failed` when it cannot be bound.
   */
  async listen(port: number): Promise<number> {
    const options = { noDelay: true, pauseOnConnect: true, allowHalfOpen: true };
    const server = createServer(options, (socket) => this.#accept(socket));
    server.maxConnections = this.#deps.services.limits.connections;
    server.on("drop", () => this.#count("reset"));
    this.#server = server;
    try {
      await bind(server, port, "::");
    } catch {
      // Without IPv6 in the kernel there is no `::`.
      try {
        await bind(server, port, "0.0.0.0");
      } catch (error) {
        throw new MeshError(
          "io_failed",
          `cannot listen on port \`${port}\` for plaintext: ${String(error)}`,
          {
            cause: error,
          },
        );
      }
    }
    // A TCP server's address is an object once it listens.
    return (server.address() as AddressInfo).port;
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => {});
    const source = socket.remoteAddress ?? "";
    const others = this.#sources.get(source) ?? 0;
    this.#sources.set(source, others + 1);
    socket.on("close", () => this.#forget(socket, source));
    if (others >= this.#deps.services.limits.connectionsPerSource) {
      this.#reset(socket, "reset");
      return;
    }
    const original = this.#deps.originalOf(socket);
    if (!original.ok || (original.value.port >= OWN_PORTS.first && original.value.port <= OWN_PORTS.last)) {
      this.#reset(socket, "loop");
      return;
    }
    const { port } = original.value;
    const { enforcement } = this.#deps.services.state;
    const protocol = enforcement?.plaintext === undefined ? undefined : enforcement.ports.get(port)?.protocol;
    if (protocol !== undefined && this.#isFull) {
      this.#reset(socket, "reset");
      return;
    }
    if (protocol === "tcp" || protocol === "tls") {
      socket.setKeepAlive(true, KEEP_ALIVE_MS);
      this.#count(this.#streams.take(socket, port) ? "passed" : "reset");
    } else if (protocol !== undefined) {
      this.#count("plaintext");
      this.#converse(socket, original.value);
    } else this.#refuse(socket, original.value, enforcement?.plaintext !== undefined);
  }

  #forget(socket: Socket, source: string): void {
    this.#sockets.delete(socket);
    const left = (this.#sources.get(source) ?? 1) - 1;
    if (left === 0) this.#sources.delete(source);
    else this.#sources.set(source, left);
  }

  /** Whether callers of whom nothing is known have their share: each request may hold a connection to the application. */
  get #isFull(): boolean {
    let places = this.#streams.open;
    for (const { openExchanges } of this.#connections) places += Math.max(1, openExchanges);
    return places >= Math.floor(this.#deps.services.limits.appConnections * SHARE);
  }

  /**
   * Nothing of what it sends reaches the application.
   *
   * @param isPermissive then it is the port, not the caller, that is refused: not declared, or of a protocol that is not
   *   carried.
   */
  #refuse(socket: Socket, original: OriginalDestination, isPermissive: boolean): void {
    if (this.#refusals >= MAX_REFUSALS) {
      this.#reset(socket, "reset");
      return;
    }
    this.#refusals++;
    socket.once("close", () => this.#refusals--);
    const { port } = original;
    this.#deps.log.debug("plaintext connection refused", { port, peer: socket.remoteAddress });
    sniffSocket(socket, SNIFF_MS).then(
      ({ protocol }) => {
        if (socket.destroyed) return;
        if (protocol !== "http" && (protocol !== "h2c" || !isPermissive)) this.#reset(socket, "reset");
        else if (isPermissive) {
          this.#count("refused");
          this.#converse(socket, original);
        } else this.#answer(socket);
      },
      () => socket.destroy(),
    );
  }

  /** HTTP requests to one port; each is decided on by the table of its moment. */
  #converse(socket: Socket, original: OriginalDestination): void {
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    const { services, log } = this.#deps;
    const origin = { ...original, isFull: () => this.#isFull };
    const connection = new PlaintextConnection(new MeshSocket(socket), {
      services,
      log,
      peer: new PlaintextPeer(services, this.#caller, origin),
      isDraining: () => this.#draining,
      onClosed: (closed) => this.#connections.delete(closed),
    });
    this.#connections.add(connection);
    socket.resume();
  }

  #answer(socket: Socket): void {
    const { services } = this.#deps;
    const { enforcement } = services.state;
    const { metrics } = services;
    this.#count("refused");
    const target = enforcement?.target;
    metrics.authnFailures.add(metrics.authnFailures.series(target ?? "unknown", REASON));
    const decisionId = services.trail.decisionId();
    const problem = problemJson({ reason: REASON, target, decisionId });
    socket.end(
      `${statusLine(problem.status)}content-type: ${problem.contentType}\r\ncontent-length: ${problem.body.length}\r\n` +
        `proxy-status: ${proxyStatus(REASON, decisionId, undefined, target)}\r\n${CLOSE_LINE}\r\n${problem.body}`,
      "latin1",
    );
    // What the peer still sends is read and dropped, or its answer would be lost to a reset.
    socket.on("data", () => {});
    socket.resume();
    socket.setTimeout(LINGER_MS, () => socket.destroy());
  }

  #reset(socket: Socket, result: PlaintextResult): void {
    this.#count(result);
    socket.resetAndDestroy();
  }

  #count(result: PlaintextResult): void {
    const { captured } = this.#deps.services.metrics;
    captured.add(captured.series("inbound", result));
  }

  /** Adds every open request. */
  collect(into: InboundStream[]): void {
    for (const connection of this.#connections) connection.collect(into);
  }

  sweep(nowMs: number): void {
    for (const connection of this.#connections) connection.sweep(nowMs);
    relieve(this.#connections, this.#deps.services.limits.unreadBytes);
    this.#streams.sweep();
  }

  /** Accepts nothing more; every answer from now on is the last of its connection. */
  drain(): void {
    this.#draining = true;
    this.#server?.close();
    for (const connection of this.#connections) connection.drain();
  }

  /** Ends the connections that have no request. */
  drainIdle(): void {
    for (const connection of this.#connections) connection.endIdle();
  }

  destroy(): void {
    this.drain();
    this.#streams.destroy();
    for (const connection of this.#connections) connection.destroy();
    for (const socket of this.#sockets) socket.destroy();
  }
}

function bind(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve();
    });
  });
}
