// The gRPC service of things.ts and talk.ts: messages are `Item { string name = 1; }`, names of at most 127 bytes.
import type { MethodDefinition } from "@grpc/grpc-js";

const encode = (name: string): Buffer => {
  const text = Buffer.from(name);
  return Buffer.concat([Buffer.from([0x0a, text.length]), text]);
};
const decode = (bytes: Buffer): string => bytes.toString("utf8", 2);

const method = (name: string, isStream: boolean): MethodDefinition<string, string> => ({
  path: `/things.Store/${name}`,
  requestStream: isStream,
  responseStream: isStream,
  requestSerialize: encode,
  requestDeserialize: decode,
  responseSerialize: encode,
  responseDeserialize: decode,
});

export const METHODS = {
  get: method("Get", false),
  remove: method("Remove", false),
  chat: method("Chat", true),
} as const;
