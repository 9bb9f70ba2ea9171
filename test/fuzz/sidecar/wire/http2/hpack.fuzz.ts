// Random and mutated header blocks through the HPACK decoder: it may refuse, but must not throw, exceed its table, or
// deliver more than its limits.
import { FieldCache } from "../../../../../sidecar/wire/field-cache.ts";
import { HpackDecoder } from "../../../../../sidecar/wire/http2/hpack-decoder.ts";
import { createRandom } from "../../../random.ts";

const LIMITS = { tableSize: 1024, maxListSize: 4096, maxFields: 20 };
const SEEDS = [
  "828684410f7777772e6578616d706c652e636f6d",
  "828684418cf1e3c2e5f23a6ba0ab90f4ff",
  "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
  "20823fe107400161016240026364026566be",
  "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
].map((hex) => Buffer.from(hex, "hex"));

/** A few blocks in a row through one decoder. */
function runCase(random: () => number, cache: FieldCache): void {
  const decoder = new HpackDecoder(cache, LIMITS);
  for (let blocks = 0; blocks < 6; blocks++) {
    const bytes = Buffer.from(SEEDS[Math.floor(random() * SEEDS.length)] ?? "");
    for (let n = Math.floor(random() * 4); n > 0; n--) {
      bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    }
    const end = random() < 0.8 ? bytes.length : Math.floor(random() * bytes.length);
    const valid = decoder.decode(bytes, 0, end);
    const size = decoder.fields.reduce((sum, field) => sum + field.size, 0);
    if (decoder.tableBytes > Math.max(4096, LIMITS.tableSize)) throw new Error("the table is too large");
    if (size > LIMITS.maxListSize || decoder.fields.length > LIMITS.maxFields)
      throw new Error("the list is too large");
    if (!valid) return;
  }
}

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  const cache = new FieldCache({ maxEntries: 256, maxBytes: 100_000 });
  let cases = 0;
  for (; performance.now() < end; cases++) {
    const seed = (options.seed * 1_000_003 + cases) >>> 0;
    try {
      runCase(createRandom(seed), cache);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
    if (cases % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
