// Fuzz target of the protobuf field scanner: a random message built from known fields, then mutated. The scanner must
// find the last occurrence in the built one and never throw or read past the end in the mutated one.
import { grpcStringField, scanField } from "../../../../../sidecar/core/policy/protobuf-field.ts";
import { mulberry32 } from "./random.ts";

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const random = mulberry32(options.seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  while (performance.now() < end) {
    for (let i = 0; i < 200; i++, cases++) {
      let expected: Buffer | undefined;
      const parts: Buffer[] = [];
      for (let count = below(6); count > 0; count--) {
        const number = 1 + below(20);
        const type = [0, 1, 2, 2, 5][below(5)] ?? 2;
        const payload = Buffer.from(
          Array.from({ length: type === 1 ? 8 : type === 5 ? 4 : below(30) }, () => below(256)),
        );
        const tag = (number << 3) | type;
        parts.push(Buffer.from(tag < 128 ? [tag] : [(tag & 127) | 128, tag >> 7]));
        if (type === 0) parts.push(Buffer.from([0x80 | below(128), below(128)]));
        else parts.push(...(type === 2 ? [Buffer.from([payload.length])] : []), payload);
        if (number === 1 && type === 2) expected = payload;
      }
      const message = Buffer.concat(parts);
      const found = scanField(message, 1);
      if (
        found === "malformed" ||
        (found === undefined) !== (expected === undefined) ||
        (found && expected && !found.equals(expected))
      ) {
        throw new Error(`wrong field in ${message.toString("hex")}`);
      }
      const mutated = Buffer.from(message.subarray(0, below(message.length + 1)));
      if (mutated.length > 0) mutated[below(mutated.length)] = below(256);
      scanField(mutated, 1);
      grpcStringField(mutated, 1);
    }
  }
  return { cases };
}
