// Facts of the discovery protocol that both ends must agree on and that a .proto file cannot say. PURE.
import { createHash } from "node:crypto";

/** Versions N and N-1 work with each other. */
export const PROTOCOL_VERSION = 1;
/** A chunk of a delta is at most this long (the receive limit of gRPC is 4 MiB). */
export const MAX_CHUNK_BYTES = 4_000_000;
/** A resource must fit into one chunk, with room for the delta's own fields. */
export const MAX_RESOURCE_BYTES = MAX_CHUNK_BYTES - 65_536;

/** Types of discovery resources (DESIGN: ours and small). */
export const RESOURCE_TYPES = [
  "workload-program",
  "service",
  "endpoints",
  "route",
  "trust-bundle",
  "revocations",
  "operation-pack",
  "settings",
  "gateway",
  "external",
] as const;
export type ResourceType = (typeof RESOURCE_TYPES)[number];

/** Features that a resource may need of its receiver, beside those of programs (`sidecar/core/policy/wire.ts`). */
export const RESOURCE_FEATURES = ["route", "external"] as const;

export interface ResourceDigest {
  readonly type: string;
  readonly name: string;
  /** Hex SHA-256 of the body. */
  readonly hash: string;
}

/** Key of a resource in a table. Types hold no slash, so no two resources share a key. */
export function resourceKey(type: string, name: string): string {
  return `${type}/${name}`;
}

/** Hex SHA-256 of a resource's body. */
export function hashBody(body: Buffer): string {
  return createHash("sha256").update(body).digest("hex");
}

/**
 * Digest of a whole table: hex SHA-256 over key, NUL, hash and newline of every resource in order of keys (by UTF-16
 * code unit).
 */
export function tableDigest(resources: Iterable<ResourceDigest>): string {
  const lines: string[] = [];
  for (const { type, name, hash } of resources) lines.push(`${resourceKey(type, name)}\0${hash}\n`);
  return createHash("sha256").update(lines.sort().join("")).digest("hex");
}

/** SPIFFE ID of the control plane's server certificates; never issued to a workload, even if one is declared so. */
export function controlPlaneSpiffeId(trustDomain: string): string {
  return `spiffe://${trustDomain}/ns/countersign-system/sa/control-plane/service/control-plane`;
}

/** Server name that clients send (SNI) to the control plane; certificates are checked by SPIFFE ID instead. */
export const CONTROL_PLANE_SERVER_NAME = "control-plane.countersign.internal";

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest > 127) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}

/** A length-delimited protobuf field (wire type 2). Joining such fields joins messages. */
export function lengthDelimited(field: number, content: Buffer): Buffer {
  return Buffer.concat([varint(field * 8 + 2), varint(content.length), content]);
}
