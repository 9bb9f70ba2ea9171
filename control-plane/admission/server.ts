// The port that the API server asks before it stores anything: HTTPS, one review per POST, an answer in any case. Everybody
// who reaches it may post (the API server shows no certificate), so a review costs bounded memory and time and moves nothing.

import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import {
  type AdmissionAnswer,
  type AdmissionHandler,
  type AdmissionRequest,
  encodeAdmissionReview,
  MAX_REVIEW_BYTES,
  parseAdmissionReview,
} from "./review.ts";

export interface AdmissionCertificate {
  /** Leaf first. */
  readonly certificateChainPem: string;
  readonly keyPem: string;
}

/** `failed`: the handler threw or took too long, and the request was refused for that. */
export type AdmissionOutcome = "allowed" | "refused" | "failed" | "malformed" | "overloaded";

export interface AdmissionServerOptions {
  readonly host: string;
  /** 16017; 0: the system chooses. */
  readonly port: number;
  readonly certificate: AdmissionCertificate;
  /** By path, such as `/inject`. */
  readonly handlers: Readonly<Record<string, AdmissionHandler>>;
  readonly clock: Clock;
  readonly log: Logger;
  /** Called once per review; `seconds` from its first byte to the answer. */
  readonly observe?: ((path: string, outcome: AdmissionOutcome, seconds: number) => void) | undefined;
}

export interface AdmissionServer {
  readonly port: number;
  /** Uses another certificate from the next connection on. @throws Error when it does not fit its key; nothing changes then. */
  rotate(certificate: AdmissionCertificate): void;
  /** Takes no new connections, lets reviews that are being answered finish. */
  close(): Promise<void>;
}

const MAX_CONNECTIONS = 512;
/** Bodies that are being read, all together: more is answered 503 and tried again by whoever asked. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;
/** Of one address: whoever else reaches the port must not keep the API servers out. */
const MAX_CONNECTIONS_EACH = 128;
const MAX_WAITING_BYTES_EACH = 8 * MAX_REVIEW_BYTES;
const HEADERS_MS = 5_000;
const REQUEST_MS = 10_000;
/** The API server waits 10 s at most; an answer that comes later helps nobody. */
const HANDLER_MS = 8_000;
/** Longer than the 90 s for which the API server keeps connections: who closes first must not be us. */
const KEEP_ALIVE_MS = 130_000;
const DRAIN_MS = 5_000;

/** @throws MeshError `io_failed` when the address cannot be bound. */
export async function createAdmissionServer(options: AdmissionServerOptions): Promise<AdmissionServer> {
  const reviews = new Reviews(options);
  const server = createServer(
    {
      ...contextOf(options.certificate),
      requestTimeout: REQUEST_MS,
      headersTimeout: HEADERS_MS,
      handshakeTimeout: HEADERS_MS,
      connectionsCheckingInterval: 1_000,
      keepAliveTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: 16_384,
    },
    (request, response) => reviews.take(request, response),
  );
  server.maxConnections = MAX_CONNECTIONS;
  // A peer that does not take its answer.
  server.setTimeout(KEEP_ALIVE_MS);
  limitEach(server);
  server.on("tlsClientError", (_error, socket) => socket.destroy());
  await bind(server, options);
  return {
    // A listening TCP server has an address of this form.
    port: (server.address() as AddressInfo).port,
    rotate: (certificate) => server.setSecureContext(contextOf(certificate)),
    close: async () => {
      reviews.isEnding = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const timer = new AbortController();
      await Promise.race([closed, options.clock.sleep(DRAIN_MS, timer.signal)]);
      timer.abort();
      server.closeAllConnections();
      await closed;
    },
  };
}

function contextOf({ certificateChainPem, keyPem }: AdmissionCertificate) {
  return { cert: certificateChainPem, key: keyPem, minVersion: "TLSv1.2" as const };
}

function bind(server: Server, { host, port }: AdmissionServerOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error) =>
      reject(
        new MeshError("io_failed", `cannot listen on \`${host}:${port}\`: ${error.message}`, {
          cause: error,
        }),
      ),
    );
    server.listen(port, host, resolve);
  });
}

/** Connections before their handshake: ends those of an address that has too many. */
function limitEach(server: Server): void {
  const held = new Map<string, number>();
  server.on("connection", (socket: Socket) => {
    const address = socket.remoteAddress ?? "";
    if ((held.get(address) ?? 0) >= MAX_CONNECTIONS_EACH) {
      socket.destroy();
      return;
    }
    add(held, address, 1);
    socket.once("close", () => add(held, address, -1));
  });
}

function add(sums: Map<string, number>, key: string, amount: number): void {
  const sum = (sums.get(key) ?? 0) + amount;
  if (sum > 0) sums.set(key, sum);
  else sums.delete(key);
}

class Reviews {
  readonly #options: AdmissionServerOptions;
  #waitingBytes = 0;
  readonly #waitingEach = new Map<string, number>();
  /** Answers carry `Connection: close` from then on. */
  isEnding = false;

