// PURE. A complete request head, from text to meaning (RFC 9112 section 3).
import { isToken } from "../field-syntax.ts";
import { controlProblem, type FieldReader } from "./fields.ts";
import type { Http1Limits, RequestHead } from "./message.ts";
import type { Http1ProblemCode } from "./problem.ts";
import { authorityProblem, hasPort, parseTarget, sameAuthority, type Target } from "./target.ts";

/** Longest method; registered ones have at most 17 characters. */
export const MAX_METHOD_BYTES = 32;
/** ` HTTP/1.1` behind the target. */
export const VERSION_BYTES = 9;

const METHODS = new Map(
  ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"].map((m) => [m, m]),
);

interface RequestLine {
  readonly method: string;
  readonly target: Target;
  readonly minor: 0 | 1;
}

/**
 * Parses a request head.
 *
 * @param text request line and field lines, each with its CRLF, without the empty line.
 * @param repeated the field lines are those that `reader` read last, and not in `text`.
 * @param bytes where the text came from, its first byte at `offset`: the target is cut from here, because a slice of
 *   `text` would keep the whole head alive in every cache that is keyed by targets.
 */
export function parseRequestHead(
  text: string,
  bytes: Buffer,
  offset: number,
  reader: FieldReader,
  limits: Http1Limits,
  repeated = false,
): RequestHead | Http1ProblemCode {
  const lineEnd = text.indexOf("\r\n");
  const line = parseRequestLine(text, lineEnd, bytes, offset, limits);
  if (typeof line === "string") return line;
  const { method, minor } = line;
  const problem =
    (repeated ? undefined : reader.read(text, lineEnd + 2, limits.fields)) ??
    framingProblem(method, minor, reader);
  if (problem !== undefined) return problem;
  const authority = authorityOf(line, reader);
  if (typeof authority !== "string") return authority.problem;
  return {
    method,
    target: line.target.target,
    authority,
    absolute: line.target.absolute,
    minor,
    fields: reader.fields,
    contentLength: reader.contentLength,
    chunked: reader.chunked,
    keepAlive: !reader.close && (minor === 1 || reader.keepAlive),
    expectContinue: reader.expectContinue && minor === 1,
    upgrade: minor === 1 ? reader.upgrade : undefined,
    connectionNames: reader.connectionNames,
  };
}

function parseRequestLine(
  text: string,
  lineEnd: number,
  bytes: Buffer,
  offset: number,
  limits: Http1Limits,
): RequestLine | Http1ProblemCode {
  const first = text.indexOf(" ");
  const second = text.indexOf(" ", first + 1);
  if (first < 0 || second < 0 || second > lineEnd) return startLineProblem(text, lineEnd, "bad_request_line");
  const name = text.slice(0, first);
  const known = METHODS.get(name);
  if (known === undefined && (name.length > MAX_METHOD_BYTES || !isToken(name)))
    return startLineProblem(text, lineEnd, "bad_method");
  const method = known ?? name;
  if (second - first - 1 > limits.targetBytes) return "target_too_long";
  const minor = minorVersion(text, second + 1, lineEnd);
  if (typeof minor === "string") return startLineProblem(text, lineEnd, minor);
  const target = parseTarget(method, bytes.toString("latin1", offset + first + 1, offset + second));
  if (typeof target === "string") return startLineProblem(text, lineEnd, target);
  return { method, target, minor };
}

function minorVersion(text: string, start: number, end: number): 0 | 1 | Http1ProblemCode {
  if (end - start === 8) {
    if (text.startsWith("HTTP/1.1", start)) return 1;
    if (text.startsWith("HTTP/1.0", start)) return 0;
  }
  const version = text.slice(start, end);
  if (version.includes(" ")) return "bad_request_line";
  return /^HTTP\/[0-9]\.[0-9]$/.test(version) ? "unsupported_version" : "bad_version";
}

/** A stray CR or LF says more than what it broke. */
function startLineProblem(text: string, lineEnd: number, otherwise: Http1ProblemCode): Http1ProblemCode {
  return controlProblem(text.slice(0, lineEnd)) ?? otherwise;
}

function framingProblem(method: string, minor: 0 | 1, reader: FieldReader): Http1ProblemCode | undefined {
  if (reader.chunked && minor === 0) return "transfer_encoding_in_http10";
  // Content of CONNECT has no meaning (RFC 9110 section 9.3.6): what follows could be read as tunnel or as body.
  if (method === "CONNECT" && (reader.chunked || reader.contentLength > 0)) return "unexpected_framing";
  return undefined;
}

/** The one authority of a request: Host, which must say the same as an absolute-form or CONNECT target (RFC 9112 section 3.2). */
function authorityOf(line: RequestLine, reader: FieldReader): string | { problem: Http1ProblemCode } {
  const named = line.target.authority;
  const host = reader.host;
  if (host === undefined) return line.minor === 1 ? { problem: "missing_host" } : (named ?? "");
  if (host !== reader.checkedHost) {
    const problem = authorityProblem(host);
    if (problem !== undefined) return { problem };
    reader.checkedHost = host;
  }
  if (named === undefined) return host;
  if (line.method !== "CONNECT") return sameAuthority(named, host) ? named : { problem: "host_mismatch" };
  const full = hasPort(host) ? host : host + named.slice(named.lastIndexOf(":"));
  return full.toLowerCase() === named.toLowerCase() ? named : { problem: "host_mismatch" };
}
