// The token service's port (16013): HTTPS with mutual TLS, callers known by their certificate of this mesh. Everything that
// is asked is counted, every grant and refusal audited; nothing of a body is read before the caller is known.
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:https";
import type { TLSSocket } from "node:tls";
import { WORKLOAD_IDENTITY_TOKEN } from "../../sidecar/core/identity/claims.ts";
import { AddressLimiter } from "../../sidecar/core/runtime/address-limiter.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { EventBudget } from "../../sidecar/core/runtime/event-budget.ts";
import { type ServerMaterial, serverContextOptions } from "../../sidecar/core/runtime/server-tls.ts";
import type { TokenAudit, TokenRecord } from "./audit.ts";
import type { Callers, TokenCaller } from "./caller.ts";
import { GRANTS, Grants } from "./grants.ts";
import { discoveryDocument, publicJwks } from "./published-keys.ts";
import { malformed, TOKEN_REFUSALS, TokenRefusal, type TokenRefusalReason } from "./refusal.ts";
import { MAX_BODY_BYTES, parseTokenRequest, type TokenRequest } from "./request-body.ts";
import { Sessions } from "./sessions.ts";
import type { AuditNote, TokenServiceDeps } from "./token-service.ts";

export interface TokenServerOptions {
  readonly host: string;
  /** 16013; 0: the system chooses. */
  readonly port: number;
  readonly material: ServerMaterial;
  readonly service: TokenServiceDeps & { readonly callers: Callers };
  readonly audit: TokenAudit;
  /** @param what an action, or the kind of a grant; @param outcome `granted`, or a `TokenRefusalReason`. */
  readonly observe: (what: string, outcome: string, seconds: number) => void;
  readonly observeLogin: (idp: string, outcome: string) => void;
}

export interface TokenServer {
  readonly port: number;
  /** Uses other material from the next connection on. @throws Error when it does not fit together; nothing changes then. */
  rotate(material: ServerMaterial): void;
  close(): Promise<void>;
}

const MAX_CONNECTIONS = 4_096;
const IDLE_MS = 120_000;
/** A certificate is checked in the handshake: roots that left are not trusted for long. */
const MAX_REQUESTS_PER_CONNECTION = 100_000;
/** Of workloads that are no gateways, by address: a pod needs a token each 180 s. */
const BURST = 100;
const PER_SECOND = 20;

type Answering = (
  caller: TokenCaller,
  request: TokenRequest,
  note: AuditNote,
  wit: string | undefined,
) => Promise<object>;

