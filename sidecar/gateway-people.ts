// Puts together who knows people at a gateway: identity providers with their secrets, the store of sessions, the token
// service. Loaded only by a workload that gets a gateway resource.
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Gateway, GatewayIdp } from "./core/gateway/gateway.ts";
import type { Revocations } from "./core/identity/revocations.ts";
import type { Clock } from "./core/runtime/clock.ts";
import { MeshError, messageOf, systemCodeOf } from "./core/runtime/errors.ts";
import type { Logger } from "./core/runtime/log.ts";
import type { TellEdge } from "./gateway/edge-audit.ts";
import { GatewayPeople } from "./gateway/login/gateway-people.ts";
import type { LoginWorld } from "./gateway/login/login-world.ts";
import { Provider } from "./gateway/login/provider.ts";
import { SignInError, type SignInFailure } from "./gateway/login/sign-in-failure.ts";
import type { TokenService } from "./gateway/login/token-service.ts";
import { RequestLimit } from "./gateway/request-limit.ts";
import { GatewayCookies } from "./gateway/session/cookies.ts";
import { MemorySessionStore } from "./gateway/session/memory-store.ts";
import type { SessionStore } from "./gateway/session/session.ts";
import type { SidecarMetrics } from "./metrics.ts";

export interface PeopleDeps {
  readonly tokens: TokenService;
  /** Of the table in force. */
  readonly revocations: () => Revocations;
  /** Of the table in force: whether a mesh service leads to a workload. */
  readonly leadsTo: (service: string, spiffeId: string) => boolean;
  /** Mounted Secrets, `DIR/NAME/KEY`; undefined: none. */
  readonly secretsDir: string | undefined;
  /** Writes down who signs in and out. */
  readonly tell: TellEdge;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: SidecarMetrics;
}

/** In memory; each takes 2.6 KB with 2 KB of claims. */
const MAX_SESSIONS = 250_000;
/** Tokens for endpoints that one person may ask one replica for. */
const EXCHANGES = { requests: 60, perMs: 60_000, burst: 30 };
const MAX_SECRET_CHARS = 4_096;

/** Opens who knows people for a gateway; later versions of the resource come by `adopt`. */
export class PeoplePart {
  readonly people: GatewayPeople;
  readonly #world: World;

  private constructor(world: World) {
    this.#world = world;
    this.people = new GatewayPeople(world);
  }

  /** @throws MeshError `bad_config` or `io_failed` when the secret that names Redis cannot be used. */
  static async open(gateway: Gateway, deps: PeopleDeps): Promise<PeoplePart> {
    const limits = { idleMs: gateway.session.idleMs, maxSessions: MAX_SESSIONS };
    const store = await openStore(gateway, deps, limits);
    return new PeoplePart(new World(gateway, deps, store, limits));
  }

  /** Puts a newer version in force. Where sessions are kept changes with the next start. */
  adopt(gateway: Gateway): void {
    this.#world.adopt(gateway);
  }

  /** Ends what is revoked; called with each table. */
  revoked(): void {
    this.people.revoked();
  }

  /** Called twice a second. */
  sweep(): void {
    this.people.sweep(this.#world.clock.nowMs());
  }

  async close(): Promise<void> {
    await this.people.close();
    await this.#world.close();
  }
}

class World implements LoginWorld {
  readonly store: SessionStore;
  readonly tokens: TokenService;
  readonly tell: TellEdge;
  readonly clock: Clock;
  readonly log: Logger;
  cookies: GatewayCookies;
  readonly #deps: PeopleDeps;
  readonly #limits: { idleMs: number };
  readonly #providers = new Map<string, Provider>();
  readonly #exchanges = new RequestLimit(EXCHANGES);
  #gateway: Gateway;

  constructor(gateway: Gateway, deps: PeopleDeps, store: SessionStore, limits: { idleMs: number }) {
    this.#gateway = gateway;
    this.#deps = deps;
    this.#limits = limits;
    this.store = store;
    this.tokens = deps.tokens;
    this.tell = deps.tell;
    this.clock = deps.clock;
    this.log = deps.log;
    this.cookies = GatewayCookies.of(gateway);
  }

