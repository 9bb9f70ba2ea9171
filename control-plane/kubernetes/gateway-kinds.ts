// The Gateway API's routes in a cluster: whether their kinds are there and may be read (we never install them), and what of
// an object is read.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { StoredRoute } from "../policy/gateway-route.ts";
import type { ApiObject } from "./list-watch.ts";
import { ApiError, type KubernetesRest } from "./rest.ts";

export const GATEWAY_API = "gateway.networking.k8s.io/v1";

const PLURALS = { HTTPRoute: "httproutes", GRPCRoute: "grpcroutes" } as const;
export type GatewayKind = keyof typeof PLURALS;

/** Where all objects of a kind are read. */
export const gatewayPath = (kind: GatewayKind): string => `/apis/${GATEWAY_API}/${PLURALS[kind]}`;

/** Where the status of one object is written. */
export function gatewayStatusPath(kind: GatewayKind, namespace: string, name: string): string {
  return `/apis/${GATEWAY_API}/namespaces/${encodeURIComponent(namespace)}/${PLURALS[kind]}/${encodeURIComponent(name)}/status`;
}

const RETRY_MS = 2_000;

interface FinderDeps {
  readonly rest: KubernetesRest;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Finds out which kinds of routes a cluster has. Kinds that may not be read are told of once, and count as not there. */
export class GatewayKinds {
  readonly #deps: FinderDeps;
  readonly #refused = new Set<GatewayKind>();

  constructor(deps: FinderDeps) {
    this.#deps = deps;
  }

  /** Asks until the API server gives a clear answer; empty when the signal aborts. */
  async find(signal: AbortSignal): Promise<readonly GatewayKind[]> {
    const { clock, log } = this.#deps;
    for (let failures = 0; !signal.aborted; failures++) {
      try {
        return await this.#ask(signal);
      } catch (error) {
        if (signal.aborted) break;
        if (failures === 0)
          log.warn("cannot tell whether there are routes of the Gateway API, trying again", {
            error: messageOf(error),
          });
        await clock.sleep(RETRY_MS, signal);
      }
    }
    return [];
  }

  async #ask(signal: AbortSignal): Promise<readonly GatewayKind[]> {
    const served = await this.#served(signal);
    const found: GatewayKind[] = [];
    for (const [kind, plural] of Object.entries(PLURALS) as [GatewayKind, string][]) // of the table above
      if (served.includes(plural) && (await this.#isReadable(kind, signal))) found.push(kind);
    return found;
  }

  async #served(signal: AbortSignal): Promise<readonly string[]> {
    try {
      const answer = await this.#deps.rest.get(`/apis/${GATEWAY_API}`, {}, signal);
      const list = (answer as { readonly resources?: unknown } | null)?.resources;
      return Array.isArray(list)
        ? list.map((one: { readonly name?: unknown } | null) => String(one?.name))
        : [];
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return [];
      throw error;
    }
  }

  async #isReadable(kind: GatewayKind, signal: AbortSignal): Promise<boolean> {
    const { rest, log } = this.#deps;
    try {
      await rest.get(gatewayPath(kind), { limit: "1" }, signal);
      this.#refused.delete(kind);
      return true;
    } catch (error) {
      if (!(error instanceof ApiError) || (error.status !== 403 && error.status !== 404)) throw error;
      if (!this.#refused.has(kind))
        log.info("routes of the Gateway API are not followed: they may not be read", { kind });
      this.#refused.add(kind);
      return false;
    }
  }
}

/** What of an object is read. */
export function storedRoute(kind: GatewayKind, object: ApiObject): StoredRoute {
  const metadata = object.metadata as Readonly<Record<string, unknown>>;
  const created = Date.parse(String(metadata["creationTimestamp"]));
  return {
    kind,
    name: object.metadata.name,
    namespace: object.metadata.namespace ?? "",
    generation: typeof metadata["generation"] === "number" ? metadata["generation"] : 1,
    createdAtMs: Number.isNaN(created) ? 0 : created,
    spec: object["spec"],
  };
}
