// Where the browser brings the code of a login (RFC 8252 section 7.3): a port on the loopback address for this one login.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { callbackOf } from "../../sidecar/core/gateway/client-login.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";

const CLOSE_WITHIN_MS = 300;

/** What came back: a code, or why there is none (`access_denied`, …). */
export type CodeAnswer = { readonly code: string } | { readonly error: string };

/**
 * The answer in an address that the browser was sent to.
 *
 * @param state of this login. @returns undefined: it belongs to another login, or is none.
 */
export function codeIn(address: string, state: string): CodeAnswer | undefined {
  const url = URL.canParse(address, "http://127.0.0.1") ? new URL(address, "http://127.0.0.1") : undefined;
  if (url?.pathname !== "/callback" || url.searchParams.get("state") !== state) return undefined;
  const code = url.searchParams.get("code");
  if (code !== null && code !== "") return { code };
  return { error: url.searchParams.get("error") ?? "no code came back" };
}

export interface CodeListener {
  readonly redirectUri: string;
  /** Resolves with the first answer that belongs to the login. */
  readonly answer: Promise<CodeAnswer>;
  close(): void;
}

/** Opens a free port on 127.0.0.1. @throws MeshError `io_failed`. */
export async function listenForCode(state: string): Promise<CodeListener> {
  const server = createServer({ headersTimeout: 5_000, requestTimeout: 5_000, maxHeaderSize: 8_192 });
  server.maxConnections = 16;
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(0, "127.0.0.1", resolve);
    });
  } catch (error) {
    throw new MeshError("io_failed", `cannot listen on 127.0.0.1: ${messageOf(error)}`, { cause: error });
  }
  const { port } = server.address() as AddressInfo; // a TCP server's address is an object once it listens
  return {
    redirectUri: callbackOf(port),
    answer: new Promise((resolve) => {
      server.on("request", (request, response) => answer(request, response, { port, state, resolve }));
    }),
    close: () => close(server),
  };
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  login: { readonly port: number; readonly state: string; resolve(answer: CodeAnswer): void },
): void {
  // Another name for this address would be some other page's doing.
  const isOurs = request.method === "GET" && request.headers.host === `127.0.0.1:${login.port}`;
  const found = isOurs ? codeIn(request.url ?? "", login.state) : undefined;
  if (found === undefined) {
    write(response, 404, "Nothing is here.");
    return;
  }
  write(
    response,
    200,
    "code" in found
      ? "Done. You can close this page and go back to your terminal."
      : "The program was not given access. You can close this page.",
  );
  login.resolve(found);
}

function write(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    connection: "close",
  });
  response.end(
    `<!doctype html><html lang="en"><meta name="color-scheme" content="light dark"><title>Countersign</title><p>${text}</p></html>\n`,
  );
}

function close(server: Server): void {
  server.close();
  // Browsers open connections in advance. The page above is on its way until then.
  setTimeout(() => server.closeAllConnections(), CLOSE_WITHIN_MS).unref();
}
