// Answers management requests, wherever they come from: finds the route, asks whether the caller may, reads the body,
// runs the action, records a write, answers. Nothing of a body is read before the caller is known.
import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { setImmediate } from "node:timers/promises";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { readBounded } from "../../sidecar/core/runtime/whole-answer.ts";
import { auditedArguments, type ManagementAudit, type ManagementRecord } from "./audit-log.ts";
import { type Body, bad, checkFields, type Route } from "./routes.ts";
import { JsonPieces, replaceMaps } from "./state-text.ts";

export interface ManagementCaller {
  readonly user: string;
  readonly groups: number;
  /** Without port; empty for a Unix socket. */
  readonly address: string;
}

/** Whether a caller may use a route. `caller` is undefined while it is not known who asks. */
export type Access =
  | { readonly allowed: true; readonly caller: ManagementCaller }
  | {
      readonly allowed: false;
      readonly status: 400 | 401 | 403 | 429 | 503;
      readonly detail: string;
      readonly caller?: ManagementCaller | undefined;
    };

/** For counting; the closed list of how a request can end. */
export type ManagementOutcome =
  | "done"
  | "unauthenticated"
  | "forbidden"
  | "refused"
  | "unavailable"
  | "failed";

export interface RouterOptions {
  readonly routes: readonly Route[];
  readonly authorize: (request: IncomingMessage, route: Route) => Promise<Access>;
  readonly audit: ManagementAudit;
  readonly clock: Pick<Clock, "nowMs">;
  readonly log: Logger;
  readonly observe?: ((action: string, outcome: ManagementOutcome) => void) | undefined;
  /**
   * Whether a body must say that it is JSON: on a port that browsers reach, whose pages can send any other type (or none)
   * to another origin without asking.
   */
  readonly jsonTypeOnly: boolean;
}

const MAX_BODY_BYTES = 65_536;
/** Made between two turns of the event loop: about 2 ms. */
const PIECE_CHARS = 32_768;
const STATUS_OF_CODE: Partial<Record<MeshError["code"], number>> = {
  bad_config: 400,
  bad_object: 400,
  bad_token: 400,
  conflict: 409,
  csr_rejected: 400,
  not_found: 404,
  not_ready: 503,
  unsupported: 501,
};
const TITLES: Readonly<Record<number, string>> = {
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  429: "Too Many Requests",
  500: "Internal Error",
  503: "Service Unavailable",
};

/** A refusal that no error code stands for. */
class HttpRefusal extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Answers one request; never rejects. */
export type ManagementRouter = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

export function createManagementRouter(options: RouterOptions): ManagementRouter {
  const { routes, log } = options;
  return async (request, response) => {
    try {
      const path = pathOf(request);
      const known = routes.filter((route) => route.path === path?.pathname);
      const route = known.find((one) => one.method === request.method);
      if (path === undefined || route === undefined) {
        options.observe?.("unknown", "refused");
        refuseRoute(response, routes, known);
      } else await answerRoute(options, route, path.searchParams, request, response);
    } catch (error) {
      log.error("management request failed", { error: messageOf(error) });
      if (response.headersSent) response.destroy();
      else problem(response, 500, "the request could not be answered; see the control plane's log");
    }
  };
}

function pathOf(request: IncomingMessage): URL | undefined {
  const target = request.url ?? "";
  // Never an absolute form: this is no proxy.
  return target.startsWith("/") && URL.canParse(target, "http://management")
    ? new URL(target, "http://management")
    : undefined;
}

function refuseRoute(response: ServerResponse, routes: readonly Route[], known: readonly Route[]): void {
  if (known.length === 0) {
    problem(response, 404, `known are ${routes.map(({ path }) => path).join(", ")}`);
    return;
  }
  const methods = known.map(({ method }) => method);
  problem(response, 405, `use ${methods.join(" or ")}`, { allow: methods.join(", ") });
}

