// Sessions of people: opened by a login that the token service verifies itself, refreshed, and ended. Gateways only.
import type { VerifiedJwt } from "../../sidecar/core/idp/token-claims.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { TokenCaller } from "./caller.ts";
import { lacksClaims, personOf, userIdOf } from "./person.ts";
import { malformed, TokenRefusal } from "./refusal.ts";
import {
  checkFields,
  optionalObject,
  optionalText,
  requiredText,
  type TokenRequest,
} from "./request-body.ts";
import type { Person, Session } from "./session-handle.ts";
import { newSessionId, sessionGroup } from "./session-id.ts";
import {
  type AuditNote,
  accepted,
  checkSession,
  openSessionOf,
  requireGateway,
  requireProviderOf,
  SESSION_SECONDS,
  type TokenServiceDeps,
} from "./token-service.ts";
import type { ProviderInUse } from "./verifiers.ts";

/** An ID token is taken for so long after it was issued, with any clock; a mark of its use is kept longer. */
const MARK_SECONDS = 1_200;

/** Longest that a sign-in waits for an epoch to pass: it lies three seconds ahead, and seconds are whole. */
const MAX_WAIT_MS = 4_000;

/** Answer of `POST /v1/sessions` and `/v1/sessions/refresh`. Times are Unix seconds. */
export interface SessionAnswer {
  readonly handle: string;
  readonly sid: string;
  readonly expiresAt: number;
  readonly user: {
    /** `idp|id`. */
    readonly id: string;
    readonly idp: string;
    readonly type: Person["type"];
    readonly email?: string | undefined;
    readonly username?: string | undefined;
    readonly roles: readonly string[];
    readonly amr: readonly string[];
    readonly acr?: string | undefined;
    readonly authTime?: number | undefined;
  };
}

export class Sessions {
  readonly #deps: TokenServiceDeps;

  constructor(deps: TokenServiceDeps) {
    this.#deps = deps;
  }

