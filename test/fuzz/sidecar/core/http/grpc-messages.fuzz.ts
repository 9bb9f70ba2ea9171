// Random gRPC bodies in random portions: what goes on is a prefix of what came, cut only in front of a refused message, and
// nothing goes on of a message that was not looked at before.
import {
  GrpcMessages,
  MAX_MESSAGE_BYTES,
  type MessageSink,
} from "../../../../../sidecar/core/http/grpc-messages.ts";
import { mulberry32 } from "../policy/random.ts";

/** A case is one body. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  for (let seed = options.seed; performance.now() < end; seed++) {
    fuzzOne(mulberry32(seed), seed);
    cases++;
    if (cases % 256 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}

function fuzzOne(random: () => number, seed: number): void {
  const below = (limit: number): number => Math.floor(random() * limit);
  const parts: Buffer[] = [];
  for (let i = below(6); i > 0; i--) {
    const size = random() < 0.05 ? MAX_MESSAGE_BYTES - 2 + below(5) : below(80);
    const prefix = Buffer.alloc(5);
    prefix[0] = random() < 0.1 ? below(256) : 0;
    prefix.writeUInt32BE(random() < 0.05 ? below(2 ** 32) : size, 1);
    parts.push(prefix, Buffer.alloc(size, below(256)));
  }
  const body = Buffer.concat(parts);
  const refuseAt = below(8);
  let looked = 0;
  let passed = 0;
  let refused = false;
  let room = 0;
  const sink: MessageSink = {
    onMessage: (message) => {
      if (refused) throw new Error(`seed ${seed}: a message behind the refused one`);
      if (message !== undefined && message.length > MAX_MESSAGE_BYTES)
        throw new Error(`seed ${seed}: a message that is too long`);
      refused = looked === refuseAt;
      looked++;
      return !refused;
    },
    onBytes: (bytes) => {
      if (refused) throw new Error(`seed ${seed}: bytes behind a refused message`);
      if (!bytes.equals(body.subarray(passed, passed + bytes.length)))
        throw new Error(`seed ${seed}: other bytes than those that came`);
      passed += bytes.length;
    },
    onNoRoom: () => {
      throw new Error(`seed ${seed}: no room where there is all`);
    },
  };
  const messages = new GrpcMessages(sink, {
    take: (bytes) => {
      room += bytes;
      return true;
    },
    give: (bytes) => {
      room -= bytes;
    },
  });
  for (let at = 0; at < body.length; ) {
    const next = Math.min(body.length, at + 1 + below(random() < 0.5 ? 4 : 40_000));
    if (!messages.push(body.subarray(at, next)) && !refused)
      throw new Error(`seed ${seed}: refused without a reason`);
    at = next;
  }
  if (!refused && messages.isWhole && passed !== body.length)
    throw new Error(`seed ${seed}: a whole body of which bytes are missing`);
  if (messages.isWhole && room !== 0) throw new Error(`seed ${seed}: room that nothing needs`);
  messages.close();
  if (room !== 0) throw new Error(`seed ${seed}: room that was not given back`);
}
