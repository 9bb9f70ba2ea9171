// Fuzz target of the path reader: mutates hostile pieces; a finding is an exception, or an accepted path that a second
// decoding or a URL library resolves differently.
import { normalizePath } from "../../../../../sidecar/core/http/path.ts";
import { mulberry32 } from "../policy/random.ts";

const PIECES = [
  "/",
  "..",
  ".",
  "%2e",
  "%2F",
  "%5c",
  "%00",
  "%25",
  "%3B",
  ";",
  "//",
  "\\",
  "a",
  "models",
  "%c0%af",
  "%u002e",
  "é",
  "%E9",
  "%C3%A9",
  "%",
  "#",
  "?",
  "\u0000",
  " ",
];

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const random = mulberry32(options.seed);
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  while (performance.now() < end) {
    for (let i = 0; i < 200; i++, cases++) {
      const count = Math.floor(random() * 12);
      let raw = random() < 0.9 ? "/" : "";
      for (let j = 0; j < count; j++) raw += PIECES[Math.floor(random() * PIECES.length)] ?? "";
      check(raw);
    }
  }
  return { cases };
}

function check(raw: string): void {
  const result = normalizePath(raw, true);
  const strict = normalizePath(raw);
  if (strict.ok && !result.ok) throw new Error(`strict accepts what loose refuses: ${JSON.stringify(raw)}`);
  if (!result.ok || raw === "*") return;
  const { segments, path, looseFrom } = result.value;
  if (strict.ok !== looseFrom < 0) throw new Error(`loose escapes misreported: ${JSON.stringify(raw)}`);
  if (path !== `/${segments.join("/")}`) throw new Error(`path and segments differ: ${JSON.stringify(raw)}`);
  const url = new URL(`http://h${raw}`);
  const resolved = decodeURIComponent(url.pathname);
  if (url.hash !== "" || url.search !== "" || resolved !== path)
    throw new Error(`a URL library reads ${JSON.stringify(raw)} as ${resolved}`);
}
