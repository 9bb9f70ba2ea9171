// The limits of the edges, each met by a peer that goes past it: connections, handshakes, answers that nobody reads.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { clientTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import { DEFAULT_LIMITS, type Limits } from "../../../sidecar/config.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import { METHODS, PACK } from "../sidecar/grpc-app.ts";
import {
  ALLOW_READ,
  type App,
  idOf,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "../sidecar/world.ts";
import { HostilePeer, request } from "./peer.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const BODY = "x".repeat(60_000);

/** Its decision needs the body. */
const CHAT: ProgramPolicy = {
  ...ALLOW_READ,
  id: "ml/chat",
  name: "chat",
  rules: [
    {
      name: "good",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "model.chat", resources: ["good-*"] }],
    },
  ],
};

const ITEMS: ServiceSpec = { ...THINGS, protocol: "grpc" };
/** Its decision needs the message. */
const GOOD_ITEMS: ProgramPolicy = {
  ...ALLOW_READ,
  id: "ml/items",
  name: "items",
  rules: [
    {
      name: "good",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "store", resources: ["good-*"] }],
    },
  ],
};

let world: World;
let app: App;
let identity: WorkloadIdentity;
const open: { destroy(): void }[] = [];

beforeAll(async () => {
  world = await World.create();
  app = await world.app((_head, socket) => {
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`);
  });
  identity = world.identity(NOTEBOOK);
});
afterEach(() => {
  for (const each of open.splice(0)) each.destroy();
});
afterAll(() => world.close());

async function callee(
  limits: Partial<Limits> = {},
  mtls: "Strict" | "Permissive" = "Strict",
  appPort?: number,
): Promise<Sidecar> {
  const capture = {
    originalOf: () => ({ ok: true, value: { address: "10.1.1.1", port: 8080 } }) as const,
    families: ["ipv4"],
    outboundPort: 0,
    inboundPort: 0,
    verifies: false,
  } as const;
  const made = await world.sidecar(THINGS, {
    ...(appPort === undefined ? { app } : { appPort }),
    capture,
    config: { capture: true, limits: { ...DEFAULT_LIMITS, ...limits } },
  });
  const { json } = world.authority.bundle;
  const spec = { self: THINGS, policies: [ALLOW_READ, CHAT], bundle: json, settings: { mtls } };
  expect(made.plane.setTable(table(spec)).ok).toBe(true);
  return made;
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 100_000;
  while (!holds() && performance.now() < deadline) await new Promise((resolve) => setImmediate(resolve));
}

async function raw(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  open.push(socket);
  await once(socket, "connect");
  return socket;
}

async function peerOf(made: Sidecar, windowBytes?: number): Promise<HostilePeer> {
  const peer = await HostilePeer.connect(made.meshPort, identity, undefined, windowBytes);
  open.push({ destroy: () => peer.close() });
  return peer;
}

describe("connections", () => {
  test("of one address are limited at the plaintext port, and free again when they end", async () => {
    const { captured } = await callee({ connectionsPerSource: 2 }, "Permissive");
    const port = captured?.inbound ?? 0;
    const first = await raw(port);
    await raw(port);
    const third = connect(port, "127.0.0.1");
    third.on("error", () => {});
    await new Promise((resolve) => third.on("close", resolve));
    first.destroy();
    await once(first, "close");
    const ask = "GET /things/a HTTP/1.1\r\nhost: things\r\nconnection: close\r\n\r\n";
    let status = Number.NaN;
    for (let tries = 0; tries < 100 && status !== 200; tries++) status = (await send(port, ask)).status;
    expect(status).toBe(200);
  });

  test("with a certificate are limited, those in their handshake do not count among them", async () => {
    const made = await callee({ connections: 2 });
    for (let i = 0; i < 20; i++) await raw(made.meshPort);
    const first = await peerOf(made);
    const second = await peerOf(made);
    const third = await peerOf(made);
    await until(() => third.socket.destroyed);
    expect(third.socket.destroyed).toBe(true);
    for (const peer of [first, second])
      expect((await peer.ask(request("GET", "/things/a"))).status).toBe(200);
  });

  test("that never finish their handshake give way to those that do", async () => {
    const made = await callee();
    const silent: Socket[] = [];
    for (let i = 0; i < 1_100; i++) silent.push(await raw(made.meshPort));
    await until(
      () =>
        silent.filter((socket) => socket.destroyed || socket.readableEnded).length > 0 ||
        silent[0]?.closed === true,
    );
    const peer = await peerOf(made);
    expect((await peer.ask(request("GET", "/things/a"))).status).toBe(200);
  });
});

describe("bodies that come slowly", () => {
  /** Half a minute of sweeps, with what is sent in between. */
  async function halfMinute(made: Sidecar, each: () => void): Promise<void> {
    const from = performance.now();
    for (let ms = 0; ms <= 30_000; ms += 500) {
      each();
      for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve));
      made.plane.inbound.sweep(from + ms);
    }
  }
  const JSON_TYPE: [string, string] = ["content-type", "application/json"];

  test("are cut off when their length is known, and the application sees them cut", async () => {
    const made = await callee();
    const peer = await peerOf(made);
    const dripped = peer.open(request("POST", "/things/a", ["content-length", "100000"]), false);
    await halfMinute(made, () => peer.data(dripped, "x", false));
    const answer = await dripped.done;
    expect(answer.status).toBe(400);
    expect(JSON.parse(answer.body).detail ?? answer.body).toContain("too slowly");
  });

  /** Answers a request before its body. */
  async function eagerApp(): Promise<number> {
    const server = createServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", () =>
        socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"),
      );
      open.push(socket);
    });
    open.push({ destroy: () => server.close() });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return (server.address() as AddressInfo).port;
  }

  test.each<{ name: string; fields: [string, string][]; bytes: number; isAnswered: boolean; left: number }>([
    { name: "of unknown length are cut off too", fields: [], bytes: 1, isAnswered: false, left: 0 },
    { name: "may be streams beside an answer", fields: [], bytes: 1, isAnswered: true, left: 2 },
    { name: "of unknown length go on at a pace", fields: [], bytes: 2_000, isAnswered: false, left: 1 },
    {
      name: "of known length go on at a pace",
      fields: [["content-length", "1000000"]],
      bytes: 2_000,
      isAnswered: false,
      left: 1,
    },
  ])("$name", async ({ fields, bytes, isAnswered, left }) => {
    const made = await callee({}, "Strict", isAnswered ? await eagerApp() : undefined);
    const peer = await peerOf(made);
    const silent = peer.open(request("POST", "/things/a", ...fields), false);
    const streamed = peer.open(request("POST", "/things/a", ...fields), false);
    if (isAnswered) await until(() => silent.answer.status === 200 && streamed.answer.status === 200);
    await halfMinute(made, () => peer.data(streamed, "x".repeat(bytes), false));
    expect(made.plane.inbound.openExchanges).toBe(left);
  });

  test("that wait for a decision are limited together", async () => {
    const made = await callee({ waitingBodyBytes: 100_000 });
    const peer = await peerOf(made);
    const bodies = [];
    for (let i = 0; i < 10; i++) {
      const body = peer.open(request("POST", "/chat", JSON_TYPE), false);
      peer.data(body, `{"model":"${"x".repeat(20_000)}`, false);
      bodies.push(body);
    }
    await until(() => made.plane.inbound.openExchanges > 0 && made.plane.inbound.openExchanges < 6);
    const refused = await Promise.race(bodies.map((body) => body.done));
    expect([refused.status, JSON.parse(refused.body).reason]).toEqual([503, "OVERLOADED"]);
    expect((await peer.ask(request("HEAD", "/things/a"))).status).toBe(200);
    for (const body of bodies) if (body.stream !== undefined) peer.h2.resetStream(body.stream, 8);
    await until(() => made.plane.inbound.openExchanges === 0);
    expect(exposition(made.plane.metrics).body).toContain("countersign_waiting_body_bytes 0\n");
  });
});

