// The only file that reads .proto files: typed message codecs and the two gRPC services. The files lie beside this one,
// in the source tree and in dist/ alike. 64-bit numbers become numbers: revisions, nonces and times stay below 2^53.
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  loadSync,
  type MessageTypeDefinition,
  type PackageDefinition,
  type ServiceDefinition,
} from "@grpc/proto-loader";

/** Options of `loadSync`; `generate.ts` passes the same to proto-loader-gen-types, so that the types are true. */
export const LOADER_OPTIONS = {
  longs: Number,
  enums: String,
  bytes: Buffer,
  defaults: true,
  arrays: true,
  oneofs: true,
} as const;

/** Folder that import paths in .proto files start from. */
export const PROTO_ROOT = dirname(fileURLToPath(import.meta.url));

/** Paths of all .proto files, relative to `PROTO_ROOT`. */
export function protoFiles(): string[] {
  return readdirSync(join(PROTO_ROOT, "mesh", "v1"))
    .filter((name) => name.endsWith(".proto"))
    .sort()
    .map((name) => `mesh/v1/${name}`);
}

// Parsed once per process at first use: an importer that never encodes does not pay for it, and the value never changes.
let parsed: PackageDefinition | undefined;

function definitions(): PackageDefinition {
  parsed ??= loadSync(protoFiles(), { ...LOADER_OPTIONS, includeDirs: [PROTO_ROOT] });
  return parsed;
}

/** Turns values of one message type into bytes and back. */
export interface MessageCodec<Input extends object, Output = Input> {
  /** Encodes; a property that the message does not have is ignored, as protobuf does. */
  encode(value: Input): Buffer;
  /** Decodes untrusted bytes. @throws Error when they are not protobuf; unknown fields are skipped. */
  decode(bytes: Buffer): Output;
}

/**
 * Codec of a message such as `countersign.mesh.v1.Delta`. Nothing is loaded before its first use.
 *
 * `Input` and `Output` are the types in `proto/gen` (`X` and `X__Output`).
 */
export function messageCodec<Input extends object, Output = Input>(
  fullName: string,
): MessageCodec<Input, Output> {
  let type: MessageTypeDefinition<Input, Output> | undefined;
  const get = (): MessageTypeDefinition<Input, Output> => {
    if (type) return type;
    const found = definitions()[fullName];
    if (!found || !("fileDescriptorProtos" in found))
      throw new Error(`no message \`${fullName}\` in the .proto files`);
    // The name picks the type, and proto/gen holds the types that belong to the names.
    type = found as unknown as MessageTypeDefinition<Input, Output>;
    return type;
  };
  return { encode: (value) => get().serialize(value), decode: (bytes) => get().deserialize(bytes) };
}

/** Definition of a gRPC service, such as `countersign.mesh.v1.Discovery`. */
export function serviceDefinition(fullName: string): ServiceDefinition {
  const found = definitions()[fullName];
  if (!found || "fileDescriptorProtos" in found)
    throw new Error(`no service \`${fullName}\` in the .proto files`);
  // Everything in a package definition that has no descriptor is a service.
  return found as ServiceDefinition;
}
