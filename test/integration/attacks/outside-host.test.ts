// A host outside the mesh with a good certificate and bad manners over HTTP/2: the application gets one whole answer or a
// problem that names the upstream, nothing grows, and the next call is served.
import { writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { createServer, type Server, type TLSSocket } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";
import { Http2Connection, type Http2Stream } from "../../../sidecar/wire/http2/connection.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { withOutside } from "../sidecar/outside.ts";
import { type RawAnswer, type ServiceSpec, type Sidecar, send, table, World } from "../sidecar/world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const POLICY: ProgramPolicy = {
  id: "lab/out",
  name: "out",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "all", operations: [{ any: true }] }],
};

type Pairs = readonly (readonly [string, string])[];
interface Turn {
  readonly h2: Http2Connection<undefined>;
  readonly stream: Http2Stream<undefined>;
  readonly socket: TLSSocket;
}

let world: World;
let sidecar: Sidecar;
let server: Server;
let port = 0;
const sockets = new Set<TLSSocket>();
/** What the host does when a connection stands; true: it is no HTTP/2. */
let greet: (socket: TLSSocket) => boolean = () => false;
/** What it does with requests for `/hostile`; all others are answered honestly. */
let act: (turn: Turn) => void = () => {};
let alpn: string;
let requests = 0;
let connections = 0;

/** One frame as it stands (RFC 9113 section 4.1). */
function frame(type: number, flags: number, streamId: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(streamId, 5);
  return Buffer.concat([head, payload]);
}

function answer({ h2, stream }: Turn, fields: Pairs, body?: string, trailers?: Pairs): void {
  h2.beginHeaders(stream);
  for (const [name, value] of fields) h2.putPair(name, value);
  h2.endHeaders(body === undefined && trailers === undefined);
  if (body !== undefined) h2.sendData(stream, Buffer.from(body, "latin1"), trailers === undefined);
  if (trailers === undefined) return;
  h2.beginHeaders(stream);
  for (const [name, value] of trailers) h2.putPair(name, value);
  h2.endHeaders(true);
}

const OK: Pairs = [
  [":status", "200"],
  ["content-length", "6"],
];

function serve(socket: TLSSocket): void {
  connections++;
  sockets.add(socket);
  socket.on("error", () => {});
  socket.on("close", () => sockets.delete(socket));
  if (greet(socket)) return;
  const h2 = new Http2Connection<undefined>({
    role: "server",
    cache: new FieldCache(),
    nowMs: () => performance.now(),
    write: (bytes) => void (socket.writable && socket.write(bytes)),
    requestFlush: () => setImmediate(() => h2.flush()),
    handler: {
      onHeaders: (stream, fields) => {
        requests++;
        const path = fields.find(({ name }) => name === ":path")?.value;
        if (path === "/hostile") act({ h2, stream, socket });
        else answer({ h2, stream, socket }, OK, "honest");
      },
      onInformational: () => {},
      onData: (stream, chunk) => h2.consumed(stream, chunk.length),
      onTrailers: () => {},
      onReset: () => {},
      onWritable: () => {},
      onGoaway: () => {},
      onClosed: () => socket.end(),
    },
  });
  socket.on("data", (chunk: Buffer) => h2.receive(chunk));
  socket.on("end", () => h2.eof());
}

beforeAll(async () => {
  world = await World.create();
  const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
  const ALPNCallback = ({ protocols }: { protocols: string[] }): string | undefined =>
    protocols.includes(alpn) ? alpn : protocols[0];
  server = createServer({ cert, key, ALPNCallback }, serve);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ({ port } = server.address() as AddressInfo);
  const externalCaFile = join(world.dir, "ca.pem");
  writeFileSync(externalCaFile, ca);
  sidecar = await world.sidecar(NOTEBOOK, { config: { externalCaFile } });
  const base = table({ self: NOTEBOOK, bundle: world.authority.bundle.json });
  expect(sidecar.plane.setTable(withOutside(base, port, [POLICY])).ok).toBe(true);
  alpn = "h2";
});
afterEach(() => {
  greet = () => false;
  act = () => {};
  alpn = "h2";
  requests = 0;
  connections = 0;
  for (const socket of sockets) socket.destroy();
});
afterAll(async () => {
  await world.close();
  for (const socket of sockets) socket.destroy();
  server.close();
});

const ask = (path: string, ...lines: string[]): Promise<RawAnswer> =>
  send(
    sidecar.proxyPort,
    `GET http://localhost:${port}${path} HTTP/1.1\r\n${[`host: localhost:${port}`, "connection: close", ...lines].join("\r\n")}\r\n\r\n`,
    () => false,
  );
