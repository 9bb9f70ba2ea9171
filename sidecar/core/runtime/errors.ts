// The one error class of every process, with its closed list of codes. Expected outcomes (a deny, a bad policy) are
// values, not errors; what is thrown is failed I/O, or input that a caller at a boundary translates.

/** Every code that a `MeshError` may carry, with what it means. A test compares this list with the docs. */
export const ERROR_CODES = {
  bad_config: "a setting, flag or configuration file cannot be used",
  bad_object: "a policy or another object fails validation",
  bad_resource: "a discovery resource cannot be decoded or needs a feature this build lacks",
  bad_token: "a token, certificate or key cannot be parsed",
  conflict: "somebody else changed it first",
  csr_rejected: "a certificate request is malformed or not permitted",
  join_rejected: "a join token is unknown, expired or used",
  identity_expired: "the own certificate has expired",
  io_failed: "a file, socket or process failed",
  not_found: "the named thing does not exist",
  not_ready: "no configuration or identity yet",
  protocol_error: "a peer broke the HTTP/1.1, HTTP/2 or discovery protocol",
  timeout: "a time limit passed",
  unsupported: "this build does not do that yet",
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** An error with a code from the closed list; callers compare codes, never message text. */
export class MeshError extends Error {
  readonly code: ErrorCode;

  /**
   * @param message one line, lower case, no full stop, user input in backticks, and what to do when known; never a
   *   token, key, cookie or full header value.
   */
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "MeshError";
    this.code = code;
  }
}

/** The outcome of a parse or check whose failure is expected. */
export type Result<T, E> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: E };

/** Ends a `switch` over a union: does not compile when a variant is missing. */
export function assertNever(value: never): never {
  throw new Error(`unreachable variant ${JSON.stringify(value)}`);
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * The `code` of a failed system call, such as `ENOENT`; undefined for anything else. Looks at the shape only: errors of
 * Node's own modules are not `instanceof Error` of another realm (a test runner's, a worker's).
 */
export function systemCodeOf(error: unknown): string | undefined {
  const code = typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
  return typeof code === "string" ? code : undefined;
}
