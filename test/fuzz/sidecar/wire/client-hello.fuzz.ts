// The ClientHello reader on changed hellos, whole and cut: it never throws, never takes back what it said, and a name that it
// gives is one.
import { isServerName, readClientHello } from "../../../../sidecar/wire/client-hello.ts";

/** A hello with the name `a.example`, in two records. */
function hello(): Buffer {
  const name = Buffer.from("a.example");
  const list = Buffer.concat([Buffer.from([0, 0, name.length]), name]);
  const sni = Buffer.concat([Buffer.from([0, 0, 0, list.length + 2, 0, list.length]), list]);
  const alpn = Buffer.from([0, 16, 0, 5, 0, 3, 2, 0x68, 0x32]);
  const extensions = Buffer.concat([alpn, sni]);
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32, 9),
    Buffer.from([0, 0, 2, 0x13, 0x01, 1, 0, 0, extensions.length]),
    extensions,
  ]);
  const message = Buffer.concat([Buffer.from([1, 0, 0, body.length]), body]);
  const record = (part: Buffer): Buffer => Buffer.concat([Buffer.from([22, 3, 1, 0, part.length]), part]);
  return Buffer.concat([record(message.subarray(0, 40)), record(message.subarray(40))]);
}

/** A case is one changed hello, whole and cut at every place. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let state = options.seed >>> 0 || 1;
  const next = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const base = hello();
  const whole = readClientHello(base);
  if (whole.kind !== "hello" || whole.serverName !== "a.example") throw new Error("the seed is no hello");
  let cases = 0;
  while (performance.now() < end) {
    const bytes = Buffer.concat([base, Buffer.alloc(next(8), next(256))]);
    for (let changes = next(5); changes > 0; changes--) bytes[next(bytes.length)] = next(256);
    let said: string | undefined;
    for (let cut = 0; cut <= bytes.length; cut++) {
      const found = readClientHello(bytes.subarray(0, cut));
      if (found.kind === "hello" && found.serverName !== undefined && !isServerName(found.serverName))
        throw new Error(`\`${found.serverName}\` is no name, in ${bytes.toString("hex")}`);
      const text = found.kind === "partial" ? undefined : JSON.stringify(found);
      if (said !== undefined && text !== said)
        throw new Error(`${bytes.toString("hex")} was ${said}, then ${text} after ${cut} bytes`);
      said = text;
    }
    cases++;
    if (cases % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
