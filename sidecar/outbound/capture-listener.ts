// Where iptables sends the calls of the application: each connection is looked up by the address it was going to and
// carried over the mesh, passed on, or refused (in words where it speaks HTTP, by a reset otherwise).
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { OWN_PORTS } from "../capture/rules.ts";
import { isCaptureProbe } from "../capture/verify.ts";
import { REASONS, type Reason } from "../core/policy/reason.ts";
import { MeshError } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { OriginalDestination, OriginalDestinationReader } from "../wire/original-destination.ts";
import { type Spoken, sniffSocket } from "../wire/sniff.ts";
import { CREDIT_HIGH_WATER_BYTES, MeshSocket } from "../wire/socket.ts";
import { addressKey } from "./address-index.ts";
import {
  type AppConversation,
  type ConversationDeps,
  converse,
  converseHttp,
  HELLO_MS,
  REFUSAL_SNIFF_MS,
  spokenTo,
} from "./app-socket.ts";
import { judge, type Verdict } from "./capture-verdict.ts";
import type { ExternalDestination } from "./external.ts";
import { ExternalTunnel } from "./external-tunnel.ts";
import { endOf, PassedConnections } from "./passed-connections.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import { hostFacts, recordRefusal } from "./tunnel.ts";

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

const MAX_REPORTED = 256;

export class CaptureListener {
  readonly #deps: CaptureListenerDeps;
  readonly #servers: Server[] = [];
  /** Every accepted socket, whatever became of it. */
  readonly #sockets = new Set<Socket>();
  readonly #connections = new Set<AppConversation>();
  /** Local ends of our own connections outward: one of them captured again would go round for ever. */
  readonly #outward = new Set<string>();
  readonly #passed: PassedConnections;
  readonly #reported = new Set<string>();
  #draining = false;

  constructor(deps: CaptureListenerDeps) {
    this.#deps = deps;
    this.#passed = new PassedConnections(deps.services, this.#outward);
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
    judge(original.value, this.#deps.services)
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

  async #carryOut(socket: Socket, original: OriginalDestination, verdict: Verdict): Promise<void> {
    if (socket.destroyed) return;
    if (this.#draining) {
      this.#reset(socket, "reset");
      return;
    }
    if (verdict.kind === "mesh") {
      await this.#carry(socket, original, verdict.destination);
      return;
    }
    const spoken = await this.#spokenOutside(socket, original, verdict);
    if (socket.destroyed) return;
    const external =
      verdict.kind === "pass" || verdict.isOutside ? this.#askedFor(spoken, original) : undefined;
    if (external !== undefined && this.#isLoop(socket, original)) this.#reset(socket, "loop");
    else if (external !== undefined) this.#tunnel(socket, spoken?.serverName ?? "", external);
    else if (verdict.kind === "pass") await this.#passOn(socket, original, spoken);
    else this.#refuse(socket, original, verdict, spoken);
  }

  /** @returns undefined: nothing is looked for, where it could not matter. */
  async #spokenOutside(
    socket: Socket,
    { port }: OriginalDestination,
    verdict: Exclude<Verdict, { readonly kind: "mesh" }>,
  ): Promise<Spoken | undefined> {
    const { services, opaquePorts } = this.#deps;
    if (opaquePorts.has(port)) return undefined;
    const mayBeTls = services.state.externals?.mayTakeTlsAt(port) === true;
    if (verdict.kind === "pass" && !mayBeTls) return undefined;
    return await sniffSocket(socket, REFUSAL_SNIFF_MS, mayBeTls ? HELLO_MS : REFUSAL_SNIFF_MS);
  }

  /** The host outside the mesh that TLS asks for openly, where policy knows it. */
  #askedFor(spoken: Spoken | undefined, { port }: OriginalDestination): ExternalDestination | undefined {
    return spoken?.serverName === undefined || spoken.hidesName === true
      ? undefined
      : this.#deps.services.state.externals?.ofServerName(spoken.serverName, port);
  }

  /** Decided on by the name, which is connected to: the address that it came for may be anybody's. */
  #tunnel(socket: Socket, host: string, external: ExternalDestination): void {
    const { services } = this.#deps;
    this.#count("external");
    let local: string | undefined;
    const tunnel = new ExternalTunnel(
      new MeshSocket(socket, CREDIT_HIGH_WATER_BYTES),
      hostFacts(host, external.port, services),
      {
        services,
        external,
        host,
        onConnected: (outward) => {
          local = endOf(outward);
          this.#outward.add(local);
          outward.once("close", () => this.#outward.delete(local ?? ""));
        },
        onClosed: (closed) => this.#connections.delete(closed),
      },
    );
    this.#connections.add(tunnel);
    tunnel.start();
  }

  async #passOn(socket: Socket, original: OriginalDestination, spoken: Spoken | undefined): Promise<void> {
    // If it is our own connection that was captured, its other end may learn of being connected only in this turn.
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#isLoop(socket, original)) {
      this.#reset(socket, "loop");
      return;
    }
    this.#count("passed");
    this.#passed.pass(socket, original, spoken);
  }

  /** In words where it speaks HTTP; there a request may also name a host outside the mesh that policy knows. */
  #refuse(
    socket: Socket,
    original: OriginalDestination,
    { why, isOutside }: Verdict & { readonly kind: "refuse" },
    spoken: Spoken | undefined,
  ): void {
    const { services } = this.#deps;
    const fixed = fixedOf(original);
    if (spoken?.protocol !== "http" && spoken?.protocol !== "h2c") {
      const { serverName } = spoken ?? {};
      const asked = serverName === undefined ? "" : `, which asks for \`${serverName}\` by TLS`;
      this.#report(original, why, serverName);
      if (Object.hasOwn(REASONS, why))
        recordRefusal(fixed, why as Reason, `the connection${asked} is not carried`, services); // a key of REASONS
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

  #reset(socket: Socket, result: CaptureResult): void {
    this.#count(result);
    socket.resetAndDestroy();
  }

  #count(result: CaptureResult): void {
    const { captured } = this.#deps.services.metrics;
    captured.add(captured.series("outbound", result));
  }

  /** Once per destination: a client that tries again must not fill the log. */
  #report({ address, port }: OriginalDestination, why: string, serverName?: string): void {
    const key = `${address} ${port} ${why}`;
    if (this.#reported.has(key)) return;
    if (this.#reported.size >= MAX_REPORTED) this.#reported.clear();
    this.#reported.add(key);
    this.#deps.log.warn("captured connection refused", {
      address,
      port,
      reason: why,
      ...(serverName === undefined ? {} : { serverName }),
    });
  }

  sweep(nowMs: number): void {
    for (const connection of this.#connections) connection.sweep(nowMs);
    this.#passed.cutForbidden();
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
