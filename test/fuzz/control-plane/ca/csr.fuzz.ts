// Certificate requests from random and mutated bytes: parseCsr always answers, never throws, and accepts no altered one.
import fc from "fast-check";
import { parseCsr } from "../../../../control-plane/ca/csr.ts";
import { createCsr, createKeys } from "../../../../sidecar/certs/key-and-csr.ts";

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const good = createCsr(createKeys().tlsKey);
  const mutated = fc
    .array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 3 })
    .map((changes) => {
      const bytes = Buffer.from(good);
      for (const [at, value] of changes) bytes[at] = value;
      return bytes;
    });
  const spliced = fc
    .tuple(fc.nat(good.length), fc.uint8Array({ maxLength: 6 }), fc.nat(6))
    .map(([at, add, drop]) => Buffer.concat([good.subarray(0, at), add, good.subarray(at + drop)]));
  const random = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
  let cases = 0;
  fc.assert(
    fc.property(fc.oneof(mutated, spliced, random), (bytes) => {
      cases++;
      if (parseCsr(bytes).ok && !bytes.equals(good)) throw new Error("accepted an altered request");
    }),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  return { cases };
}