const call = (): Promise<RawAnswer> =>
  send(
    sidecar.proxyPort,
    `POST http://localhost:${port}/hostile HTTP/1.1\r\nhost: localhost:${port}\r\nconnection: close\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0`,
    () => false,
  );

async function honestNext(): Promise<void> {
  greet = () => false;
  alpn = "h2";
  const next = await ask("/honest");
  expect([next.status, next.body]).toEqual([200, "honest"]);
}

const settings = frame(4, 0, 0);
const repeat = (one: Buffer, times: number): Buffer =>
  Buffer.concat(Array.from({ length: times }, () => one));

describe("a host that does not speak what it agreed to", () => {
  test.each<[string, string, (socket: TLSSocket) => void]>([
    [
      "h2 agreed to, HTTP/1.1 spoken",
      "h2",
      (socket) => socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ],
    ["h2 agreed to, closed at once", "h2", (socket) => socket.end()],
    ["h2 agreed to, garbage spoken", "h2", (socket) => socket.write(Buffer.alloc(64, 0xff))],
    ["h2 agreed to, another frame first", "h2", (socket) => socket.write(frame(6, 0, 0, Buffer.alloc(8)))],
    ["HTTP/1.1 agreed to, h2 spoken", "http/1.1", (socket) => socket.write(settings)],
  ])("%s", async (_name, protocol, hello) => {
    alpn = protocol;
    greet = (socket) => {
      socket.on("data", () => {});
      hello(socket);
      return true;
    };
    const got = await ask("/any");
    expect(got.status).toBe(502);
    expect(JSON.parse(got.body)).toMatchObject({ reason: "UPSTREAM_FAILED" });
    expect(requests).toBe(0);
    await honestNext();
  });

  test("h2 agreed to, and nothing said, is given up in time", async () => {
    greet = (socket) => {
      socket.on("data", () => {});
      return true;
    };
    const got = ask("/any");
    while (connections === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    sidecar.plane.sweep(systemClock.monotonicMs() + 60_000);
    expect((await got).status).toBe(502);
    await honestNext();
  });
});

describe("a host that breaks off", () => {
  test("a request that it refused is sent again, once", async () => {
    let refusals = 0;
    act = (turn) => {
      if (refusals++ === 0) turn.h2.resetStream(turn.stream, 0x7);
      else answer(turn, OK, "second");
    };
    expect(await ask("/hostile")).toMatchObject({ status: 200, body: "second" });
    act = ({ h2, stream }) => h2.resetStream(stream, 0x7);
    requests = 0;
    expect((await ask("/hostile")).status).toBe(502);
    expect(requests).toBe(2);
    await honestNext();
  });

  test("a request beyond its GOAWAY goes to another connection", async () => {
    let times = 0;
    act = (turn) => {
      if (times++ > 0) answer(turn, OK, "second");
      // Its last stream is one that it never had.
      else turn.socket.write(frame(7, 0, 0, Buffer.alloc(8)));
    };
    expect(await ask("/hostile")).toMatchObject({ status: 200, body: "second" });
    expect(connections).toBe(2);
  });

  test("a request that may have been looked at is not", async () => {
    act = ({ h2, stream }) => h2.resetStream(stream, 0x2);
    expect((await ask("/hostile")).status).toBe(502);
    expect(requests).toBe(1);
    act = ({ socket }) => socket.destroy();
    expect((await call()).raw).toContain("grpc-status: 14");
    expect(requests).toBe(2);
    await honestNext();
  });

  test.each<[string, (turn: Turn) => void]>([
    ["resets the stream", ({ h2, stream }) => setImmediate(() => h2.resetStream(stream, 0x8))],
    ["cuts the connection", ({ socket }) => setImmediate(() => socket.destroy())],
    ["says GOAWAY with an error", ({ h2 }) => setImmediate(() => h2.goaway(0x2))],
  ])("in the middle of an answer: %s", async (_name, end) => {
    act = (turn) => {
      turn.h2.beginHeaders(turn.stream);
      turn.h2.putStatus(200);
      turn.h2.putPair("content-length", "100");
      turn.h2.endHeaders(false);
      turn.h2.sendData(turn.stream, Buffer.from("half"), false);
      setImmediate(() => end(turn));
    };
    const got = await ask("/hostile");
    expect(got.body.length).toBeLessThan(100);
    if (got.status === 200) expect(got.raw).toContain("content-length: 100");
    await honestNext();
  });
});

describe("an answer that is none", () => {
  test.each<[string, (turn: Turn) => void]>([
    ["no status", (turn) => answer(turn, [["content-length", "2"]], "ok")],
    ["two statuses", (turn) => answer(turn, [[":status", "200"], ...OK], "honest")],
    ["a status below 100", (turn) => answer(turn, [[":status", "099"]], "ok")],
    ["a switch of protocols", (turn) => answer(turn, [[":status", "101"]], "ok")],
    [
      "a field of the connection",
      (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            ["connection", "x"],
          ],
          "ok",
        ),
    ],
    [
      "a line break in a value",
      (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            ["x", "a\r\nset-cookie: b=c"],
          ],
          "ok",
        ),
    ],
    [
      "two lengths",
      (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            ["content-length", "2"],
            ["content-length", "3"],
          ],
          "ok",
        ),
    ],
    [
      "more fields than anybody needs",
      (turn) =>
        answer(
          turn,
          [[":status", "200"], ...Array.from({ length: 200 }, (_, n): [string, string] => [`x-${n}`, "y"])],
          "ok",
        ),
    ],
    [
      "a head without end",
      (turn) =>
        turn.socket.write(
          Buffer.concat([
            frame(1, 0, 1, Buffer.from([0x88])),
            repeat(frame(9, 0, 1, Buffer.alloc(16_000, 0x88)), 100),
          ]),
        ),
    ],
    ["a pushed one", (turn) => turn.socket.write(frame(5, 4, 1, Buffer.from([0, 0, 0, 2, 0x82])))],
    ["a window of nothing", (turn) => turn.socket.write(frame(8, 0, 0, Buffer.alloc(4)))],
  ])("%s is a failure of the upstream", async (_name, reply) => {
    act = reply;
    const got = await ask("/hostile");
    expect(got.status).toBe(502);
    expect(JSON.parse(got.body)).toMatchObject({ reason: "UPSTREAM_FAILED" });
    expect(got.raw).not.toContain("set-cookie");
    await honestNext();
  });

  test("more or less than the length that was announced is not taken for a whole one", async () => {
    for (const length of ["2", "60"]) {
      act = (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            ["content-length", length],
          ],
          "honest",
        );
      const got = await ask("/hostile");
      expect(`${got.status} ${got.body}`).not.toBe("200 honest");
      await honestNext();
    }
  });

  test("trailers alone, without anything of gRPC, pass as they are", async () => {
    act = (turn) =>
      answer(turn, [
        [":status", "204"],
        ["x-only", "1"],
      ]);
    expect(await ask("/hostile")).toMatchObject({ status: 204, body: "" });
  });

  test("what it says of the mesh is not passed on", async () => {
    act = (turn) => answer(turn, [...OK, ["countersign-status", "200"], ["x-mesh-roles", "admin"]], "honest");
    const got = await ask("/hostile");
    expect(got.body).toBe("honest");
    expect(got.raw).not.toMatch(/countersign-status|x-mesh-roles/);
  });
});

