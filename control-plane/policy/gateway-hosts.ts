// Host names of gateways: which covers which, and which route comes first. PURE.
import type { GatewayRoute } from "../../sidecar/core/gateway/gateway.ts";

/** Whether everything that `host` means (`*.` covers one label) is covered. Lower case both. */
export function coversHost(covering: string, host: string): boolean {
  if (covering === host) return true;
  if (!covering.startsWith("*.") || host.startsWith("*.")) return false;
  const dot = host.indexOf(".");
  return dot > 0 && host.slice(dot) === covering.slice(1);
}

const isWild = (host: string): boolean => host.startsWith("*.");

/**
 * Routes in the order in which they are tried: exact hosts before wildcards, exact paths before prefixes, long paths before
 * short ones, then as written. A route with hosts of both sorts becomes two; the second is named with a `*` behind.
 */
export function inOrder(routes: readonly GatewayRoute[]): readonly GatewayRoute[] {
  const split = routes.flatMap((route): GatewayRoute[] => {
    const wild = route.hosts.filter(isWild);
    if (wild.length === 0 || wild.length === route.hosts.length) return [route];
    return [
      { ...route, hosts: route.hosts.filter((host) => !isWild(host)) },
      { ...route, name: `${route.name}*`, hosts: wild },
    ];
  });
  return split.sort(compareRoutes);
}

function compareRoutes(a: GatewayRoute, b: GatewayRoute): number {
  const wild = Number(a.hosts.every(isWild)) - Number(b.hosts.every(isWild));
  if (wild !== 0) return wild;
  if (a.path.kind !== b.path.kind) return a.path.kind === "exact" ? -1 : 1;
  return b.path.value.length - a.path.value.length;
}

/** A host on which `earlier` takes every request that `later` could; undefined: there is none. Both as written. */
export function shadowedHost(earlier: GatewayRoute, later: GatewayRoute): string | undefined {
  if (earlier.path.kind !== later.path.kind || earlier.path.value !== later.path.value) return undefined;
  return later.hosts.find((host) => earlier.hosts.includes(host));
}