/** Opens the port. @throws MeshError `bad_config` when it is taken or the material does not fit together. */
export async function createTokenServer(options: TokenServerOptions): Promise<TokenServer> {
  const { host, port, service } = options;
  const endpoints = new TokenEndpoints(options);
  const server = createServer(
    {
      ...serverContextOptions(options.material),
      ...{ requestCert: true, rejectUnauthorized: true, ALPNProtocols: ["http/1.1"] },
      ...{ handshakeTimeout: 5_000, headersTimeout: 5_000, requestTimeout: 15_000 },
      keepAliveTimeout: IDLE_MS,
      connectionsCheckingInterval: 1_000,
      maxHeaderSize: 16_384,
    },
    (request, response) => void endpoints.answer(request, response),
  );
  server.maxConnections = MAX_CONNECTIONS;
  server.maxRequestsPerSocket = MAX_REQUESTS_PER_CONNECTION;
  server.setTimeout(IDLE_MS);
  server.on("tlsClientError", (_error: Error, socket: TLSSocket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(
        new MeshError(
          "bad_config",
          `the token service cannot listen on \`${host}:${port}\`: ${cause.message}`,
          {
            cause,
          },
        ),
      ),
    );
    server.listen({ host, port }, resolve);
  });
  server.on("error", (error: Error) => service.log.error("token service failed", { error: error.message }));
  const bound = server.address();
  return {
    port: typeof bound === "object" && bound !== null ? bound.port : port,
    rotate: (material) => server.setSecureContext(serverContextOptions(material)),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

class TokenEndpoints {
  readonly #options: TokenServerOptions;
  readonly #limiter = new AddressLimiter(BURST, PER_SECOND);
  /** What strangers show a gateway ends here as a refusal: they must not fill the audit with them. */
  readonly #refused = new EventBudget<TokenRecord>();
  readonly #posts: ReadonlyMap<string, { readonly action: string; readonly run: Answering }>;

  constructor(options: TokenServerOptions) {
    this.#options = options;
    const sessions = new Sessions(options.service);
    const grants = new Grants(options.service);
    this.#posts = new Map<string, { action: string; run: Answering }>([
      [
        "/v1/sessions",
        { action: "session.open", run: (caller, asked, note) => sessions.open(caller, asked, note) },
      ],
      [
        "/v1/sessions/refresh",
        { action: "session.refresh", run: (caller, asked, note) => sessions.refresh(caller, asked, note) },
      ],
      [
        "/v1/sessions/end",
        { action: "session.end", run: (caller, asked, note) => sessions.end(caller, asked, note) },
      ],
      [
        "/v1/token",
        { action: "token", run: (caller, asked, note, wit) => grants.grant(caller, wit, asked, note) },
      ],
    ]);
  }

  /** Answers one request; never rejects. */
  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const path = request.url ?? "";
      const post = this.#posts.get(path);
      if (request.method === "GET") this.#published(request, path, response);
      else if (post === undefined || request.method !== "POST")
        refuse(
          response,
          new TokenRefusal("REQUEST_MALFORMED", "no such endpoint"),
          post === undefined ? 404 : 405,
        );
      else await this.#post(post, request, response);
    } catch (error) {
      this.#options.service.log.error("token request failed", { error: messageOf(error) });
      if (response.headersSent) response.destroy();
      else refuse(response, new TokenRefusal("FAILED", "the request could not be answered"));
    }
  }

  #published(request: IncomingMessage, path: string, response: ServerResponse): void {
    const { service } = this.#options;
    const { ca, issuer } = service;
    try {
      service.callers.of(request.socket as TLSSocket); // there is no other listener on this port
    } catch (error) {
      if (!(error instanceof TokenRefusal)) throw error;
      refuse(response, error);
      return;
    }
    if (path === "/.well-known/jwks.json")
      send(response, 200, publicJwks(ca.txnSigners), "public, max-age=300");
    else if (path === "/.well-known/openid-configuration")
      send(response, 200, discoveryDocument(issuer), "public, max-age=300");
    else refuse(response, new TokenRefusal("REQUEST_MALFORMED", "no such document"), 404);
  }

  async #post(
    { action, run }: { readonly action: string; readonly run: Answering },
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const { service, audit, observe, observeLogin } = this.#options;
    const startedMs = service.clock.monotonicMs();
    const address = request.socket.remoteAddress ?? "";
    const note: AuditNote = {};
    let caller: TokenCaller | undefined;
    let what = action;
    let result: object | undefined;
    let refusal: TokenRefusal | undefined;
    try {
      caller = service.callers.of(request.socket as TLSSocket); // there is no other listener on this port
      if (caller.kind !== "gateway" && !this.#limiter.admit(address, startedMs))
        throw new TokenRefusal("TOO_MANY", "too many requests from this address; wait a second");
      const asked = parseTokenRequest(request.headers["content-type"], await readBody(request));
      what = whatOf(action, asked);
      const wit = request.headers[WORKLOAD_IDENTITY_TOKEN];
      result = await run(caller, asked, note, typeof wit === "string" ? wit : undefined);
    } catch (error) {
      refusal = refusalOf(error);
      if (refusal.reason === "FAILED")
        service.log.error("token request failed", { action, error: messageOf(error) });
    }
    const outcome: TokenRefusalReason | "granted" = refusal === undefined ? "granted" : refusal.reason;
    observe(what, outcome, (service.clock.monotonicMs() - startedMs) / 1000);
    // Names of providers are from a closed list only when there is such a provider.
    if (action === "session.open") observeLogin(outcome === "IDP_UNKNOWN" ? "" : (note.idp ?? ""), outcome);
    const record: TokenRecord = {
      time: new Date(service.clock.nowMs()).toISOString(),
      ...{ action: what, caller: caller?.spiffeId ?? "", address },
      ...(refusal === undefined
        ? { outcome: "granted", reason: "" }
        : { outcome: "refused", reason: refusal.reason, detail: refusal.message }),
      ...note,
    };
    for (const { event, count } of this.#refused.due(startedMs)) await audit({ ...event, repeated: count });
    const kind = `${what} ${record.reason}`;
    if (refusal === undefined || this.#refused.admits(record, `${kind} ${record.caller} ${address}`, kind))
      await audit(record);
    if (result !== undefined) send(response, 200, result);
    else if (refusal !== undefined) refuse(response, refusal, undefined, !request.complete);
  }
}

/** The action, with the kind of the grant. */
function whatOf(action: string, asked: TokenRequest): string {
  if (action !== "token") return action;
  for (const [type, grant] of GRANTS) if (asked.get("subject_token_type") === type) return `token.${grant}`;
  return action;
}

function refusalOf(error: unknown): TokenRefusal {
  if (error instanceof TokenRefusal) return error;
  if (error instanceof MeshError && error.code === "not_ready")
    return new TokenRefusal("NOT_READY", error.message, { cause: error });
  return new TokenRefusal("FAILED", "the request could not be answered; see the control plane's log", {
    cause: error,
  });
}

/** Rejects with what is wrong with the body, or when the peer goes. By events: a stream iterator costs a token's worth. */
function readBody(request: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const tooLarge = (): TokenRefusal => malformed(`the body is larger than ${MAX_BODY_BYTES} bytes`);
    if (Number(request.headers["content-length"] ?? 0) > MAX_BODY_BYTES) {
      reject(tooLarge());
      return;
    }
    const chunks: Buffer[] = [];
    let bytes = 0;
    request.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= MAX_BODY_BYTES) chunks.push(chunk);
      else {
        request.pause();
        reject(tooLarge());
      }
    });
    request.once("end", () => {
      const [only] = chunks;
      resolve(chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks));
    });
    // Of every request in the end: an error, with its stack, is made only for one that was not whole by then.
    const gone = (): void => {
      if (!request.readableEnded) reject(malformed("the request did not arrive whole"));
    };
    request.once("error", gone);
    request.once("close", gone);
  });
}

function send(response: ServerResponse, status: number, body: object, cacheControl = "no-store"): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
    "cache-control": cacheControl,
  });
  response.end(text);
}

/** RFC 6749 section 5.2, and our reason beside it. @param closes what is left of the body is not read. */
function refuse(response: ServerResponse, refusal: TokenRefusal, status?: number, closes = false): void {
  const { error, status: usual } = TOKEN_REFUSALS[refusal.reason];
  const code = status ?? usual;
  if (code === 429 || code === 503) response.setHeader("retry-after", "1");
  if (closes) response.setHeader("connection", "close");
  send(response, code, { error, error_description: refusal.message, reason: refusal.reason });
}
