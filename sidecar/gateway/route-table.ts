// PURE. Which route a host and path mean, made once per gateway resource.
import type { Gateway, GatewayListener, GatewayRoute } from "../core/gateway/gateway.ts";
import { parseAuthority } from "../core/http/authority.ts";
import { HostNames } from "./host-names.ts";

/** What the gateway serves under one host name. */
export class HostEntry {
  /** In the order in which they are tried. */
  readonly routes: GatewayRoute[] = [];
  /** Where connections for it may come in: names of listeners. */
  readonly listeners = new Set<string>();
}

const HTTPS_PORT = 443;
const MAX_AUTHORITIES = 4_096;

export class RouteTable {
  readonly #hosts = new HostNames<HostEntry>();
  readonly #authorities = new Map<string, HostEntry>();

  constructor(gateway: Pick<Gateway, "listeners" | "routes">) {
    for (const { name, hosts } of gateway.listeners) for (const host of hosts) this.#listen(host, name);
    for (const route of gateway.routes) for (const host of route.hosts) this.#entry(host);
    for (const name of this.#hosts.names()) this.#fill(name, gateway);
  }

  #entry(name: string): HostEntry {
    let entry = this.#hosts.own(name);
    if (entry === undefined) {
      entry = new HostEntry();
      this.#hosts.set(name, entry);
    }
    return entry;
  }

  #listen(name: string, listener: string): void {
    this.#entry(name).listeners.add(listener);
  }

  /** A name covered by a wildcard has that one's listeners, and behind its own its routes. */
  #fill(name: string, { listeners, routes }: Pick<Gateway, "listeners" | "routes">): void {
    const entry = this.#entry(name);
    const wildcard = name.startsWith("*.") ? name : `*.${name.slice(name.indexOf(".") + 1)}`;
    for (const listener of listeners)
      if (listener.hosts.includes(name) || listener.hosts.includes(wildcard))
        entry.listeners.add(listener.name);
    for (const route of routes)
      if (route.hosts.includes(name) || route.hosts.includes(wildcard)) entry.routes.push(route);
  }

  /** What is served under an authority as a request names it; undefined: nothing, or it is malformed. */
  find(authority: string): HostEntry | undefined {
    const known = this.#authorities.get(authority);
    if (known !== undefined) return known;
    const parsed = parseAuthority(authority, HTTPS_PORT);
    const entry = parsed.ok ? this.#hosts.get(parsed.value.host) : undefined;
    if (entry === undefined) return undefined;
    if (this.#authorities.size >= MAX_AUTHORITIES) this.#authorities.clear();
    this.#authorities.set(authority, entry);
    return entry;
  }
}

/** The first route that a path belongs to. @param path decoded once (`normalizePath`). */
export function routeOf(entry: HostEntry, path: string): GatewayRoute | undefined {
  const { routes } = entry;
  for (let i = 0; i < routes.length; i++) {
    const route = routes[i];
    if (route !== undefined && covers(route.path, path)) return route;
  }
  return undefined;
}

function covers({ kind, value }: GatewayRoute["path"], path: string): boolean {
  if (kind === "exact") return path === value;
  if (value === "/") return true;
  if (!path.startsWith(value)) return false;
  return path.length === value.length || value.endsWith("/") || path.charCodeAt(value.length) === 47;
}

/**
 * The target as its backend gets it.
 *
 * @returns undefined when the part to replace is spelled with escapes: what was matched is not what would be forwarded.
 */
export function rewriteTarget(route: GatewayRoute, target: string): string | undefined {
  const prefix = route.rewrite?.prefix;
  if (prefix === undefined) return target;
  const { value } = route.path;
  const from = value === "/" ? "" : value.replace(/\/$/, "");
  if (!target.startsWith(from)) return undefined;
  const to = prefix === "/" ? "" : prefix.replace(/\/$/, "");
  const rest = target.slice(from.length);
  const rewritten = `${to}${rest}`;
  return rewritten.startsWith("/") ? rewritten : `/${rewritten}`;
}

/** Which listener a server name means, of those on one port. */
export function listenersByName(listeners: readonly GatewayListener[]): HostNames<GatewayListener> {
  const names = new HostNames<GatewayListener>();
  for (const listener of listeners) for (const host of listener.hosts) names.set(host, listener);
  return names;
}
