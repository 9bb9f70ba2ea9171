// What became of the Gateway API's routes, as `status.parents` of the routes themselves: ours beside those of other
// controllers, written by the leader, on change only.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import {
  type GatewayKind,
  GatewayKinds,
  gatewayPath,
  gatewayStatusPath,
  storedRoute,
} from "../kubernetes/gateway-kinds.ts";
import { runListWatch } from "../kubernetes/list-watch.ts";
import { ApiError, type KubernetesRest } from "../kubernetes/rest.ts";
import { FIELD_MANAGER, type KubernetesWriter, MERGE_PATCH } from "../kubernetes/writer.ts";
import type { Compiled } from "../policy/compile.ts";
import { readGatewayRoute, type StoredRoute } from "../policy/gateway-route.ts";
import { fieldsOf } from "./api-status.ts";
import { CONTROLLER_NAME, type ParentStatus, parentStatuses, sameParents } from "./gateway-status.ts";

export interface GatewaySinkOptions {
  readonly rest: KubernetesRest;
  readonly writer: Pick<KubernetesWriter, "send">;
  readonly compiled: () => Compiled | undefined;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
}

interface KnownRoute {
  readonly stored: StoredRoute;
  readonly resourceVersion: string;
  /** All of `status.parents`, as the API server has it. */
  readonly parents: readonly unknown[];
}

/** Other parents than ours may fill a list of 32 (Gateway API). */
const MAX_PARENTS = 32;
const SETTLE_MS = 1_000;
const IDLE_MS = 60_000;
const RETRY_MS = 5_000;

export class GatewaySink {
  readonly #options: GatewaySinkOptions;
  readonly #routes = new Map<string, KnownRoute>();
  /** To be compared with what is stored. */
  readonly #dirty = new Set<string>();
  #wake = new AbortController();
  #reports: unknown;
  #mayWrite = true;

  constructor(options: GatewaySinkOptions) {
    this.#options = options;
  }

  /** The mesh may have changed. */
  flush(): void {
    const reports = this.#options.compiled()?.routes.reports;
    if (reports === this.#reports) return;
    this.#reports = reports;
    for (const key of this.#routes.keys()) this.#dirty.add(key);
    this.#wake.abort();
  }

  /** Writes until the signal aborts; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const kinds = new GatewayKinds(this.#options);
    const watches = new Map<GatewayKind, Promise<void>>();
    const { clock } = this.#options;
    while (!signal.aborted) {
      for (const kind of watches.size === 2 ? [] : await kinds.find(signal))
        if (!watches.has(kind)) watches.set(kind, this.#watch(kind, signal));
      this.#wake = new AbortController();
      // What comes together is written together.
      await clock.sleep(SETTLE_MS, signal);
      const isDone = await this.#writeAll(signal);
      if (this.#dirty.size > 0 && isDone) continue;
      await clock.sleep(isDone ? IDLE_MS : RETRY_MS, AbortSignal.any([signal, this.#wake.signal]));
    }
    await Promise.all(watches.values());
  }

  #watch(kind: GatewayKind, signal: AbortSignal): Promise<void> {
    const { rest, clock, random, log } = this.#options;
    return runListWatch<KnownRoute>(
      {
        rest,
        path: gatewayPath(kind),
        project: (object) => {
          const { parents } = fieldsOf(object["status"]);
          return {
            stored: storedRoute(kind, object),
            resourceVersion: object.metadata.resourceVersion ?? "",
            parents: Array.isArray(parents) ? parents : [],
          };
        },
        onChanges: (changes) => {
          for (const change of changes) {
            const key = `${kind}/${change.key}`;
            if (change.kind === "set") this.#routes.set(key, change.value);
            else this.#routes.delete(key);
            this.#dirty.add(key);
          }
          this.#wake.abort();
        },
        clock,
        random,
        log,
      },
      signal,
    );
  }

  /** @returns false: the API server is to be tried again later. */
  async #writeAll(signal: AbortSignal): Promise<boolean> {
    if (!this.#mayWrite || this.#options.compiled() === undefined) return true;
    for (const key of [...this.#dirty]) {
      this.#dirty.delete(key);
      const known = this.#routes.get(key);
      const wanted = known && this.#wanted(key, known);
      if (known === undefined || wanted === undefined || sameParents(wanted, known.parents)) continue;
      if (!(await this.#write(key, known, wanted, signal))) return false;
      if (!this.#mayWrite) return true;
    }
    return true;
  }

  /** Others' entries as they are, then ours; undefined: there is nothing to say. */
  #wanted(key: string, { stored, parents }: KnownRoute): readonly unknown[] | undefined {
    const compiled = this.#options.compiled();
    const read = readGatewayRoute(stored);
    const inForce = compiled?.state.gatewayRoutes.get(key);
    // The state is behind: the next one tells.
    if (read.route !== undefined && inForce?.generation !== stored.generation) return undefined;
    const report = compiled?.routes.reports.get(key);
    const { own, others } = split(parents);
    const mine: readonly ParentStatus[] = parentStatuses(
      stored,
      read,
      report,
      own,
      this.#options.clock.nowMs(),
    );
    if (mine.length === 0 && own.length === 0) return undefined;
    return [...others, ...mine].slice(0, MAX_PARENTS);
  }

  async #write(
    key: string,
    { stored, resourceVersion }: KnownRoute,
    parents: readonly unknown[],
    signal: AbortSignal,
  ): Promise<boolean> {
    const { writer, log } = this.#options;
    try {
      await writer.send(
        {
          method: "PATCH",
          path: gatewayStatusPath(stored.kind, stored.namespace, stored.name),
          query: { fieldManager: FIELD_MANAGER },
          contentType: MERGE_PATCH,
          // The list is one value for the API server: of two controllers that write at once one must try again.
          body: { metadata: { resourceVersion }, status: { parents } },
        },
        signal,
      );
      return true;
    } catch (error) {
      if (signal.aborted) return true;
      const status = error instanceof ApiError ? error.status : 0;
      // Changed or gone meanwhile: the watch tells.
      if (status === 404 || status === 409) return true;
      if (status === 403) {
        this.#mayWrite = false;
        log.info(
          "statuses of Gateway API routes are not written: they may not be patched (gatewayAPI.writeStatus)",
        );
        return true;
      }
      log.warn("status of a Gateway API route cannot be written, trying again", {
        route: key,
        error: messageOf(error),
      });
      this.#dirty.add(key);
      return false;
    }
  }
}

function split(parents: readonly unknown[]): { own: readonly unknown[]; others: readonly unknown[] } {
  const own: unknown[] = [];
  const others: unknown[] = [];
  for (const parent of parents)
    (fieldsOf(parent)["controllerName"] === CONTROLLER_NAME ? own : others).push(parent);
  return { own, others };
}
