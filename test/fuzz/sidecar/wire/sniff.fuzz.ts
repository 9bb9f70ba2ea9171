// The first look at a captured connection against the strict parser: what that takes must be recognised, in any portions.

import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import { RequestParser } from "../../../../sidecar/wire/http1/parser.ts";
import { sniffBytes } from "../../../../sidecar/wire/sniff.ts";

const METHODS = [
  "GET",
  "POST",
  "PUT",
  "DELETE",
  "PATCH",
  "OPTIONS",
  "PROPFIND",
  "M-SEARCH",
  "PRI",
  "get",
  "G",
  "",
];
const TARGETS = ["/", "/a?b", "*", "http://h/", "", " /", "\t/", "\x80"];

const spoken = (bytes: Buffer): string => sniffBytes(bytes)?.protocol ?? "undecided";

/** A case is one beginning of a connection, whole and cut at every place. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let state = options.seed >>> 0 || 1;
  const next = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const cache = new FieldCache();
  let cases = 0;
  while (performance.now() < end) {
    const bytes =
      next(2) === 0
        ? Buffer.from(Array.from({ length: next(40) }, () => next(256)))
        : Buffer.from(
            `${METHODS[next(METHODS.length)]} ${TARGETS[next(TARGETS.length)]} HTTP/1.1\r\nhost: a\r\n\r\n`,
            "latin1",
          );
    const whole = spoken(bytes);
    for (let cut = 0; cut < bytes.length; cut++) {
      const part = spoken(bytes.subarray(0, cut));
      if (part !== "undecided" && part !== whole)
        throw new Error(`\`${bytes.toString("latin1")}\` was ${part} after ${cut} bytes, then ${whole}`);
    }
    let taken = false;
    const parser = new RequestParser(
      { onHead: () => (taken = true), onBody: () => {}, onEnd: () => {}, onProblem: () => {} },
      cache,
    );
    parser.push(bytes);
    parser.close();
    if (
      taken &&
      whole !== "http" &&
      /^[A-Z-]{3,16} /.test(bytes.toString("latin1")) &&
      !bytes.toString("latin1").startsWith("PRI ")
    )
      throw new Error(`\`${bytes.toString("latin1")}\` is a request, but was taken for ${whole}`);
    cases++;
    if (cases % 256 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
