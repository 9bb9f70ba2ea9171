// The edges under pressure: callers that do not read, and bytes that no honest caller sends.
import type { BenchRow } from "../measure.ts";
import { benchHostileInput } from "./hostile-input.ts";
import { benchSlowReaders } from "./slow-readers.ts";

export async function benchEdge({ say }: { readonly say: (text: string) => void }): Promise<BenchRow[]> {
  return [...(await benchHostileInput(say)), ...(await benchSlowReaders(say))];
}
