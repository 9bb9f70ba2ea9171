// `POST /v1/token` (RFC 8693): Txn-Tokens from sessions, from foreign tokens, for the user that a pod acts for, and narrower
// ones in place of one that is held; access tokens for one serving endpoint.

import type { TxnClaims, TxnRequestContext } from "../../sidecar/core/identity/txn.ts";
import { type JwtShape, readJwtShape } from "../../sidecar/core/idp/jwt-shape.ts";
import type { Workload } from "../sources/store.ts";
import type { TokenCaller } from "./caller.ts";
import { type MintInput, mintAccessToken, mintTxn, signTxn } from "./mint.ts";
import { readOwnToken, readOwnTxn } from "./own-tokens.ts";
import { personOf, userIdOf } from "./person.ts";
import { malformed, TokenRefusal } from "./refusal.ts";
import {
  checkFields,
  optionalObject,
  optionalText,
  requiredText,
  type TokenRequest,
} from "./request-body.ts";
import { endpointScope, narrowedScope, scopeOfAccessToken } from "./scopes.ts";
import type { Person } from "./session-handle.ts";
import { clientAddress } from "./sessions.ts";
import {
  type AuditNote,
  accepted,
  checkSession,
  firstAccepted,
  hasProvider,
  openSessionOf,
  requireGateway,
  requireProviderOf,
  type TokenServiceDeps,
} from "./token-service.ts";

export const GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange";
const IETF = "urn:ietf:params:oauth:token-type:";
const TXN_TOKEN = `${IETF}txn_token`;
const ACCESS_TOKEN = `${IETF}access_token`;
export const SESSION_TOKEN = "urn:countersign:params:oauth:token-type:session";

/** Kinds of grants, for counting. */
export const GRANTS = new Map([
  [SESSION_TOKEN, "session"],
  [ACCESS_TOKEN, "access_token"],
  [`${IETF}jwt`, "jwt"],
  [`${IETF}self_signed`, "self_signed"],
  [TXN_TOKEN, "txn_token"],
] as const);
export type Grant = "session" | "access_token" | "jwt" | "self_signed" | "txn_token";

const FIELDS = [
  ...["grant_type", "requested_token_type", "audience", "scope", "subject_token", "subject_token_type"],
  ...["request_context", "request_details"],
];

/** RFC 8693 section 2.2.1. */
export interface TokenAnswer {
  readonly access_token: string;
  readonly issued_token_type: string;
  readonly token_type: "N_A" | "Bearer";
  readonly expires_in: number;
  /** Of access tokens; a Txn-Token says it itself. */
  readonly scope?: string;
}

/** On whose behalf, with which limits. */
interface Subject {
  readonly person: Person;
  readonly scope: string;
  readonly sid: string | undefined;
  /** Unix seconds. */
  readonly until: number;
}

export class Grants {
  readonly #deps: TokenServiceDeps;

  constructor(deps: TokenServiceDeps) {
    this.#deps = deps;
  }

