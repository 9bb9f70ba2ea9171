// PURE. When a request may be sent again. What certainly was not processed may be; what may have been only where the service's
// policy says so, the operation can bear it, and the budget allows it. Each attempt is decided anew by the callee.
import type { Classified } from "../core/policy/classified.ts";
import { coversOperation } from "../core/policy/scope.ts";
import type { RetryCause, RetrySettings } from "../core/traffic/traffic.ts";
import type { Field } from "../wire/field.ts";

/** Why an attempt failed. `refused`: the callee's sidecar took no more streams; `timeout`: its answer did not begin in time. */
export type FailureCause = RetryCause | "refused" | "timeout";

/** Body bytes that are kept to send them again. */
export const MAX_REPLAY_BYTES = 65_536;
/** Attempts at other endpoints after ones that certainly did not process the request. */
export const MAX_SAFE_RETRIES = 3;
export const RETRY_BACKOFF = { firstMs: 25, maxMs: 250 };

/** RFC 9110 section 9.2.2. */
const IDEMPOTENT: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
const GRPC_UNAVAILABLE = "14";

/**
 * The cause that an answer stands for.
 *
 * @param trailersOnly the answer has no body.
 * @returns undefined: it is an answer like others and goes on to the application.
 */
export function causeOfAnswer(
  status: number,
  fields: readonly Field[],
  trailersOnly: boolean,
): RetryCause | undefined {
  if (status === 503) return "503";
  if (status === 502 || status === 504) return "gateway-error";
  if (!trailersOnly || status !== 200) return undefined;
  return fieldOf(fields, "grpc-status") === GRPC_UNAVAILABLE ? "unavailable" : undefined;
}

/** gRPC statuses that speak against the server: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS. */
const GRPC_FAILURES: ReadonlySet<string> = new Set(["2", "4", "13", GRPC_UNAVAILABLE, "15"]);

/** What the head of an answer says of the endpoint; undefined: nothing yet, gRPC says it in the trailers. */
export function verdictOf(
  status: number,
  fields: readonly Field[],
  trailersOnly: boolean,
): "good" | "bad" | undefined {
  if (status >= 500) return "bad";
  if (fieldOf(fields, "content-type")?.startsWith("application/grpc") !== true) return "good";
  return trailersOnly ? grpcVerdict(fields) : undefined;
}

/** What trailers say of the endpoint; undefined: they are none of gRPC. */
export function grpcVerdict(trailers: readonly Field[]): "good" | "bad" | undefined {
  const status = fieldOf(trailers, "grpc-status");
  if (status === undefined) return undefined;
  return GRPC_FAILURES.has(status) ? "bad" : "good";
}

/** Whether `settings` name the cause; 503 is a gateway error too, and so is an answer that does not come in time. */
export function isNamed({ on }: RetrySettings, cause: FailureCause): boolean {
  switch (cause) {
    case "503":
      return on.includes("503") || on.includes("gateway-error");
    case "timeout":
      return on.includes("gateway-error") || on.includes("reset");
    // Certainly not processed: needs nobody's word.
    case "refused":
    case "connect-failure":
      return true;
    default:
      return on.includes(cause);
  }
}

/**
 * Whether an operation may be carried out twice (DOMAIN 3.8): one of class `read` or of the classes that are named, one that the callee
 * declares idempotent, else one whose method is idempotent, unless the catalog knows it to execute or administer.
 */
export function isRepeatable(
  { onlyAccess, idempotent }: RetrySettings,
  method: string,
  classified: Classified | undefined,
): boolean {
  // What an MCP message asks for is in its body.
  const operation = classified?.pending?.kind === "mcp" ? undefined : classified?.operation;
  if (operation?.kind === "known") {
    const { name, access } = operation;
    if (idempotent.some((pattern) => coversOperation(pattern, name))) return true;
    if (onlyAccess.length > 0) return onlyAccess.includes(access);
    return access === "read" || (access === "write" && IDEMPOTENT.has(method));
  }
  return onlyAccess.length === 0 && IDEMPOTENT.has(method);
}

/**
 * `Retry-After` (RFC 9110 section 10.2.3): seconds or a date.
 *
 * @param nowMs Unix milliseconds.
 * @returns milliseconds; 0: none, or none that can be read.
 */
export function retryAfterMs(fields: readonly Field[], nowMs: number): number {
  const value = fieldOf(fields, "retry-after");
  if (value === undefined) return 0;
  if (/^[0-9]{1,9}$/.test(value)) return Number(value) * 1_000;
  // Only the one form of dates that may be sent: `Date.parse` takes far too much.
  if (!/^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$/.test(value))
    return 0;
  const at = Date.parse(value);
  return Number.isNaN(at) ? 0 : Math.max(0, at - nowMs);
}

function fieldOf(fields: readonly Field[], name: string): string | undefined {
  for (let i = 0; i < fields.length; i++) {
    const field = fields[i];
    if (field !== undefined && field.name === name) return field.value;
  }
  return undefined;
}
