// A callee with a good certificate and bad manners: whatever its HTTP/2 says, the application gets one whole answer of
// HTTP/1.1 or a problem that names the upstream, no line that the callee smuggled in, and the next call is served.

import type { AddressInfo } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { serverTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";
import { Http2Connection, type Http2Stream } from "../../../sidecar/wire/http2/connection.ts";
import { type RawAnswer, type ServiceSpec, type Sidecar, send, table, World } from "../sidecar/world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

type Pairs = readonly (readonly [string, string])[];
interface Turn {
  readonly h2: Http2Connection<undefined>;
  readonly stream: Http2Stream<undefined>;
  readonly socket: TLSSocket;
}

let world: World;
let caller: Sidecar;
let server: Server;
/** What the callee does with requests for `/things/hostile`; all others are answered honestly. */
let act: (turn: Turn) => void;
let requests = 0;
const sockets = new Set<TLSSocket>();

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

function serve(socket: TLSSocket): void {
  sockets.add(socket);
  socket.on("error", () => {});
  socket.on("close", () => sockets.delete(socket));
  const h2 = new Http2Connection<undefined>({
    role: "server",
    cache: new FieldCache(),
    nowMs: () => performance.now(),
    write: (bytes) => void (socket.writable && socket.write(bytes)),
    requestFlush: () => setImmediate(() => h2.flush()),
    settings: {},
    handler: {
      onHeaders: (stream, fields) => {
        requests++;
        const path = fields.find(({ name }) => name === ":path")?.value;
        if (path === "/things/hostile") act({ h2, stream, socket });
        else
          answer(
            { h2, stream, socket },
            [
              [":status", "200"],
              ["content-length", "6"],
            ],
            "honest",
          );
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
  server = createServer({ ...serverTlsOptions(world.identity(THINGS)), ALPNProtocols: ["h2"] }, serve);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  caller = await world.sidecar(NOTEBOOK);
  const bundle = world.authority.bundle.json;
  const { port } = server.address() as AddressInfo;
  expect(
    caller.plane.setTable(table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: port }], bundle }))
      .ok,
  ).toBe(true);
});
afterAll(async () => {
  await world.close();
  for (const socket of sockets) socket.destroy();
  server.close();
});

const ask = (thing: string): Promise<RawAnswer> =>
  send(
    caller.proxyPort,
    `GET http://things.ml:8080/things/${thing} HTTP/1.1\r\nhost: things.ml:8080\r\nconnection: close\r\n\r\n`,
    () => false,
  );

/** The last head in what came: informational answers may have gone before. */
const finalOf = (raw: string): string => raw.slice(raw.lastIndexOf("HTTP/1.1 "));

async function honestNext(): Promise<void> {
  const next = await ask("honest");
  expect([next.status, next.body]).toEqual([200, "honest"]);
}

const OK: Pairs = [
  [":status", "200"],
  ["content-length", "2"],
];

