// Reading from the Kubernetes API: one JSON document, or the lines of a watch. Credentials come from
// `@kubernetes/client-node`; list and watch are ours, because its informer keeps whole objects, asks for no bookmarks and
// stays dead after an error.
import { type Agent, type IncomingMessage, request as requestPlain } from "node:http";
import { request as requestTls } from "node:https";
import { MeshError, messageOf, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import { readBounded } from "../../sidecar/core/runtime/whole-answer.ts";

/** What `KubeConfig` has and this file needs. */
export interface ApiCredentials {
  getCurrentCluster(): { readonly server: string } | null;
  applyToHTTPSOptions(options: object): Promise<void>;
}

export type Query = Readonly<Record<string, string>>;

/** An answer of the API server that is not 2xx; `status` is that of HTTP. */
export class ApiError extends MeshError {
  readonly status: number;
  /** `reason` of the Status object, such as `Expired`; empty when there was none. */
  readonly reason: string;

  constructor(status: number, reason: string, message: string) {
    super(status === 404 ? "not_found" : "io_failed", message);
    this.status = status;
    this.reason = reason;
  }
}

export interface KubernetesRest {
  /**
   * One document.
   *
   * @throws ApiError for an answer that is not 2xx; MeshError `io_failed`, `timeout` (60 s), `protocol_error` (not JSON,
   *   or larger than 512 MiB).
   */
  get(path: string, query: Query, signal: AbortSignal): Promise<unknown>;
  /**
   * Hands over each line of a watch until the server ends it, nothing came for `idleMs`, or the signal aborts (all of
   * which resolve).
   *
   * @throws ApiError, MeshError `io_failed`, `protocol_error` (a line of more than 16 MiB); whatever `onLine` throws.
   */
  watch(path: string, query: Query, options: WatchOptions): Promise<void>;
}

export interface WatchOptions {
  /** The server has taken the watch; lines may be long in coming. */
  readonly onOpen?: () => void;
  readonly onLine: (line: string) => void;
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

const ANSWER_WITHIN_MS = 60_000;
const MAX_DOCUMENT_BYTES = 512 * 1024 * 1024;
const MAX_LINE_BYTES = 16 * 1024 * 1024;
const MAX_PROBLEM_BYTES = 65_536;
const LINE_END = 0x0a;

/** @param credentials renewed by themselves where they are files (ServiceAccount tokens) or commands. */
export function createKubernetesRest(credentials: ApiCredentials): KubernetesRest {
  const open = (path: string, query: Query, signal: AbortSignal): Promise<IncomingMessage> =>
    openRequest(credentials, path, query, signal);
  return {
    async get(path, query, signal) {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_WITHIN_MS)]);
      const read = async (): Promise<Buffer> => readAll(await open(path, query, limit), MAX_DOCUMENT_BYTES);
      const body = await read()
        // A connection that breaks says nothing of the request, and what only reads may be sent again.
        .catch((error: unknown) => (isBroken(error) && !limit.aborted ? read() : Promise.reject(error)))
        .catch((cause: unknown) => {
          throw cause instanceof MeshError || cause instanceof ApiError
            ? cause
            : brokenOff(path, limit, cause);
        });
      try {
        return JSON.parse(body.toString("utf8")) as unknown;
      } catch (cause) {
        throw new MeshError("protocol_error", `the API server's answer to \`${path}\` is not JSON`, {
          cause,
        });
      }
    },
    async watch(path, query, { onOpen, onLine, idleMs, signal }) {
      const idle = new AbortController();
      let timer = setTimeout(() => idle.abort(), idleMs);
      const ends = AbortSignal.any([signal, idle.signal]);
      try {
        const response = await open(path, { ...query, watch: "1" }, ends);
        onOpen?.();
        const lines = new LineSplitter(onLine);
        for await (const chunk of response) {
          clearTimeout(timer);
          timer = setTimeout(() => idle.abort(), idleMs);
          // Holds because no encoding is set on the response.
          lines.push(chunk as Buffer);
        }
      } catch (error) {
        if (!ends.aborted) throw error;
      } finally {
        clearTimeout(timer);
      }
    },
  };
}

/** Whether the connection ended before the answer did. */
function isBroken(error: unknown): boolean {
  const cause = error instanceof MeshError ? error.cause : error;
  const code = systemCodeOf(cause);
  return code === "ECONNRESET" || code === "EPIPE";
}

