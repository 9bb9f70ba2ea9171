// Bodies of HTTP messages that are read whole, never more of them than their reader expects.
import type { ClientRequest } from "node:http";
import { MeshError } from "./errors.ts";

export interface WholeAnswer {
  readonly status: number;
  readonly body: Buffer;
}

/**
 * Reads a message to its end.
 *
 * @param message without an encoding: its chunks are bytes.
 * @returns undefined: it is larger than `maxBytes`; the rest is not read, and the message destroyed.
 * @throws whatever cut it off.
 */
export async function readBounded(
  message: AsyncIterable<Buffer>,
  maxBytes: number,
): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of message) {
    bytes += chunk.length;
    if (bytes > maxBytes) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/**
 * Sends a request and reads its answer. How long that may take is the request's own matter.
 *
 * @param body of the request; undefined: none.
 * @throws whatever ended it; MeshError `protocol_error` for an answer of more than `maxBytes`.
 */
export function askWhole(
  request: ClientRequest,
  body: string | undefined,
  maxBytes: number,
): Promise<WholeAnswer> {
  return new Promise((resolve, reject) => {
    request.on("error", reject);
    request.once("response", (response) => {
      readBounded(response, maxBytes).then((read) => {
        if (read === undefined) reject(new MeshError("protocol_error", "the answer is too large"));
        else resolve({ status: response.statusCode ?? 0, body: read });
      }, reject);
    });
    request.end(body);
  });
}
