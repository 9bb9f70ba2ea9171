// What signing in needs of the token service's client (`sidecar/tokens/token-client.ts`): types only, so that tests can
// stand in for it.
import type { HeldTxn } from "../../core/identity/held-txn.ts";
import type { Result } from "../../core/runtime/errors.ts";

export interface TokenRefusal {
  readonly reason: string;
  readonly detail: string;
  /** Asking again later may help. */
  readonly isTemporary: boolean;
}

/** Times are Unix seconds. */
export interface OpenedSession {
  readonly handle: string;
  readonly sid: string;
  readonly expiresAt: number;
  readonly user: {
    readonly id: string;
    readonly email: string | undefined;
    readonly username: string | undefined;
    readonly roles: readonly string[];
    readonly amr: readonly string[];
    readonly acr: string | undefined;
    readonly authTime: number | undefined;
  };
}

export interface MintContext {
  readonly reqIp: string | undefined;
  readonly sid?: string | undefined;
}

type Answer<T> = Promise<Result<T, TokenRefusal>>;

export interface TokenService {
  openSession(login: {
    readonly idp: string;
    readonly idToken: string;
    readonly accessToken?: string | undefined;
    readonly nonce: string;
    readonly request: { readonly ip?: string | undefined; readonly userAgent?: string | undefined };
  }): Answer<OpenedSession>;
  refreshSession(
    handle: string,
    tokens: { readonly idToken: string; readonly accessToken?: string | undefined },
  ): Answer<OpenedSession>;
  endSession(
    which: { readonly handle: string } | { readonly idp: string; readonly logoutToken: string },
  ): Answer<unknown>;
  mintFromSession(handle: string, context: MintContext): Answer<HeldTxn>;
  /** The token that is held already; it is renewed in time while it is asked for. */
  heldForSession(handle: string, context: MintContext): HeldTxn | undefined;
  exchange(accessToken: string, context: MintContext): Answer<HeldTxn>;
  heldForToken(accessToken: string, context: MintContext): HeldTxn | undefined;
}
