// The only file that knows the messages: typed codecs and the two gRPC services, from `gen/schema.json`, which `npm run
// proto` makes of the .proto files (reading those takes 80 ms of every start). 64-bit numbers become numbers: revisions,
// nonces and times stay below 2^53.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ServiceDefinition } from "@grpc/grpc-js";
import protobuf, { type INamespace, type Root, type Type } from "protobufjs/light.js";

/** How decoded values look; `generate.ts` passes the same to proto-loader-gen-types, so that the types are true. */
const DECODED = {
  longs: Number,
  enums: String,
  bytes: Buffer,
  defaults: true,
  arrays: true,
  oneofs: true,
} as const;

/** Folder that import paths in .proto files start from. */
export const PROTO_ROOT = dirname(fileURLToPath(import.meta.url));

/** The messages and services as JSON, beside this file in the source tree and in dist/ alike. */
export const SCHEMA_FILE = join("gen", "schema.json");

/** Paths of all .proto files, relative to `PROTO_ROOT`. */
export function protoFiles(): string[] {
  return readdirSync(join(PROTO_ROOT, "mesh", "v1"))
    .filter((name) => name.endsWith(".proto"))
    .sort()
    .map((name) => `mesh/v1/${name}`);
}

// Read once per process at first use: an importer that never encodes does not pay for it, and the value never changes.
let schema: Root | undefined;

function definitions(): Root {
  // Our own file, compared with the .proto files by `npm run proto -- --check`.
  if (schema === undefined) {
    schema = protobuf.Root.fromJSON(
      JSON.parse(readFileSync(join(PROTO_ROOT, SCHEMA_FILE), "utf8")) as INamespace,
    );
    schema.resolveAll();
  }
  return schema;
}

function messageType(fullName: string): Type {
  const found = definitions().lookup(fullName, protobuf.Type);
  if (!(found instanceof protobuf.Type)) throw new Error(`no message \`${fullName}\` in the .proto files`);
  return found;
}

function encodeMessage(type: Type, value: object): Buffer {
  // Under Node protobufjs writes into Buffers.
  return type.encode(type.fromObject(value as Record<string, unknown>)).finish() as Buffer;
}

function decodeMessage(type: Type, bytes: Buffer): object {
  return type.toObject(type.decode(bytes), DECODED);
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
  let type: Type | undefined;
  const get = (): Type => {
    type ??= messageType(fullName);
    return type;
  };
  return {
    encode: (value) => encodeMessage(get(), value),
    // The name picks the type, and proto/gen holds the types that belong to the names.
    decode: (bytes) => decodeMessage(get(), bytes) as Output,
  };
}

/** Definition of a gRPC service, such as `countersign.mesh.v1.Discovery`. */
export function serviceDefinition(fullName: string): ServiceDefinition {
  const service = definitions().lookup(fullName, protobuf.Service);
  if (!(service instanceof protobuf.Service))
    throw new Error(`no service \`${fullName}\` in the .proto files`);
  return Object.fromEntries(
    service.methodsArray.map((method) => {
      method.resolve();
      const request = messageType(method.resolvedRequestType?.fullName ?? "");
      const response = messageType(method.resolvedResponseType?.fullName ?? "");
      const name = method.name.charAt(0).toLowerCase() + method.name.slice(1);
      return [
        method.name,
        {
          path: `/${fullName}/${method.name}`,
          originalName: name,
          requestStream: method.requestStream === true,
          responseStream: method.responseStream === true,
          requestSerialize: (value: object) => encodeMessage(request, value),
          requestDeserialize: (bytes: Buffer) => decodeMessage(request, bytes),
          responseSerialize: (value: object) => encodeMessage(response, value),
          responseDeserialize: (bytes: Buffer) => decodeMessage(response, bytes),
        },
      ];
    }),
  );
}
