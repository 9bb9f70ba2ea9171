// Keeps the objects of one kind as the API server has them: a paged list, then a watch from there on, for ever. What is
// kept of an object is its projection; a broken watch goes on where it was, an expired one lists again and tells what
// changed in between. Nothing is forgotten while the API server is away.
import { type BackoffLimits, backoffMs } from "../../sidecar/core/runtime/backoff.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { ApiError, type KubernetesRest } from "./rest.ts";

/** What every object has; anything else is for the projection to check. */
export interface ApiObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string | undefined;
    readonly resourceVersion?: string | undefined;
  };
  readonly [field: string]: unknown;
}

export type Change<T> =
  | { readonly kind: "set"; readonly key: string; readonly value: T }
  | { readonly kind: "delete"; readonly key: string };

export interface ListWatchDeps<T> {
  readonly rest: KubernetesRest;
  /** Of the collection, over all namespaces: `/api/v1/pods`. */
  readonly path: string;
  /** For selectors. */
  readonly query?: Readonly<Record<string, string>>;
  /** What to keep of an object; undefined: nothing, as if it were not there. Called while parsing, one by one. */
  readonly project: (object: ApiObject) => T | undefined;
  /** Whether two projections mean the same: such a change is not told. */
  readonly isSame?: (before: T, after: T) => boolean;
  /** Changes since the last call, in order; the first call has every object and comes even when there are none. */
  readonly onChanges: (changes: readonly Change<T>[]) => void;
  /** The resource version up to which everything was told; decimal. */
  readonly onProgress?: (resourceVersion: string) => void;
  /** Whether the API server answers; called on each change of it. */
  readonly onHealth?: (isHealthy: boolean) => void;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  readonly limits?: Partial<ListWatchLimits>;
}

export interface ListWatchLimits {
  readonly pageSize: number;
  /** A server sends a bookmark about every minute; with nothing for this long the connection is dead. */
  readonly idleMs: number;
  /** Between this and twice as long the server is asked to end a watch, so that replicas do not all come back at once. */
  readonly watchSeconds: number;
  readonly backoff: BackoffLimits;
}

const DEFAULT_LIMITS: ListWatchLimits = {
  pageSize: 500,
  idleMs: 150_000,
  watchSeconds: 300,
  // An API server that is back is asked within seconds: until then edits wait.
  backoff: { firstMs: 250, maxMs: 4_000 },
};

/** A watch that ended within this time was not worth its request. */
const SHORT_MS = 1_000;
/** Between warnings of one collection while the API server is away; there are a dozen and more of them. */
const WARN_EVERY_MS = 60_000;

/** `namespace/name`, or `name` of a cluster-scoped object. */
export function keyOfObject({ metadata: { namespace, name } }: ApiObject): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}

/** Runs until the signal aborts; never rejects. */
export async function runListWatch<T>(deps: ListWatchDeps<T>, signal: AbortSignal): Promise<void> {
  await new ListWatch(deps, signal).run();
}

/** 410: what we ask from is compacted away. */
const isExpired = (error: unknown): boolean =>
  error instanceof ApiError &&
  (error.status === 410 || error.reason === "Expired" || error.reason === "Gone");

class ListWatch<T> {
  readonly #deps: ListWatchDeps<T>;
  readonly #signal: AbortSignal;
  readonly #limits: ListWatchLimits;
  #known = new Map<string, T>();
  #listed = false;
  /** undefined: list before watching. */
  #resourceVersion: string | undefined;
  #failures = 0;
  #isHealthy = false;
  #warnedMs = Number.NEGATIVE_INFINITY;

  constructor(deps: ListWatchDeps<T>, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = signal;
    this.#limits = { ...DEFAULT_LIMITS, ...deps.limits };
  }

