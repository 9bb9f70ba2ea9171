// PURE. The fields of draft-ietf-httpapi-ratelimit-headers-11: what a limit is, and what is left of it.
import type { AppliedLimit, HeldLimit } from "../balance/limits.ts";

/** Name of a limit in these fields, and its key type in metrics. */
export function limitName({ keyType, kind }: AppliedLimit): string {
  return kind === "tokens" ? `${keyType}-tokens` : keyType;
}

/** `RateLimit-Policy` of one limit. */
export function limitPolicy(limit: AppliedLimit): string {
  const unit = limit.kind === "tokens" ? ';qu="tokens"' : "";
  return `"${limitName(limit)}";q=${limit.quota};w=${Math.ceil(limit.perMs / 1_000)}${unit}`;
}

/** `RateLimit` of one limit: `seconds` until `left` grows back. */
export function limitState(limit: AppliedLimit, left: number, seconds: number): string {
  return `"${limitName(limit)}";r=${left};t=${seconds}`;
}

/** Both fields for the answer to a call that was admitted. */
export function heldLimitFields(
  held: readonly HeldLimit[],
  nowMs: number,
): { readonly policy: string; readonly state: string } {
  return {
    policy: held.map(limitPolicy).join(", "),
    state: held
      .map((limit) => limitState(limit, limit.remaining(nowMs), Math.ceil(limit.resetMs(nowMs) / 1_000)))
      .join(", "),
  };
}
