// What is known of an identity provider before it is asked anything, and the closed list of why one of its tokens is refused.

export interface IdpSettings {
  /** Name of the IdentityProvider object; before the `|` of user ids. */
  readonly name: string;
  /** Compared exactly with `iss`. */
  readonly issuer: string;
  readonly clientId: string;
  /** Audiences of access tokens and of other JWTs for the API; none: they are refused. */
  readonly audiences: readonly string[];
  /** Asymmetric ones only: what is not bound to a type of key (`jwks.ts`) verifies nothing (RFC 8725 section 3.1). */
  readonly algorithms: readonly string[];
  readonly clockSkewSeconds: number;
  /** Google: the `hd` that people must have. */
  readonly hostedDomain?: string | undefined;
  /** Permits `http` to an issuer on loopback; for tests. */
  readonly allowInsecureIssuer: boolean;
}

export const IDP_REFUSALS = {
  malformed: "not a token, or not in the one form that a token has",
  algorithm: "signed by an algorithm that the provider is not configured with",
  key_unknown: "signed by a key that the provider does not publish",
  signature: "the signature does not verify",
  type: "a token of another type",
  issuer: "of another issuer",
  audience: "meant for somebody else",
  expired: "expired, or older than it may be",
  not_yet: "issued in the future, or not valid yet",
  nonce: "of another login",
  access_token: "not the ID token that came with this access token",
  claims: "a claim is missing or has a wrong form",
  unavailable: "the provider cannot be asked, and was never asked before",
} as const;

/** A refusal; the detail has no part of the token in it but names of algorithms and claims. */
export interface IdpRefusal {
  readonly ok: false;
  readonly error: keyof typeof IDP_REFUSALS;
  readonly detail: string;
}
export type IdpResult<T> = { readonly ok: true; readonly value: T } | IdpRefusal;

export function refuseIdp(error: IdpRefusal["error"], detail: string): IdpRefusal {
  return { ok: false, error, detail };
}
