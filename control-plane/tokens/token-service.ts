// What the token service is made of, and what its endpoints share.

import { type SpiffeId, workloadOf } from "../../sidecar/core/identity/spiffe-id.ts";
import type { TxnClaims } from "../../sidecar/core/identity/txn.ts";
import { type IdpRefusal, refuseIdp } from "../../sidecar/core/idp/settings.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { CertificateAuthority } from "../ca/root.ts";
import type { UserOperations } from "../policy/user-operations.ts";
import type { ClusterState, Workload } from "../sources/store.ts";
import type { Callers, TokenCaller } from "./caller.ts";
import type { LiveLogins } from "./live-logins.ts";
import type { OneTimeUses } from "./one-time-use.ts";
import { userIdOf } from "./person.ts";
import { TokenRefusal } from "./refusal.ts";
import type { Person, Session, SessionHandles } from "./session-handle.ts";
import type { Verifiers } from "./verifiers.ts";

/** Whose tokens are not worth anything from now on. */
export type RevokedSubject =
  | { readonly kind: "user"; readonly user: string }
  /** A session id, or the part of it that names the provider's session. */
  | { readonly kind: "session"; readonly session: string };

export interface TokenServiceDeps {
  readonly trustDomain: string;
  /** URL under which the keys are published: `iss` of access tokens. */
  readonly issuer: string;
  readonly ca: Pick<CertificateAuthority, "txn" | "txnSigners">;
  readonly state: () => ClusterState;
  readonly spiffeIdOf: (workload: Workload) => string;
  readonly callers: Pick<Callers, "checkFacts">;
  readonly handles: SessionHandles;
  readonly logins: LiveLogins;
  readonly verifiers: Verifiers;
  readonly uses: OneTimeUses;
  readonly rolesOf: (person: Person) => readonly string[];
  /** What policies let a person with these roles do at a workload, when `caller` calls with the token. */
  readonly operationsOf: (
    person: Person,
    roles: readonly string[],
    workload: Workload,
    caller: SpiffeId,
  ) => UserOperations;
  /** Whether some operation has this name, or lies below it. */
  readonly knowsOperation: (pattern: string) => boolean;
  readonly revocations: {
    coversTxn(token: Pick<TxnClaims, "sub" | "iat" | "rctx">): boolean;
  };
  /** Resolves once the revocation is kept. @param untilMs when nothing that it is about can be valid any more. */
  readonly revoke: (subject: RevokedSubject, reason: string, untilMs: number) => Promise<void>;
  readonly clock: Clock;
  readonly log: Logger;
}

/** What the audit says of a request; never a token. Filled while it is answered. */
export interface AuditNote {
  user?: string;
  sid?: string;
  txn?: string;
  idp?: string;
  /** SPIFFE ID of the endpoint that an access token is for. */
  audience?: string;
  detail?: string;
}

export const SESSION_SECONDS = 12 * 3_600;

/** @throws TokenRefusal `CALLER_NOT_PERMITTED`. */
export function requireGateway(caller: TokenCaller): void {
  if (caller.kind !== "gateway") throw new TokenRefusal("CALLER_NOT_PERMITTED", "only gateways may ask this");
}

/** Whether a MeshGateway of the caller names the provider. */
export function hasProvider(
  { state }: Pick<TokenServiceDeps, "state">,
  { spiffeId }: Pick<TokenCaller, "spiffeId">,
  idp: string,
): boolean {
  const workload = workloadOf(spiffeId);
  for (const gateway of state().meshGateways.values())
    if (
      gateway.namespace === workload?.namespace &&
      gateway.workload === workload.name &&
      gateway.identityProviders.includes(idp)
    )
      return true;
  return false;
}

/** A gateway speaks for the providers that its own MeshGateway names. @throws TokenRefusal `CALLER_NOT_PERMITTED`. */
export function requireProviderOf(
  deps: Pick<TokenServiceDeps, "state">,
  caller: Pick<TokenCaller, "spiffeId">,
  idp: string,
): void {
  if (hasProvider(deps, caller, idp)) return;
  throw new TokenRefusal(
    "CALLER_NOT_PERMITTED",
    `no MeshGateway of this workload signs people in with \`${idp.slice(0, 64)}\``,
  );
}

/** The value of a verification. @throws TokenRefusal `TOKEN_INVALID`, `IDP_UNAVAILABLE`. */
export function accepted<T>(result: { readonly ok: true; readonly value: T } | IdpRefusal): T {
  if (result.ok) return result.value;
  const reason = result.error === "unavailable" ? "IDP_UNAVAILABLE" : "TOKEN_INVALID";
  throw new TokenRefusal(reason, `${result.error}: ${result.detail}`);
}

/** The result of the first provider that takes a token; the refusal of the last otherwise. */
export async function firstAccepted<P, T>(
  providers: readonly P[],
  verify: (provider: P) => Promise<{ readonly ok: true; readonly value: T } | IdpRefusal>,
): Promise<{ readonly provider: P; readonly value: T }> {
  let refusal = refuseIdp("issuer", "of no provider");
  for (const provider of providers) {
    const result = await verify(provider);
    if (result.ok) return { provider, value: result.value };
    refusal = result;
  }
  return accepted<never>(refusal);
}

/**
 * A session that the caller may use now.
 *
 * @throws TokenRefusal `SESSION_INVALID` (also for another gateway's), `SESSION_EXPIRED`, `REVOKED`, `IDP_UNKNOWN` when the
 *   provider is configured no more, `CALLER_NOT_PERMITTED` when it is not for this gateway any more.
 */
export async function openSessionOf(
  deps: TokenServiceDeps,
  caller: TokenCaller,
  handle: string,
): Promise<Session> {
  const session = await deps.handles.open(handle);
  if (session.gateway !== caller.spiffeId)
    throw new TokenRefusal("SESSION_INVALID", "the session is one of another gateway");
  deps.verifiers.named(session.person.idp);
  requireProviderOf(deps, caller, session.person.idp);
  checkSession(deps, session);
  return session;
}

/** @throws TokenRefusal `SESSION_EXPIRED`, `REVOKED`. */
export function checkSession(deps: Pick<TokenServiceDeps, "clock" | "revocations">, session: Session): void {
  if (deps.clock.nowMs() >= session.expiresAt * 1000)
    throw new TokenRefusal("SESSION_EXPIRED", "the session has ended; sign in again");
  const { openedAt: iat, sid, person } = session;
  if (deps.revocations.coversTxn({ sub: userIdOf(person), iat, rctx: { sid } }))
    throw new TokenRefusal("REVOKED", "the user or the session was revoked; sign in again");
}
