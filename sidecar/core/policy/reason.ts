// The closed list of reasons that a decision or a failed call can have (DOMAIN 3.4), with HTTP and gRPC status.

export interface ReasonInfo {
  /** HTTP status of the answer; 0: no answer of ours (allowed). */
  readonly http: number;
  /** gRPC status code of the same answer. */
  readonly grpc: number;
  /** Title of the problem document. */
  readonly title: string;
  /** What the caller can do about it. */
  readonly hint: string;
}

const info = (http: number, grpc: number, title: string, hint: string): ReasonInfo => ({
  http,
  grpc,
  title,
  hint,
});

export const REASONS = {
  ALLOWED: info(0, 0, "Allowed", ""),
  DEFAULT_ALLOW: info(0, 0, "Allowed", "allowed by default; write a policy before the migration ends"),
  GRANTED: info(0, 0, "Allowed", ""),
  DEFAULT_DENY: info(
    403,
    7,
    "Forbidden",
    "no policy selects this target; write an AccessPolicy that allows the call",
  ),
  NO_MATCHING_ALLOW: info(403, 7, "Forbidden", "ask for a role that may do this, or for an AccessGrant"),
  DENIED_BY_POLICY: info(
    403,
    7,
    "Forbidden",
    "a guard rail forbids this call; ask the owner of the platform",
  ),
  SCOPE_EXCEEDED: info(403, 7, "Forbidden", "the transaction's scope does not cover this operation"),
  CHAIN_TOO_DEEP: info(403, 7, "Forbidden", "too many hops between the origin and this call"),
  CHAIN_LOOP: info(403, 7, "Forbidden", "the same workload is too often in the call chain"),
  REVOKED: info(
    403,
    7,
    "Forbidden",
    "the identity of the caller or user was revoked; sign in or restart the workload",
  ),
  TXN_NOT_HELD: info(403, 7, "Forbidden", "this workload never received that transaction token"),
  AUTHN_MTLS_REQUIRED: info(403, 7, "Forbidden", "call through the mesh with a workload certificate"),
  AUTHN_WIT_INVALID: info(400, 3, "Bad Request", "the workload identity token does not verify"),
  AUTHN_PROOF_INVALID: info(400, 3, "Bad Request", "the workload proof token does not verify"),
  AUTHN_PROOF_MISMATCH: info(400, 3, "Bad Request", "the proof was made for another operation"),
  AUTHN_TXN_INVALID: info(400, 3, "Bad Request", "the transaction token does not verify"),
  AUTHN_TXN_EXPIRED: info(
    400,
    3,
    "Bad Request",
    "the transaction token has expired; start again from the gateway",
  ),
  REQ_MALFORMED: info(400, 3, "Bad Request", "the request is ambiguous or malformed and was not forwarded"),
  RATE_LIMITED: info(429, 8, "Too Many Requests", "wait as `Retry-After` says"),
  TOKEN_BUDGET_EXHAUSTED: info(
    429,
    8,
    "Too Many Requests",
    "the token budget is used up; wait as `Retry-After` says",
  ),
  CONCURRENCY_LIMITED: info(503, 8, "Service Unavailable", "too many calls in flight; try again shortly"),
  NOT_READY: info(503, 14, "Service Unavailable", "the sidecar has no policy yet; try again shortly"),
  NO_ENDPOINTS: info(503, 14, "Service Unavailable", "the service has no running workload"),
  UPSTREAM_FAILED: info(502, 14, "Bad Gateway", "the target did not answer as HTTP requires"),
  UPSTREAM_TIMEOUT: info(504, 4, "Gateway Timeout", "the target did not answer in time"),
  UNKNOWN_DESTINATION: info(
    502,
    5,
    "Bad Gateway",
    "no service of the mesh has this name; check host and port",
  ),
  OUTBOUND_DENIED: info(
    403,
    7,
    "Forbidden",
    "the destination is not part of the mesh, and `outbound` of the MeshConfig denies all others",
  ),
  IDENTITY_EXPIRED: info(
    503,
    14,
    "Service Unavailable",
    "the sidecar's certificate expired and could not be renewed",
  ),
  OVERLOADED: info(503, 8, "Service Unavailable", "the sidecar is at its limit; try again shortly"),
  AUDIT_UNAVAILABLE: info(
    503,
    14,
    "Service Unavailable",
    "the call must be recorded and cannot be right now",
  ),
  LOGIN_REQUIRED: info(401, 16, "Unauthorized", "sign in"),
  STEP_UP_REQUIRED: info(401, 16, "Unauthorized", "sign in again with a second factor"),
  UNSUPPORTED: info(501, 12, "Not Implemented", "this build does not carry that protocol yet"),
} as const satisfies Record<string, ReasonInfo>;

export type Reason = keyof typeof REASONS;