describe("messages that come in part", () => {
  test("are limited together with all that waits for a decision", async () => {
    const made = await world.sidecar(ITEMS, {
      app,
      config: { limits: { ...DEFAULT_LIMITS, waitingBodyBytes: 100_000 } },
    });
    const { json } = world.authority.bundle;
    const policies = [GOOD_ITEMS];
    expect(made.plane.setTable(table({ self: ITEMS, policies, bundle: json, pack: PACK })).ok).toBe(true);
    const peer = await peerOf(made);
    const calls = Array.from({ length: 10 }, () => {
      const call = peer.open(
        request("POST", METHODS.get.path, ["content-type", "application/grpc"], ["te", "trailers"]),
        false,
      );
      // Of 60 000 bytes a third.
      peer.data(call, Buffer.concat([Buffer.from([0, 0, 0, 0xea, 0x60]), Buffer.alloc(20_000)]), false);
      return call;
    });
    const refused = await Promise.race(calls.map((call) => call.done));
    // RESOURCE_EXHAUSTED.
    expect(refused.fields.find(({ name }) => name === "grpc-status")?.value).toBe("8");
    await until(() => made.plane.inbound.openExchanges < 6);
    expect(made.plane.inbound.openExchanges).toBeGreaterThan(0);
    for (const call of calls) if (call.stream !== undefined) peer.h2.resetStream(call.stream, 8);
    await until(() => made.plane.inbound.openExchanges === 0);
    expect(exposition(made.plane.metrics).body).toContain("countersign_waiting_body_bytes 0\n");
  });
});