describe("an answer that is none", () => {
  test.each<[string, (turn: Turn) => void]>([
    ["no status", (turn) => answer(turn, [["content-length", "2"]], "ok")],
    ["two statuses", (turn) => answer(turn, [[":status", "200"], ...OK], "ok")],
    ["a status that is no number", (turn) => answer(turn, [[":status", "2x0"]], "ok")],
    ["a status of four digits", (turn) => answer(turn, [[":status", "2000"]], "ok")],
    ["a status below 100", (turn) => answer(turn, [[":status", "099"]], "ok")],
    ["a switch of protocols", (turn) => answer(turn, [[":status", "101"]], "ok")],
    [
      "a status behind the fields",
      (turn) =>
        answer(
          turn,
          [
            ["x", "y"],
            [":status", "200"],
          ],
          "ok",
        ),
    ],
    ["another pseudo-header", (turn) => answer(turn, [...OK, [":path", "/"]], "ok")],
    [
      "a pseudo-header of a request",
      (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            [":method", "GET"],
          ],
          "ok",
        ),
    ],
    ["a line end in a value", (turn) => answer(turn, [...OK, ["x", "a\r\nset-cookie: evil=1"]], "ok")],
    ["a bare line feed in a value", (turn) => answer(turn, [...OK, ["x", "a\nevil: 1"]], "ok")],
    ["a NUL in a value", (turn) => answer(turn, [...OK, ["x", "a\0evil"]], "ok")],
    ["a line end in a name", (turn) => answer(turn, [...OK, ["x\r\nevil", "1"]], "ok")],
    ["a colon in a name", (turn) => answer(turn, [...OK, ["evil: x", "1"]], "ok")],
    ["a name in capitals", (turn) => answer(turn, [...OK, ["Evil", "1"]], "ok")],
    ["a field of the connection", (turn) => answer(turn, [...OK, ["connection", "evil"]], "ok")],
    [
      "an encoding of HTTP/1.1",
      (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            ["transfer-encoding", "chunked"],
          ],
          "ok",
        ),
    ],
    ["two lengths", (turn) => answer(turn, [...OK, ["content-length", "3"]], "ok")],
    [
      "a length that is none",
      (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            ["content-length", "-2"],
          ],
          "ok",
        ),
    ],
    ["data before the head", ({ h2, stream }) => h2.sendData(stream, Buffer.from("evil"), true)],
    ["a reset", ({ h2, stream }) => h2.resetStream(stream, 0x8)],
    ["the end of the connection", ({ socket }) => socket.destroy()],
    ["a pushed stream", ({ socket }) => void socket.write(frame(5, 4, 1, Buffer.from([0, 0, 0, 2, 0x88])))],
    ["a stream that it opened", ({ socket }) => void socket.write(frame(1, 5, 2, Buffer.from([0x88])))],
    [
      "data on a stream that is idle",
      ({ socket }) => void socket.write(frame(0, 1, 4_001, Buffer.from("evil"))),
    ],
    [
      "a window that overflows",
      ({ socket }) => void socket.write(frame(8, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff]))),
    ],
    ["an increment of nothing", ({ socket }) => void socket.write(frame(8, 0, 0, Buffer.alloc(4)))],
    [
      "settings that are out of range",
      ({ socket }) => void socket.write(frame(4, 0, 0, Buffer.from([0, 5, 0, 0, 0, 1]))),
    ],
    ["a frame that is too large", ({ socket }) => void socket.write(frame(0, 0, 1, Buffer.alloc(20_000)))],
    [
      "a header block that is garbage",
      ({ socket, stream }) =>
        void socket.write(frame(1, 5, stream.id, Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]))),
    ],
    [
      "a continuation of nothing",
      ({ socket, stream }) => void socket.write(frame(9, 4, stream.id, Buffer.from([0x88]))),
    ],
    ["plain HTTP/1.1", ({ socket }) => void socket.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")],
  ])("%s", async (_name, hostile) => {
    act = hostile;
    const got = await ask("hostile");
    const final = finalOf(got.raw);
    expect(final).toMatch(/^HTTP\/1\.1 50[234] /);
    expect(final).toContain("application/problem+json");
    expect(final.toLowerCase()).toContain("proxy-status: countersign-sidecar/notebook/nb-1");
    expect(got.raw).not.toMatch(/evil/i);
    await honestNext();
  });
});

describe("an answer that breaks off", () => {
  test.each<[string, (turn: Turn) => void]>([
    [
      "less than its length",
      (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            ["content-length", "9"],
          ],
          "ok",
        ),
    ],
    [
      "more than its length",
      (turn) =>
        answer(
          turn,
          [
            [":status", "200"],
            ["content-length", "9"],
          ],
          "0123456789evil",
        ),
    ],
    [
      "a reset behind the head",
      (turn) => {
        answer(
          turn,
          [
            [":status", "200"],
            ["content-length", "9"],
          ],
          "ok",
          [],
        );
        turn.h2.resetStream(turn.stream, 0x2);
      },
    ],
  ])("%s is not taken for a whole one", async (_name, hostile) => {
    act = hostile;
    const got = await ask("hostile");
    expect(got.raw).not.toContain("evil");
    if (got.status === 200) expect(got.body.length).toBeLessThan(9);
    else expect(got.status).toBe(502);
    await honestNext();
  });
});

