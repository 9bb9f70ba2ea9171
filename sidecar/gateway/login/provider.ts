// One identity provider as this gateway signs in with it: OpenID Connect's code flow with PKCE (RFC 7636), by
// `openid-client`. What the provider says of itself is fetched when it is first needed and again now and then; a provider
// that is down or broken holds up nobody who signs in elsewhere.
import * as oidc from "openid-client";
import type { GatewayIdp } from "../../core/gateway/gateway.ts";
import { messageOf } from "../../core/runtime/errors.ts";
import type { Attempt } from "./attempt.ts";
import { ProviderFetch } from "./provider-fetch.ts";
import { SignInError } from "./sign-in-failure.ts";

export interface ProviderTokens {
  readonly idToken: string | undefined;
  readonly accessToken: string;
  readonly refreshToken: string | undefined;
  /** Seconds that the access token lasts; undefined: not said. */
  readonly expiresIn: number | undefined;
  /** `sid` of the ID token (OpenID Connect Back-Channel Logout 1.0). */
  readonly idpSid: string | undefined;
}

export interface ProviderDeps {
  readonly idp: GatewayIdp;
  /** The client secret as it is now; undefined: a public client. @throws MeshError `io_failed`. */
  readonly secret: () => Promise<string | undefined>;
  readonly nowMs: () => number;
}

/** The provider's endpoints seldom change. */
const FRESH_MS = 3_600_000;
const TIMEOUT_SECONDS = 5;

export class Provider {
  readonly idp: GatewayIdp;
  readonly #deps: ProviderDeps;
  readonly #fetch: ProviderFetch;
  #server: Promise<oidc.ServerMetadata> | undefined;
  #askedAtMs = 0;

  constructor(deps: ProviderDeps) {
    this.idp = deps.idp;
    this.#deps = deps;
    this.#fetch = new ProviderFetch(deps.idp.allowInsecureIssuer);
  }

  /** Where to send the browser. @throws SignInError `provider_down`. */
  async authorizationUrl(attempt: Attempt, redirectUri: string): Promise<URL> {
    const { idp } = this;
    const config = await this.#configuration();
    const maxAge = attempt.maxAgeSeconds ?? idp.maxAgeSeconds;
    return oidc.buildAuthorizationUrl(config, {
      redirect_uri: redirectUri,
      scope: [...idp.scopes, ...(idp.offlineAccess ? ["offline_access"] : [])].join(" "),
      state: attempt.state,
      nonce: attempt.nonce,
      code_challenge: await oidc.calculatePKCECodeChallenge(attempt.verifier),
      code_challenge_method: "S256",
      ...(maxAge === undefined ? {} : { max_age: String(maxAge) }),
      ...(attempt.acr === undefined ? {} : { acr_values: attempt.acr }),
      ...(idp.hostedDomain === undefined ? {} : { hd: idp.hostedDomain }),
    });
  }

  /**
   * Takes the callback: checks `state`, `iss` (RFC 9207), and exchanges the code; of the ID token the issuer, audience,
   * nonce and times. The token service verifies its signature.
   *
   * @throws SignInError.
   */
  async redeem(attempt: Attempt, callback: URL): Promise<ProviderTokens> {
    const config = await this.#configuration();
    const maxAge = attempt.maxAgeSeconds ?? this.idp.maxAgeSeconds;
    try {
      const answer = await oidc.authorizationCodeGrant(config, callback, {
        pkceCodeVerifier: attempt.verifier,
        expectedState: attempt.state,
        expectedNonce: attempt.nonce,
        idTokenExpected: true,
        ...(maxAge === undefined ? {} : { maxAge }),
      });
      return tokensOf(answer);
    } catch (error) {
      throw signInErrorOf(error);
    }
  }

  /** Newer tokens; undefined: the provider has ended the session. @throws SignInError when it cannot be asked. */
  async refresh(refreshToken: string): Promise<ProviderTokens | undefined> {
    const config = await this.#configuration();
    try {
      const tokens = tokensOf(await oidc.refreshTokenGrant(config, refreshToken));
      // Most providers rotate it; those that do not keep the one that there is.
      return { ...tokens, refreshToken: tokens.refreshToken ?? refreshToken };
    } catch (error) {
      if (error instanceof oidc.ResponseBodyError && error.error === "invalid_grant") return undefined;
      throw signInErrorOf(error);
    }
  }

