import { once } from "node:events";
import { createServer } from "node:net";
import { connect } from "node:tls";
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { isServerName, readClientHello } from "../../../sidecar/wire/client-hello.ts";

const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255]);
const vector = (bytes: Buffer): Buffer => Buffer.concat([u16(bytes.length), bytes]);
const extension = (type: number, value: Buffer): Buffer => Buffer.concat([u16(type), vector(value)]);
const sni = (name: string, type = 0): Buffer =>
  extension(0, vector(Buffer.concat([Buffer.from([type]), vector(Buffer.from(name, "latin1"))])));
const record = (part: Buffer, type = 22): Buffer => Buffer.concat([Buffer.from([type, 3, 1]), vector(part)]);

interface Parts {
  version?: number;
  session?: number;
  suites?: Buffer;
  compressions?: Buffer;
  extensions?: readonly Buffer[] | undefined;
  tail?: Buffer;
}

/** A handshake message; `extensions: undefined` leaves the block out. */
function message(parts: Parts = {}): Buffer {
  const extensions = "extensions" in parts ? parts.extensions : [sni("db.example")];
  const compressions = parts.compressions ?? Buffer.from([0]);
  const body = Buffer.concat([
    u16(parts.version ?? 0x0303),
    Buffer.alloc(32),
    Buffer.from([parts.session ?? 0]),
    Buffer.alloc(parts.session ?? 0),
    vector(parts.suites ?? Buffer.from([0x13, 0x01])),
    Buffer.from([compressions.length]),
    compressions,
    extensions === undefined ? Buffer.alloc(0) : vector(Buffer.concat(extensions)),
    parts.tail ?? Buffer.alloc(0),
  ]);
  return Buffer.concat([Buffer.from([1, 0]), u16(body.length), body]);
}

/** What OpenSSL sends. */
async function real(servername: string | undefined): Promise<Buffer> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  const client = connect({
    port: address.port,
    host: "127.0.0.1",
    ...(servername === undefined ? {} : { servername }),
  });
  client.on("error", () => {});
  const [socket] = await once(server, "connection");
  const [chunk] = (await once(socket, "data")) as [Buffer];
  client.destroy();
  socket.destroy();
  server.close();
  return chunk;
}

