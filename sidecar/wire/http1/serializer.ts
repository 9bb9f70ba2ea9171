// PURE. Writes HTTP/1.1: start lines, framing fields and chunks as Latin-1 strings. Fields are written by their `line`.
import { MeshError } from "../../core/runtime/errors.ts";
import type { Field } from "../field.ts";
import { isToken } from "../field-syntax.ts";
import { mayTrail } from "./fields.ts";
import { isTarget } from "./target.ts";

const REASONS = new Map<number, string>([
  [100, "Continue"],
  [101, "Switching Protocols"],
  [102, "Processing"],
  [103, "Early Hints"],
  [200, "OK"],
  [201, "Created"],
  [202, "Accepted"],
  [203, "Non-Authoritative Information"],
  [204, "No Content"],
  [205, "Reset Content"],
  [206, "Partial Content"],
  [207, "Multi-Status"],
  [300, "Multiple Choices"],
  [301, "Moved Permanently"],
  [302, "Found"],
  [303, "See Other"],
  [304, "Not Modified"],
  [307, "Temporary Redirect"],
  [308, "Permanent Redirect"],
  [400, "Bad Request"],
  [401, "Unauthorized"],
  [402, "Payment Required"],
  [403, "Forbidden"],
  [404, "Not Found"],
  [405, "Method Not Allowed"],
  [406, "Not Acceptable"],
  [407, "Proxy Authentication Required"],
  [408, "Request Timeout"],
  [409, "Conflict"],
  [410, "Gone"],
  [411, "Length Required"],
  [412, "Precondition Failed"],
  [413, "Content Too Large"],
  [414, "URI Too Long"],
  [415, "Unsupported Media Type"],
  [416, "Range Not Satisfiable"],
  [417, "Expectation Failed"],
  [421, "Misdirected Request"],
  [422, "Unprocessable Content"],
  [425, "Too Early"],
  [426, "Upgrade Required"],
  [428, "Precondition Required"],
  [429, "Too Many Requests"],
  [431, "Request Header Fields Too Large"],
  [451, "Unavailable For Legal Reasons"],
  [500, "Internal Server Error"],
  [501, "Not Implemented"],
  [502, "Bad Gateway"],
  [503, "Service Unavailable"],
  [504, "Gateway Timeout"],
  [505, "HTTP Version Not Supported"],
  [511, "Network Authentication Required"],
]);

const STATUS_LINES: readonly string[] = Array.from({ length: 600 }, (_, status) => {
  return `HTTP/1.1 ${status} ${REASONS.get(status) ?? ""}\r\n`;
});

export const CHUNKED_LINE = "transfer-encoding: chunked\r\n";
export const CLOSE_LINE = "connection: close\r\n";
/** Ends the data of a chunk. */
export const CHUNK_END = "\r\n";
/** The last chunk with an empty trailer section. */
export const LAST_CHUNK = "0\r\n\r\n";

/** @param status 100 to 599; others are written as 502, since they came from a broken server. */
export function statusLine(status: number): string {
  const known = status >= 100 ? STATUS_LINES[status] : undefined;
  return known ?? "HTTP/1.1 502 Bad Gateway\r\n";
}

/**
 * The first line of a request.
 *
 * @param target as the parser gave it, or `:path` of HTTP/2.
 * @throws MeshError protocol_error when the method or target could end the line early. The caller has checked both
 *   long before; this is the last line of defence against request splitting.
 */
export function requestLine(method: string, target: string): string {
  if (!isToken(method) || !isTarget(target)) {
    throw new MeshError(
      "protocol_error",
      "the request line to write is malformed, so the request must be refused",
    );
  }
  return `${method} ${target} HTTP/1.1\r\n`;
}

/** @param bytes 0 to 2^53 - 1. */
export function contentLengthLine(bytes: number): string {
  return `content-length: ${bytes}\r\n`;
}

/** The line before the data of a chunk. @param bytes at least 1: a chunk of 0 would end the body. */
export function chunkHeader(bytes: number): string {
  return `${bytes.toString(16)}\r\n`;
}

/** The last chunk with its trailers; those that must not be trailers are left out. */
export function lastChunk(trailers: readonly Field[]): string {
  if (trailers.length === 0) return LAST_CHUNK;
  let text = "0\r\n";
  for (const field of trailers) {
    if (mayTrail(field)) text += field.line;
  }
  return `${text}\r\n`;
}
