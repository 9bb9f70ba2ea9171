// Bytes of a delta: chunks joined from resources that were encoded once. PURE.
import type { Delta } from "../../proto/gen/countersign/mesh/v1/Delta.ts";
import { messageCodec } from "../../proto/load.ts";
import { lengthDelimited, MAX_CHUNK_BYTES } from "../../proto/protocol.ts";
import type { TableDelta } from "./delta.ts";

export interface DeltaHead {
  readonly nonce: number;
  readonly revision: number;
  /** Hex. */
  readonly base: string;
  readonly digest: string;
}

const deltaCodec = messageCodec<Delta>("countersign.mesh.v1.Delta");
/** Field number of `ControlPlaneMessage.delta`. */
const DELTA_FIELD = 2;
/** Names of removed resources per chunk; a name has at most a few hundred bytes. */
const REMOVALS_PER_CHUNK = 5_000;

/**
 * Encoded `ControlPlaneMessage`s, each at most `maxBytes` long.
 *
 * @param maxBytes at least the size of the largest resource and some room for the head.
 */
export function encodeDelta(head: DeltaHead, changes: TableDelta, maxBytes = MAX_CHUNK_BYTES): Buffer[] {
  const chunks: { upsert: Buffer[]; remove: TableDelta["remove"] }[] = [];
  for (let at = 0; at < changes.remove.length; at += REMOVALS_PER_CHUNK) {
    chunks.push({ upsert: [], remove: changes.remove.slice(at, at + REMOVALS_PER_CHUNK) });
  }
  let bytes = Number.POSITIVE_INFINITY;
  // Room for nonce, revision, two digests, the flag, tags and lengths.
  const room = maxBytes - 256;
  for (const resource of changes.upsert) {
    if (bytes + resource.encoded.length > room) {
      chunks.push({ upsert: [], remove: [] });
      bytes = 0;
    }
    chunks.at(-1)?.upsert.push(resource.encoded);
    bytes += resource.encoded.length;
  }
  if (chunks.length === 0) chunks.push({ upsert: [], remove: [] });
  return chunks.map((chunk, at) => {
    const last = at === chunks.length - 1;
    const message = deltaCodec.encode({
      nonce: head.nonce,
      revision: head.revision,
      baseDigest: Buffer.from(head.base, "hex"),
      ...(last ? { digest: Buffer.from(head.digest, "hex"), last } : {}),
      remove: [...chunk.remove],
    });
    return lengthDelimited(DELTA_FIELD, Buffer.concat([message, ...chunk.upsert]));
  });
}
