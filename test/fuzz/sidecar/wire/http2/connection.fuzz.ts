// Mutates valid HTTP/2 sessions, for both roles, in random portions: the codec may end the connection, but must not
// throw, hang, hold or write more than the input justifies, or end a stream twice.
import { FieldCache } from "../../../../../sidecar/wire/field-cache.ts";
import { Http2Connection, type Http2Stream } from "../../../../../sidecar/wire/http2/connection.ts";
import { PREFACE } from "../../../../../sidecar/wire/http2/frames.ts";
import { createRandom } from "../../../random.ts";

function frame(type: number, flags: number, id: number, payload: string): Buffer {
  const body = Buffer.from(payload, "hex");
  const bytes = Buffer.alloc(9 + body.length);
  bytes.writeUIntBE(body.length, 0, 3);
  bytes[3] = type;
  bytes[4] = flags;
  bytes.writeUInt32BE(id, 5);
  body.copy(bytes, 9);
  return bytes;
}

const REQUEST = "82868441036162634003782d61023132";
const RESPONSE = "884003782d61023132";
const COMMON: readonly Buffer[] = [
  frame(4, 0, 0, "0001000010000003000000640004000fffff"),
  frame(4, 1, 0, ""),
  frame(6, 0, 0, "0102030405060708"),
  frame(8, 0, 0, "00001000"),
  frame(8, 0, 1, "00001000"),
  frame(2, 0, 3, "0000000510"),
  frame(3, 0, 3, "00000008"),
  frame(7, 0, 0, "0000000300000000"),
  frame(0, 0, 1, "61".repeat(300)),
  frame(0, 8, 1, "0461620000000000"),
  frame(0, 1, 1, "6162"),
  frame(9, 4, 1, "be"),
  frame(1, 5, 1, "4003782d74023132"),
];
const SERVER: readonly Buffer[] = [
  ...COMMON,
  frame(1, 5, 1, REQUEST),
  frame(1, 4, 3, REQUEST),
  frame(1, 1, 5, REQUEST),
  frame(1, 0x2d, 7, `020000000010${REQUEST}0000`),
  frame(1, 5, 9, "828684be41868ec8fe2b5fff"),
];
const CLIENT: readonly Buffer[] = [
  ...COMMON,
  frame(1, 4, 1, RESPONSE),
  frame(1, 5, 3, RESPONSE),
  frame(1, 4, 5, "0803313033"),
];

function session(role: "client" | "server", random: () => number): Buffer {
  const pool = role === "server" ? SERVER : CLIENT;
  const parts: Buffer[] = role === "server" ? [PREFACE] : [];
  parts.push(frame(4, 0, 0, ""));
  for (let n = Math.floor(random() * 30); n > 0; n--)
    parts.push(pool[Math.floor(random() * pool.length)] ?? PREFACE);
  const bytes = Buffer.concat(parts);
  const first = role === "server" && random() < 0.95 ? PREFACE.length : 0;
  for (let n = Math.floor(random() * random() * 12); n > 0; n--) {
    const at = first + Math.floor(random() * (bytes.length - first));
    if (random() < 0.5) bytes[at] = Math.floor(random() * 256);
    else bytes[at] = (bytes[at] ?? 0) ^ (1 << Math.floor(random() * 8));
  }
  return bytes;
}

interface Watched {
  ended: boolean;
}

/** One case; throws on a finding. */
export function runCase(role: "client" | "server", bytes: Buffer, random: () => number): void {
  let written = 0;
  let closed = 0;
  const streams = new Map<Http2Stream<Watched | undefined>, number>();
  const cache = new FieldCache({ maxEntries: 64, maxBytes: 65_536 });
  const reset = (stream: Http2Stream<Watched | undefined>): void => {
    if (stream.context?.ended === true) throw new Error("a stream ended twice");
    if (stream.context !== undefined) stream.context.ended = true;
  };
  const answer = (stream: Http2Stream<Watched | undefined>): void => {
    if (role === "client") return;
    connection.beginHeaders(stream);
    connection.putStatus(200);
    connection.putField(cache.get("x-a", "1"));
    connection.endHeaders(false);
    connection.sendData(stream, Buffer.from("answer"), random() < 0.8);
    if (random() < 0.1) connection.resetStream(stream, 8);
  };
  const connection: Http2Connection<Watched | undefined> = new Http2Connection<Watched | undefined>({
    role,
    cache,
    nowMs: () => 0,
    requestFlush: () => undefined,
    write: (out) => {
      written += out.length;
    },
    handler: {
      onHeaders: (stream, fields, endStream) => {
        if (fields.some((field) => /[\r\n\0A-Z]/.test(field.name) || /[\r\n\0]/.test(field.value))) {
          throw new Error("a forbidden character was delivered");
        }
        stream.context ??= { ended: false };
        streams.set(stream, 0);
        if (endStream || random() < 0.3) answer(stream);
      },
      onInformational: () => undefined,
      onData: (stream, chunk, endStream) => {
        streams.set(stream, (streams.get(stream) ?? 0) + chunk.length);
        if (random() < 0.9) connection.consumed(stream, chunk.length);
        if (endStream) answer(stream);
      },
      onTrailers: answer,
      onReset: reset,
      onWritable: () => undefined,
      onGoaway: () => undefined,
      onClosed: () => {
        closed++;
      },
    },
  });
  if (role === "client") openSome(connection);
  for (let at = 0; at < bytes.length; ) {
    const to = at + 1 + Math.floor(random() * random() * bytes.length);
    connection.receive(bytes.subarray(at, to));
    if (random() < 0.5) connection.flush();
    at = to;
  }
  connection.flush();
  connection.eof();
  if (closed !== 1) throw new Error(`closed ${closed} times`);
  if (connection.openStreams !== 0) throw new Error("streams are left after the end");
  if (written > bytes.length * 10 + 65_536) throw new Error(`${written} bytes answer ${bytes.length}`);
}

function openSome(connection: Http2Connection<Watched | undefined>): void {
  for (let n = 0; n < 3; n++) {
    const stream = connection.openStream({ ended: false });
    if (stream === undefined) return;
    connection.beginHeaders(stream);
    connection.putPair(":method", n === 2 ? "HEAD" : "GET");
    connection.putPair(":scheme", "http");
    connection.putPair(":path", "/");
    connection.endHeaders(n !== 0);
  }
}

/** Runs random cases for `seconds`; the failing case is in the error. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  for (; performance.now() < end; cases++) {
    const seed = (options.seed * 1_000_003 + cases) >>> 0;
    const random = createRandom(seed);
    const role = random() < 0.6 ? "server" : "client";
    const bytes = session(role, random);
    try {
      runCase(role, bytes, random);
    } catch (error) {
      throw new Error(`seed ${seed}, ${role}, ${bytes.toString("hex")}`, { cause: error });
    }
    if (cases % 500 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
