// Where iptables sends connections from outside that did not come to the mesh port: callers without mutual TLS. They are
// refused, in words where they speak HTTP; whoever the peer is, nothing of what it sends reaches the application.
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { OWN_PORTS } from "../capture/rules.ts";
import { problemJson, proxyStatus } from "../core/http/problem.ts";
import { MeshError } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { CLOSE_LINE, statusLine } from "../wire/http1/serializer.ts";
import type { OriginalDestinationReader } from "../wire/original-destination.ts";
import { sniffSocket } from "../wire/sniff.ts";
import type { InboundServices } from "./services.ts";

export interface PlaintextListenerDeps {
  readonly services: InboundServices;
  readonly originalOf: OriginalDestinationReader;
  readonly log: Logger;
}

const SNIFF_MS = 100;
/** How long a refused peer may take to read its answer. */
const LINGER_MS = 1_000;
/** Refusals cost little, but an unlimited number of half-open ones would not. */
const MAX_CONNECTIONS = 1_024;
const REASON = "AUTHN_MTLS_REQUIRED";

export class PlaintextListener {
  readonly #deps: PlaintextListenerDeps;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;

  constructor(deps: PlaintextListenerDeps) {
    this.#deps = deps;
  }

  get connections(): number {
    return this.#sockets.size;
  }

  /**
   * Binds `port` on all addresses, of both families where the namespace has both.
   *
   * @throws MeshError `io_failed` when it cannot be bound.
   */
  async listen(port: number): Promise<number> {
    const server = createServer({ noDelay: true, pauseOnConnect: true }, (socket) => this.#accept(socket));
    server.maxConnections = MAX_CONNECTIONS;
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
    socket.on("close", () => this.#sockets.delete(socket));
    const original = this.#deps.originalOf(socket);
    if (!original.ok || (original.value.port >= OWN_PORTS.first && original.value.port <= OWN_PORTS.last)) {
      this.#count("loop");
      socket.resetAndDestroy();
      return;
    }
    const { port } = original.value;
    this.#deps.log.debug("plaintext connection refused", { port, peer: socket.remoteAddress });
    sniffSocket(socket, SNIFF_MS).then(
      (speaks) => {
        if (socket.destroyed) return;
        if (speaks === "http") this.#answer(socket);
        else {
          this.#count("reset");
          socket.resetAndDestroy();
        }
      },
      () => socket.destroy(),
    );
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

  #count(result: "refused" | "reset" | "loop"): void {
    const { captured } = this.#deps.services.metrics;
    captured.add(captured.series("inbound", result));
  }

  drain(): void {
    this.#server?.close();
  }

  destroy(): void {
    this.drain();
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
