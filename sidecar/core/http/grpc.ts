// PURE. What gRPC says in HTTP/2 fields (gRPC over HTTP2, PROTOCOL-HTTP2.md): which calls are gRPC, their deadline, and
// the text of a status message.

/** Longest deadline that is told apart from none, milliseconds: a day. Timers and sums stay far from their limits. */
export const MAX_GRPC_TIMEOUT_MS = 86_400_000;

const TIMEOUT = /^([0-9]{1,8})([HMSmun])$/;
const UNIT_MS: ReadonlyMap<string, number> = new Map([
  ["H", 3_600_000],
  ["M", 60_000],
  ["S", 1_000],
  ["m", 1],
  ["u", 1e-3],
  ["n", 1e-6],
]);

/** True for `application/grpc` with any message format, not for gRPC-Web, which is ordinary HTTP to us. */
export function isGrpc(contentType: string | undefined): boolean {
  if (contentType === undefined || contentType.length < 16) return false;
  // Cheap no for `application/json` before anything is allocated.
  if ((contentType.charCodeAt(12) | 0x20) !== 0x67) return false;
  if (contentType.slice(0, 16).toLowerCase() !== "application/grpc") return false;
  const next = contentType.charCodeAt(16);
  // The end, `+format` or a parameter.
  return Number.isNaN(next) || next === 0x2b || next === 0x3b || next === 0x20 || next === 0x09;
}

/**
 * Reads `grpc-timeout`.
 *
 * @returns milliseconds, 0 to a day, fractions included; undefined when it is malformed.
 */
export function parseGrpcTimeout(text: string): number | undefined {
  const found = TIMEOUT.exec(text);
  const unit = UNIT_MS.get(found?.[2] ?? "");
  return unit === undefined ? undefined : Math.min(Number(found?.[1]) * unit, MAX_GRPC_TIMEOUT_MS);
}

/** Writes `grpc-timeout`, rounded down to what eight digits hold. @param ms 0 to `MAX_GRPC_TIMEOUT_MS`. */
export function formatGrpcTimeout(ms: number): string {
  const us = Math.floor(Math.max(0, ms) * 1_000);
  return us <= 99_999_999 ? `${us}u` : `${Math.floor(us / 1_000)}m`;
}

/** `grpc-message`: percent-encoded UTF-8, where everything but printable ASCII is encoded, and `%` itself. */
export function encodeGrpcMessage(text: string): string {
  if (!/[^\x20-\x24\x26-\x7e]/.test(text)) return text;
  let encoded = "";
  for (const byte of Buffer.from(text.toWellFormed(), "utf8")) {
    if (byte >= 0x20 && byte <= 0x7e && byte !== 0x25) encoded += String.fromCharCode(byte);
    else encoded += `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return encoded;
}

/**
 * The status that trailers, or the head of an answer without messages, tell.
 *
 * @returns 0 to 16, or 2 (UNKNOWN) for what is none, as gRPC clients take it.
 */
export function grpcStatusOf(fields: readonly { readonly name: string; readonly value: string }[]): number {
  for (const { name, value } of fields)
    if (name === "grpc-status") return /^(?:[0-9]|1[0-6])$/.test(value) ? Number(value) : 2;
  return 2;
}
