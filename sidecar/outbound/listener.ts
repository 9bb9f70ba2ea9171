// Where the application connects to: the proxy port, local ports and Unix sockets that mean one service each.
import { unlinkSync } from "node:fs";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import type { SocketAddress } from "../config.ts";
import { MeshError } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { sniffSocket } from "../wire/sniff.ts";
import type { ConnectRequest } from "./app-connection.ts";
import {
  type AppConversation,
  type ConversationDeps,
  converse,
  converseHttp,
  REFUSAL_SNIFF_MS,
  spokenTo,
} from "./app-socket.ts";
import { ProxyConnect } from "./connect.ts";
import { askFor, isDestination, type OutboundRefusal, questionOf } from "./locate.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import { connectionFacts, recordRefusal } from "./tunnel.ts";

export interface OutboundListenerDeps {
  readonly services: OutboundServices;
  readonly log: Logger;
}

export class OutboundListener {
  readonly #deps: OutboundListenerDeps;
  readonly #servers: Server[] = [];
  readonly #connections = new Set<AppConversation>();
  /** Accepted sockets whose protocol is not plain from the start, whatever became of them. */
  readonly #sockets = new Set<Socket>();
  #draining = false;

  constructor(deps: OutboundListenerDeps) {
    this.#deps = deps;
  }

  get connections(): number {
    return this.#connections.size;
  }

  get busy(): number {
    let busy = 0;
    for (const connection of this.#connections) if (connection.busy) busy++;
    return busy;
  }

  /**
   * Binds one address.
   *
   * @param fixed the one service it means; undefined: the proxy port, where the request names the service.
   * @returns the port; undefined for a Unix socket.
   * @throws MeshError `io_failed` when it cannot be bound.
   */
  listen(address: SocketAddress, fixed: FixedDestination | undefined): Promise<number | undefined> {
    const options = { noDelay: true, pauseOnConnect: true, allowHalfOpen: true };
    const server = createServer(options, (socket) => this.#accept(socket, fixed));
    server.maxConnections = this.#deps.services.limits.connections;
    this.#servers.push(server);
    const name = address.kind === "tcp" ? `${address.host}:${address.port}` : address.path;
    return new Promise((resolve, reject) => {
      server.once("error", (error) =>
        reject(
          new MeshError("io_failed", `cannot listen on \`${name}\`: ${error.message}`, { cause: error }),
        ),
      );
      if (address.kind === "unix") {
        removeStale(address.path);
        server.listen(address.path, () => resolve(undefined));
      } else {
        // A TCP server's address is an object once it listens.
        server.listen(address.port, address.host, () => resolve((server.address() as AddressInfo).port));
      }
    });
  }

  #accept(socket: Socket, fixed: FixedDestination | undefined): void {
    const { services } = this.#deps;
    const shared = {
      services,
      isDraining: () => this.#draining,
      onClosed: (closed: AppConversation) => this.#connections.delete(closed),
    };
    // The common cases at once: the proxy port, and services that are known to speak HTTP.
    const destination = fixed === undefined ? undefined : services.state.directory?.ofFixed(fixed);
    if (fixed === undefined || destination?.port.protocol === "http") {
      const connect =
        fixed === undefined ? (request: ConnectRequest) => new ProxyConnect(request) : undefined;
      this.#connections.add(converseHttp(socket, { ...shared, fixed, connect }));
      return;
    }
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    this.#greet(socket, { ...shared, fixed }, destination).catch(() => reset(socket));
  }

  /** A service that speaks something else, or of which nothing is known yet. */
  async #greet(socket: Socket, deps: ConversationDeps, known: Destination | undefined): Promise<void> {
    const { services, fixed } = deps;
    let destination = known;
    let refusal: OutboundRefusal | undefined;
    if (destination === undefined && services.state.directory !== undefined) {
      // An application that speaks HTTP is answered with the reason, at its first request.
      const found = await askFor(questionOf(fixed), connectionFacts(fixed, services), services);
      if (isDestination(found)) destination = found;
      else refusal = found;
    }
    const spoken =
      destination === undefined
        ? await sniffSocket(socket, REFUSAL_SNIFF_MS)
        : await spokenTo(socket, destination, false, services);
    if (socket.destroyed) return;
    let conversation: AppConversation | undefined;
    if (spoken !== undefined && !this.#draining) {
      if (destination !== undefined) conversation = converse(socket, spoken, destination, deps);
      else if (spoken.protocol === "http" || spoken.protocol === "h2c")
        conversation = converseHttp(socket, deps);
    }
    if (conversation !== undefined) this.#connections.add(conversation);
    else if (!socket.destroyed) {
      if (refusal !== undefined) recordRefusal(fixed, refusal.reason, refusal.detail, services);
      reset(socket);
    }
  }

  sweep(nowMs: number): void {
    for (const connection of this.#connections) connection.sweep(nowMs);
  }

  /** Accepts nothing more; every answer from now on is the last of its connection. */
  drain(): void {
    this.#draining = true;
    for (const server of this.#servers) server.close();
  }

  /** Ends the connections that have no request. */
  drainIdle(): void {
    for (const connection of this.#connections) connection.drain();
  }

  destroy(): void {
    this.drain();
    for (const connection of this.#connections) connection.destroy();
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** Refused without a word: no more can be said to what speaks no HTTP. */
function reset(socket: Socket): void {
  // A Unix socket has no RST.
  if (socket.remoteAddress === undefined) socket.destroy();
  else socket.resetAndDestroy();
}

/** A socket file that a killed process left behind; a live one makes `listen` fail all the same, since it is another's path. */
function removeStale(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Not there, which is how it should be; any other reason shows in `listen`.
  }
}
