// PURE. The answer to a gRPC call that is not carried out: status, message, and google.rpc.Status with the details that
// the problem document has for HTTP (gRPC status codes; google/rpc/status.proto, error_details.proto).
import { REASONS, type Reason } from "../policy/reason.ts";
import { encodeGrpcMessage } from "./grpc.ts";
import type { ProblemInput } from "./problem.ts";

const DOMAIN = "countersign.dev";
const DEADLINE_EXCEEDED = 4;
const MAX_TEXT_CHARS = 256;
const ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo";
const RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo";

/** Name and value of each field, in order. */
export type GrpcStatusFields = readonly (readonly [string, string])[];

/** gRPC status of a reason; one that allows has none, and answering with it is a bug: INTERNAL. */
export function grpcCodeOf(reason: Reason): number {
  const { grpc } = REASONS[reason];
  return grpc === 0 ? 13 : grpc;
}

/**
 * `grpc-status`, `grpc-message` and, but for DEADLINE_EXCEEDED, `grpc-status-details-bin`, to be sent as a trailers-only answer or as trailers.
 *
 * @param input of the same problem over HTTP; `detail` goes into the message.
 * @param retryAfterMs of a call that was refused by a limit.
 */
export function grpcStatusFields(input: ProblemInput, retryAfterMs?: number): GrpcStatusFields {
  const { reason, operation, target, decisionId, policy, rule, detail } = input;
  const code = grpcCodeOf(reason);
  const hint = input.hint ?? REASONS[reason].hint;
  const message = bounded(
    detail === undefined || detail === "" ? `${reason}: ${hint}` : `${reason}: ${detail}`,
  );
  const metadata: [string, string | undefined][] = [
    ["decisionId", decisionId],
    ["operation", operation],
    ["target", target],
    ["policy", policy],
    ["rule", rule],
  ];
  const info = Buffer.concat([
    textField(1, reason),
    textField(2, DOMAIN),
    ...metadata.flatMap(([key, value]) =>
      value === undefined || value === "" ? [] : [entry(key, bounded(value))],
    ),
  ]);
  const status = [varintField(1, code), textField(2, message), bytesField(3, any(ERROR_INFO, info))];
  if (retryAfterMs !== undefined)
    status.push(bytesField(3, any(RETRY_INFO, bytesField(1, duration(retryAfterMs)))));
  const fields: [string, string][] = [
    ["grpc-status", String(code)],
    ["grpc-message", encodeGrpcMessage(message)],
  ];
  // A client whose own deadline ends at the same moment makes this status itself, without details: both look alike.
  if (code === DEADLINE_EXCEEDED) return fields;
  fields.push(["grpc-status-details-bin", Buffer.concat(status).toString("base64").replace(/=+$/, "")]);
  return fields;
}

function bounded(text: string): string {
  return text.slice(0, MAX_TEXT_CHARS).toWellFormed();
}

/** google.protobuf.Duration. */
function duration(ms: number): Buffer {
  const seconds = Math.floor(ms / 1_000);
  return Buffer.concat([
    varintField(1, seconds),
    varintField(2, Math.floor(ms - seconds * 1_000) * 1_000_000),
  ]);
}

/** google.protobuf.Any. */
function any(typeUrl: string, value: Buffer): Buffer {
  return Buffer.concat([textField(1, typeUrl), bytesField(2, value)]);
}

/** One entry of `map<string, string> metadata = 3`. */
function entry(key: string, value: string): Buffer {
  return bytesField(3, Buffer.concat([textField(1, key), textField(2, value)]));
}

function textField(number: number, text: string): Buffer {
  return bytesField(number, Buffer.from(text, "utf8"));
}

function bytesField(number: number, bytes: Buffer): Buffer {
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

function varintField(number: number, value: number): Buffer {
  return value === 0 ? Buffer.alloc(0) : Buffer.concat([varint(number * 8), varint(value)]);
}

/** @param value an integer from 0 to 2^53 - 1. */
function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}