  /** `POST /v1/sessions`. @throws TokenRefusal. */
  async open(caller: TokenCaller, request: TokenRequest, note: AuditNote): Promise<SessionAnswer> {
    requireGateway(caller);
    // `userinfo` is the gateway's word; what it says is asked for again where it counts.
    checkFields(request, ["idp", "id_token", "access_token", "nonce", "userinfo", "request"]);
    note.idp = requiredText(request, "idp");
    const used = this.#deps.verifiers.named(note.idp);
    requireProviderOf(this.#deps, caller, note.idp);
    const nonce = requiredText(request, "nonce");
    const { jwt, person } = await this.#login(used, request, nonce);
    const idpSid = jwt.claims["sid"];
    const sid = newSessionId(used.provider.name, typeof idpSid === "string" ? idpSid : undefined);
    const openedAt = await this.#afterEpoch(userIdOf(person), sid);
    const session: Session = {
      gateway: caller.spiffeId,
      sid,
      openedAt,
      expiresAt: openedAt + SESSION_SECONDS,
      subject: jwt.sub,
      person,
    };
    return await this.#answer(session, note);
  }

  /** `POST /v1/sessions/refresh`: newer claims under the same id and with the same end. @throws TokenRefusal. */
  async refresh(caller: TokenCaller, request: TokenRequest, note: AuditNote): Promise<SessionAnswer> {
    requireGateway(caller);
    checkFields(request, ["handle", "id_token", "access_token"]);
    const before = await openSessionOf(this.#deps, caller, requiredText(request, "handle"));
    Object.assign(note, { idp: before.person.idp, user: userIdOf(before.person), sid: before.sid });
    const used = this.#deps.verifiers.named(before.person.idp);
    const { jwt, person } = await this.#login(used, request, undefined);
    if (jwt.sub !== before.subject || userIdOf(person) !== userIdOf(before.person))
      throw new TokenRefusal("TOKEN_INVALID", "the new ID token is of another user");
    // Nobody signed in again: when and how stays what it was.
    const { authTime, amr, acr } = before.person;
    return await this.#answer({ ...before, person: { ...person, authTime, amr, acr } }, note);
  }

  /** `POST /v1/sessions/end`: of one session, by the provider's logout token, or of one of its sessions. @throws TokenRefusal. */
  async end(caller: TokenCaller, request: TokenRequest, note: AuditNote): Promise<object> {
    requireGateway(caller);
    if (request.has("handle")) {
      checkFields(request, ["handle"]);
      return await this.#endOne(caller, requiredText(request, "handle"), note);
    }
    if (request.has("idp_sid")) {
      checkFields(request, ["idp", "idp_sid"]);
      return await this.#endByName(caller, request, note);
    }
    checkFields(request, ["idp", "logout_token"]);
    return await this.#endByProvider(request, note);
  }

  async #endOne(caller: TokenCaller, handle: string, note: AuditNote): Promise<object> {
    const { handles, revoke } = this.#deps;
    // One that has expired or was revoked is ended, too: doing it twice changes nothing.
    const session = await handles.open(handle);
    if (session.gateway !== caller.spiffeId)
      throw new TokenRefusal("SESSION_INVALID", "the session is one of another gateway");
    const { sid, expiresAt } = session;
    Object.assign(note, { idp: session.person.idp, user: userIdOf(session.person), sid });
    if (this.#isOver(session)) return { ended: { sid } };
    await revoke({ kind: "session", session: sid }, "signed out", expiresAt * 1000);
    return { ended: { sid } };
  }

  async #endByProvider(request: TokenRequest, note: AuditNote): Promise<object> {
    const { verifiers, clock, revoke } = this.#deps;
    note.idp = requiredText(request, "idp");
    const { provider, verifier } = verifiers.named(note.idp);
    const token = accepted(await verifier.verifyLogoutToken(requiredText(request, "logout_token")));
    const nowMs = clock.nowMs();
    await this.#once(token.digest, nowMs + MARK_SECONDS * 1000);
    const untilMs = nowMs + SESSION_SECONDS * 1000;
    const reason = `signed out at ${provider.name}`;
    if (token.sid !== undefined) {
      const group = sessionGroup(provider.name, token.sid);
      note.sid = group;
      await revoke({ kind: "session", session: group }, reason, untilMs);
      return { ended: { sessionGroup: group } };
    }
    if (provider.userIdClaim !== "sub" || token.sub === undefined)
      throw new TokenRefusal(
        "TYPE_UNSUPPORTED",
        "the logout token names no session, and users of this provider are known by another claim than `sub`",
      );
    const user = userIdOf({ idp: provider.name, id: token.sub });
    note.user = user;
    await revoke({ kind: "user", user }, reason, untilMs);
    return { ended: { user } };
  }

  /** By the word of a gateway, for providers that it signs people in with: a logout through the browser has no proof. */
  async #endByName(caller: TokenCaller, request: TokenRequest, note: AuditNote): Promise<object> {
    const idp = requiredText(request, "idp");
    note.idp = idp;
    const { provider } = this.#deps.verifiers.named(idp);
    requireProviderOf(this.#deps, caller, idp);
    const group = sessionGroup(provider.name, requiredText(request, "idp_sid"));
    note.sid = group;
    const untilMs = this.#deps.clock.nowMs() + SESSION_SECONDS * 1000;
    await this.#deps.revoke({ kind: "session", session: group }, `signed out at ${provider.name}`, untilMs);
    return { ended: { sessionGroup: group } };
  }

  #isOver(session: Session): boolean {
    try {
      checkSession(this.#deps, session);
      return false;
    } catch {
      return true;
    }
  }

  /** @throws TokenRefusal `TOKEN_REPLAYED`. */
  async #once(digest: string, untilMs: number): Promise<void> {
    if (!(await this.#deps.uses.use(digest, untilMs)))
      throw new TokenRefusal("TOKEN_REPLAYED", "this token was used before");
  }

  /**
   * Now, in Unix seconds; later where a revocation's epoch still lies ahead. Providers sign people in again at once, and
   * what began before the epoch would be refused.
   */
  async #afterEpoch(sub: string, sid: string): Promise<number> {
    const { clock, revocations } = this.#deps;
    const untilMs = clock.nowMs() + MAX_WAIT_MS;
    for (;;) {
      const nowMs = clock.nowMs();
      const iat = Math.floor(nowMs / 1000);
      if (nowMs >= untilMs || !revocations.coversTxn({ sub, iat, rctx: { sid } })) return iat;
      // Timers may be a little early.
      await clock.sleep((iat + 1) * 1000 - nowMs + 1);
    }
  }

  async #login(
    { provider, verifier, documents }: ProviderInUse,
    request: TokenRequest,
    nonce: string | undefined,
  ): Promise<{ readonly jwt: VerifiedJwt; readonly person: Person }> {
    const accessToken = optionalText(request, "access_token");
    const idToken = requiredText(request, "id_token");
    const jwt = accepted(await verifier.verifyIdToken(idToken, { nonce, accessToken }));
    await this.#once(jwt.digest, (jwt.issuedAt + MARK_SECONDS) * 1000);
    if (accessToken === undefined || !lacksClaims(jwt, provider))
      return { jwt, person: personOf(jwt, provider) };
    const more = await this.#userinfo({ provider, verifier, documents }, accessToken, jwt.sub);
    const person = personOf(jwt, provider, more ?? {});
    // Nobody could be asked: that is not the same as having no groups.
    const isUnknown = more === undefined && Array.isArray(person.groups) && person.groups.length === 0;
    return { jwt, person: isUnknown ? { ...person, groups: "unknown" } : person };
  }