async function answerRoute(
  options: RouterOptions,
  route: Route,
  query: URLSearchParams,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { observe } = options;
  const access = await options.authorize(request, route);
  if (!access.allowed) {
    const { status, caller, detail } = access;
    observe?.(route.action, outcomeOfAccess(status));
    if (caller !== undefined && status === 403) await record(options, route, caller, {}, "forbidden", detail);
    // The body was not read: the connection is not used again.
    problem(response, status, detail, {
      connection: "close",
      ...(status === 401 ? { "www-authenticate": "Bearer" } : {}),
      ...(status === 429 || status === 503 ? { "retry-after": "1" } : {}),
    });
    return;
  }
  const { caller } = access;
  let body: Body = {};
  try {
    if (route.method === "POST") body = await readBody(request, options.jsonTypeOnly);
    checkFields(body, route);
    const result = await route.run(query, body);
    await record(options, route, caller, body, "done", "");
    observe?.(route.action, "done");
    if (result instanceof JsonPieces) await answerInPieces(response, result.pieces);
    else answer(response, 200, "application/json", result);
  } catch (error) {
    const code = error instanceof MeshError ? error.code : undefined;
    const status = error instanceof HttpRefusal ? error.status : ((code && STATUS_OF_CODE[code]) ?? 500);
    const detail = messageOf(error);
    const outcome = status >= 500 ? "failed" : "refused";
    if (status === 500) options.log.error("management request failed", { path: route.path, error: detail });
    await record(options, route, caller, body, outcome, detail);
    observe?.(route.action, outcome);
    problem(response, status, detail, { code: code ?? (status === 500 ? "internal" : undefined) });
  }
}

function outcomeOfAccess(status: number): ManagementOutcome {
  if (status === 401) return "unauthenticated";
  if (status === 403) return "forbidden";
  return status >= 500 || status === 429 ? "unavailable" : "refused";
}

/** Records a write; reads leave no record. */
async function record(
  { audit, clock, log }: RouterOptions,
  route: Route,
  caller: ManagementCaller,
  body: Body,
  outcome: ManagementRecord["outcome"],
  detail: string,
): Promise<void> {
  if (route.right.verb === "get") return;
  const { action, fields } = route;
  log.info("management request", { action, user: caller.user, outcome });
  await audit({
    time: new Date(clock.nowMs()).toISOString(),
    ...{ user: caller.user, groups: caller.groups, address: caller.address },
    ...{ action, arguments: auditedArguments(body, fields), outcome, detail },
  });
}

/** Reads a JSON object of at most 64 KiB; an empty body is an empty object. */
async function readBody(request: IncomingMessage, jsonTypeOnly: boolean): Promise<Body> {
  const tooLarge = new HttpRefusal(413, `body is larger than ${MAX_BODY_BYTES} bytes`);
  if (Number(request.headers["content-length"] ?? 0) > MAX_BODY_BYTES) throw tooLarge;
  const body = await readBounded(request, MAX_BODY_BYTES);
  if (body === undefined) throw tooLarge;
  if (body.length === 0) return {};
  if (jsonTypeOnly && !/^application\/json\s*(?:;|$)/i.test(request.headers["content-type"] ?? ""))
    throw new HttpRefusal(415, "send the body as `content-type: application/json`");
  let value: unknown;
  try {
    value = JSON.parse(body.toString("utf8"));
  } catch {
    throw bad("body is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw bad("body must be a JSON object");
  // Checked to be an object right above; its fields are unknown.
  return value as Body;
}

function answer(
  response: ServerResponse,
  status: number,
  type: string,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, { ...headersOf(type), ...headers });
  response.end(`${JSON.stringify(body, replaceMaps)}\n`);
}

function headersOf(type: string): Readonly<Record<string, string>> {
  return { "content-type": type, "cache-control": "no-store", "x-content-type-options": "nosniff" };
}

/** Sends a large document; others are served in between, and no more of it is made than the peer takes. */
async function answerInPieces(response: ServerResponse, pieces: Iterable<string>): Promise<void> {
  response.writeHead(200, headersOf("application/json"));
  let waiting = "";
  for (const piece of pieces) {
    waiting += piece;
    if (waiting.length < PIECE_CHARS) continue;
    const taken = response.write(waiting);
    waiting = "";
    if (response.destroyed) return;
    await (taken ? setImmediate() : drained(response));
  }
  response.end(`${waiting}\n`);
}

/** Until the peer has taken what was written, or is gone. */
async function drained(response: ServerResponse): Promise<void> {
  const done = new AbortController();
  const { signal } = done;
  try {
    await Promise.race([once(response, "drain", { signal }), once(response, "close", { signal })]);
  } finally {
    done.abort();
  }
}

/** RFC 9457. */
function problem(
  response: ServerResponse,
  status: number,
  detail: string,
  more: Readonly<Record<string, string | undefined>> = {},
): void {
  const { code, ...headers } = more;
  const set = Object.entries(headers).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const title = TITLES[status] ?? "Request Failed";
  answer(
    response,
    status,
    "application/problem+json",
    { title, status, ...(code === undefined ? {} : { code }), detail },
    Object.fromEntries(set),
  );
}
