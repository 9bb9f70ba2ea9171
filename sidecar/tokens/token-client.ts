// What gateways and workloads ask of the token service (DOMAIN 2.7): sessions of people, and the transaction tokens that
// calls are made with. Tokens are kept while they are good; nothing here rejects.
import { type HeldTxn, holdTxn } from "../core/identity/held-txn.ts";
import { type Mint, MintedTokens, type MintedTokensDeps } from "./minted-tokens.ts";
import {
  type AnswerJson,
  type TokenResult,
  TokenTransport,
  type TransportDeps,
  unavailable,
} from "./token-transport.ts";

const IETF = "urn:ietf:params:oauth:token-type:";
const GRANT = "urn:ietf:params:oauth:grant-type:token-exchange";
const TXN_TOKEN = `${IETF}txn_token`;
const ACCESS_TOKEN = `${IETF}access_token`;
const SESSION = "urn:countersign:params:oauth:token-type:session";
const OWN = "own";

/** What the identity provider gave at a login, for the token service to verify itself. */
export interface LoginArtefacts {
  /** Name of the IdentityProvider. */
  readonly idp: string;
  readonly idToken: string;
  readonly accessToken?: string | undefined;
  readonly nonce: string;
  readonly userinfo?: Readonly<Record<string, unknown>> | undefined;
  readonly request: { readonly ip?: string | undefined; readonly userAgent?: string | undefined };
}

/** A session as the token service opened it. Times are Unix seconds. */
export interface OpenedSession {
  /** Opaque; whoever has it and this gateway's certificate acts for the person. */
  readonly handle: string;
  readonly sid: string;
  readonly expiresAt: number;
  readonly user: {
    /** `idp|user`. */
    readonly id: string;
    readonly idp: string;
    readonly type: "person" | "servicePrincipal";
    readonly email: string | undefined;
    readonly username: string | undefined;
    readonly roles: readonly string[];
    readonly amr: readonly string[];
    readonly acr: string | undefined;
    readonly authTime: number | undefined;
  };
}

/** What is true of the request that a token is for. */
export interface MintContext {
  /** Address of the person's client. */
  readonly reqIp: string | undefined;
  /** Of the session, where there is one. */
  readonly sid?: string | undefined;
  /** Narrower than the subject's; absent: all of it. */
  readonly scope?: string | undefined;
}

/** What a token for one endpoint is asked for with. */
export interface EndpointRequest extends MintContext {
  /** SPIFFE ID or `namespace/name` of a serving endpoint. */
  readonly audience: string;
}

/** A JWT for one endpoint alone. */
export interface EndpointToken {
  readonly token: string;
  readonly expiresInSeconds: number;
  readonly scope: string;
}

export type TokenClientDeps = TransportDeps & MintedTokensDeps;

/** A sign-in right after a revocation of the user waits for up to four seconds there. */
const SIGN_IN_MS = 10_000;

export class TokenClient {
  readonly #transport: TokenTransport;
  readonly #minted: MintedTokens;

  constructor(deps: TokenClientDeps) {
    this.#transport = new TokenTransport(deps);
    this.#minted = new MintedTokens(deps);
  }

  /** Opens a session by a login; gateways alone may. */
  async openSession(login: LoginArtefacts): Promise<TokenResult<OpenedSession>> {
    const { idp, idToken, accessToken, nonce, userinfo, request } = login;
    const artefacts = {
      idp,
      id_token: idToken,
      access_token: accessToken,
      nonce,
      userinfo,
      request: { ip: request.ip, user_agent: request.userAgent },
    };
    const answer = await this.#transport.post("/v1/sessions", artefacts, SIGN_IN_MS);
    return answer.ok ? readSession(answer.value) : answer;
  }

