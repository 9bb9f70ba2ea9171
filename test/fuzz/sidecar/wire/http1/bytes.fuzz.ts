// Bytes of hostile and honest HTTP/1.1 messages, mutated fast (a hundred times the rate of `parser.fuzz.ts`) through both
// parsers: no exception, the same verdict however the bytes are cut and whatever the cache knows, and no more held than
// the limits allow.
import { FieldCache } from "../../../../../sidecar/wire/field-cache.ts";
import { RequestParser, ResponseParser } from "../../../../../sidecar/wire/http1/parser.ts";
import { ANSWERS } from "../../../../conformance/smuggling/answer-vectors.ts";
import { LLHTTP_REQUESTS } from "../../../../conformance/smuggling/llhttp-vectors.ts";
import { OWN_REQUESTS } from "../../../../conformance/smuggling/request-vectors.ts";
import { createRandom } from "../../../random.ts";

const MOST_BYTES = 600;
const POISON = ["\r", "\n", "\0", " ", "\t", ":", ",", ";", "\r\n", "\r\n\r\n", "0", "\x7f", "\xff"].map(
  (text) => Buffer.from(text, "latin1"),
);
const seedsOf = (vectors: readonly { bytes: string }[]): Buffer[] =>
  vectors.map(({ bytes }) => Buffer.from(bytes, "latin1")).filter((bytes) => bytes.length <= MOST_BYTES);
const REQUESTS = seedsOf([...OWN_REQUESTS, ...LLHTTP_REQUESTS]);
const ANSWER_BYTES = seedsOf(ANSWERS);
const LIMIT = 16_384 + 8_192 + 4_096;

/** What a parser said, as a text to compare; problems count by their presence, since which one is met first may differ. */
class Verdict {
  text = "";
  #bodyBytes = 0;

  head(head: { fields: readonly { name: string; value: string }[] } & object): void {
    this.text += `H${JSON.stringify({ ...head, fields: head.fields.map(({ name, value }) => [name, value]) })}`;
  }

  body(bytes: number): void {
    this.#bodyBytes += bytes;
  }

  end(): void {
    this.text += `E${this.#bodyBytes}`;
    this.#bodyBytes = 0;
  }

  problem(): void {
    this.text += `P`;
  }
}

function read(isRequest: boolean, pieces: readonly Buffer[], cache: FieldCache): string {
  const verdict = new Verdict();
  const shared = {
    onBody: (chunk: Buffer) => verdict.body(chunk.length),
    onProblem: () => verdict.problem(),
  };
  let parser: RequestParser | ResponseParser;
  if (isRequest) {
    const requests = new RequestParser(
      {
        ...shared,
        onHead: (head) => verdict.head(head),
        onEnd: () => {
          verdict.end();
          requests.resume();
        },
      },
      cache,
    );
    parser = requests;
  } else {
    const answers = new ResponseParser(
      { ...shared, onHead: (head) => verdict.head(head), onEnd: () => verdict.end() },
      cache,
    );
    answers.expect("GET");
    parser = answers;
  }
  for (const piece of pieces) {
    parser.push(piece);
    if (parser.heldBytes > LIMIT) throw new Error(`${parser.heldBytes} bytes are held`);
  }
  parser.eof();
  return verdict.text;
}

function mutate(seed: Buffer, random: () => number): Buffer {
  let bytes: Buffer = Buffer.from(seed);
  for (let n = Math.floor(random() * 4); n > 0; n--) {
    const at = Math.floor(random() * (bytes.length + 1));
    const kind = random();
    if (kind < 0.4 && bytes.length > 0) bytes[at % bytes.length] = Math.floor(random() * 256);
    else if (kind < 0.7) {
      const poison = POISON[Math.floor(random() * POISON.length)] ?? Buffer.alloc(0);
      bytes = Buffer.concat([bytes.subarray(0, at), poison, bytes.subarray(at)]);
    } else if (kind < 0.85)
      bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + Math.floor(random() * 8))]);
    else bytes = Buffer.concat([bytes, bytes.subarray(at)]);
  }
  return bytes;
}

function cut(bytes: Buffer, random: () => number): Buffer[] {
  const pieces: Buffer[] = [];
  const small = random() < 0.2;
  for (let at = 0; at < bytes.length; ) {
    const to = at + 1 + Math.floor(random() * (small ? 3 : bytes.length));
    pieces.push(bytes.subarray(at, to));
    at = to;
  }
  return pieces;
}

/** Runs random cases for `seconds`; the failing seed is in the error. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  const warm = new FieldCache({ maxEntries: 256, maxBytes: 65_536 });
  const other = new FieldCache({ maxEntries: 16, maxBytes: 4_096 });
  let cases = 0;
  for (; performance.now() < end; cases++) {
    const seed = (options.seed * 1_000_003 + cases) >>> 0;
    const random = createRandom(seed);
    const isRequest = random() < 0.6;
    const seeds = isRequest ? REQUESTS : ANSWER_BYTES;
    const bytes = mutate(seeds[Math.floor(random() * seeds.length)] ?? Buffer.alloc(0), random);
    try {
      const whole = read(isRequest, [bytes], warm);
      const pieces = read(isRequest, cut(bytes, random), other);
      if (whole !== pieces) throw new Error(`whole ${whole}, in pieces ${pieces}`);
    } catch (error) {
      throw new Error(`seed ${seed}, ${JSON.stringify(bytes.toString("latin1"))}`, { cause: error });
    }
    if (cases % 500 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
