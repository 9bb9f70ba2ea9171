// One request to the token service: HTTPS with the current certificate, known by its SPIFFE ID, bounded in time and size.
// The module for HTTPS is loaded with the first request: most workloads act for nobody.
import type { Agent, RequestOptions } from "node:https";
import type { ConnectionOptions } from "node:tls";
import { controlPlaneSpiffeId } from "../../proto/protocol.ts";
import { WORKLOAD_IDENTITY_TOKEN } from "../core/identity/claims.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import { messageOf, type Result } from "../core/runtime/errors.ts";
import { askWhole, type WholeAnswer } from "../core/runtime/whole-answer.ts";

/** Why there is no token. */
export interface TokenRefusal {
  /** Of the token service (`SESSION_EXPIRED`, `REVOKED`, …), or `UNAVAILABLE`: it could not be asked. */
  readonly reason: string;
  /** For logs and operators; no secret in it. */
  readonly detail: string;
  /** Asking again later may help. */
  readonly isTemporary: boolean;
}

export type TokenResult<T> = Result<T, TokenRefusal>;
export type AnswerJson = Readonly<Record<string, unknown>>;

export interface TransportDeps {
  /** `host:port`. */
  readonly address: string;
  readonly identity: () => WorkloadIdentity | undefined;
  /** Options of a mutual TLS connection that leads to nobody but `spiffeId`. */
  readonly tlsOptions: (identity: WorkloadIdentity, spiffeId: string) => ConnectionOptions;
}

const TIMEOUT_MS = 5_000;
const MAX_ANSWER_BYTES = 131_072;
const MAX_SOCKETS = 32;

export function unavailable(detail: string): { readonly ok: false; readonly error: TokenRefusal } {
  return { ok: false, error: { reason: "UNAVAILABLE", detail: detail.slice(0, 300), isTemporary: true } };
}

export class TokenTransport {
  readonly #deps: TransportDeps;
  #agent: Agent | undefined;
  /** Whose connections the agent keeps. */
  #agentOf: WorkloadIdentity | undefined;

  constructor(deps: TransportDeps) {
    this.#deps = deps;
  }

  /** Never rejects. @param body JSON; members that are undefined are left out. */
  post(path: string, body: object, timeoutMs = TIMEOUT_MS): Promise<TokenResult<AnswerJson>> {
    return this.#ask(path, JSON.stringify(body), timeoutMs);
  }

  /** A published document. Never rejects. */
  get(path: string): Promise<TokenResult<AnswerJson>> {
    return this.#ask(path, undefined, TIMEOUT_MS);
  }

  async #ask(path: string, body: string | undefined, timeoutMs: number): Promise<TokenResult<AnswerJson>> {
    const identity = this.#deps.identity();
    if (identity === undefined) return unavailable("there is no identity yet");
    try {
      const https = await import("node:https");
      const answer = await send(https.request, {
        options: { ...this.#target(), path, agent: this.#agentFor(identity, https.Agent) },
        wit: identity.wit,
        body,
        timeoutMs,
      });
      return readAnswer(answer.status, answer.body.toString("utf8"));
    } catch (error) {
      return unavailable(`the token service cannot be reached: ${messageOf(error)}`);
    }
  }

  close(): void {
    this.#agent?.destroy();
    this.#agent = undefined;
    this.#agentOf = undefined;
  }

  #target(): { readonly host: string; readonly port: number } {
    const { address } = this.#deps;
    const colon = address.lastIndexOf(":");
    return { host: address.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(address.slice(colon + 1)) };
  }

  /** Connections of the identity before are not used again; a request on one of them ends by itself. */
  #agentFor(identity: WorkloadIdentity, Create: typeof Agent): Agent {
    if (this.#agent === undefined || this.#agentOf !== identity) {
      const old = this.#agent;
      this.#agent = new Create({
        ...this.#deps.tlsOptions(identity, controlPlaneSpiffeId(identity.trustDomain)),
        keepAlive: true,
        maxSockets: MAX_SOCKETS,
        // Resumption would skip the check of the server's certificate.
        maxCachedSessions: 0,
      });
      this.#agentOf = identity;
      if (old !== undefined) setTimeout(() => old.destroy(), 2 * TIMEOUT_MS).unref();
    }
    return this.#agent;
  }
}

interface Sent {
  readonly options: RequestOptions;
  readonly wit: string;
  /** JSON; undefined: it is a GET. */
  readonly body: string | undefined;
  readonly timeoutMs: number;
}

function send(
  request: typeof import("node:https").request,
  { options, wit, body, timeoutMs }: Sent,
): Promise<WholeAnswer> {
  const outgoing = request({
    ...options,
    method: body === undefined ? "GET" : "POST",
    headers: {
      ...(body === undefined
        ? {}
        : { "content-type": "application/json", "content-length": Buffer.byteLength(body) }),
      [WORKLOAD_IDENTITY_TOKEN]: wit,
    },
    signal: AbortSignal.timeout(timeoutMs),
  });
  return askWhole(outgoing, body, MAX_ANSWER_BYTES);
}

/** RFC 6749 section 5.2, with our reason beside the error. */
function readAnswer(status: number, text: string): TokenResult<AnswerJson> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return unavailable(`the token service answered ${status} with something else than JSON`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json))
    return unavailable(`the token service answered ${status} with something else than an object`);
  const answer = json as AnswerJson; // just checked; each member is read as unknown
  if (status === 200) return { ok: true, value: answer };
  return {
    ok: false,
    error: {
      reason: textOf(answer, "reason") || "UNAVAILABLE",
      detail: textOf(answer, "error_description").slice(0, 500),
      isTemporary: status === 429 || status >= 500,
    },
  };
}

function textOf(answer: AnswerJson, name: string): string {
  const value = answer[name];
  return typeof value === "string" ? value : "";
}