describe("more than was asked for", () => {
  test("identity and framing of the mesh cannot come from a callee, nor can its word on who failed", async () => {
    act = (turn) =>
      answer(
        turn,
        [
          ...OK,
          ["workload-identity-token", "evil"],
          ["workload-proof-token", "evil"],
          ["txn-token", "evil"],
          ["x-mesh-caller", "evil"],
          ["x-forwarded-client-cert", "evil"],
          ["countersign-port", "1"],
          ["x-own", "1"],
        ],
        "ok",
      );
    const got = await ask("hostile");
    expect([got.status, got.body]).toEqual([200, "ok"]);
    expect(got.head).toContain("x-own: 1");
    expect(got.raw).not.toContain("evil");
    expect(got.head).not.toContain("countersign-port");
    await honestNext();
  });

  test("trailers carry neither framing nor identity", async () => {
    act = (turn) =>
      answer(turn, [[":status", "200"]], "ok", [
        ["x-sum", "1"],
        ["x-mesh-caller", "evil"],
        ["content-length", "1"],
        ["host", "evil"],
      ]);
    const got = await ask("hostile");
    expect(got.raw).not.toContain("evil");
    await honestNext();
  });

  test.each<[string, (turn: Turn) => void]>([
    [
      "informational answers",
      (turn) => {
        for (let i = 0; i < 5_000; i++) {
          turn.h2.beginHeaders(turn.stream);
          turn.h2.putPair(":status", "103");
          turn.h2.endHeaders(false);
        }
        answer(turn, OK, "ok");
      },
    ],
    [
      "pings",
      ({ socket, ...turn }) => {
        socket.write(Buffer.concat(Array.from({ length: 20_000 }, () => frame(6, 0, 0, Buffer.alloc(8)))));
        answer({ socket, ...turn }, OK, "ok");
      },
    ],
    [
      "settings",
      ({ socket, ...turn }) => {
        socket.write(Buffer.concat(Array.from({ length: 20_000 }, () => frame(4, 0, 0))));
        answer({ socket, ...turn }, OK, "ok");
      },
    ],
    [
      "resets",
      ({ socket, ...turn }) => {
        socket.write(Buffer.concat(Array.from({ length: 20_000 }, () => frame(3, 0, 1, Buffer.alloc(4)))));
        answer({ socket, ...turn }, OK, "ok");
      },
    ],
    [
      "frames of unknown types",
      ({ socket, ...turn }) => {
        socket.write(Buffer.concat(Array.from({ length: 20_000 }, () => frame(0xee, 0, 0, Buffer.alloc(8)))));
        answer({ socket, ...turn }, OK, "ok");
      },
    ],
    [
      "goodbyes",
      ({ socket, ...turn }) => {
        const goaway = frame(7, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
        socket.write(Buffer.concat(Array.from({ length: 1_000 }, () => goaway)));
        answer({ socket, ...turn }, OK, "ok");
      },
    ],
  ])("a flood of %s is taken or ends the connection, in bounded time", async (_name, hostile) => {
    act = hostile;
    const startedMs = performance.now();
    const got = await ask("hostile");
    expect(finalOf(got.raw)).toMatch(/^HTTP\/1\.1 (200|50[234]) /);
    expect(performance.now() - startedMs).toBeLessThan(100_000);
    await honestNext();
  });

  test("a refused stream that was processed is not asked again without end", async () => {
    act = ({ h2, stream }) => h2.resetStream(stream, 0x7);
    const before = requests;
    const got = await ask("hostile");
    expect(got.status).toBeGreaterThanOrEqual(502);
    expect(requests - before).toBeLessThanOrEqual(4);
    await honestNext();
  });
});
