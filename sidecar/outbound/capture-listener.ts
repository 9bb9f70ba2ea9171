// Where iptables sends the calls of the application: each connection is looked up by the address it was going to and
// carried over the mesh, passed on, or refused (in words where it speaks HTTP, by a reset otherwise).
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { OWN_PORTS } from "../capture/rules.ts";
import { isCaptureProbe } from "../capture/verify.ts";
import { REASONS, type Reason } from "../core/policy/reason.ts";
import { MeshError } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { OriginalDestination, OriginalDestinationReader } from "../wire/original-destination.ts";
import { type Passthrough, passThrough } from "../wire/passthrough.ts";
import { sniffSocket } from "../wire/sniff.ts";
import { addressKey } from "./address-index.ts";
import {
  type AppConversation,
  type ConversationDeps,
  converse,
  converseHttp,
  REFUSAL_SNIFF_MS,
  spokenTo,
} from "./app-socket.ts";
import type { Destination, Directory, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import { recordRefusal } from "./tunnel.ts";

export interface CaptureListenerDeps {
  readonly services: OutboundServices;
  readonly originalOf: OriginalDestinationReader;
  /** What a probe of `verifyCapture` is answered with. */
  readonly probeToken: string;
  /** Ports on which no HTTP is looked for; the settings decide all the same. */
  readonly opaquePorts: ReadonlySet<number>;
  readonly log: Logger;
}

/** How a captured connection ended up; label values of `countersign_captured_connections_total`. */
export type CaptureResult = "mesh" | "external" | "passed" | "refused" | "reset" | "loop" | "probe";

type Verdict =
  | { readonly kind: "mesh"; readonly destination: Destination }
  | { readonly kind: "pass" }
  /** `why` is for the log; `isOutside`: nobody knows it as an address of the mesh. */
  | { readonly kind: "refuse"; readonly why: string; readonly isOutside?: true };

const MAX_REPORTED = 256;
const ARRIVAL_STEP_MS = 25;
const ARRIVAL_ATTEMPTS = 20;

export class CaptureListener {
  readonly #deps: CaptureListenerDeps;
  readonly #servers: Server[] = [];
  /** Every accepted socket, whatever became of it. */
  readonly #sockets = new Set<Socket>();
  readonly #connections = new Set<AppConversation>();
  /** Local ends of our own connections outward: one of them captured again would go round for ever. */
  readonly #outward = new Set<string>();
  /** What is passed on, by the key of its address. */
  readonly #passing = new Map<Passthrough, string>();
  /** The table that the passing ones were last held against. */
  #heldAgainst: Directory | undefined;
  readonly #reported = new Set<string>();
  #draining = false;

  constructor(deps: CaptureListenerDeps) {
    this.#deps = deps;
  }

  get connections(): number {
    return this.#sockets.size;
  }

  get busy(): number {
    let busy = 0;
    for (const connection of this.#connections) if (connection.busy) busy++;
    return busy;
  }

  /** @throws MeshError `io_failed` when the address cannot be bound. */
  listen(host: string, port: number): Promise<number> {
    const server = createServer({ noDelay: true, pauseOnConnect: true, allowHalfOpen: true }, (socket) =>
      this.#accept(socket),
    );
    server.maxConnections = this.#deps.services.limits.connections;
    this.#servers.push(server);
    return new Promise((resolve, reject) => {
      server.once("error", (error) =>
        reject(
          new MeshError("io_failed", `cannot listen on \`${host}:${port}\` for capture: ${error.message}`, {
            cause: error,
          }),
        ),
      );
      // A TCP server's address is an object once it listens.
      server.listen(port, host, () => resolve((server.address() as AddressInfo).port));
    });
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    const original = this.#deps.originalOf(socket);
    if (!original.ok) {
      this.#reset(socket, "loop");
      return;
    }
    if (isCaptureProbe(original.value)) {
      this.#count("probe");
      socket.end(this.#deps.probeToken);
      socket.resume();
      return;
    }
    if (this.#isLoop(socket, original.value)) {
      this.#reset(socket, "loop");
      return;
    }
    this.#judge(original.value)
      .then((verdict) => this.#carryOut(socket, original.value, verdict))
      .catch(() => this.#reset(socket, "reset"));
  }

  /** What would come back to this process: our own connections, the pod's own ports of the mesh, loopback. */
  #isLoop(socket: Socket, { address, port }: OriginalDestination): boolean {
    return (
      (port >= OWN_PORTS.first && port <= OWN_PORTS.last) ||
      address === "::1" ||
      address === "0.0.0.0" ||
      address === "::" ||
      address.startsWith("127.") ||
      this.#outward.has(`${socket.remoteAddress?.replace(/^::ffff:/, "")} ${socket.remotePort}`)
    );
  }

  async #judge({ address, port }: OriginalDestination): Promise<Verdict> {
    const { services } = this.#deps;
    const { directory } = services.state;
    if (directory === undefined) return { kind: "refuse", why: "there is no policy yet" };
    const key = addressKey(address, port);
    let destination = directory.ofAddress(key);
    let reason = "";
    if (destination === undefined) {
      const resolution = await services.resolve(address, port);
      if (resolution.kind === "service") {
        destination = await this.#whenArrived(key);
        // Of the mesh, but nothing in the table serves it: never a stranger, or it would be called without an identity.
        if (destination === undefined) return { kind: "refuse", why: "NO_ENDPOINTS" };
      } else reason = resolution.reason;
    }
    if (destination !== undefined) return { kind: "mesh", destination };
    // With the control plane away nobody can say whose address it is; a workload of the mesh refuses plaintext itself.
    const isStranger = reason === "UNKNOWN_DESTINATION" || reason === "NOT_READY";
    const { settings } = (services.state.directory ?? directory).table;
    if (isStranger && settings.outbound === "Allow") return { kind: "pass" };
    if (!isStranger) return { kind: "refuse", why: reason };
    return { kind: "refuse", why: reason === "NOT_READY" ? reason : "OUTBOUND_DENIED", isOutside: true };
  }

  /** A pod that has just come may be known to the control plane a moment before it is here. */
  async #whenArrived(key: string): Promise<Destination | undefined> {
    const { services } = this.#deps;
    for (let attempt = 0; attempt < ARRIVAL_ATTEMPTS; attempt++) {
      const destination = services.state.directory?.ofAddress(key);
      if (destination !== undefined) return destination;
      await services.clock.sleep(ARRIVAL_STEP_MS);
    }
    return undefined;
  }

  async #carryOut(socket: Socket, original: OriginalDestination, verdict: Verdict): Promise<void> {
    if (socket.destroyed) return;
    if (this.#draining) {
      this.#reset(socket, "reset");
    } else if (verdict.kind === "mesh") {
      await this.#carry(socket, original, verdict.destination);
    } else if (verdict.kind === "pass") {
      // If it is our own connection that was captured, its other end may learn of being connected only in this turn.
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#isLoop(socket, original)) {
        this.#reset(socket, "loop");
        return;
      }
      this.#count("passed");
      this.#pass(socket, original);
    } else await this.#refuse(socket, original, verdict);
  }

  /** In words where it speaks HTTP; there a request may also name a host outside the mesh that policy knows. */
  async #refuse(
    socket: Socket,
    original: OriginalDestination,
    { why, isOutside }: Verdict & { readonly kind: "refuse" },
  ): Promise<void> {
    const { services, opaquePorts } = this.#deps;
    const spoken = opaquePorts.has(original.port) ? undefined : await sniffSocket(socket, REFUSAL_SNIFF_MS);
    if (socket.destroyed) return;
    const fixed = fixedOf(original);
    if (spoken?.protocol !== "http" && spoken?.protocol !== "h2c") {
      this.#report(original, why);
      if (Object.hasOwn(REASONS, why))
        recordRefusal(fixed, why as Reason, "the connection is not carried", services); // a key of REASONS
      this.#reset(socket, "reset");
    } else if (isOutside === true && services.state.externals?.mayBeAt(original.port) === true) {
      this.#count("external");
      this.#connections.add(converseHttp(socket, this.#conversation({ ...fixed, isOutside: true })));
    } else {
      this.#report(original, why);
      this.#count("refused");
      this.#connections.add(converseHttp(socket, this.#conversation(fixed)));
    }
  }

  /** Over the mesh, whatever is spoken on it. */
  async #carry(socket: Socket, original: OriginalDestination, destination: Destination): Promise<void> {
    const { services, opaquePorts } = this.#deps;
    const spoken = await spokenTo(socket, destination, opaquePorts.has(original.port), services);
    if (socket.destroyed) return;
    if (spoken === undefined || this.#draining) {
      if (spoken === undefined)
        this.#report(original, "the client does not speak TLS, which the port declares");
      this.#reset(socket, "reset");
      return;
    }
    this.#count("mesh");
    this.#connections.add(converse(socket, spoken, destination, this.#conversation(fixedOf(original))));
  }

  /** Requests on it are looked up again each, and answered with the reason where they are refused. */
  #conversation(fixed: FixedDestination): ConversationDeps {
    return {
      services: this.#deps.services,
      fixed,
      isDraining: () => this.#draining,
      onClosed: (closed) => this.#connections.delete(closed),
    };
  }

  #pass(socket: Socket, { address, port }: OriginalDestination): void {
    let local: string | undefined;
    const passing = passThrough(socket, {
      to: { host: address, port },
      connectTimeoutMs: this.#deps.services.timeouts.connectMs,
      onConnected: (outward) => {
        local = `${outward.localAddress} ${outward.localPort}`;
        this.#outward.add(local);
      },
      onClosed: () => {
        this.#passing.delete(passing);
        if (local !== undefined) this.#outward.delete(local);
      },
    });
    this.#passing.set(passing, addressKey(address, port));
  }

  #reset(socket: Socket, result: CaptureResult): void {
    this.#count(result);
    socket.resetAndDestroy();
  }

  #count(result: CaptureResult): void {
    const { captured } = this.#deps.services.metrics;
    captured.add(captured.series("outbound", result));
  }

  /** Once per destination: a client that tries again must not fill the log. */
  #report({ address, port }: OriginalDestination, why: string): void {
    const key = `${address} ${port} ${why}`;
    if (this.#reported.has(key)) return;
    if (this.#reported.size >= MAX_REPORTED) this.#reported.clear();
    this.#reported.add(key);
    this.#deps.log.warn("captured connection refused", { address, port, reason: why });
  }

  sweep(nowMs: number): void {
    for (const connection of this.#connections) connection.sweep(nowMs);
    this.#cutForbidden();
  }

  /** Ends what a new table does not let pass any more, also because it is of the mesh now. */
  #cutForbidden(): void {
    const { directory } = this.#deps.services.state;
    if (directory === undefined || directory === this.#heldAgainst) return;
    this.#heldAgainst = directory;
    const isDenied = directory.table.settings.outbound === "Deny";
    for (const [passing, key] of this.#passing)
      if (isDenied || directory.ofAddress(key) !== undefined) passing.cut();
  }

  /** Accepts nothing more; every answer from now on is the last of its connection. */
  drain(): void {
    this.#draining = true;
    for (const server of this.#servers) server.close();
  }

  drainIdle(): void {
    for (const connection of this.#connections) connection.drain();
  }

  destroy(): void {
    this.drain();
    for (const connection of this.#connections) connection.destroy();
    for (const socket of this.#sockets) socket.destroy();
  }
}

function fixedOf({ address, port }: OriginalDestination): FixedDestination & { readonly kind: "address" } {
  return { kind: "address", address, port, key: addressKey(address, port) };
}