describe("readClientHello", () => {
  test.each([
    { name: "that OpenSSL sends", servername: "Scores.ML.example", is: "scores.ml.example" },
    { name: "without one, to an address", servername: undefined, is: undefined },
  ])("reads the name of a hello $name, whole or cut at any byte", async ({ servername, is }) => {
    const bytes = await real(servername);
    expect(readClientHello(bytes)).toEqual({ kind: "hello", serverName: is, hidesName: false });
    for (let cut = 0; cut < bytes.length; cut++)
      expect(readClientHello(bytes.subarray(0, cut))).toEqual({ kind: "partial" });
  });

  test("reads one that is spread over records of any size", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (sizes) => {
        const whole = message();
        const parts: Buffer[] = [];
        for (let at = 0, i = 0; at < whole.length; i++) {
          const size = sizes[i % sizes.length] ?? 1;
          parts.push(record(whole.subarray(at, at + size)));
          at += size;
        }
        expect(readClientHello(Buffer.concat(parts))).toEqual({
          kind: "hello",
          serverName: "db.example",
          hidesName: false,
        });
      }),
    );
  });

  test.each([
    { name: "no extensions at all", bytes: record(message({ extensions: undefined })) },
    {
      name: "other extensions alone",
      bytes: record(message({ extensions: [extension(16, Buffer.alloc(4))] })),
    },
  ])("takes $name for no name", ({ bytes }) => {
    expect(readClientHello(bytes)).toEqual({ kind: "hello", serverName: undefined, hidesName: false });
  });

  test.each([
    {
      name: "a name",
      extensions: [sni("outer.example"), extension(0xfe0d, Buffer.alloc(9))],
      is: "outer.example",
    },
    { name: "none", extensions: [extension(0xfe0d, Buffer.alloc(9))], is: undefined },
  ])("says of a hello with $name that it has an encrypted one inside", ({ extensions, is }) => {
    const found = readClientHello(record(message({ extensions })));
    expect(found).toEqual({ kind: "hello", serverName: is, hidesName: true });
  });

  test.each([
    { name: "two names", bytes: record(message({ extensions: [sni("a.example"), sni("b.example")] })) },
    {
      name: "two names in one list",
      bytes: record(
        message({
          extensions: [
            extension(
              0,
              vector(
                Buffer.concat([
                  Buffer.from([0]),
                  vector(Buffer.from("a")),
                  Buffer.from([0]),
                  vector(Buffer.from("b")),
                ]),
              ),
            ),
          ],
        }),
      ),
    },
    { name: "a name of another type", bytes: record(message({ extensions: [sni("a.example", 1)] })) },
    { name: "an empty name", bytes: record(message({ extensions: [sni("")] })) },
    { name: "a name with a NUL", bytes: record(message({ extensions: [sni("a\0.example")] })) },
    { name: "a name with a dot at its end", bytes: record(message({ extensions: [sni("a.example.")] })) },
    { name: "a pattern for a name", bytes: record(message({ extensions: [sni("*.example")] })) },
    {
      name: "an empty list",
      bytes: record(message({ extensions: [extension(0, vector(Buffer.alloc(0)))] })),
    },
    { name: "bytes behind the extensions", bytes: record(message({ tail: Buffer.from([0]) })) },
    { name: "a session of 33 bytes", bytes: record(message({ session: 33 })) },
    { name: "an odd list of suites", bytes: record(message({ suites: Buffer.from([1, 2, 3]) })) },
    { name: "no suites", bytes: record(message({ suites: Buffer.alloc(0) })) },
    { name: "no compression", bytes: record(message({ compressions: Buffer.alloc(0) })) },
    { name: "SSL 3", bytes: record(message({ version: 0x0300 })) },
    { name: "a server's hello", bytes: record(Buffer.from([2, 0, 0, 0])) },
    { name: "another record", bytes: record(message(), 23) },
    { name: "an empty record", bytes: record(Buffer.alloc(0)) },
    {
      name: "another record behind the first part",
      bytes: Buffer.concat([record(message().subarray(0, 9)), Buffer.from([21])]),
    },
    { name: "a hello of 16 MiB", bytes: record(Buffer.from([1, 0xff, 0xff, 0xff])) },
    { name: "HTTP", bytes: Buffer.from("GET / HTTP/1.1\r\n\r\n") },
  ])("refuses $name", ({ bytes }) => {
    expect(readClientHello(bytes)).toEqual({ kind: "malformed" });
  });

  test("never throws, and never takes back what it said", () => {
    const base = record(message());
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(base.length - 1), fc.nat(255)), { maxLength: 4 }),
        fc.nat(base.length),
        fc.uint8Array({ maxLength: 20 }),
        (changes, cut, more) => {
          const bytes = Buffer.from(base);
          for (const [at, value] of changes) bytes[at] = value;
          const first = readClientHello(bytes.subarray(0, cut));
          const later = readClientHello(Buffer.concat([bytes.subarray(0, cut), more]));
          if (first.kind !== "partial") expect(later).toEqual(first);
        },
      ),
    );
  });
});

describe("isServerName", () => {
  test.each([
    { name: "a", is: true },
    { name: "a-b.c_d.e", is: true },
    { name: "10.0.0.1", is: true },
    { name: "xn--bcher-kva.example", is: true },
    { name: `${"a".repeat(60)}.`.repeat(4) + "a".repeat(9), is: true },
    { name: "a".repeat(254), is: false },
    { name: "A", is: false },
    { name: "a..b", is: false },
    { name: "-a", is: false },
    { name: "a-", is: false },
    { name: "a b", is: false },
    { name: "é", is: false },
  ])("$name: $is", ({ name, is }) => {
    expect(isServerName(name)).toBe(is);
  });
});
