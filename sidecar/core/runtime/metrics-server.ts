// The small HTTP server of every process for machines that look after it: /metrics, /livez, /readyz, and whatever JSON
// pages the process adds (admin socket). Loaded when first needed; not part of the data path.
import { chmodSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { MeshError } from "./errors.ts";

export interface Page {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

export type PageHandler = (
  path: string,
  query: URLSearchParams,
) => Page | undefined | Promise<Page | undefined>;

export interface StatusServer {
  /** undefined for a Unix socket. */
  readonly port: number | undefined;
  close(): Promise<void>;
}

export const textPage = (status: number, body: string): Page => ({
  status,
  contentType: "text/plain; charset=utf-8",
  body,
});
export const jsonPage = (status: number, value: unknown): Page => ({
  status,
  contentType: "application/json",
  body: `${JSON.stringify(value, null, 2)}\n`,
});

/**
 * Serves GET and HEAD; everything else is 405, unknown pages are 404.
 *
 * @param where a Unix socket gets mode 0600, and a stale file at its path is removed.
 * @throws MeshError `io_failed` when the address cannot be bound.
 */
export async function startStatusServer(
  where:
    | { readonly kind: "tcp"; readonly host: string; readonly port: number }
    | { readonly kind: "unix"; readonly path: string },
  pages: PageHandler,
): Promise<StatusServer> {
  // Imported as a module, node:http would load undici for its WebSocket export: 45 ms and 5 MB of every start.
  const { createServer } = process.getBuiltinModule("node:http");
  const server = createServer(
    {
      requestTimeout: 10_000,
      headersTimeout: 5_000,
      // Both are only looked at this often; the default of 30 s would let a slow peer stay for 35.
      connectionsCheckingInterval: 1_000,
      maxHeaderSize: 16_384,
    },
    (request, response) => {
      const answer = async (): Promise<Page> => {
        if (request.method !== "GET" && request.method !== "HEAD")
          return textPage(405, "only GET is served here\n");
        const url = new URL(request.url ?? "/", "http://localhost");
        return (await pages(url.pathname, url.searchParams)) ?? textPage(404, "no such page\n");
      };
      answer().then(
        (page) => {
          response.writeHead(page.status, {
            "content-type": page.contentType,
            "content-length": Buffer.byteLength(page.body),
            "cache-control": "no-store",
          });
          response.end(request.method === "HEAD" ? undefined : page.body);
        },
        () => {
          response.writeHead(500, { "content-type": "text/plain" });
          response.end("the page could not be made\n");
        },
      );
    },
  );
  server.maxConnections = 64;
  await bind(server, where);
  const address = server.address();
  return {
    // A string for a Unix socket, an object for TCP.
    port: where.kind === "unix" ? undefined : (address as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function bind(server: Server, where: Parameters<typeof startStatusServer>[0]): Promise<void> {
  const name = where.kind === "unix" ? where.path : `${where.host}:${where.port}`;
  return new Promise((resolve, reject) => {
    server.once("error", (error) =>
      reject(new MeshError("io_failed", `cannot listen on \`${name}\`: ${error.message}`, { cause: error })),
    );
    if (where.kind === "tcp") {
      server.listen(where.port, where.host, resolve);
      return;
    }
    rmSync(where.path, { force: true });
    // Created without any permission for others; the directory's mode (0700) already keeps them out.
    const before = process.umask(0o177);
    server.listen(where.path, () => {
      chmodSync(where.path, 0o600);
      resolve();
    });
    process.umask(before);
  });
}