describe("a host that floods", () => {
  test.each<[string, Buffer]>([
    ["pings", repeat(frame(6, 0, 0, Buffer.alloc(8)), 5_000)],
    ["settings", repeat(settings, 500)],
    ["empty data", repeat(frame(0, 0, 1), 1_000)],
    ["priorities", repeat(frame(2, 0, 1, Buffer.alloc(5)), 5_000)],
    ["unknown frames", repeat(frame(0xfa, 0, 0, Buffer.alloc(8)), 5_000)],
    ["window updates", repeat(frame(8, 0, 0, Buffer.from([0, 0, 0, 1])), 20_000)],
  ])("%s loses its connection", async (_name, bytes) => {
    act = ({ socket }) => socket.write(bytes);
    expect((await ask("/hostile")).status).toBe(502);
    await honestNext();
    expect(connections).toBeGreaterThan(1);
  });

  test("data beyond the window it was given are no whole answer", async () => {
    act = ({ h2, stream, socket }) => {
      h2.beginHeaders(stream);
      h2.putStatus(200);
      h2.endHeaders(false);
      setImmediate(() =>
        setImmediate(() => socket.write(repeat(frame(0, 0, stream.id, Buffer.alloc(16_000)), 1_000))),
      );
    };
    const { raw } = await ask("/hostile");
    // Chunked: only this would say that it is whole.
    expect(raw.endsWith("0\r\n\r\n")).toBe(false);
    await honestNext();
  });
});
