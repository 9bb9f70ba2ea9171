// PURE. A complete response head, from text to meaning (RFC 9112 sections 4 and 6.3).
import { isFieldValue } from "../field-syntax.ts";
import { controlProblem, type FieldReader } from "./fields.ts";
import type { Http1Limits, ResponseHead } from "./message.ts";
import type { Http1ProblemCode } from "./problem.ts";

/**
 * Parses a response head.
 *
 * @param text status line and field lines, each with its CRLF, without the empty line.
 * @param method of the request that is answered.
 * @param repeated the field lines are those that `reader` read last, and not in `text`.
 */
export function parseResponseHead(
  text: string,
  method: string,
  reader: FieldReader,
  limits: Http1Limits,
  repeated = false,
): ResponseHead | Http1ProblemCode {
  const lineEnd = text.indexOf("\r\n");
  const control = controlProblem(text.slice(0, lineEnd));
  if (control !== undefined) return control;
  const minor = minorVersion(text);
  if (typeof minor === "string") return minor;
  const status = statusCode(text, lineEnd);
  if (status < 0) return "bad_status_line";
  const reason = text.slice(13, Math.max(13, lineEnd));
  if (!isFieldValue(reason)) return "bad_status_line";
  const problem =
    (repeated ? undefined : reader.read(text, lineEnd + 2, limits.fields)) ??
    framingProblem(status, minor, reader);
  if (problem !== undefined) return problem;
  const untilClose = endsWithConnection(status, method, reader);
  return {
    status,
    reason,
    minor,
    fields: reader.fields,
    contentLength: reader.contentLength,
    chunked: reader.chunked,
    untilClose,
    keepAlive: !untilClose && !reader.close && (minor === 1 || reader.keepAlive),
    upgrade: reader.upgrade,
    connectionNames: reader.connectionNames,
  };
}

/** Whether a response to this method has no body, whatever its fields say (RFC 9112 section 6.3, rule 1). */
export function isBodiless(status: number, method: string): boolean {
  return method === "HEAD" || status === 204 || status === 304 || (status < 200 && status !== 101);
}

function minorVersion(text: string): 0 | 1 | Http1ProblemCode {
  if (text.startsWith("HTTP/1.1 ")) return 1;
  if (text.startsWith("HTTP/1.0 ")) return 0;
  return /^HTTP\/[0-9]\.[0-9] /.test(text) ? "unsupported_version" : "bad_status_line";
}

/** The three digits, or -1. The space before an empty reason may be missing, as many servers leave it out. */
function statusCode(text: string, lineEnd: number): number {
  if (lineEnd < 12 || (lineEnd > 12 && text.charCodeAt(12) !== 32)) return -1;
  let status = 0;
  for (let i = 9; i < 12; i++) {
    const digit = text.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return -1;
    status = status * 10 + digit;
  }
  return status >= 100 && status <= 599 ? status : -1;
}

function framingProblem(status: number, minor: 0 | 1, reader: FieldReader): Http1ProblemCode | undefined {
  if (reader.chunked && minor === 0) return "transfer_encoding_in_http10";
  // A body where none may be (RFC 9110 section 8.6, RFC 9112 section 6.1): readers differ on whether it is there.
  if ((status < 200 || status === 204) && (reader.chunked || reader.contentLength > 0))
    return "unexpected_framing";
  return undefined;
}

function endsWithConnection(status: number, method: string, reader: FieldReader): boolean {
  if (status === 101 || (method === "CONNECT" && status >= 200 && status < 300)) return true;
  return !isBodiless(status, method) && !reader.chunked && reader.contentLength < 0;
}
