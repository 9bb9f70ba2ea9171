// The gateway beside the data path: its ports, certificates and rules, put together with what carries calls into the mesh.
// Loaded only by a workload that gets a gateway resource.

import type { GatewaySettings } from "./config.ts";
import type { Gateway } from "./core/gateway/gateway.ts";
import { Revocations } from "./core/identity/revocations.ts";
import type { Clock } from "./core/runtime/clock.ts";
import { messageOf } from "./core/runtime/errors.ts";
import type { Logger } from "./core/runtime/log.ts";
import type { DataPlane } from "./data-plane.ts";
import type { DataPlanePart } from "./data-plane-part.ts";
import { EdgeCertificates } from "./gateway/certificates.ts";
import { EdgeAudit } from "./gateway/edge-audit.ts";
import { Front } from "./gateway/front.ts";
import { leadsTo } from "./gateway/leads-to.ts";
import { EdgeListener, type EdgeListenerDeps } from "./gateway/listener.ts";
import type { TokenService } from "./gateway/login/token-service.ts";
import type { People } from "./gateway/people.ts";
import { PublishedKeys } from "./gateway/published-keys.ts";
import type { PeoplePart } from "./gateway-people.ts";
import { AppHttp2Connection } from "./outbound/app-http2-connection.ts";
import { AppSideConnection } from "./outbound/app-side-connection.ts";
import { OutboundExchange } from "./outbound/exchange.ts";
import { ExternalExchange } from "./outbound/external-exchange.ts";
import { HIGH_WATER_BYTES, MeshSocket } from "./wire/socket.ts";

export interface GatewayPlaneDeps {
  readonly plane: DataPlane;
  readonly settings: GatewaySettings;
  /** undefined: no token service is given, so nobody can be signed in. */
  readonly tokens?: TokenService | undefined;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A port that could not be bound is tried again with the next table, and by the sweep. */
const BIND_AGAIN_MS = 5_000;

export class GatewayPlane implements DataPlanePart {
  readonly front: Front;
  readonly certificates: EdgeCertificates;
  readonly #deps: GatewayPlaneDeps;
  readonly #listenerDeps: EdgeListenerDeps;
  /** By the port that the resource names. */
  readonly #listeners = new Map<number, EdgeListener>();
  readonly #ports = new Map<number, number>();
  readonly #audit: EdgeAudit;
  #gateway: Gateway | undefined;
  #people: PeoplePart | undefined;
  #isStopping = false;
  #adopting: Promise<void> = Promise.resolve();
  #bindAgainMs = Number.POSITIVE_INFINITY;

  constructor(deps: GatewayPlaneDeps) {
    this.#deps = deps;
    const { plane, settings, clock, log } = deps;
    const services = plane.outboundServices;
    const { metrics, trail, cache, limits, timeouts, state } = services;
    this.#audit = new EdgeAudit({ trail, table: () => plane.table, meshNowMs: services.meshNowMs });
    this.certificates = new EdgeCertificates({ dir: settings.secretsDir, clock, log });
    this.front = new Front({
      clock,
      cache,
      metrics,
      decisionId: () => trail.decisionId(),
      tell: this.#audit.tell,
      forward: (id, app, stream, head) => {
        if (id === undefined) return new OutboundExchange(services, app, stream, head);
        const external = state.externals?.ofId(id);
        return external && new ExternalExchange(services, external, app, stream, head);
      },
      portOf: (service) => {
        const [only, second] = state.directory?.table.services.get(service)?.ports ?? [];
        return second === undefined ? only?.port : undefined;
      },
    });
    this.#listenerDeps = {
      front: this.front,
      certificates: this.certificates,
      limits,
      timeouts,
      metrics,
      log,
      converse: (raw, isHttp2, createExchange, isDraining, onClosed) => {
        const shared = { services, fixed: undefined, createExchange, isDraining, onClosed };
        if (isHttp2) return new AppHttp2Connection(new MeshSocket(raw), shared);
        return new AppSideConnection(new MeshSocket(raw, HIGH_WATER_BYTES, services.http2), shared);
      },
    };
    metrics.addGauge({
      name: "countersign_gateway_certificate_expiry_seconds",
      help: "seconds until a certificate of the gateway expires",
      labels: ["secret"],
      read: () =>
        this.certificates
          .all()
          .map(([name, { notAfterMs }]) => [[name], Math.max(0, (notAfterMs - clock.nowMs()) / 1_000)]),
    });
    const { tokens } = deps;
    if (tokens !== undefined)
      this.front.published = new PublishedKeys({ fetch: (path) => tokens.published(path) });
    plane.attach(this);
  }

  set people(people: People) {
    this.front.people = people;
  }

  /** Where a declared port is really bound; undefined: it is not (yet). */
  portOf(declared: number): number | undefined {
    return this.#ports.get(declared);
  }

