// Mutated and random bytes through both HTTP/1.1 parsers. Findings: an exception, a different verdict when the same bytes
// come in other pieces or with a warm cache, more held than the limits allow, and anything both accepted and ambiguous.
import fc from "fast-check";
import { FieldCache } from "../../../../../sidecar/wire/field-cache.ts";
import { validRequest, validResponse } from "../../../../sidecar/wire/http1/messages.ts";
import { type Recorded, runRequests, runResponses, split } from "../../../../sidecar/wire/http1/recording.ts";

const POISON = [
  "\r",
  "\n",
  "\0",
  " ",
  "\t",
  ":",
  ",",
  ";",
  "\r\n",
  "\r\n\r\n",
  "\n\n",
  "\r\n ",
  "+",
  "-",
  "0",
  "0x",
  "\x7f",
  "\xff",
  "Content-Length: 5\r\n",
  "Content-Length: 0\r\n",
  "Transfer-Encoding: chunked\r\n",
  "transfer-encoding:\tchunked\r\n",
  "Transfer-Encoding: identity\r\n",
  "Host: b\r\n",
  "Connection: close\r\n",
  "Connection: host\r\n",
  "Expect: 100-continue\r\n",
  "0\r\n\r\n",
  "5\r\nhello\r\n",
  "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
  "HTTP/1.0",
  "HTTP/1.1 100 C\r\n\r\n",
];

interface Mutation {
  readonly at: number;
  readonly remove: number;
  readonly insert: string;
}

const mutation: fc.Arbitrary<Mutation> = fc.record({
  at: fc.nat(4000),
  remove: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(8) }),
  insert: fc.oneof(
    fc.constantFrom("", ...POISON),
    fc.nat(255).map((code) => String.fromCharCode(code)),
  ),
});

function mutate(text: string, mutations: readonly Mutation[]): string {
  let out = text;
  for (const { at, remove, insert } of mutations) {
    const place = at % (out.length + 1);
    out = out.slice(0, place) + insert + out.slice(place + remove);
  }
  return out;
}

/** The first message comes up to four times, since a parser remembers what repeats. */
const repeated = <M>(message: fc.Arbitrary<M>): fc.Arbitrary<M[]> =>
  fc
    .tuple(message, fc.nat(3), fc.array(message, { maxLength: 2 }))
    .map(([first, times, rest]) => [...Array.from({ length: times + 1 }, () => first), ...rest]);

const mutated = (message: fc.Arbitrary<{ wire: string }>): fc.Arbitrary<string> =>
  fc
    .tuple(repeated(message), fc.array(mutation, { maxLength: 4 }))
    .map(([messages, mutations]) => mutate(messages.map((m) => m.wire).join(""), mutations));

/** What may not depend on how the bytes were cut: which of two problems is met first may, so only its presence counts. */
function verdict(events: readonly Recorded[]): string {
  return JSON.stringify(events.map((event) => (event.kind === "problem" ? { kind: "problem" } : event)));
}

/** A head that was accepted must leave no doubt on where its message ends and whom it is for. */
function assertUnambiguous(events: readonly Recorded[]): void {
  for (const event of events) {
    if (event.kind !== "head") continue;
    const fields = event.head["fields"] as string[]; // written by the recorder
    const count = (name: string): number => fields.filter((f) => f.startsWith(`${name}:`)).length;
    if (count("content-length") + count("transfer-encoding") > 1) throw new Error("accepted two framings");
    if (count("host") > 1) throw new Error("accepted two hosts");
    for (const f of fields) {
      if (!/^[!#$%&'*+.^_`|~0-9a-z-]+: ([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?$/.test(f)) {
        throw new Error(`accepted the field ${JSON.stringify(f)}`);
      }
    }
    const target = event.head["target"];
    if (target !== undefined && !/^[!"$-~]+$/.test(String(target))) throw new Error("accepted a bad target");
  }
  const problem = events.findIndex((event) => event.kind === "problem");
  if (problem >= 0 && problem !== events.length - 1) throw new Error("went on after a problem");
}

/** @param seconds how long; at least one batch runs. @param seed of the first batch, counted up for each further one. */
export async function run({ seconds, seed }: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const until = performance.now() + seconds * 1000;
  const warm = new FieldCache({ maxEntries: 256, maxBytes: 65_536 });
  let cases = 0;
  const check = (
    read: (pieces: Buffer[], cache: FieldCache) => Recorded[],
    text: string,
    cuts: number[],
  ): void => {
    const bytes = Buffer.from(text, "latin1");
    const whole = read([bytes], new FieldCache());
    assertUnambiguous(whole);
    const cut = read(split(bytes, cuts), warm);
    if (verdict(cut) !== verdict(whole)) throw new Error(`whole ${verdict(whole)}, cut ${verdict(cut)}`);
    cases++;
  };
  const cuts = fc.array(fc.nat(4000), { maxLength: 6 });
  const noise = fc.string({
    unit: fc.constantFrom(..."GET / HTTP/1.\r\n:ax0;=\0\t".split(""), "\r\n"),
    maxLength: 80,
  });
  for (let batch = seed; batch === seed || performance.now() < until; batch++) {
    const options = { seed: batch, numRuns: 100 };
    const requests = (pieces: Buffer[], cache: FieldCache): Recorded[] =>
      runRequests(pieces, { cache, eof: true });
    const responses = (pieces: Buffer[], cache: FieldCache): Recorded[] =>
      runResponses(["GET"], pieces, { cache, eof: true });
    fc.assert(
      fc.property(fc.oneof(mutated(validRequest), noise), cuts, (t, c) => check(requests, t, c)),
      options,
    );
    fc.assert(
      fc.property(fc.oneof(mutated(validResponse), noise), cuts, (t, c) => check(responses, t, c)),
      options,
    );
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