  async run(): Promise<void> {
    while (!this.#signal.aborted) {
      try {
        if (this.#resourceVersion === undefined) await this.#list();
        await this.#watch();
      } catch (error) {
        if (this.#signal.aborted) return;
        if (isExpired(error)) {
          this.#resourceVersion = undefined;
          // At once the first time: nothing is wrong. A server that goes on saying so is asked more slowly.
          if (this.#failures++ === 0) continue;
        } else this.#tell(error);
        await this.#pause();
      }
    }
  }

  #tell(error: unknown): void {
    const { log, path, clock } = this.#deps;
    const fields = { path, error: messageOf(error), failures: this.#failures + 1 };
    const nowMs = clock.monotonicMs();
    // The first in a row may be a restart of the API server; a longer one needs somebody, once a minute.
    if (this.#failures === 0) log.info("reading from the API server failed, trying again", fields);
    else if (nowMs - this.#warnedMs >= WARN_EVERY_MS) {
      this.#warnedMs = nowMs;
      log.warn("reading from the API server still fails; the last state stays in force", fields);
    }
    this.#failures++;
    this.#healthy(false);
  }

  async #pause(): Promise<void> {
    const { clock, random } = this.#deps;
    await clock.sleep(backoffMs(this.#failures - 1, this.#limits.backoff, random()), this.#signal);
  }

  async #list(): Promise<void> {
    const { rest, path, query = {}, project } = this.#deps;
    const found = new Map<string, T>();
    let next: string | undefined;
    let version: string;
    do {
      const page: { items: ApiObject[]; version: string; next: string | undefined } = parseList(
        await rest.get(
          path,
          {
            ...query,
            limit: String(this.#limits.pageSize),
            ...(next === undefined ? {} : { continue: next }),
          },
          this.#signal,
        ),
        path,
      );
      for (const object of page.items) {
        const value = project(object);
        if (value !== undefined) found.set(keyOfObject(object), value);
      }
      ({ version, next } = page);
    } while (next !== undefined && !this.#signal.aborted);
    this.#replace(found);
    this.#reached(version);
    this.#healthy(true);
  }

  #reached(version: string): void {
    this.#resourceVersion = version;
    this.#deps.onProgress?.(version);
  }

  #healthy(isHealthy: boolean): void {
    if (this.#isHealthy === isHealthy) return;
    this.#isHealthy = isHealthy;
    this.#deps.onHealth?.(isHealthy);
  }

  /** Tells the difference to what was known, so that a relist of the same objects changes nothing. */
  #replace(found: Map<string, T>): void {
    const changes: Change<T>[] = [];
    for (const [key, value] of found)
      if (this.#differs(key, value)) changes.push({ kind: "set", key, value });
    for (const key of this.#known.keys()) if (!found.has(key)) changes.push({ kind: "delete", key });
    this.#known = found;
    if (changes.length > 0 || !this.#listed) this.#hand(changes);
    this.#listed = true;
  }

  #differs(key: string, value: T): boolean {
    const before = this.#known.get(key);
    return before === undefined || this.#deps.isSame?.(before, value) !== true;
  }

  /** A listener that throws has a bug; the objects are kept all the same. */
  #hand(changes: readonly Change<T>[]): void {
    try {
      this.#deps.onChanges(changes);
    } catch (error) {
      this.#deps.log.error("a change from the API server could not be taken", {
        path: this.#deps.path,
        error: messageOf(error),
      });
    }
  }

  async #watch(): Promise<void> {
    const { rest, path, query = {}, random, clock } = this.#deps;
    const { watchSeconds, idleMs } = this.#limits;
    const startedMs = clock.monotonicMs();
    await rest.watch(
      path,
      {
        ...query,
        resourceVersion: this.#resourceVersion ?? "",
        allowWatchBookmarks: "true",
        timeoutSeconds: String(Math.round(watchSeconds * (1 + random()))),
      },
      {
        idleMs,
        signal: this.#signal,
        // A quiet kind has its first line, a bookmark, only after a minute.
        onOpen: () => this.#healthy(true),
        onLine: (line) => this.#onLine(line),
      },
    );
    // A server that ends every watch at once must not be asked in a loop.
    if (this.#signal.aborted || clock.monotonicMs() - startedMs >= SHORT_MS) return;
    this.#failures++;
    await this.#pause();
  }

  #onLine(line: string): void {
    const event = parseEvent(line, this.#deps.path);
    // The server answers: whatever failed before is over.
    this.#failures = 0;
    const { object } = event;
    const key = keyOfObject(object);
    switch (event.type) {
      case "ADDED":
      case "MODIFIED": {
        const value = this.#deps.project(object);
        if (value === undefined) this.#remove(key);
        else if (this.#differs(key, value)) {
          this.#known.set(key, value);
          this.#hand([{ kind: "set", key, value }]);
        } else this.#known.set(key, value);
        break;
      }
      case "DELETED":
        this.#remove(key);
        break;
      case "BOOKMARK":
        break;
    }
    if (object.metadata.resourceVersion !== undefined) this.#reached(object.metadata.resourceVersion);
    this.#healthy(true);
  }

  #remove(key: string): void {
    if (this.#known.delete(key)) this.#hand([{ kind: "delete", key }]);
  }
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Holds for what an API server sends; checked because a proxy may stand in between. */
function isApiObject(value: unknown): value is ApiObject {
  return isObject(value) && isObject(value["metadata"]);
}

function parseList(
  document: unknown,
  path: string,
): { items: ApiObject[]; version: string; next: string | undefined } {
  const metadata = isObject(document) ? document["metadata"] : undefined;
  const items = isObject(document) ? document["items"] : undefined;
  if (!isObject(metadata) || typeof metadata["resourceVersion"] !== "string" || !Array.isArray(items))
    throw new MeshError("protocol_error", `the API server's answer to \`${path}\` is not a list`);
  const next = metadata["continue"];
  return {
    items: items.filter(isApiObject),
    version: metadata["resourceVersion"],
    next: typeof next === "string" && next !== "" ? next : undefined,
  };
}

const EVENT_TYPES = ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"] as const;

/** @throws ApiError for an ERROR event (410 among them), MeshError `protocol_error`. */
function parseEvent(
  line: string,
  path: string,
): { readonly type: (typeof EVENT_TYPES)[number]; readonly object: ApiObject } {
  let event: unknown;
  try {
    event = JSON.parse(line);
  } catch (cause) {
    throw new MeshError("protocol_error", `an event of \`${path}\` is not JSON`, { cause });
  }
  const object = isObject(event) ? event["object"] : undefined;
  if (isObject(event) && event["type"] === "ERROR" && isObject(object)) {
    const { code, reason, message } = object;
    throw new ApiError(
      typeof code === "number" ? code : 500,
      typeof reason === "string" ? reason : "",
      `the watch of \`${path}\` ended: ${typeof message === "string" ? message : "no reason given"}`,
    );
  }
  const type = EVENT_TYPES.find((one) => isObject(event) && event["type"] === one);
  if (type === undefined || !isApiObject(object))
    throw new MeshError("protocol_error", `an event of \`${path}\` has no known type or no object`);
  return { type, object };
}
