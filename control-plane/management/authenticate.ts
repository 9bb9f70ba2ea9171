// Who calls the secured port: the owner of a Kubernetes token (TokenReview), or the holder of an operator's certificate
// of this mesh. Whoever cannot be told is nobody.
import { hash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { TLSSocket } from "node:tls";
import type { AuthenticationV1Api, V1TokenReview } from "@kubernetes/client-node";
import { parseSpiffeId, type SpiffeId, workloadOf } from "../../sidecar/core/identity/spiffe-id.ts";
import { parseSvid, SVID_PROBLEMS } from "../../sidecar/core/identity/svid.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { ApiReviews } from "./api-reviews.ts";
import { ShortCache } from "./short-cache.ts";

/** A Kubernetes user as a TokenReview tells it. */
export interface TokenUser {
  readonly name: string;
  readonly uid: string;
  readonly groups: readonly string[];
  readonly extra: Readonly<Record<string, string[]>>;
}

export type Identified =
  | {
      readonly kind: "token";
      readonly user: TokenUser /** Of the token, for caches. */;
      readonly digest: string;
    }
  | { readonly kind: "operator"; readonly spiffeId: SpiffeId }
  | { readonly kind: "nobody"; readonly status: 400 | 401 | 403 | 429 | 503; readonly detail: string };

export interface AuthenticatorOptions {
  readonly reviews: Pick<AuthenticationV1Api, "createTokenReview">;
  readonly ask: ApiReviews;
  readonly trustDomain: string;
  /** Whether the holder of this SPIFFE ID of our trust domain may do everything; see `isOperator`. */
  readonly isOperator: (id: SpiffeId) => boolean;
  readonly clock: Clock;
}

/** ServiceAccount whose identities, in the control plane's namespace, are operators. */
export const OPERATOR_ACCOUNT = "countersign-operator";
/** A token that was good is not asked for again so long; a bad one for less, and never remembered as good. */
const GOOD_FOR_MS = 10_000;
const BAD_FOR_MS = 1_000;
const MAX_TOKENS = 1_024;
const MAX_TOKEN_CHARS = 16_384;
const BEARER = /^Bearer +([A-Za-z0-9._~+/-]+=*)$/i;

/**
 * The identities that manage by mutual TLS: the control plane itself, and workloads with the ServiceAccount
 * `countersign-operator` in its namespace (where only administrators make pods, and exporting an identity is a right of
 * its own).
 */
export function isOperator(id: SpiffeId, ownId: SpiffeId, namespace: string): boolean {
  if (id === ownId) return true;
  const workload = workloadOf(id);
  return workload?.namespace === namespace && workload.serviceAccount === OPERATOR_ACCOUNT;
}

/** The audience of tokens that are made for this mesh. */
export function meshAudience(trustDomain: string): string {
  return `countersign.dev/${trustDomain}`;
}

const nobody = (status: 400 | 401 | 403 | 429 | 503, detail: string): Identified => ({
  kind: "nobody",
  status,
  detail,
});

/** Finds out who calls. */
export class Authenticator {
  readonly #options: AuthenticatorOptions;
  readonly #audience: string;
  readonly #known = new ShortCache<Identified>(MAX_TOKENS);

  constructor(options: AuthenticatorOptions) {
    this.#options = options;
    this.#audience = meshAudience(options.trustDomain);
  }

  /**
   * A token counts before a certificate: it is sent on purpose. A bad one is not made good by the other.
   *
   * @param mayAsk whether the API server may be asked for this caller now; asked for tokens that are not remembered only.
   */
  async identify(request: IncomingMessage, mayAsk: () => boolean): Promise<Identified> {
    const headers = request.rawHeaders.filter(
      (name, index) => index % 2 === 0 && name.toLowerCase() === "authorization",
    );
    if (headers.length > 1) return nobody(400, "send one `Authorization` header");
    const { authorization } = request.headers;
    if (authorization === undefined) return this.#certificate(request.socket as TLSSocket);
    const token = authorization.length <= MAX_TOKEN_CHARS ? BEARER.exec(authorization)?.[1] : undefined;
    return token === undefined
      ? nobody(401, "`Authorization` must be `Bearer` and a Kubernetes token")
      : this.#token(token, mayAsk);
  }

  /** The socket is one of a TLS server: there is no other listener on this port. */
  #certificate(socket: TLSSocket): Identified {
    const { trustDomain, clock, isOperator } = this.#options;
    const certificate = socket.getPeerX509Certificate();
    if (certificate === undefined)
      return nobody(
        401,
        "show who you are: `Authorization: Bearer` with a Kubernetes token, or a client certificate of an operator of this mesh",
      );
    if (!socket.authorized)
      return nobody(
        401,
        `the client certificate is not one of this mesh (${String(socket.authorizationError)}); use a Kubernetes token, or export a new certificate`,
      );
    const svid = parseSvid(certificate.raw);
    if (!svid.ok) return nobody(401, SVID_PROBLEMS[svid.error]);
    const { spiffeId, notAfterMs } = svid.value;
    if (svid.value.trustDomain !== trustDomain) return nobody(401, SVID_PROBLEMS.foreign_trust_domain);
    // Checked in the handshake, and again here: the connection may be older than the end of the certificate.
    if (clock.nowMs() > notAfterMs + 999) return nobody(401, SVID_PROBLEMS.expired);
    return isOperator(spiffeId)
      ? { kind: "operator", spiffeId }
      : nobody(
          403,
          `\`${spiffeId}\` is a workload of this mesh, not one of its operators; use a Kubernetes token`,
        );
  }

  async #token(token: string, mayAsk: () => boolean): Promise<Identified> {
    const { clock } = this.#options;
    const digest = hash("sha256", token);
    const known = this.#known.get(digest, clock.monotonicMs());
    if (known !== undefined) return known;
    if (!mayAsk()) return nobody(429, "too many tokens from this address; wait a second");
    const claims = claimsOf(token);
    const ours = claims.audiences.includes(this.#audience);
    const reviewed = await this.#options.ask.ask("TokenReview", () =>
      this.#options.reviews.createTokenReview({
        body: {
          apiVersion: "authentication.k8s.io/v1",
          kind: "TokenReview",
          // What the token says of itself decides only which of the two accepted audiences the API server checks.
          spec: { token, ...(ours ? { audiences: [this.#audience] } : {}) },
        },
      }),
    );
    if (reviewed.kind === "unavailable") return nobody(503, reviewed.detail);
    const user = userOf(reviewed.value, ours ? this.#audience : undefined);
    const found: Identified =
      user === undefined
        ? nobody(
            401,
            `the API server does not accept the token: it has expired, was revoked, or is for another audience than \`${this.#audience}\` or the API server's own`,
          )
        : { kind: "token", user, digest };
    const untilEndMs = claims.expiresMs - clock.nowMs();
    const ttlMs = user === undefined ? BAD_FOR_MS : Math.min(GOOD_FOR_MS, untilEndMs);
    this.#known.set(digest, found, ttlMs, clock.monotonicMs());
    return found;
  }
}

/** undefined: the token is nobody's, or not meant for us. */
function userOf({ status }: V1TokenReview, audience: string | undefined): TokenUser | undefined {
  if (status?.authenticated !== true) return undefined;
  // An authenticator that does not know of audiences leaves them out, which means: for the API server.
  if (audience !== undefined && status.audiences?.includes(audience) !== true) return undefined;
  const { username = "", uid = "", groups = [], extra = {} } = status.user ?? {};
  if (username === "" || username === "system:anonymous" || groups.includes("system:unauthenticated"))
    return undefined;
  return { name: username, uid, groups, extra };
}

/** What a token says of itself, unverified; nothing for one that is not a JWT. */
function claimsOf(token: string): { readonly audiences: readonly unknown[]; readonly expiresMs: number } {
  const none = { audiences: [], expiresMs: Number.POSITIVE_INFINITY };
  const [, payload, signature] = token.split(".");
  if (payload === undefined || signature === undefined) return none;
  try {
    const claims: unknown = JSON.parse(Buffer.from(payload, "base64url").toString("utf8"));
    if (typeof claims !== "object" || claims === null) return none;
    const audience: unknown = Reflect.get(claims, "aud");
    const expires: unknown = Reflect.get(claims, "exp");
    return {
      audiences: Array.isArray(audience) ? audience : [audience],
      expiresMs: typeof expires === "number" ? expires * 1000 : Number.POSITIVE_INFINITY,
    };
  } catch {
    // Not a JWT after all; the API server decides.
    return none;
  }
}

/** The control plane's own SPIFFE ID, checked. */
export function ownIdOf(text: string): SpiffeId {
  const id = parseSpiffeId(text);
  if (!id.ok) throw new Error(`\`${text}\` is no SPIFFE ID`);
  return id.value;
}