  /** Why no client can be served; undefined: they can. */
  get unready(): string | undefined {
    const gateway = this.#gateway;
    if (gateway === undefined) return "no MeshGateway is for this workload";
    const closed = gateway.listeners.find(({ port }) => !this.#ports.has(port));
    if (closed !== undefined) return `port ${closed.port} of listener \`${closed.name}\` is not open`;
    const bare = gateway.listeners.find(({ secretName }) => this.certificates.get(secretName) === undefined);
    return bare === undefined ? undefined : `there is no certificate for listener \`${bare.name}\``;
  }

  /** Puts a gateway resource and what a new table revokes in force; undefined: it was taken away. Resolves when ports are bound or were tried. */
  adopt(gateway: Gateway | undefined): Promise<void> {
    this.#people?.revoked();
    if (gateway === this.#gateway) return this.#adopting;
    this.#gateway = gateway;
    this.front.adopt(gateway);
    this.#adopting = this.#adopting.then(() => this.#apply());
    return this.#adopting;
  }

  async #apply(): Promise<void> {
    const gateway = this.#gateway;
    await this.certificates.use((gateway?.listeners ?? []).map(({ secretName }) => secretName));
    const wanted = new Map((gateway?.listeners ?? []).map(({ port }) => [port, true]));
    if (gateway?.redirectPort !== undefined) wanted.set(gateway.redirectPort, false);
    for (const [port, listener] of this.#listeners) {
      if (wanted.has(port)) continue;
      this.#listeners.delete(port);
      this.#ports.delete(port);
      listener.drain();
      listener.drainIdle();
    }
    this.#bindAgainMs = Number.POSITIVE_INFINITY;
    await this.#knowPeople(gateway);
    for (const port of wanted.keys()) await this.#open(port, gateway);
  }

  /** Until sessions can be kept, whatever needs a person is refused, and what is public is served. */
  async #knowPeople(gateway: Gateway | undefined): Promise<void> {
    const { tokens, settings, clock, log, plane } = this.#deps;
    if (gateway === undefined || this.#isStopping) return;
    if (this.#people !== undefined) {
      this.#people.adopt(gateway);
      return;
    }
    if (tokens === undefined) {
      log.error("nobody can sign in at the gateway", { reason: "--token-service is not given" });
      return;
    }
    try {
      const { PeoplePart } = await import("./gateway-people.ts");
      const { secretsDir } = settings;
      const { metrics, state } = plane.outboundServices;
      const revocations = (): Revocations => state.directory?.table.revocations ?? Revocations.none;
      this.#people = await PeoplePart.open(gateway, {
        ...{ tokens, revocations, tell: this.#audit.tell, secretsDir, clock, log, metrics },
        leadsTo: (service, spiffeId) => leadsTo(state.directory?.table, service, spiffeId),
      });
      this.people = this.#people.people;
    } catch (error) {
      this.#bindAgainMs = clock.monotonicMs() + BIND_AGAIN_MS;
      log.error("nobody can sign in at the gateway", { reason: messageOf(error) });
    }
  }

  async #open(port: number, gateway: Gateway | undefined): Promise<void> {
    const listeners = (gateway?.listeners ?? []).filter((each) => each.port === port);
    const known = this.#listeners.get(port);
    if (known !== undefined) {
      known.adopt(listeners);
      return;
    }
    if (this.#isStopping) return;
    const { settings, log, clock } = this.#deps;
    const listener = new EdgeListener(listeners, this.#listenerDeps);
    const at = settings.ports.get(port) ?? { host: settings.address, port };
    try {
      this.#ports.set(port, await listener.listen(at.host, at.port));
      this.#listeners.set(port, listener);
      log.info("gateway port open", { port, tls: listeners.length > 0 });
    } catch (error) {
      this.#bindAgainMs = clock.monotonicMs() + BIND_AGAIN_MS;
      log.error("gateway port not open", { port, reason: messageOf(error) });
    }
  }

  get busy(): number {
    let busy = 0;
    for (const listener of this.#listeners.values()) busy += listener.busy;
    return busy;
  }

  sweep(nowMs: number): void {
    this.certificates.sweep(nowMs);
    this.#audit.sweep(nowMs);
    this.#people?.sweep();
    if (this.#gateway !== undefined) this.front.published?.sweep(nowMs);
    for (const listener of this.#listeners.values()) listener.sweep(nowMs);
    if (nowMs < this.#bindAgainMs) return;
    this.#bindAgainMs = Number.POSITIVE_INFINITY;
    this.#adopting = this.#adopting.then(() => this.#apply());
  }

  drain(): void {
    this.#isStopping = true;
    for (const listener of this.#listeners.values()) listener.drain();
  }

  drainIdle(): void {
    for (const listener of this.#listeners.values()) listener.drainIdle();
  }

  destroy(): void {
    for (const listener of this.#listeners.values()) listener.destroy();
    void this.#people?.close();
  }
}