  /** @param wit the caller's own identity token, if it was sent. @throws TokenRefusal. */
  async grant(
    caller: TokenCaller,
    wit: string | undefined,
    request: TokenRequest,
    note: AuditNote,
  ): Promise<TokenAnswer> {
    checkFields(request, FIELDS);
    if (requiredText(request, "grant_type") !== GRANT_TYPE)
      throw malformed(`\`grant_type\` is not \`${GRANT_TYPE}\``);
    const grant = GRANTS.get(requiredText(request, "subject_token_type") as typeof TXN_TOKEN); // any text may be asked for
    const isTxn = requiredText(request, "requested_token_type") === TXN_TOKEN;
    if (!isTxn && requiredText(request, "requested_token_type") !== ACCESS_TOKEN)
      throw new TokenRefusal("TYPE_UNSUPPORTED", `ask for \`${TXN_TOKEN}\` or \`${ACCESS_TOKEN}\``);
    if (grant === undefined)
      throw new TokenRefusal("TYPE_UNSUPPORTED", "`subject_token_type` is none that is exchanged here");
    if (grant === "txn_token") return this.#replace(caller, request, isTxn, note);
    const own = grant === "access_token" ? this.#ownShape(request) : undefined;
    if (own !== undefined) return this.#forOwnToken(own, caller, request, isTxn, note);
    const subject = await this.#subject(grant, caller, wit, request);
    note.user = userIdOf(subject.person);
    note.idp = subject.person.idp;
    if (subject.sid !== undefined) note.sid = subject.sid;
    const scope = narrowedScope(optionalText(request, "scope"), subject.scope, this.#deps.knowsOperation);
    const { ca, clock, trustDomain, issuer } = this.#deps;
    const { person } = subject;
    const roles = this.#deps.rolesOf(person);
    const input: MintInput = {
      ...{ trustDomain, scope, caller: caller.spiffeId, nowMs: clock.nowMs() },
      ...{ signer: ca.txn, person, roles },
      request: requestContext(request, subject.sid),
      ttlSeconds: Math.floor(this.#deps.state().config.txnTtlMs / 1000),
      until: subject.until,
    };
    if (!isTxn) {
      const endpoint = this.#endpoint(request);
      const audience = this.#deps.spiffeIdOf(endpoint);
      note.audience = audience;
      const operations = this.#deps.operationsOf(person, roles, endpoint, caller.spiffeId);
      const narrowed = endpointScope(request.has("scope"), scope, operations);
      const minted = mintAccessToken({ ...input, scope: narrowed, issuer, audience });
      note.txn = minted.claims.txn;
      return { ...answer(minted.token, minted.claims, ACCESS_TOKEN), scope: narrowed };
    }
    this.#checkAudience(request);
    const minted = mintTxn(input);
    note.txn = minted.claims.txn;
    return answer(minted.token, minted.claims, TXN_TOKEN);
  }

  #subject(
    grant: Exclude<Grant, "txn_token">,
    caller: TokenCaller,
    wit: string | undefined,
    request: TokenRequest,
  ): Promise<Subject> {
    switch (grant) {
      case "session":
        return this.#session(caller, request);
      case "self_signed":
        return this.#actingPod(caller, wit, request);
      default:
        return this.#foreign(grant, caller, request);
    }
  }

  async #session(caller: TokenCaller, request: TokenRequest): Promise<Subject> {
    requireGateway(caller);
    const session = await openSessionOf(this.#deps, caller, requiredText(request, "subject_token"));
    this.#deps.logins.seen(session);
    return { person: session.person, scope: "*", sid: session.sid, until: session.expiresAt };
  }

  /** A pod that acts for one user, as was verified when it was made; with the values of a login of that user, if there is one. */
  async #actingPod(caller: TokenCaller, wit: string | undefined, request: TokenRequest): Promise<Subject> {
    const { verifiers, logins, clock } = this.#deps;
    if (request.has("subject_token")) throw malformed("`self_signed` goes without `subject_token`");
    const user = caller.actsFor;
    if (user === undefined)
      throw new TokenRefusal(
        "CALLER_NOT_PERMITTED",
        "this workload acts for no user that a trusted spawner named",
      );
    this.#deps.callers.checkFacts(caller, wit);
    const bar = user.indexOf("|");
    const [idp, id] = [user.slice(0, bar), user.slice(bar + 1)];
    if (bar < 1 || id === "")
      throw new TokenRefusal(
        "USER_UNKNOWN",
        `\`${user.slice(0, 128)}\` is not a user; write \`identity-provider|id\``,
      );
    verifiers.named(idp);
    const live = await logins.of(user, (session) => {
      try {
        checkSession(this.#deps, session);
        return false;
      } catch {
        return true;
      }
    });
    if (live !== undefined) return { person: live.person, scope: "*", sid: live.sid, until: live.expiresAt };
    // Nobody is known to have signed in: groups are not known, and no condition on a login holds.
    const person: Person = { idp, id, type: "person", groups: "unknown", claims: {}, amr: [] };
    return { person, scope: "*", sid: undefined, until: clock.nowMs() / 1000 + 86_400 };
  }

  /** A token of an identity provider: an access token that a client showed to a gateway, or a JWT that is made to be exchanged. */
  async #foreign(
    grant: "access_token" | "jwt",
    caller: TokenCaller,
    request: TokenRequest,
  ): Promise<Subject> {
    const { verifiers, knowsOperation } = this.#deps;
    if (grant === "access_token" || !caller.isTrustedSpawner) requireGateway(caller);
    const token = requiredText(request, "subject_token");
    const { iss } = accepted(readJwtShape(token)).claims;
    const ofIssuer = verifiers.ofIssuer(iss);
    // A gateway speaks for its own providers alone: one that faces the world must not take tokens of another's people.
    const its = ofIssuer.filter(
      ({ provider }) => caller.kind !== "gateway" || hasProvider(this.#deps, caller, provider.name),
    );
    if (its.length === 0) requireProviderOf(this.#deps, caller, ofIssuer[0]?.provider.name ?? "");
    const { provider: used, value: jwt } = await firstAccepted(its, ({ verifier }) =>
      grant === "jwt" ? verifier.verifyAssertion(token) : verifier.verifyAccessToken(token),
    );
    const person = personOf(jwt, used.provider);
    if (grant === "jwt" && person.type !== "servicePrincipal")
      throw new TokenRefusal(
        "USER_UNKNOWN",
        "only JWTs of service principals are exchanged: set `spec.servicePrincipalClaim` to a claim that they have and people do not",
      );
    const sub = userIdOf(person);
    if (this.#deps.revocations.coversTxn({ sub, iat: jwt.issuedAt, rctx: {} }))
      throw new TokenRefusal("REVOKED", "the user was revoked; get a new token from the identity provider");
    return {
      person,
      scope: scopeOfAccessToken(jwt.claims["scope"], knowsOperation),
      sid: undefined,
      until: jwt.expiresAt,
    };
  }

  /** A narrower token in place of one that this caller got: same transaction, user and end. */
  #replace(caller: TokenCaller, request: TokenRequest, isTxn: boolean, note: AuditNote): TokenAnswer {
    if (!isTxn)
      throw new TokenRefusal("TYPE_UNSUPPORTED", `a Txn-Token is exchanged for \`${TXN_TOKEN}\` only`);
    this.#checkAudience(request);
    const { ca, clock, revocations, knowsOperation, trustDomain } = this.#deps;
    const token = requiredText(request, "subject_token");
    const claims = readOwnTxn(token, { trustDomain, signers: ca.txnSigners });
    Object.assign(note, { user: claims.sub, txn: claims.txn, idp: claims.tctx.idp });
    if (claims.reqWl !== caller.spiffeId)
      throw new TokenRefusal(
        "CALLER_NOT_PERMITTED",
        "only the workload that asked for a Txn-Token may have it replaced; others add a caveat",
      );
    const iat = Math.floor(clock.nowMs() / 1000);
    if (iat >= claims.exp) throw new TokenRefusal("SESSION_EXPIRED", "the Txn-Token has expired");
    if (revocations.coversTxn(claims))
      throw new TokenRefusal("REVOKED", "the user or the session was revoked");
    const scope = narrowedScope(optionalText(request, "scope"), claims.scope, knowsOperation);
    const next: TxnClaims = { ...claims, iat, scope };
    return answer(signTxn(next, ca.txn), next, TXN_TOKEN);
  }

  /** An access token that says it is of this token service; undefined: a provider's. */
  #ownShape(request: TokenRequest): JwtShape | undefined {
    const shape = readJwtShape(requiredText(request, "subject_token"));
    return shape.ok && shape.value.claims["iss"] === this.#deps.issuer ? shape.value : undefined;
  }

  /** A Txn-Token for who shows a gateway an access token of ours: same transaction, user, scope and end. */
  #forOwnToken(
    shape: JwtShape,
    caller: TokenCaller,
    request: TokenRequest,
    isTxn: boolean,
    note: AuditNote,
  ): TokenAnswer {
    requireGateway(caller);
    if (!isTxn)
      throw new TokenRefusal(
        "TYPE_UNSUPPORTED",
        `a token for an endpoint is exchanged for \`${TXN_TOKEN}\` only`,
      );
    this.#checkAudience(request);
    const { ca, clock, revocations, verifiers, knowsOperation, trustDomain } = this.#deps;
    const { audience, issuedAt, claims } = readOwnToken(shape, caller.spiffeId, {
      ...{ trustDomain, signers: ca.txnSigners, nowMs: clock.nowMs() },
    });
    const { sub, txn, rctx, tctx } = claims;
    Object.assign(note, { user: sub, txn, idp: tctx.idp, audience });
    if (rctx.sid !== undefined) note.sid = rctx.sid;
    verifiers.named(tctx.idp);
    requireProviderOf(this.#deps, caller, tctx.idp);
    if (revocations.coversTxn({ sub, rctx, iat: issuedAt }))
      throw new TokenRefusal("REVOKED", "the user or the session was revoked");
    const scope = narrowedScope(optionalText(request, "scope"), claims.scope, knowsOperation);
    const next: TxnClaims = { ...claims, scope, rctx: requestContext(request, rctx.sid) };
    return answer(signTxn(next, ca.txn), next, TXN_TOKEN);
  }

  #checkAudience(request: TokenRequest): void {
    const audience = optionalText(request, "audience");
    if (audience !== undefined && audience !== this.#deps.trustDomain)
      throw new TokenRefusal("TARGET_UNKNOWN", `a Txn-Token is for \`${this.#deps.trustDomain}\``);
  }

  /** The serving endpoint that `audience` names, by its SPIFFE ID or as `namespace/name`. */
  #endpoint(request: TokenRequest): Workload {
    const asked = requiredText(request, "audience");
    const { state, spiffeIdOf } = this.#deps;
    for (const workload of state().workloads.values()) {
      if (workload.kind !== "serving") continue;
      if (spiffeIdOf(workload) === asked || `${workload.namespace}/${workload.name}` === asked)
        return workload;
    }
    throw new TokenRefusal("TARGET_UNKNOWN", `there is no serving endpoint \`${asked.slice(0, 256)}\``);
  }
}

/** `sid` in it must be the session's: it is signed. */
function requestContext(request: TokenRequest, sid: string | undefined): TxnRequestContext {
  const { sid: claimed } = optionalObject(request, "request_context");
  if (claimed !== undefined && claimed !== sid)
    throw malformed("`request_context.sid` is of another session");
  return { reqIp: clientAddress(request, "request_context"), sid };
}

function answer(token: string, { iat, exp }: TxnClaims, type: string): TokenAnswer {
  return {
    access_token: token,
    issued_token_type: type,
    token_type: type === ACCESS_TOKEN ? "Bearer" : "N_A",
    expires_in: exp - iat,
  };
}
