// Destinations that are not in the table: asked for once, refusals remembered for as long as the control plane says.
import type { Clock } from "../core/runtime/clock.ts";
import type { MeshService, SidecarTable } from "./table.ts";

/** `service` is in the table now; otherwise `reason` is from the list of decision reasons. */
export type Resolution =
  | { readonly kind: "service"; readonly service: MeshService }
  | { readonly kind: "refused"; readonly reason: string };

export interface ResolverDeps {
  readonly clock: Clock;
  readonly table: () => SidecarTable | undefined;
  /** Sends the question; false: not connected. */
  readonly ask: (id: number, host: string, port: number) => boolean;
}

interface Pending {
  readonly key: string;
  readonly promise: Promise<Resolution>;
  readonly settle: (resolution: Resolution) => void;
  /** Answered with a service that has not arrived yet. */
  service: string | undefined;
}

const TIMEOUT_MS = 2_000;
const MAX_PENDING = 1_000;
const MAX_NEGATIVE = 10_000;
const MAX_TTL_MS = 60_000;
const NOT_READY: Resolution = { kind: "refused", reason: "NOT_READY" };
/** It is of the mesh, as the control plane said: whoever treats unknown destinations as outside must not take it for one. */
const NOT_ARRIVED: Resolution = { kind: "refused", reason: "NO_ENDPOINTS" };

export class Resolver {
  readonly #deps: ResolverDeps;
  readonly #pending = new Map<number, Pending>();
  readonly #byKey = new Map<string, Pending>();
  readonly #negative = new Map<string, { readonly untilMs: number; readonly resolution: Resolution }>();
  #lastId = 0;

  constructor(deps: ResolverDeps) {
    this.#deps = deps;
  }

  resolve(host: string, port: number): Promise<Resolution> {
    const { clock, table, ask } = this.#deps;
    const name = host.toLowerCase();
    const known = this.#lookUp(table(), name);
    if (known) return Promise.resolve({ kind: "service", service: known });
    if (name.length > 253) return Promise.resolve({ kind: "refused", reason: "UNKNOWN_DESTINATION" });
    const key = `${name}:${port}`;
    const negative = this.#negative.get(key);
    if (negative && negative.untilMs > clock.monotonicMs()) return Promise.resolve(negative.resolution);
    this.#negative.delete(key);
    const asked = this.#byKey.get(key);
    if (asked) return asked.promise;
    this.#lastId += 1;
    const id = this.#lastId;
    if (this.#pending.size >= MAX_PENDING || !ask(id, name, port)) return Promise.resolve(NOT_READY);
    return this.#wait(id, key);
  }

  /** An answer came. */
  answered(answer: {
    readonly id: number;
    readonly service: string;
    readonly reason: string;
    readonly ttlMs: number;
  }): void {
    const pending = this.#pending.get(answer.id);
    if (!pending) return;
    if (answer.service !== "") {
      const service = this.#deps.table()?.services.get(answer.service);
      if (service) this.#settle(answer.id, { kind: "service", service });
      else pending.service = answer.service;
      return;
    }
    const resolution: Resolution = {
      kind: "refused",
      reason: answer.reason === "" ? "UNKNOWN_DESTINATION" : answer.reason,
    };
    const ttlMs = Math.min(MAX_TTL_MS, answer.ttlMs);
    if (ttlMs > 0) {
      const oldest = this.#negative.size >= MAX_NEGATIVE ? this.#negative.keys().next().value : undefined;
      if (oldest !== undefined) this.#negative.delete(oldest);
      this.#negative.set(pending.key, { untilMs: this.#deps.clock.monotonicMs() + ttlMs, resolution });
    }
    this.#settle(answer.id, resolution);
  }

  /** A new table is in force: old refusals no longer count, and services that were promised may have arrived. */
  tableChanged(table: SidecarTable): void {
    this.#negative.clear();
    for (const [id, pending] of this.#pending) {
      const service = pending.service === undefined ? undefined : table.services.get(pending.service);
      if (service) this.#settle(id, { kind: "service", service });
    }
  }

  /** The stream is gone: nothing that was asked will be answered, and refusals may be out of date. */
  disconnected(): void {
    this.#negative.clear();
    for (const [id, { service }] of [...this.#pending])
      this.#settle(id, service === undefined ? NOT_READY : NOT_ARRIVED);
  }

  /** A bare name means a service of the own namespace. */
  #lookUp(table: SidecarTable | undefined, name: string): MeshService | undefined {
    if (!table) return undefined;
    return table.servicesByHost.get(name.includes(".") ? name : `${name}.${table.program.namespace}`);
  }

  #wait(id: number, key: string): Promise<Resolution> {
    const { promise, resolve } = Promise.withResolvers<Resolution>();
    const timer = new AbortController();
    const settle = (resolution: Resolution): void => {
      timer.abort();
      resolve(resolution);
    };
    const pending: Pending = { key, promise, settle, service: undefined };
    this.#pending.set(id, pending);
    this.#byKey.set(key, pending);
    void this.#deps.clock
      .sleep(TIMEOUT_MS, timer.signal)
      .then(() => this.#settle(id, pending.service === undefined ? NOT_READY : NOT_ARRIVED));
    return promise;
  }

  #settle(id: number, resolution: Resolution): void {
    const pending = this.#pending.get(id);
    if (!pending) return;
    this.#pending.delete(id);
    this.#byKey.delete(pending.key);
    pending.settle(resolution);
  }
}
