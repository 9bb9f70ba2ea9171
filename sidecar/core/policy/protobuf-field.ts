// Reads one string field of the first gRPC message of a body (DOMAIN M5): enough protobuf to find it, and nothing that a
// lenient parser might read differently.
import { isUtf8 } from "node:buffer";

const MAX_GROUP_DEPTH = 16;

/** A position that readers advance; `at` is -1 after a problem. */
interface Cursor {
  at: number;
  readonly end: number;
}

/** Reads a varint of at most `maxBytes`; -1 when it is cut short or longer. Parsers differ on overlong ones. */
function readVarint(bytes: Buffer, cursor: Cursor, maxBytes: number): number {
  let value = 0;
  for (let i = 0; i < maxBytes; i++) {
    if (cursor.at >= cursor.end) return -1;
    const byte = bytes[cursor.at++] ?? 0;
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) return value;
  }
  return -1;
}

/** Skips a field of a wire type other than 2; false when it does not fit or closes no open group. */
function skipScalar(bytes: Buffer, cursor: Cursor, wireType: number): boolean {
  if (wireType === 0) return readVarint(bytes, cursor, 10) >= 0;
  cursor.at += wireType === 1 ? 8 : 4;
  return cursor.at <= cursor.end;
}

/**
 * The last occurrence of a length-delimited top-level field (the protobuf rule for repeated singular fields).
 *
 * @returns its bytes, undefined when it is absent, or `malformed`: cut short, overlong tags or lengths, field number 0,
 *   unbalanced or deep groups, reserved wire types.
 */
export function scanField(message: Buffer, field: number): Buffer | undefined | "malformed" {
  const cursor: Cursor = { at: 0, end: message.length };
  const groups: number[] = [];
  let found: Buffer | undefined;
  while (cursor.at < cursor.end) {
    const tag = readVarint(message, cursor, 5);
    const wireType = tag & 7;
    const number = Math.floor(tag / 8);
    if (tag < 0 || tag > 0xffff_ffff || number === 0) return "malformed";
    if (wireType === 2) {
      const length = readVarint(message, cursor, 5);
      if (length < 0 || length > cursor.end - cursor.at) return "malformed";
      if (groups.length === 0 && number === field) found = message.subarray(cursor.at, cursor.at + length);
      cursor.at += length;
    } else if (wireType === 3) {
      if (groups.push(number) > MAX_GROUP_DEPTH) return "malformed";
    } else if (wireType === 4) {
      if (groups.pop() !== number) return "malformed";
    } else if (wireType > 5 || !skipScalar(message, cursor, wireType)) return "malformed";
  }
  return groups.length === 0 ? found : "malformed";
}

/** A string field of one message; undefined when it cannot be told: malformed, absent, not UTF-8. */
export function stringField(message: Buffer, field: number): string | undefined {
  const found = scanField(message, field);
  if (found === undefined || found === "malformed" || !isUtf8(found)) return undefined;
  return found.toString("utf8");
}

/**
 * The string field of the only message in a gRPC body.
 *
 * @param body 5-byte prefix (compressed flag, big-endian length) and message; at most 64 KiB, not cut short.
 * @returns undefined when it cannot be told: compressed, more or less than one whole message, absent, not UTF-8.
 */
export function grpcStringField(body: Buffer, field: number): string | undefined {
  if (body.length < 5 || body[0] !== 0 || body.readUInt32BE(1) !== body.length - 5) return undefined;
  return stringField(body.subarray(5), field);
}

/** True for `application/grpc` and `application/grpc+proto`: messages are protobuf in plain gRPC framing. */
export function isGrpcProtobuf(contentType: string | undefined): boolean {
  const type = contentType?.toLowerCase().split(";")[0]?.trim();
  return type === "application/grpc" || type === "application/grpc+proto";
}
