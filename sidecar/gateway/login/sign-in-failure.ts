// Why somebody is not signed in: the closed list, and the error that carries it.
import { messageOf } from "../../core/runtime/errors.ts";

/** `result` of `countersign_logins_total` beside `ok`. */
export const SIGN_IN_FAILURES = [
  /** No sign-in under way belongs to this callback: too late, twice, or another browser's. */
  "no_attempt",
  /** The person or the provider said no. */
  "declined",
  /** What the provider answered does not hold. */
  "invalid",
  /** The sign-in is weaker or older than what was asked for. */
  "too_weak",
  /** The provider cannot be asked. */
  "provider_down",
  /** The token service takes nobody with this sign-in. */
  "refused",
  /** The token service or the store of sessions cannot be reached. */
  "mesh_down",
  /** Signed in again and again within a minute. */
  "in_circles",
] as const;
export type SignInFailure = (typeof SIGN_IN_FAILURES)[number];

export class SignInError extends Error {
  readonly code: SignInFailure;
  /** For the log: may quote what the provider said, never a token. */
  readonly detail: string;

  constructor(code: SignInFailure, detail: string, options?: { cause?: unknown }) {
    super(`${code}: ${detail}`, options);
    this.name = "SignInError";
    this.code = code;
    this.detail = detail;
  }
}

/** @param code of an error that is none of ours. */
export function asFailure(error: unknown, code: SignInFailure): SignInError {
  return error instanceof SignInError ? error : new SignInError(code, messageOf(error), { cause: error });
}
