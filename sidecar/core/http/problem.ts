// What a caller gets when a call is not carried out: problem+json (RFC 9457), a JSON-RPC error for MCP clients, and the
// Proxy-Status that says which hop failed (RFC 9209). Values come from requests, so each is bounded and encoded.
import { REASONS, type Reason } from "../policy/reason.ts";

export interface ProblemInput {
  readonly reason: Reason;
  /** Operation name; undefined or empty when it is not known. */
  readonly operation?: string | undefined;
  /** `kind/name` of the target. */
  readonly target?: string | undefined;
  /** `kind/name` of the caller. */
  readonly caller?: string | undefined;
  readonly decisionId: string;
  readonly txn?: string | undefined;
  /** In place of the reason's own hint. */
  readonly hint?: string | undefined;
  /** In place of the reason's own status. */
  readonly status?: number | undefined;
  /** Set both only when `explainDenials` is on: names of policies are not for callers otherwise. */
  readonly policy?: string | undefined;
  readonly rule?: string | undefined;
  /** What exactly is wrong with a malformed request. */
  readonly detail?: string | undefined;
}

export interface ProblemAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

const MAX_VALUE_CHARS = 512;

/** Bounds a text and drops what JSON and logs cannot carry well; JSON escaping does the rest. */
function bounded(value: string | undefined): string | undefined {
  if (value === undefined || value === "") return undefined;
  return value.length <= MAX_VALUE_CHARS
    ? value.toWellFormed()
    : `${value.slice(0, MAX_VALUE_CHARS).toWellFormed()}…`;
}

const TYPE_BASE = "https://countersign.dev/errors/";

/** The `type` of a reason: every denial shares one page of the documentation, other reasons have one each. */
function typeOf(reason: Reason): string {
  const status = REASONS[reason].http;
  return TYPE_BASE + (status === 403 ? "denied" : reason.toLowerCase().replaceAll("_", "-"));
}

function fieldsOf(input: ProblemInput): Record<string, unknown> {
  const info = REASONS[input.reason];
  return {
    reason: input.reason,
    operation: bounded(input.operation),
    target: bounded(input.target),
    caller: bounded(input.caller),
    decisionId: input.decisionId,
    txn: bounded(input.txn),
    policy: bounded(input.policy),
    rule: bounded(input.rule),
    detail: bounded(input.detail),
    hint: bounded(input.hint ?? info.hint),
  };
}

/** Status of a reason; an allowed reason has none of ours and must not be answered with a problem: 500 says it is a bug. */
function statusOf(input: ProblemInput): number {
  const status = input.status ?? REASONS[input.reason].http;
  return status >= 400 && status <= 599 ? status : 500;
}

/**
 * One sentence for people. Client libraries of model servers show this member of an error and nothing else, so without
 * it a refusal would read `Error code: 403`.
 */
function messageOf(input: ProblemInput): string {
  const why = bounded(input.detail) ?? bounded(input.hint ?? REASONS[input.reason].hint);
  return `${input.reason}${why === undefined ? "" : `: ${why}`} (decision ${input.decisionId})`;
}

/** The problem document of DOMAIN 2.10, one line of ASCII-safe JSON. */
export function problemJson(input: ProblemInput): ProblemAnswer {
  const status = statusOf(input);
  const { title } = REASONS[input.reason];
  const body = asciiJson({
    type: typeOf(input.reason),
    title,
    status,
    ...fieldsOf(input),
    message: messageOf(input),
  });
  return { status, contentType: "application/problem+json", body };
}

/**
 * The answer for MCP targets: the HTTP status of the problem with a JSON-RPC error object.
 *
 * @param code JSON-RPC code; `jsonRpcCodeOf` has the one of a malformed message. Otherwise -32001 (denied or failed).
 * @param id id of the request when it was read; null otherwise, as JSON-RPC 2.0 section 5 asks.
 */
export function jsonRpcProblem(
  input: ProblemInput,
  code = -32001,
  id: string | number | null = null,
): ProblemAnswer {
  const message = code === -32020 ? "HeaderMismatch" : REASONS[input.reason].title;
  const body = asciiJson({ jsonrpc: "2.0", id, error: { code, message, data: fieldsOf(input) } });
  return { status: statusOf(input), contentType: "application/json", body };
}

/** JSON with everything beyond ASCII escaped, so the body is the same in every character set. */
function asciiJson(value: Record<string, unknown>): string {
  return JSON.stringify(value).replace(
    /[\u007f-\uffff<>&]/g,
    (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Error types of RFC 9209 section 2.3 for our reasons; the rest are policy decisions of ours. */
const PROXY_ERRORS: Partial<Record<Reason, string>> = {
  NO_ENDPOINTS: "destination_unavailable",
  UPSTREAM_FAILED: "http_protocol_error",
  UPSTREAM_TIMEOUT: "http_response_timeout",
  UNKNOWN_DESTINATION: "destination_not_found",
  OUTBOUND_DENIED: "destination_ip_prohibited",
  REQ_MALFORMED: "http_request_error",
  IDENTITY_EXPIRED: "tls_certificate_error",
  AUTHN_MTLS_REQUIRED: "tls_protocol_error",
  CONCURRENCY_LIMITED: "connection_limit_reached",
  NOT_READY: "proxy_configuration_error",
  OVERLOADED: "proxy_internal_response",
  AUDIT_UNAVAILABLE: "proxy_internal_error",
  UNSUPPORTED: "proxy_configuration_error",
};

/** An RFC 8941 string: printable ASCII, quotes and backslashes escaped, anything else dropped to `?`. */
function structuredString(text: string): string {
  const printable = text.slice(0, 256).replace(/[^\x20-\x7e]/g, "?");
  return `"${printable.replace(/["\\]/g, "\\$&")}"`;
}

/**
 * The Proxy-Status value of an error we answer (RFC 9209): our name, the error type, and the reason with decision id as
 * details. Append it to what an upstream hop sent, separated by a comma.
 *
 * @param extra a further fact such as the malformed part; never a token or full header value.
 * @param workload `kind/name` of the workload whose sidecar answers, so that a chain of hops tells who failed.
 */
export function proxyStatus(reason: Reason, decisionId: string, extra?: string, workload?: string): string {
  const error = PROXY_ERRORS[reason] ?? "http_request_denied";
  const details = extra === undefined ? `${reason} ${decisionId}` : `${reason} ${decisionId} ${extra}`;
  // "/" is legal in a token (RFC 8941 section 3.3.4); anything odder is left out.
  const name =
    workload === undefined || !/^[\w./-]{1,256}$/.test(workload)
      ? "countersign-sidecar"
      : `countersign-sidecar/${workload}`;
  return `${name}; error=${error}; details=${structuredString(details)}`;
}
