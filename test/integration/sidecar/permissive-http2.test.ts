// Plaintext callers that speak HTTP/2 where a namespace is in `Permissive` mode, such as gRPC clients in namespaces that are
// not in the mesh yet: the same stages as callers of the mesh, without an identity.
import { once } from "node:events";
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  createServer,
  type Http2Server,
  type OutgoingHttpHeaders,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { DEFAULT_LIMITS } from "../../../sidecar/config.ts";
import type { PortProtocol, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { ALLOW_READ, type App, type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const CALLEE: ServiceSpec = { namespace: "ml", kind: "serving", name: "scorer", ports: [] };
const DENY_WRITES: ProgramPolicy = {
  ...ALLOW_READ,
  id: "ml/no-writes",
  action: "Deny",
  rules: [{ name: "writes", operations: [{ op: "thing.write" }] }],
};
const DENY_STREAMS: ProgramPolicy = {
  ...DENY_WRITES,
  rules: [{ name: "streams", operations: [{ op: "thing.stream" }] }],
};

let world: World;
let http1: App;
let http2: Http2Server;
let seen: OutgoingHttpHeaders[] = [];
let server: Sidecar;
let port = 8080;
let revision = 0;
const sessions: ClientHttp2Session[] = [];

beforeAll(async () => {
  world = await World.create();
  http1 = await world.app((head, socket) => {
    const [line = ""] = head.split("\r\n");
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${line.length}\r\n\r\n${line}`);
  });
  http2 = createServer();
  http2.on("stream", (stream, headers) => {
    seen.push(headers);
    stream.on("error", () => {});
    if (headers[":path"] === "/stream/quiet") {
      stream.respond({ ":status": 200, "content-type": "text/event-stream" });
      stream.write("data: 1\n\n");
      return;
    }
    let bytes = 0;
    stream.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
    });
    stream.on("end", () => {
      stream.respond({ ":status": 200 }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "x-bytes": String(bytes) }));
      stream.end("h2");
    });
  });
  http2.listen(0, "127.0.0.1");
  await once(http2, "listening");
  server = await world.sidecar(CALLEE, {
    capture: {
      originalOf: () => ({ ok: true, value: { address: "10.1.1.1", port } }),
      families: ["ipv4"],
      outboundPort: 0,
      inboundPort: 0,
      verifies: false,
    },
    config: {
      capture: true,
      limits: { ...DEFAULT_LIMITS, appConnections: 8 },
      appPorts: new Map([
        [8080, { kind: "tcp", host: "127.0.0.1", port: http1.port }],
        [9000, { kind: "tcp", host: "127.0.0.1", port: (http2.address() as AddressInfo).port }],
      ]),
    },
  });
});
beforeEach(() => {
  seen = [];
  use("Permissive", []);
});
afterEach(() => {
  for (const session of sessions.splice(0)) session.destroy();
});
afterAll(async () => {
  await world.close();
  http2.close();
});

function use(mtls: "Strict" | "Permissive", policies: readonly ProgramPolicy[]): void {
  const made = table({ self: CALLEE, policies, bundle: world.authority.bundle.json, settings: { mtls } });
  const declared = (number: number, protocol: PortProtocol) => ({
    port: number,
    protocol,
    packs: ["things"],
  });
  const ports = [declared(8080, "http"), declared(9000, "h2c")];
  revision++;
  expect(server.plane.setTable({ ...made, revision, program: { ...made.program, ports } })).toMatchObject({
    ok: true,
  });
}

async function session(to: number): Promise<ClientHttp2Session> {
  port = to;
  const made = connect(`http://127.0.0.1:${server.captured?.inbound}`);
  made.on("error", () => {});
  sessions.push(made);
  await once(made, "remoteSettings");
  return made;
}

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly trailers: Record<string, unknown>;
  readonly error: NodeJS.ErrnoException | undefined;
}

async function answerOf(request: ClientHttp2Stream): Promise<Answer> {
  let status = 0;
  let body = "";
  let trailers: Record<string, unknown> = {};
  let error: NodeJS.ErrnoException | undefined;
  request.on("response", (headers) => {
    status = headers[":status"] ?? 0;
  });
  request.on("trailers", (fields) => {
    trailers = fields;
  });
  request.on("data", (chunk: Buffer) => {
    body += chunk.toString();
  });
  request.on("error", (caught) => {
    error = caught;
  });
  await new Promise((resolve) => request.on("close", resolve));
  return { status, body, trailers, error };
}

const ask = (on: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: string): Promise<Answer> => {
  const request = on.request(headers, { endStream: body === undefined });
  if (body !== undefined) request.end(body);
  return answerOf(request);
};

describe("a plaintext caller over HTTP/2", () => {
  test.each([
    { name: "HTTP/2", to: 9000, body: "h2" },
    { name: "HTTP/1.1", to: 8080, body: "GET /things/a HTTP/1.1" },
  ])("reaches an application that speaks $name, many requests at a time", async ({ to, body }) => {
    const one = await session(to);
    const answers = await Promise.all(Array.from({ length: 5 }, () => ask(one, { ":path": "/things/a" })));
    for (const answer of answers) expect(answer).toMatchObject({ status: 200, body });
  });

  test("sends bodies and gets trailers", async () => {
    const one = await session(9000);
    const answer = await ask(one, { ":path": "/things/a", ":method": "POST" }, "x".repeat(200_000));
    expect(answer).toMatchObject({ status: 200, body: "h2", trailers: { "x-bytes": "200000" } });
  });

  test("is refused what a Deny rule denies, in the form of gRPC where it speaks that, and recorded", async () => {
    use("Permissive", [DENY_WRITES]);
    const one = await session(9000);
    const denied = await ask(one, { ":path": "/things/a", ":method": "POST" }, "{}");
    expect(denied.status).toBe(403);
    expect(JSON.parse(denied.body)).toMatchObject({ reason: "DENIED_BY_POLICY", caller: "plaintext" });
    expect(seen).toEqual([]);
    const event = (await server.audit()).at(-1);
    expect(event).toMatchObject({
      data: { identityMetadata: { caller: "plaintext", callerSpiffeId: null } },
    });
    const request = one.request({
      ":path": "/things/a",
      ":method": "POST",
      "content-type": "application/grpc",
      te: "trailers",
    });
    request.end();
    const headers: Record<string, unknown> = {};
    request.on("response", (fields) => Object.assign(headers, fields));
    await answerOf(request);
    expect(headers).toMatchObject({ ":status": 200, "grpc-status": "7" });
  });

  test("cannot say who it is, nor which port it means", async () => {
    const one = await session(9000);
    const answer = await ask(one, {
      ":path": "/things/a",
      "workload-identity-token": "a.b.c",
      "workload-proof-token": "a.b.c",
      "x-mesh-caller": "notebook/root",
      x_forwarded_user: "root",
      "countersign-port": "8080",
      "x-kept": "yes",
    });
    expect(answer).toMatchObject({ status: 200, body: "h2" });
    expect(seen[0]).toMatchObject({ "x-kept": "yes" });
    expect(JSON.stringify(seen)).not.toMatch(/token|mesh|forwarded|countersign/);
  });

  test("is decided on again, and its connection ends when plaintext is let in no more", async () => {
    const one = await session(9000);
    const quiet = one.request({ ":path": "/stream/quiet" });
    const first = once(quiet, "data");
    const ended = answerOf(quiet);
    await first;
    use("Permissive", [DENY_STREAMS]);
    expect((await ended).body).toContain("event: error");
    use("Strict", []);
    expect((await ask(one, { ":path": "/things/a" })).status).toBe(403);
    await once(one, "close");
  });

  test("has its share of requests at a time, on one connection too", async () => {
    const one = await session(9000);
    const quiet = Array.from({ length: 7 }, () => one.request({ ":path": "/stream/quiet" }));
    const answers = quiet.map((request) => once(request, "response"));
    const statuses = (await Promise.all(answers)).map(
      ([headers]) => (headers as OutgoingHttpHeaders)[":status"],
    );
    expect(statuses.toSorted()).toEqual([200, 200, 200, 200, 200, 200, 503]);
    for (const request of quiet) request.destroy();
    while (server.plane.busy > 0) await new Promise((resolve) => setImmediate(resolve));
  });

  test("may upgrade by CONNECT, which ends as one over HTTP/1.1 does", async () => {
    const one = await session(8080);
    const request = one.request({
      ":method": "CONNECT",
      ":protocol": "websocket",
      ":path": "/things/a",
      ":scheme": "http",
      ":authority": "scorer",
    });
    // The application ignores it: over CONNECT that is a failure, with the status beside it.
    const [headers] = (await once(request, "response")) as [OutgoingHttpHeaders];
    expect(headers).toMatchObject({ ":status": 502, "countersign-status": "200" });
    request.destroy();
  });

  test("is told nothing where plaintext is refused", async () => {
    use("Strict", []);
    port = 9000;
    const answer = await send(server.captured?.inbound ?? 0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", () => false);
    expect(answer.raw).toBe("");
  });

  test("is kept out of ports that are not declared", async () => {
    const one = await session(9999);
    expect((await ask(one, { ":path": "/things/a" })).status).toBe(400);
  });
});

test("what only begins like HTTP/2 is no request", async () => {
  port = 8080;
  const before = http1.received.length;
  const answer = await send(server.captured?.inbound ?? 0, "PRINT / HTTP/1.1\r\nhost: a\r\n\r\n");
  expect(answer.raw).toMatch(/^HTTP\/1\.1 200 /);
  expect(http1.received.length).toBe(before + 1);
  const broken = await send(server.captured?.inbound ?? 0, "PRI * HTTP/1.1\r\nhost: a\r\n\r\n", () => false);
  expect(broken.raw).not.toContain("HTTP/1.1");
  expect(http1.received.length).toBe(before + 1);
});
