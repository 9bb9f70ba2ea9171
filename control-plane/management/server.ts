// The management API: HTTP and JSON on a Unix socket in the state directory that only its owner can open. Every write
// leaves a line in `{stateDir}/audit/management.jsonl` before it is answered.
import { appendFile, mkdir, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createConnection } from "node:net";
import { join } from "node:path";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";

/** What the API can do; implemented by main.ts. Errors are MeshErrors and become problem documents. */
export interface ManagementActions {
  readonly status: () => unknown;
  readonly policies: () => unknown;
  readonly history: () => unknown;
  readonly diff: (from: number, to: number) => Promise<unknown>;
  readonly state: () => unknown;
  readonly rollback: (revision: number) => Promise<unknown>;
  readonly release: () => Promise<unknown>;
  readonly createJoinToken: (workload: string, ttlSeconds: number) => Promise<unknown>;
  readonly exportIdentity: (workload: string, ttlSeconds: number) => Promise<unknown>;
}

export interface ManagementServerOptions {
  readonly stateDir: string;
  readonly socketPath: string;
  readonly actions: ManagementActions;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface ManagementServer {
  close(): Promise<void>;
}

const MAX_BODY_BYTES = 65_536;
const STATUS_OF_CODE: Partial<Record<MeshError["code"], number>> = {
  bad_config: 400,
  bad_object: 400,
  bad_token: 400,
  csr_rejected: 400,
  not_found: 404,
  not_ready: 503,
  unsupported: 501,
};

type Body = Readonly<Record<string, unknown>>;

interface Route {
  readonly method: "GET" | "POST";
  readonly path: string;
  /** Recorded; the text is the verb of the record. */
  readonly write?: string;
  readonly run: (query: URLSearchParams, body: Body) => unknown;
}

function bad(message: string): MeshError {
  return new MeshError("bad_config", message);
}

function wholeNumber(value: unknown, name: string): number {
  const number = typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : value;
  if (typeof number !== "number" || !Number.isSafeInteger(number) || number < 0)
    throw bad(`\`${name}\` must be a whole number`);
  return number;
}

function text(value: unknown, name: string): string {
  if (typeof value !== "string" || value === "" || value.length > 512)
    throw bad(`\`${name}\` must be a text of 1 to 512 characters`);
  return value;
}

function onlyKeys(body: Body, allowed: readonly string[]): void {
  const unknown = Object.keys(body).find((key) => !allowed.includes(key));
  if (unknown !== undefined)
    throw bad(`unknown field \`${unknown.slice(0, 64)}\`, known are: ${allowed.join(", ") || "none"}`);
}

function routesOf(actions: ManagementActions): readonly Route[] {
  const workloadRequest = (body: Body, ttlSeconds: number): [string, number] => {
    onlyKeys(body, ["workload", "ttlSeconds"]);
    return [text(body["workload"], "workload"), wholeNumber(body["ttlSeconds"] ?? ttlSeconds, "ttlSeconds")];
  };
  return [
    { method: "GET", path: "/v1/status", run: actions.status },
    { method: "GET", path: "/v1/policies", run: actions.policies },
    { method: "GET", path: "/v1/history", run: actions.history },
    { method: "GET", path: "/v1/state", run: actions.state },
    {
      method: "GET",
      path: "/v1/diff",
      run: (query) =>
        actions.diff(wholeNumber(query.get("from"), "from"), wholeNumber(query.get("to"), "to")),
    },
    {
      method: "POST",
      path: "/v1/rollback",
      write: "rollback",
      run: (_query, body) => {
        onlyKeys(body, ["revision"]);
        return actions.rollback(wholeNumber(body["revision"], "revision"));
      },
    },
    {
      method: "POST",
      path: "/v1/rollback/release",
      write: "release",
      run: (_query, body) => {
        onlyKeys(body, []);
        return actions.release();
      },
    },
    {
      method: "POST",
      path: "/v1/join-tokens",
      write: "create-join-token",
      run: (_query, body) => actions.createJoinToken(...workloadRequest(body, 900)),
    },
    {
      method: "POST",
      path: "/v1/identity-export",
      write: "export-identity",
      run: (_query, body) => actions.exportIdentity(...workloadRequest(body, 3600)),
    },
  ];
}

/** Reads a JSON object of at most 64 KiB; an empty body is an empty object. */
async function readBody(request: IncomingMessage): Promise<Body> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) throw bad(`body is larger than ${MAX_BODY_BYTES} bytes`);
    chunks.push(chunk);
  }
  if (bytes === 0) return {};
  let value: unknown;
  try {
    value = JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    throw bad("body is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw bad("body must be a JSON object");
  // Checked to be an object right above; its fields are unknown.
  return value as Body;
}

/** Maps, as in a ClusterState, become JSON objects. */
function replaceMaps(_key: string, value: unknown): unknown {
  if (value instanceof Map) return Object.fromEntries(value);
  return value instanceof Set ? [...value] : value;
}

function answer(response: ServerResponse, status: number, body: unknown): void {
  const isProblem = status >= 400;
  response.writeHead(status, {
    "content-type": isProblem ? "application/problem+json" : "application/json",
    "cache-control": "no-store",
  });
  response.end(`${JSON.stringify(body, replaceMaps)}\n`);
}

/** True when something answers on the socket. */
function isInUse(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** Opens the socket. @throws MeshError `bad_config` when another process serves it. */
export async function createManagementServer(options: ManagementServerOptions): Promise<ManagementServer> {
  const { stateDir, socketPath, clock, log } = options;
  if (Buffer.byteLength(socketPath) > 100)
    throw bad(`\`${socketPath}\` is too long for a Unix socket; use a shorter \`--state-dir\``);
  const routes = routesOf(options.actions);
  const auditFile = join(stateDir, "audit", "management.jsonl");
  await mkdir(join(stateDir, "audit"), { recursive: true, mode: 0o700 });
  const audit = async (verb: string, body: Body, outcome: string): Promise<void> => {
    const record = {
      time: new Date(clock.nowMs()).toISOString(),
      actor: "management socket",
      verb,
      request: body,
      outcome,
    };
    log.info("management request", { verb, outcome });
    await appendFile(auditFile, `${JSON.stringify(record)}\n`, { mode: 0o600 });
  };
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? "/", "http://management");
    const known = routes.filter((route) => route.path === url.pathname);
    const route = known.find((one) => one.method === request.method);
    if (!route) {
      const status = known.length > 0 ? 405 : 404;
      const detail =
        known.length > 0
          ? `use ${known.map(({ method }) => method).join(" or ")}`
          : `known are ${routes.map(({ path }) => path).join(", ")}`;
      answer(response, status, {
        title: status === 405 ? "Method Not Allowed" : "Not Found",
        status,
        detail,
      });
      return;
    }
    let body: Body = {};
    try {
      body = route.method === "POST" ? await readBody(request) : {};
      const result = await route.run(url.searchParams, body);
      if (route.write !== undefined) await audit(route.write, body, "done");
      answer(response, 200, result);
    } catch (error) {
      const code = error instanceof MeshError ? error.code : undefined;
      const status = (code && STATUS_OF_CODE[code]) ?? 500;
      if (status === 500)
        log.error("management request failed", { path: route.path, error: messageOf(error) });
      if (route.write !== undefined) await audit(route.write, body, messageOf(error));
      answer(response, status, {
        title: status === 500 ? "Internal Error" : "Request Failed",
        status,
        code: code ?? "internal",
        detail: messageOf(error),
      });
    }
  };
  if (await isInUse(socketPath))
    throw bad(`another control plane serves \`${socketPath}\`; stop it or use another \`--state-dir\``);
  await rm(socketPath, { force: true });
  const server = createServer(
    {
      requestTimeout: 30_000,
      headersTimeout: 5_000,
      // Both are only looked at this often; the default of 30 s would let a slow peer stay for 35.
      connectionsCheckingInterval: 1_000,
      maxHeaderSize: 8_192,
    },
    (request, response) => {
      handle(request, response).catch((error: unknown) => {
        log.error("management request failed", { error: messageOf(error) });
        if (!response.headersSent)
          answer(response, 500, {
            title: "Internal Error",
            status: 500,
            detail: "the request could not be recorded",
          });
        else response.destroy();
      });
    },
  );
  server.maxConnections = 32;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(new MeshError("bad_config", `cannot listen on \`${socketPath}\`: ${cause.message}`, { cause })),
    );
    // The socket's file is made inside this call: with this mask nobody else can open it, not even for a moment.
    const mask = process.umask(0o177);
    try {
      server.listen({ path: socketPath }, resolve);
    } finally {
      process.umask(mask);
    }
  });
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