  gateway(): Gateway {
    return this.#gateway;
  }

  revocations(): Revocations {
    return this.#deps.revocations();
  }

  leadsTo(service: string, spiffeId: string): boolean {
    return this.#deps.leadsTo(service, spiffeId);
  }

  mayExchange(user: string): number {
    return this.#exchanges.take(user, this.clock.monotonicMs());
  }

  adopt(gateway: Gateway): void {
    const before = this.#gateway;
    this.#gateway = gateway;
    this.#limits.idleMs = gateway.session.idleMs;
    if (before.session.cookieName !== gateway.session.cookieName) this.cookies = GatewayCookies.of(gateway);
    if (
      before.session.store !== gateway.session.store ||
      before.session.storeSecretName !== gateway.session.storeSecretName
    )
      this.log.warn("sessions stay where they are kept until the gateway is restarted");
    for (const [name, provider] of this.#providers) {
      const idp = gateway.idps.find((each) => each.name === name);
      if (idp !== undefined && JSON.stringify(idp) === JSON.stringify(provider.idp)) continue;
      this.#providers.delete(name);
      void provider.close();
    }
  }

  provider(name: string): Provider {
    const known = this.#providers.get(name);
    if (known !== undefined) return known;
    const idp = this.#gateway.idps.find((each) => each.name === name);
    if (idp === undefined) throw new SignInError("invalid", `there is no identity provider \`${name}\` here`);
    const provider = new Provider({
      idp,
      secret: () => clientSecret(this.#deps.secretsDir, idp),
      nowMs: () => this.clock.nowMs(),
    });
    this.#providers.set(name, provider);
    return provider;
  }

  reference(): string {
    return `g-${randomBytes(6).toString("hex")}`;
  }

  count(idp: string, result: "ok" | SignInFailure): void {
    const { logins } = this.#deps.metrics;
    logins.add(logins.series(idp, result));
  }

  countOddCookie(): void {
    const { headerAnomalies } = this.#deps.metrics;
    headerAnomalies.add(headerAnomalies.series("cookie"));
  }

  async close(): Promise<void> {
    await Promise.all(Array.from(this.#providers.values(), (provider) => provider.close()));
  }
}

/** Read with each use, so that a new one counts at once. @throws MeshError `io_failed`. */
async function clientSecret(dir: string | undefined, idp: GatewayIdp): Promise<string | undefined> {
  if (idp.clientSecret === undefined) return undefined;
  return readSecret(dir, idp.clientSecret.name, idp.clientSecret.key);
}

/** @throws MeshError `io_failed` with the path that is missing, never with what is in it. */
async function readSecret(dir: string | undefined, name: string, key: string): Promise<string> {
  if (dir === undefined)
    throw new MeshError("io_failed", `secret \`${name}\` cannot be read: --gateway-secrets is not given`);
  try {
    const text = (await readFile(join(dir, name, key), "utf8")).trim();
    if (text === "" || text.length > MAX_SECRET_CHARS)
      throw new MeshError("io_failed", `secret \`${name}\`: \`${key}\` is empty or longer than 4 KiB`);
    return text;
  } catch (error) {
    if (error instanceof MeshError) throw error;
    const why = systemCodeOf(error) === "ENOENT" ? "there is no such file" : messageOf(error);
    throw new MeshError("io_failed", `secret \`${name}\`: \`${key}\` cannot be read: ${why}`, {
      cause: error,
    });
  }
}

async function openStore(
  gateway: Gateway,
  { secretsDir, log }: PeopleDeps,
  limits: { readonly idleMs: number; readonly maxSessions: number },
): Promise<SessionStore> {
  const { store, storeSecretName } = gateway.session;
  if (store === "memory" || storeSecretName === undefined) return new MemorySessionStore(limits);
  const url = await readSecret(secretsDir, storeSecretName, "url");
  const caPem = url.startsWith("rediss:")
    ? await readSecret(secretsDir, storeSecretName, "ca.crt").catch(() => undefined)
    : undefined;
  const { RedisSessionStore } = await import("./gateway/session/redis-store.ts");
  return RedisSessionStore.open({ url, caPem, prefix: `countersign:${gateway.id}:` }, limits, log);
}