  /** undefined: the provider could not be asked. @throws TokenRefusal `TOKEN_INVALID` when it speaks of somebody else. */
  async #userinfo(
    { provider, documents }: ProviderInUse,
    accessToken: string,
    sub: string,
  ): Promise<Readonly<Record<string, unknown>> | undefined> {
    let claims: unknown;
    try {
      const text = await documents.userinfo(accessToken);
      if (text === undefined) return {};
      claims = JSON.parse(text);
    } catch (error) {
      this.#deps.log.warn("userinfo of an identity provider cannot be read", {
        idp: provider.name,
        error: messageOf(error),
      });
      return undefined;
    }
    if (typeof claims !== "object" || claims === null || Array.isArray(claims)) return undefined;
    // OpenID Connect Core 1.0 section 5.3.2.
    if (Reflect.get(claims, "sub") !== sub)
      throw new TokenRefusal("TOKEN_INVALID", "the access token is of another user than the ID token");
    return claims as Readonly<Record<string, unknown>>; // just checked; each member is read as unknown
  }

  async #answer(session: Session, note: AuditNote): Promise<SessionAnswer> {
    const { person, sid, expiresAt } = session;
    checkSession(this.#deps, session);
    Object.assign(note, { user: userIdOf(person), sid });
    const handle = await this.#deps.handles.seal(session);
    await this.#deps.logins.opened(session, handle);
    const { idp, type, email, username, amr, acr, authTime } = person;
    return {
      ...{ handle, sid, expiresAt },
      user: {
        id: userIdOf(person),
        ...{ idp, type, email, username, amr, acr, authTime },
        roles: this.#deps.rolesOf(person),
      },
    };
  }
}

/** `request_context` or `request`: the address of the person's client. @throws TokenRefusal `REQUEST_MALFORMED`. */
export function clientAddress(request: TokenRequest, field: string): string | undefined {
  const { req_ip: address } = optionalObject(request, field);
  if (address === undefined) return undefined;
  if (typeof address !== "string" || address.length > 64 || !/^[0-9a-fA-F.:]+$/.test(address))
    throw malformed(`\`${field}.req_ip\` is no IP address`);
  return address;
}
