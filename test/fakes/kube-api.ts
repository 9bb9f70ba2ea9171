// A small API server: collections with pages, resource versions, watches with bookmarks, compaction and the
// ways they break. Beside the real one of the test cluster, never instead of it.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { ApiCredentials } from "../../control-plane/kubernetes/rest.ts";

export interface FakeObject {
  readonly metadata: Record<string, unknown> & { readonly name: string; readonly namespace?: string };
  readonly [field: string]: unknown;
}

interface Event {
  readonly version: number;
  readonly type: string;
  readonly object: FakeObject;
}

export class FakeKubeApi {
  readonly requests: URL[] = [];
  /** Answers the next requests instead of the collection. */
  readonly instead: ((response: ServerResponse<IncomingMessage>) => void)[] = [];
  #version = 100;
  #compacted = 0;
  readonly #objects = new Map<string, FakeObject>();
  readonly #events: Event[] = [];
  readonly #watches = new Set<ServerResponse<IncomingMessage>>();
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<FakeKubeApi> {
    const server = createServer();
    const api = new FakeKubeApi(server);
    server.on("request", (request, response) =>
      api.#answer(new URL(request.url ?? "", "https://x"), response),
    );
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return api;
  }

  get credentials(): ApiCredentials {
    const { port } = this.#server.address() as AddressInfo;
    return {
      getCurrentCluster: () => ({ server: `http://127.0.0.1:${port}` }),
      applyToHTTPSOptions: async () => {},
    };
  }

  get watches(): number {
    return this.#watches.size;
  }

  get version(): number {
    return this.#version;
  }

  set(namespace: string, name: string, fields: Record<string, unknown> = {}): void {
    const key = `${namespace}/${name}`;
    const known = this.#objects.has(key);
    const resourceVersion = String(++this.#version);
    const object: FakeObject = {
      metadata: { name, namespace, resourceVersion, managedFields: ["x"] },
      ...fields,
    };
    this.#objects.set(key, object);
    this.#emit({ version: this.#version, type: known ? "MODIFIED" : "ADDED", object });
  }

  delete(namespace: string, name: string): void {
    const object = this.#objects.get(`${namespace}/${name}`);
    if (object === undefined) return;
    this.#objects.delete(`${namespace}/${name}`);
    const resourceVersion = String(++this.#version);
    this.#emit({
      version: this.#version,
      type: "DELETED",
      object: { ...object, metadata: { ...object.metadata, resourceVersion } },
    });
  }

  /** A bookmark at the present version. */
  bookmark(): void {
    const object = { metadata: { resourceVersion: String(++this.#version) } };
    for (const watch of this.#watches) watch.write(`${JSON.stringify({ type: "BOOKMARK", object })}\n`);
  }

  /** Raw bytes to every watch. */
  say(text: string): void {
    for (const watch of this.#watches) watch.write(text);
  }

  /** Forgets the events up to now, as etcd does. */
  compact(): void {
    this.#compacted = this.#version;
    this.#events.length = 0;
  }

  /** Ends every watch: in an orderly way, or as a crash would. */
  breakWatches(how: "end" | "destroy"): void {
    for (const watch of this.#watches) how === "end" ? watch.end() : watch.destroy();
    this.#watches.clear();
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #emit(event: Event): void {
    this.#events.push(event);
    for (const watch of this.#watches) watch.write(lineOf(event));
  }

  #answer(url: URL, response: ServerResponse<IncomingMessage>): void {
    this.requests.push(url);
    const instead = this.instead.shift();
    if (instead !== undefined) instead(response);
    else if (url.searchParams.get("watch") === "1") this.#watch(url, response);
    else this.#list(url, response);
  }

  #list(url: URL, response: ServerResponse<IncomingMessage>): void {
    const limit = Number(url.searchParams.get("limit") ?? 500);
    const from = Number(url.searchParams.get("continue") ?? 0);
    const all = [...this.#objects.values()];
    const next = from + limit < all.length ? String(from + limit) : "";
    const metadata = { resourceVersion: String(this.#version), continue: next };
    response.end(JSON.stringify({ kind: "List", metadata, items: all.slice(from, from + limit) }));
  }

  #watch(url: URL, response: ServerResponse<IncomingMessage>): void {
    const from = Number(url.searchParams.get("resourceVersion"));
    if (from < this.#compacted) {
      refuse(response, 410, "Expired");
      return;
    }
    response.writeHead(200, { "content-type": "application/json" });
    response.flushHeaders();
    for (const event of this.#events) if (event.version > from) response.write(lineOf(event));
    this.#watches.add(response);
    response.on("close", () => this.#watches.delete(response));
  }
}

const lineOf = ({ type, object }: Event): string => `${JSON.stringify({ type, object })}\n`;

/** A Status object. */
export function refuse(response: ServerResponse<IncomingMessage>, code: number, reason: string): void {
  response.writeHead(code, { "content-type": "application/json" });
  response.end(
    JSON.stringify({ kind: "Status", status: "Failure", code, reason, message: `${reason}: so it is` }),
  );
}