describe("heads that do not end", () => {
  const PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
  /** A frame header of HEADERS or CONTINUATION without END_HEADERS, and of its payload what is given. */
  const frame = (type: number, bytes: number, payload: string): Buffer =>
    Buffer.concat([Buffer.from([0, bytes >> 8, bytes & 0xff, type, 0, 0, 0, 0, 1]), Buffer.from(payload)]);

  test.each([
    { name: "for want of a CONTINUATION", head: frame(1, 3, "abc") },
    { name: "in the middle of a frame", head: frame(1, 3_000, "abc") },
    {
      name: "in the middle of a CONTINUATION",
      head: Buffer.concat([frame(1, 3, "abc"), frame(9, 900, "d")]),
    },
  ])("end the connection: $name", async ({ head }) => {
    const made = await callee();
    const caller = await world.sidecar(NOTEBOOK);
    const tls = connectTls({
      ...clientTlsOptions(identity, idOf("ml", "serving", "things"), () => Date.now(), ["h2"]),
      host: "127.0.0.1",
      port: made.meshPort,
    });
    tls.on("error", () => {});
    open.push(tls);
    await once(tls, "secureConnect");
    const ends = [tls, await raw(caller.proxyPort)].map((socket) => {
      const end = { said: Buffer.alloc(0), socket };
      socket.on("data", (chunk: Buffer) => {
        end.said = Buffer.concat([end.said, chunk]);
      });
      socket.write(Buffer.concat([Buffer.from(PREFACE, "latin1"), head]));
      return end;
    });
    await until(() => ends.every(({ said }) => said.length > 0));
    // Whole milliseconds: differences are exact.
    const from = Math.ceil(performance.now());
    for (let ms = 0; ms <= 11_000; ms += 500) {
      // Another byte now and then makes it no better.
      if (ms % 4_000 === 0 && head.length > 12) for (const { socket } of ends) socket.write("x");
      for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve));
      made.plane.inbound.sweep(from + ms);
      caller.plane.outbound.sweep(from + ms);
    }
    const calm = Buffer.from([0, 0, 0, 0xb]);
    await until(() => ends.every(({ said }) => said.includes(calm)));
    expect(ends.map(({ said }) => said.includes(calm))).toEqual([true, true]);
  });
});

describe("answers that nobody reads", () => {
  /** A peer with streams whose answers wait for its windows. */
  async function stalled(made: Sidecar, streams: number): Promise<HostilePeer> {
    const peer = await peerOf(made, 1_000);
    peer.stopsReading = true;
    for (let i = 0; i < streams; i++) peer.open(request("GET", "/things/a"), true);
    await until(() => made.plane.inbound.openExchanges > 0 || app.heads.length > 0);
    return peer;
  }

  const unread = (made: Sidecar): number => {
    let bytes = 0;
    for (const each of made.plane.inbound.connections) bytes += each.unreadBytes;
    return bytes;
  };

  test("are given up after the idle limit, others of the connection go on", async () => {
    const made = await callee();
    const peer = await stalled(made, 20);
    const sweep = (afterMs: number): void => made.plane.inbound.sweep(performance.now() + afterMs);
    await until(() => {
      sweep(0);
      return made.plane.inbound.openExchanges === 0 && unread(made) > 100_000;
    });
    sweep(200_000);
    expect(unread(made)).toBeGreaterThan(100_000);
    const head = await peer.ask(request("HEAD", "/things/a"));
    expect(head.status).toBe(200);
    sweep(301_000);
    expect(unread(made)).toBe(0);
  });

  test("are given up when they take too much memory together", async () => {
    const made = await callee({ unreadBytes: 500_000 });
    const before = app.heads.length;
    await stalled(made, 20);
    await until(() => app.heads.length >= before + 20 && made.plane.inbound.openExchanges === 0);
    made.plane.inbound.sweep(performance.now());
    // Of 1.2 MB. The connection that holds most loses all that it holds then; what ended after a sweep of the listener stays.
    expect(unread(made)).toBeLessThan(500_000);
  });

  test("hold up the next request of an HTTP/1.1 connection", async () => {
    const { captured, plane } = await callee({}, "Permissive");
    const socket = await raw(captured?.inbound ?? 0);
    const before = app.heads.length;
    socket.pause();
    const one = "GET /things/a HTTP/1.1\r\nhost: things\r\n\r\n";
    socket.write(one.repeat(1_000));
    let last = -1;
    while (app.heads.length !== last) {
      last = app.heads.length;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    // What the kernel takes of both ends, and little more: not a thousand answers of 60 KB.
    expect(last - before).toBeLessThan(300);
    let received = 0;
    socket.on("data", (chunk: Buffer) => {
      received += chunk.length;
    });
    socket.resume();
    await until(() => received >= 1_000 * BODY.length);
    expect(app.heads.length - before).toBe(1_000);
    expect(plane.inbound.openExchanges).toBe(0);
  });
});
