// What an operator may ask a running sidecar, over its Unix socket: what is in force, who was denied lately, and why a
// certain call was (by the code that decided). Also health and metrics. Nothing here changes anything.
import type { AppMetricsRelay } from "./capture/app-metrics.ts";
import type { SidecarConfig } from "./config.ts";
import type { Call } from "./core/policy/call.ts";
import { jsonPage, type Page, type PageHandler, textPage } from "./core/runtime/metrics-server.ts";
import type { DataPlane } from "./data-plane.ts";
import type { Enforcement } from "./inbound/authorize.ts";

export interface AdminState {
  readonly plane: DataPlane;
  readonly config: Pick<SidecarConfig, "probes" | "appMetrics" | "appHost">;
  readonly meshNowMs: () => number;
  readonly isDraining: () => boolean;
  readonly isConnected: () => boolean;
  /** Of a gateway: why no client can be served. */
  readonly gatewayUnready?: () => string | undefined;
}

/** Why a sidecar is not ready; undefined when it is. */
export function unreadyReason(state: AdminState): string | undefined {
  const { identity, table } = state.plane;
  if (state.isDraining()) return "draining";
  if (!state.plane.started) return "the listeners are not bound, or capture is not verified yet";
  if (identity === undefined) return "no identity yet";
  if (state.meshNowMs() >= identity.notAfterMs) return "the certificate has expired";
  if (state.plane.meshPort === undefined) return "the mesh port is not bound yet";
  if (table === undefined) return "no policy yet";
  return table.program.kind === "gateway" ? state.gatewayUnready?.() : undefined;
}

/** /metrics, /livez, /readyz, and the relayed probes and metrics of the application. */
export function healthPages(state: AdminState): PageHandler {
  let relay: AppMetricsRelay | undefined;
  return async (path) => {
    const { probes, appHost } = state.config;
    if (probes.size > 0 && path.startsWith("/probe/")) {
      const { relayProbe } = await import("./capture/probe-relay.ts");
      return relayProbe(probes, appHost, path);
    }
    if (path === "/livez") return textPage(200, "ok\n");
    if (path === "/readyz") {
      const reason = unreadyReason(state);
      return reason === undefined ? textPage(200, "ok\n") : textPage(503, `${reason}\n`);
    }
    const { appMetrics } = state.config;
    if (appMetrics !== undefined && (path === "/app-metrics" || path === "/merged-metrics")) {
      const { AppMetricsRelay } = await import("./capture/app-metrics.ts");
      relay ??= new AppMetricsRelay(appMetrics, state.config.appHost);
      return path === "/app-metrics" ? relay.page() : relay.mergedPage(state.plane.metrics);
    }
    if (path !== "/metrics") return undefined;
    const { exposition } = await import("./telemetry/exposition.ts");
    return { status: 200, ...exposition(state.plane.metrics) };
  };
}

/** The pages of the admin socket: `/v1/state`, `/v1/denials`, `/v1/decisions/ID`, and those of `healthPages`. */
export function adminPages(state: AdminState): PageHandler {
  const health = healthPages(state);
  return (path, query) => {
    if (path === "/v1/state") return statePage(state);
    if (path === "/v1/denials")
      return jsonPage(200, { denials: state.plane.trail.denials().slice(0, 100).map(withoutCall) });
    if (path.startsWith("/v1/decisions/")) return decisionPage(state, path.slice("/v1/decisions/".length));
    return health(path, query);
  };
}

function withoutCall({ call: _call, ...denial }: ReturnType<DataPlane["trail"]["denials"]>[number]): object {
  return denial;
}

function statePage(state: AdminState): Page {
  const { identity, table, upstreams, inbound } = state.plane;
  return jsonPage(200, {
    ready: unreadyReason(state) ?? true,
    connected: state.isConnected(),
    identity:
      identity === undefined
        ? null
        : {
            spiffeId: identity.spiffeId,
            notAfter: new Date(identity.notAfterMs).toISOString(),
            bundleSequence: identity.bundle.sequence,
          },
    table:
      table === undefined
        ? null
        : {
            revision: table.revision,
            digest: table.digest,
            mtls: table.settings.mtls,
            outbound: table.settings.outbound,
            policies: table.program.policies.map((policy) => policy.id),
            services: [...table.services.keys()],
          },
    upstreams: [...upstreams.upstreams].map((upstream) => ({
      spiffeId: upstream.endpoint.spiffeId,
      address: `${upstream.endpoint.address}:${upstream.endpoint.meshPort}`,
      state: upstream.state,
      requests: upstream.load,
      connections: upstream.connections,
    })),
    services: [...upstreams.groups].map((group) => ({
      service: group.service,
      port: group.port,
      panic: group.panic,
      endpoints: group.members.map((member) => ({
        address: `${member.upstream.endpoint.address}:${member.upstream.endpoint.meshPort}`,
        zone: member.upstream.endpoint.zone ?? "",
        state: member.state,
        weight: member.weight,
        failuresInARow: member.outlier.failuresInARow,
        requests: member.load,
      })),
    })),
    meshConnections: inbound.connections.size,
    openRequests: inbound.openExchanges,
  });
}

async function decisionPage(state: AdminState, id: string): Promise<Page> {
  const { enforcement, trail } = state.plane;
  const denial = trail.denial(id);
  if (denial === undefined) {
    return jsonPage(404, {
      error: `no decision \`${id.slice(0, 64)}\` among the latest denials of this sidecar; if the target has more replicas, ask the others, else look in the audit log`,
    });
  }
  const { call, ...rest } = denial;
  const { explain } = await import("./core/policy/explain.ts");
  const explanation =
    call === undefined || enforcement === undefined
      ? null
      : explain(programOf(enforcement, call), call, { cel: state.plane.cel });
  return jsonPage(200, {
    ...rest,
    call:
      call === undefined
        ? null
        : { ...call, caller: { ...call.caller, labels: Object.fromEntries(call.caller.labels) } },
    revision: state.plane.table?.revision ?? null,
    explanation,
  });
}

/** What decided: a plaintext caller has a program of its own where it is let in. */
function programOf(enforcement: Enforcement, { caller }: Call): Enforcement["program"] {
  return caller.authenticated ? enforcement.program : (enforcement.plaintext ?? enforcement.program);
}