function brokenOff(path: string, signal: AbortSignal, cause: unknown): MeshError {
  return signal.aborted
    ? new MeshError("timeout", `the API server did not finish its answer to \`${path}\` in time`, { cause })
    : new MeshError("io_failed", `the API server broke off its answer to \`${path}\`: ${messageOf(cause)}`, {
        cause,
      });
}

/** Cuts a stream of bytes at line ends; empty lines are skipped, a last line without end is dropped. */
class LineSplitter {
  readonly #onLine: (line: string) => void;
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  push(chunk: Buffer): void {
    let from = 0;
    for (let end = chunk.indexOf(LINE_END); end >= 0; end = chunk.indexOf(LINE_END, from)) {
      this.#keep(chunk.subarray(from, end));
      from = end + 1;
      const line = Buffer.concat(this.#parts).toString("utf8");
      this.#parts = [];
      this.#bytes = 0;
      if (line !== "") this.#onLine(line);
    }
    this.#keep(chunk.subarray(from));
  }

  #keep(part: Buffer): void {
    if (part.length === 0) return;
    this.#bytes += part.length;
    if (this.#bytes > MAX_LINE_BYTES)
      throw new MeshError("protocol_error", "a line of a watch is larger than 16 MiB");
    this.#parts.push(part);
  }
}

/** What a request carries besides its path; absent: a GET on a connection of its own. */
export interface RequestBody {
  readonly method: "POST" | "PUT" | "PATCH" | "DELETE";
  readonly contentType: string;
  readonly body: string;
  /** Keeps connections, for many small requests. */
  readonly agent: Agent;
}

/**
 * Sends one request.
 *
 * @returns the answer, its body unread.
 * @throws ApiError for an answer that is not 2xx; MeshError `io_failed`, `timeout`.
 */
export async function openRequest(
  credentials: ApiCredentials,
  path: string,
  query: Query,
  signal: AbortSignal,
  sending?: RequestBody,
): Promise<IncomingMessage> {
  const server = credentials.getCurrentCluster()?.server;
  if (server === undefined)
    throw new MeshError("bad_config", "the kubeconfig has no current cluster; choose one with `--context`");
  const headers: Record<string, string> = { accept: "application/json" };
  if (sending) headers["content-type"] = sending.contentType;
  const options: Record<string, unknown> = { headers };
  await credentials.applyToHTTPSOptions(options);
  // The library's agent keeps no connections; a watch holds its own, and lists are rare.
  delete options["agent"];
  const url = new URL(`${server.replace(/\/$/, "")}${path}`);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    // Plain HTTP is what `kubectl proxy` speaks, on loopback.
    const request = url.protocol === "http:" ? requestPlain : requestTls;
    const agent = sending?.agent ?? false;
    const sent = request(url, { ...options, agent, signal, method: sending?.method ?? "GET" }, resolve);
    sent.once("error", (cause: Error) => {
      reject(
        signal.aborted
          ? new MeshError("timeout", `the API server did not answer \`${path}\` in time`, { cause })
          : new MeshError("io_failed", `the API server cannot be reached: ${cause.message}`, { cause }),
      );
    });
    sent.end(sending?.body);
  });
  const { statusCode = 0 } = response;
  if (statusCode >= 200 && statusCode < 300) return response;
  throw apiErrorOf(statusCode, path, await readAll(response, MAX_PROBLEM_BYTES).catch(() => Buffer.alloc(0)));
}

/** @throws MeshError `protocol_error` for more than so many bytes. */
export async function readAll(response: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const body = await readBounded(response, maxBytes);
  if (body === undefined) throw new MeshError("protocol_error", "the API server's answer is too large");
  return body;
}

/** An error from the API server's Status object, or from the bare HTTP status. */
export function apiErrorOf(status: number, path: string, body: Buffer): ApiError {
  let reason = "";
  let message = "";
  try {
    const document: unknown = JSON.parse(body.toString("utf8"));
    if (typeof document === "object" && document !== null) {
      if ("reason" in document && typeof document.reason === "string") reason = document.reason;
      if ("message" in document && typeof document.message === "string") message = document.message;
    }
  } catch {
    // Not a Status object: the status code alone has to do.
  }
  return new ApiError(
    status,
    reason,
    `the API server answers ${status} to \`${path}\`${message === "" ? "" : `: ${message}`}`,
  );
}