  /** Newer claims for a session, by a newer ID token of the same person. Its tokens are minted anew. */
  async refreshSession(
    handle: string,
    tokens: { readonly idToken: string; readonly accessToken?: string | undefined },
  ): Promise<TokenResult<OpenedSession>> {
    const answer = await this.#transport.post("/v1/sessions/refresh", {
      handle,
      id_token: tokens.idToken,
      access_token: tokens.accessToken,
    });
    return answer.ok ? readSession(answer.value) : answer;
  }

  /** Ends one session, what a logout token of a provider names, or what came from one of a provider's sessions, everywhere. */
  async endSession(
    which:
      | { readonly handle: string }
      | { readonly idp: string; readonly logoutToken: string }
      | { readonly idp: string; readonly idpSid: string },
  ): Promise<TokenResult<AnswerJson>> {
    const body =
      "handle" in which
        ? which
        : "idpSid" in which
          ? { idp: which.idp, idp_sid: which.idpSid }
          : { idp: which.idp, logout_token: which.logoutToken };
    return this.#transport.post("/v1/sessions/end", body);
  }

  /** A token for a request within a session: the one that is held for the same context, or a new one. */
  mintFromSession(handle: string, context: MintContext): Promise<TokenResult<HeldTxn>> {
    return this.#minted.get(handle, contextOf(context), this.#mint(SESSION, handle, context));
  }

  /** A short access token for one serving endpoint, for the person of a session to take along. Kept by nobody here. */
  async endpointToken(
    handle: string,
    { audience, scope, reqIp, sid }: EndpointRequest,
  ): Promise<TokenResult<EndpointToken>> {
    const answer = await this.#transport.post("/v1/token", {
      ...{ grant_type: GRANT, requested_token_type: ACCESS_TOKEN, audience, scope },
      ...{ subject_token: handle, subject_token_type: SESSION },
      request_context: { req_ip: reqIp, sid },
    });
    if (!answer.ok) return answer;
    const { access_token: token, expires_in: expiresInSeconds, scope: given } = answer.value;
    if (!isText(token) || !isTime(expiresInSeconds) || typeof given !== "string")
      return unavailable("the token service answered with something else than an access token");
    return { ok: true, value: { token, expiresInSeconds, scope: given } };
  }

  /** The token that is held for a session and context, without asking; renews it in time. */
  heldForSession(handle: string, context: MintContext): HeldTxn | undefined {
    return this.#minted.peek(handle, contextOf(context));
  }

  /** A token for a request with an access token (RFC 9068) of an identity provider, which is verified there again. */
  exchange(accessToken: string, context: MintContext): Promise<TokenResult<HeldTxn>> {
    const mint = this.#mint(ACCESS_TOKEN, accessToken, context);
    return this.#minted.get(accessToken, contextOf(context), mint);
  }

  /** The token that is held for an access token and context, without asking. */
  heldForToken(accessToken: string, context: MintContext): HeldTxn | undefined {
    return this.#minted.peek(accessToken, contextOf(context));
  }

  /** A token for the one user that this workload acts for, as its identity says. */
  mintOwn(): Promise<TokenResult<HeldTxn>> {
    return this.#minted.get(OWN, "", this.#ownMint);
  }

  /** The token of `mintOwn` that is held; renews it in time. */
  heldOwn(): HeldTxn | undefined {
    return this.#minted.peek(OWN);
  }

  /** The same, whether or not it is over, and without renewing it: to be kept. */
  lookOwn(): HeldTxn | undefined {
    return this.#minted.look(OWN);
  }

  /** Whether `mintOwn` would only repeat a refusal now. */
  get isOwnRefused(): boolean {
    return this.#minted.refused(OWN) !== undefined;
  }

  /** Takes in the own token of a process before. */
  keepOwn(held: HeldTxn): void {
    this.#minted.put(OWN, held, this.#ownMint);
  }

  /** There may be a better own token than the one that is held. */
  renewOwn(): void {
    this.#minted.renew(OWN);
  }

  /** The own token counts no more (revoked): the next one is asked for. */
  dropOwn(): void {
    this.#minted.drop(OWN);
  }

  /** What the token service publishes for others who check its tokens: `/.well-known/…`. */
  published(path: string): Promise<TokenResult<AnswerJson>> {
    return this.#transport.get(path);
  }

  close(): void {
    this.#transport.close();
  }

  readonly #ownMint: Mint = () => this.#exchange({ subject_token_type: `${IETF}self_signed` });

  #mint(type: string, token: string, { reqIp, sid, scope }: MintContext): Mint {
    return () =>
      this.#exchange({
        subject_token: token,
        subject_token_type: type,
        scope,
        request_context: { req_ip: reqIp, sid },
      });
  }

  async #exchange(subject: object): Promise<TokenResult<HeldTxn>> {
    const answer = await this.#transport.post("/v1/token", {
      grant_type: GRANT,
      requested_token_type: TXN_TOKEN,
      ...subject,
    });
    if (!answer.ok) return answer;
    const { access_token: token, issued_token_type: type } = answer.value;
    if (typeof token !== "string" || type !== TXN_TOKEN)
      return unavailable("the token service answered with something else than a transaction token");
    const held = holdTxn(token);
    return held.ok
      ? held
      : unavailable(`the token service answered with a token that is none: ${held.error}`);
  }
}

function contextOf({ reqIp, sid, scope }: MintContext): string {
  return `${reqIp ?? ""}\n${sid ?? ""}\n${scope ?? ""}`;
}

const isText = (value: unknown): value is string => typeof value === "string" && value !== "";
const isTime = (value: unknown): value is number => Number.isSafeInteger(value);
const isTexts = (value: unknown): value is string[] => Array.isArray(value) && value.every(isText);
const optionalText = (value: unknown): string | undefined => (isText(value) ? value : undefined);

function readSession(answer: AnswerJson): TokenResult<OpenedSession> {
  const { handle, sid, expiresAt, user } = answer;
  if (!isText(handle) || !isText(sid) || !isTime(expiresAt) || typeof user !== "object" || user === null)
    return unavailable("the token service answered with something else than a session");
  const { id, idp, type, email, username, roles, amr, acr, authTime } = user as AnswerJson; // just checked
  if (!isText(id) || !isText(idp) || !isTexts(roles) || !isTexts(amr))
    return unavailable("the token service answered with a session of nobody");
  return {
    ok: true,
    value: {
      handle,
      sid,
      expiresAt,
      user: {
        id,
        idp,
        type: type === "servicePrincipal" ? type : "person",
        email: optionalText(email),
        username: optionalText(username),
        roles,
        amr,
        acr: optionalText(acr),
        authTime: isTime(authTime) ? authTime : undefined,
      },
    },
  };
}
