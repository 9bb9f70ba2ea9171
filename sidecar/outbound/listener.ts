// Where the application connects to: the proxy port, local ports and Unix sockets that mean one service each.
import { unlinkSync } from "node:fs";
import { type AddressInfo, createServer, type Server } from "node:net";
import type { SocketAddress } from "../config.ts";
import { MeshError } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { MeshSocket } from "../wire/socket.ts";
import { AppSideConnection } from "./app-side-connection.ts";
import type { FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

export interface OutboundListenerDeps {
  readonly services: OutboundServices;
  readonly log: Logger;
}

export class OutboundListener {
  readonly #deps: OutboundListenerDeps;
  readonly #servers: Server[] = [];
  readonly #connections = new Set<AppSideConnection>();
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
    const server = createServer({ noDelay: true }, (socket) => {
      const connection = new AppSideConnection(new MeshSocket(socket), {
        services: this.#deps.services,
        fixed,
        isDraining: () => this.#draining,
        onClosed: (closed) => this.#connections.delete(closed),
      });
      this.#connections.add(connection);
    });
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
  }
}

/** A socket file that a killed process left behind; a live one makes `listen` fail all the same, since it is another's path. */
function removeStale(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Not there, which is how it should be; any other reason shows in `listen`.
  }
}
