// Why the token service says no: a closed list, each with the error of RFC 6749 section 5.2 and the status it goes with.

export const TOKEN_REFUSALS = {
  REQUEST_MALFORMED: { error: "invalid_request", status: 400 },
  TYPE_UNSUPPORTED: { error: "invalid_request", status: 400 },
  CALLER_UNKNOWN: { error: "invalid_client", status: 401 },
  CALLER_NOT_PERMITTED: { error: "unauthorized_client", status: 403 },
  IDP_UNKNOWN: { error: "invalid_request", status: 400 },
  IDP_UNAVAILABLE: { error: "temporarily_unavailable", status: 503 },
  TOKEN_INVALID: { error: "invalid_grant", status: 400 },
  TOKEN_REPLAYED: { error: "invalid_grant", status: 400 },
  SESSION_INVALID: { error: "invalid_grant", status: 400 },
  SESSION_EXPIRED: { error: "invalid_grant", status: 400 },
  REVOKED: { error: "invalid_grant", status: 400 },
  USER_UNKNOWN: { error: "invalid_grant", status: 400 },
  SCOPE_EXCEEDED: { error: "invalid_scope", status: 400 },
  TARGET_UNKNOWN: { error: "invalid_target", status: 400 },
  TARGET_NOT_PERMITTED: { error: "invalid_target", status: 400 },
  TOO_MANY: { error: "temporarily_unavailable", status: 429 },
  NOT_READY: { error: "temporarily_unavailable", status: 503 },
  FAILED: { error: "server_error", status: 500 },
} as const;

export type TokenRefusalReason = keyof typeof TOKEN_REFUSALS;

/** A refusal, thrown inside the token service and answered at its edge. The detail is for the caller: no secret in it. */
export class TokenRefusal extends Error {
  readonly reason: TokenRefusalReason;

  constructor(reason: TokenRefusalReason, detail: string, options?: { cause?: unknown }) {
    super(detail, options);
    this.name = "TokenRefusal";
    this.reason = reason;
  }
}

export function malformed(detail: string): TokenRefusal {
  return new TokenRefusal("REQUEST_MALFORMED", detail);
}
