// Collections of a cluster in memory behind the interface that list-and-watch reads through: no HTTP, no time.
import type { KubernetesRest, Query, WatchOptions } from "../../control-plane/kubernetes/rest.ts";
import { ApiError } from "../../control-plane/kubernetes/rest.ts";

interface Watcher {
  readonly path: string;
  readonly onLine: (line: string) => void;
}

export class FakeKubeRest implements KubernetesRest {
  #version = 1000;
  readonly #objects = new Map<string, Map<string, object>>();
  readonly #watchers = new Set<Watcher>();
  /** Paths that answer 404. */
  readonly missing = new Set<string>();
  /** Paths that answer 403. */
  readonly forbidden = new Set<string>();
  /** Documents that are no collection. */
  readonly documents = new Map<string, object>();

  get version(): number {
    return this.#version;
  }

  put(path: string, metadata: Readonly<Record<string, unknown>>, fields: object = {}): void {
    const all = this.#objects.get(path) ?? new Map<string, object>();
    this.#objects.set(path, all);
    const key = `${metadata["namespace"] ?? ""}/${metadata["name"]}`;
    const type = all.has(key) ? "MODIFIED" : "ADDED";
    const object = { metadata: { ...metadata, resourceVersion: String(++this.#version) }, ...fields };
    all.set(key, object);
    this.#tell(path, type, object);
  }

  remove(path: string, key: string): void {
    const object = this.#objects.get(path)?.get(key);
    this.#objects.get(path)?.delete(key);
    if (object === undefined || !("metadata" in object)) return;
    const metadata = { ...(object.metadata as object), resourceVersion: String(++this.#version) };
    this.#tell(path, "DELETED", { ...object, metadata });
  }

  #tell(path: string, type: string, object: object): void {
    for (const watcher of this.#watchers)
      if (watcher.path === path) watcher.onLine(JSON.stringify({ type, object }));
  }

  async get(path: string): Promise<unknown> {
    if (this.missing.has(path)) throw new ApiError(404, "NotFound", "not found");
    if (this.forbidden.has(path)) throw new ApiError(403, "Forbidden", "forbidden");
    const document = this.documents.get(path);
    if (document !== undefined) return document;
    return {
      metadata: { resourceVersion: String(this.#version) },
      items: [...(this.#objects.get(path)?.values() ?? [])],
    };
  }

  watch(path: string, _query: Query, { onLine, signal }: WatchOptions): Promise<void> {
    const watcher = { path, onLine };
    this.#watchers.add(watcher);
    return new Promise((resolve) =>
      signal.addEventListener(
        "abort",
        () => {
          this.#watchers.delete(watcher);
          resolve();
        },
        { once: true },
      ),
    );
  }
}