  /** Where the browser goes to sign out at the provider; undefined: it offers no such page, or cannot be asked. */
  async endSessionUrl(idToken: string | undefined, returnTo: string): Promise<URL | undefined> {
    try {
      const config = await this.#configuration();
      if (config.serverMetadata().end_session_endpoint === undefined) return undefined;
      return oidc.buildEndSessionUrl(config, {
        post_logout_redirect_uri: returnTo,
        ...(idToken === undefined ? {} : { id_token_hint: idToken }),
      });
    } catch {
      return undefined;
    }
  }

  async close(): Promise<void> {
    await this.#fetch.close();
  }

  /** @throws SignInError `provider_down`. */
  async #configuration(): Promise<oidc.Configuration> {
    const { idp, secret } = this.#deps;
    try {
      const server = await this.#metadata();
      const value = await secret();
      const config = new oidc.Configuration(server, idp.clientId, {}, authenticationOf(server, value));
      config[oidc.customFetch] = this.#fetch.fetch;
      config.timeout = TIMEOUT_SECONDS;
      if (idp.allowInsecureIssuer) oidc.allowInsecureRequests(config);
      return config;
    } catch (error) {
      if (error instanceof SignInError) throw error;
      throw new SignInError("provider_down", `\`${idp.name}\`: ${messageOf(error)}`, { cause: error });
    }
  }

  #metadata(): Promise<oidc.ServerMetadata> {
    const nowMs = this.#deps.nowMs();
    if (this.#server !== undefined && nowMs - this.#askedAtMs < FRESH_MS) return this.#server;
    const before = this.#server;
    this.#askedAtMs = nowMs;
    const asked = this.#discover();
    this.#server = asked;
    asked.catch(() => {
      // What was known serves on; without it the next one asks again.
      if (this.#server === asked) this.#server = before;
    });
    return before === undefined ? asked : asked.catch(() => before);
  }

  async #discover(): Promise<oidc.ServerMetadata> {
    const { issuer, clientId, allowInsecureIssuer } = this.idp;
    const config = await oidc.discovery(new URL(issuer), clientId, undefined, oidc.None(), {
      [oidc.customFetch]: this.#fetch.fetch,
      timeout: TIMEOUT_SECONDS,
      execute: allowInsecureIssuer ? [oidc.allowInsecureRequests] : [],
    });
    return config.serverMetadata();
  }
}

/** RFC 6749 section 2.3.1; Basic is what a provider that says nothing supports (OpenID Connect Discovery 1.0 section 3). */
function authenticationOf(server: oidc.ServerMetadata, secret: string | undefined): oidc.ClientAuth {
  if (secret === undefined) return oidc.None();
  const methods = server.token_endpoint_auth_methods_supported ?? ["client_secret_basic"];
  return methods.includes("client_secret_basic") || !methods.includes("client_secret_post")
    ? oidc.ClientSecretBasic(secret)
    : oidc.ClientSecretPost(secret);
}

function tokensOf(answer: oidc.TokenEndpointResponse & oidc.TokenEndpointResponseHelpers): ProviderTokens {
  const sid = answer.claims()?.["sid"];
  return {
    idToken: answer.id_token,
    accessToken: answer.access_token,
    refreshToken: answer.refresh_token,
    expiresIn: answer.expires_in,
    idpSid: typeof sid === "string" && sid !== "" ? sid : undefined,
  };
}

/** RFC 6749 sections 4.1.2.1 and 5.2: what says that it may work later. */
const LATER: ReadonlySet<string> = new Set(["temporarily_unavailable", "server_error", "slow_down"]);

function signInErrorOf(error: unknown): SignInError {
  const options = { cause: error };
  if (error instanceof oidc.AuthorizationResponseError || error instanceof oidc.ResponseBodyError) {
    const said = `${error.error}: ${error.error_description ?? ""}`;
    if (LATER.has(error.error)) return new SignInError("provider_down", said, options);
    const isAnswer = error instanceof oidc.AuthorizationResponseError;
    return new SignInError(isAnswer ? "declined" : "invalid", said, options);
  }
  if (error instanceof oidc.WWWAuthenticateChallengeError)
    return new SignInError("invalid", "the provider does not accept the gateway's client secret", options);
  // The library's own verdicts have codes; whatever else there is came from the network.
  if (error instanceof oidc.ClientError && error.code !== "OAUTH_TIMEOUT")
    return new SignInError("invalid", messageOf(error), options);
  return new SignInError("provider_down", messageOf(error), options);
}