  constructor(options: AdmissionServerOptions) {
    this.#options = options;
  }

  take(request: IncomingMessage, response: ServerResponse): void {
    const { log } = this.#options;
    request.on("error", () => {});
    response.on("error", () => {});
    this.#serve(request, response).catch((error: unknown) => {
      log.error("admission review not answered", { reason: messageOf(error) });
      response.destroy();
    });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    if (path === "/healthz") return this.#answer(response, request.method === "GET" ? 200 : 405, "ok\n");
    const { handlers, clock, observe } = this.#options;
    const handler = Object.hasOwn(handlers, path) ? handlers[path] : undefined;
    if (handler === undefined) return this.#answer(response, 404, "no such webhook\n");
    const startMs = clock.monotonicMs();
    const outcome = await this.#review(request, response, handler);
    observe?.(path, outcome, (clock.monotonicMs() - startMs) / 1_000);
  }

  async #review(
    request: IncomingMessage,
    response: ServerResponse,
    handler: AdmissionHandler,
  ): Promise<AdmissionOutcome> {
    const bytes = Number(request.headers["content-length"]);
    const problem = headProblem(request, bytes);
    if (problem !== undefined) {
      this.#answer(response, problem.status, problem.text);
      return "malformed";
    }
    const address = request.socket.remoteAddress ?? "";
    const each = (this.#waitingEach.get(address) ?? 0) + bytes;
    if (this.#waitingBytes + bytes > MAX_WAITING_BYTES || each > MAX_WAITING_BYTES_EACH) {
      this.#answer(response, 503, "too many reviews at once\n");
      return "overloaded";
    }
    const body = await this.#read(request, address, bytes);
    if (body === undefined) return "malformed";
    const read = parseAdmissionReview(body);
    if (!read.ok) {
      this.#answer(response, 400, `the review ${read.error}\n`);
      return "malformed";
    }
    const { answer, outcome } = await this.#decide(read.value, handler);
    this.#answer(response, 200, encodeAdmissionReview(read.value.uid, answer), "application/json");
    return outcome;
  }

  /** @returns undefined when the peer went away before the end. */
  async #read(request: IncomingMessage, address: string, bytes: number): Promise<Buffer | undefined> {
    this.#waitingBytes += bytes;
    add(this.#waitingEach, address, bytes);
    try {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      return Buffer.concat(chunks);
    } catch {
      // Cut off, or too slow (the server's own limit): nobody is left to answer.
      return undefined;
    } finally {
      this.#waitingBytes -= bytes;
      add(this.#waitingEach, address, -bytes);
    }
  }

  /** Whatever goes wrong becomes a refusal: nothing starts unmeshed, nothing unchecked is stored. */
  async #decide(
    review: AdmissionRequest,
    handler: AdmissionHandler,
  ): Promise<{ readonly answer: AdmissionAnswer; readonly outcome: AdmissionOutcome }> {
    const { clock, log } = this.#options;
    const timer = new AbortController();
    const late = clock.sleep(HANDLER_MS, timer.signal).then(() => {
      throw new MeshError("timeout", "the decision took too long; try again");
    });
    // Also when the handler wins: the sleep ends then, and its error has no reader.
    late.catch(() => {});
    try {
      const answer = await Promise.race([handler(review), late]);
      return { answer, outcome: answer.allowed ? "allowed" : "refused" };
    } catch (error) {
      log.error("admission handler failed", { uid: review.uid, reason: messageOf(error) });
      const message =
        error instanceof MeshError && (error.code === "timeout" || error.code === "not_ready")
          ? error.message
          : "the control plane could not decide; its log says why";
      return { answer: { allowed: false, code: 500, message }, outcome: "failed" };
    } finally {
      timer.abort();
    }
  }

  #answer(response: ServerResponse, status: number, body: string, contentType = "text/plain"): void {
    response.writeHead(status, {
      "content-type": contentType,
      "content-length": Buffer.byteLength(body),
      // An answer before the end of the body leaves the rest of it in the way of the next request.
      ...(this.isEnding || status >= 400 ? { connection: "close" } : {}),
    });
    response.end(body);
  }
}

function headProblem(
  { method, headers }: IncomingMessage,
  bytes: number,
): { readonly status: number; readonly text: string } | undefined {
  if (method !== "POST") return { status: 405, text: "only POST is served here\n" };
  const type = (headers["content-type"] ?? "").split(";", 1)[0]?.trim().toLowerCase();
  if (type !== "application/json") return { status: 415, text: "only application/json is read here\n" };
  if (headers["content-length"] === undefined || headers["transfer-encoding"] !== undefined)
    return { status: 411, text: "a review needs a Content-Length\n" };
  if (headers["content-encoding"] !== undefined) return { status: 415, text: "a review is not compressed\n" };
  if (!Number.isSafeInteger(bytes) || bytes < 0 || bytes > MAX_REVIEW_BYTES)
    return { status: 413, text: `a review has at most ${MAX_REVIEW_BYTES} bytes\n` };
  return undefined;
}
