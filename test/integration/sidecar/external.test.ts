// Calls to hosts outside the mesh: decided on and recorded at the caller, TLS with the host's own certificate, nothing of
// the mesh on the wire. A real HTTPS server stands for the host.
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { connect as connectHttp2, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http2";
import { createServer, type Server } from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { afterEach, describe, expect, test } from "@jest/globals";
import { WebSocket, WebSocketServer } from "ws";
import { webSocketAccept } from "../../../sidecar/core/http/websocket.ts";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import type { OriginalDestination } from "../../../sidecar/wire/original-destination.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { OUTSIDE, withOutside } from "./outside.ts";
import { PACK, type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };

const policy = (more: Partial<ProgramPolicy["rules"][number]> = {}): ProgramPolicy => ({
  id: "lab/out",
  name: "out",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [
    {
      name: "notebooks",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "thing.read" }, { op: "thing.upload" }, { op: "model.chat", resources: ["gpt"] }],
      ...more,
    },
  ],
});

/** With WebSockets. */
const CHANNELS = `${PACK}
kernel.channel    WS      /kernels/{kernel}/channels    kernel<path:kernel     execute  -
`;

interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

let world: World;
let host: Server;
let seen: Seen[];
const hostSockets = new Set<TLSSocket>();
afterEach(async () => {
  // Also those that became WebSockets.
  for (const socket of hostSockets) socket.destroy();
  hostSockets.clear();
  await new Promise((resolve) => host.close(resolve));
  await world.close();
});

type OnUpgrade = (request: IncomingMessage, socket: Socket, rest: Buffer) => void;
type Handler = (seen: Seen, response: ServerResponse) => void;

async function setUp(options: {
  policies?: readonly ProgramPolicy[];
  trusted?: boolean;
  handler?: Handler;
  /** Whoever asks for a WebSocket; absent: the host knows none. */
  onUpgrade?: OnUpgrade;
  settings?: Partial<SidecarTable["settings"]>;
  /** Captured transparently, as going to here; no proxy then. */
  captured?: () => OriginalDestination;
  /** What the control plane says of an address. */
  refusal?: string;
}): Promise<{ sidecar: Sidecar; port: number }> {
  world = await World.create();
  seen = [];
  const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
  host = createServer({ cert, key }, (request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const { method = "", url = "", headers } = request;
      const one = { method, url, headers, body: Buffer.concat(chunks).toString() };
      seen.push(one);
      if (options.handler === undefined) response.end("outside");
      else options.handler(one, response);
    });
  });
  if (options.onUpgrade !== undefined) host.on("upgrade", options.onUpgrade);
  host.on("secureConnection", (socket) => hostSockets.add(socket));
  await new Promise<void>((resolve) => host.listen(0, "127.0.0.1", resolve));
  const { port } = host.address() as AddressInfo;
  const externalCaFile = join(world.dir, "ca.pem");
  writeFileSync(externalCaFile, ca);
  const { captured, refusal = "UNKNOWN_DESTINATION" } = options;
  const capture = {
    originalOf: () => ({ ok: true, value: captured?.() ?? { address: "", port: 0 } }) as const,
    families: ["ipv4"],
    outboundPort: 0,
    inboundPort: 0,
    verifies: false,
  } as const;
  const sidecar = await world.sidecar(NOTEBOOK, {
    ...(captured === undefined ? {} : { capture }),
    resolve: async () => ({ kind: "refused", reason: refusal }),
    config: {
      capture: captured !== undefined,
      ...(options.trusted === false ? {} : { externalCaFile }),
      localServices: [{ listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: OUTSIDE, port }],
    },
  });
  const { settings = {} } = options;
  const base = table({ self: NOTEBOOK, bundle: world.authority.bundle.json, settings, pack: CHANNELS });
  const full = withOutside(base, port, options.policies ?? [policy()]);
  const result = sidecar.plane.setTable(full);
  if (!result.ok) throw new Error(result.error);
  return { sidecar, port };
}

const get = (authority: string, path: string, ...lines: string[]): string =>
  `GET http://${authority}${path} HTTP/1.1\r\n${["host: x", ...lines].join("\r\n")}\r\n\r\n`.replace(
    "host: x",
    `host: ${authority}`,
  );
const post = (authority: string, path: string, body: string, ...lines: string[]): string =>
  `POST http://${authority}${path} HTTP/1.1\r\nhost: ${authority}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n${lines
    .map((line) => `${line}\r\n`)
    .join("")}\r\n${body}`;

describe("a call to a host outside the mesh", () => {
  test("goes out over TLS without anything of the mesh, and is recorded here", async () => {
    const { sidecar, port } = await setUp({});
    const answer = await send(
      sidecar.proxyPort,
      get(`localhost:${port}`, "/things/a?secret=1", "authorization: Bearer mine", "x-mesh-caller: root"),
    );
    expect([answer.status, answer.body]).toEqual([200, "outside"]);
    const [one] = seen;
    expect([one?.method, one?.url, one?.headers.host]).toEqual([
      "GET",
      "/things/a?secret=1",
      `localhost:${port}`,
    ]);
    expect(one?.headers.authorization).toBe("Bearer mine");
    expect(Object.keys(one?.headers ?? {}).filter((name) => /token|mesh|countersign/.test(name))).toEqual([]);
    const [event] = await sidecar.audit();
    expect(event).toMatchObject({ subject: "external/outside" });
    const text = JSON.stringify(event);
    expect(text).toContain('"effect":"Allow"');
    expect(text).toContain("notebook/nb-1");
    expect(text).not.toContain("secret=1");
  });

  test("may come to a local port that means it", async () => {
    const { sidecar } = await setUp({});
    const answer = await send(
      sidecar.localPorts[0] ?? 0,
      "GET /things/a HTTP/1.1\r\nhost: 127.0.0.1:8400\r\n\r\n",
    );
    expect(answer.status).toBe(200);
    expect(seen[0]?.headers.host).toMatch(/^localhost:/);
  });

  test.each([
    {
      name: "an operation that nobody allows",
      policies: [policy()],
      path: "/health",
      reason: "NO_MATCHING_ALLOW",
    },
    { name: "default deny", policies: [], path: "/things/a", reason: "DEFAULT_DENY" },
    {
      name: "a user who is not there",
      policies: [policy({ from: [{ workload: { kinds: ["notebook"] }, user: { presence: "Required" } }] })],
      path: "/things/a",
      reason: "NO_MATCHING_ALLOW",
    },
  ])("is refused here: $name", async ({ policies, path, reason }) => {
    const { sidecar, port } = await setUp({ policies });
    const answer = await send(sidecar.proxyPort, get(`localhost:${port}`, path));
    expect(answer.status).toBe(403);
    expect(answer.body).toContain(reason);
    expect(seen).toEqual([]);
    const [event] = await sidecar.audit();
    expect(JSON.stringify(event)).toContain(`"reason":"${reason}"`);
  });

  test("a transaction token that this workload never received goes nowhere", async () => {
    const { sidecar, port } = await setUp({ settings: { propagation: ["forward"] } });
    const answer = await send(
      sidecar.proxyPort,
      get(`localhost:${port}`, "/things/a", "txn-token: eyJhbGciOiJFUzI1NiJ9.e30.c2ln"),
    );
    expect([answer.status, JSON.parse(answer.body).reason]).toEqual([403, "TXN_NOT_HELD"]);
    expect(seen).toEqual([]);
  });

  test.each([
    {
      name: "demands that cannot be met",
      policies: [policy({ with: { concurrency: 1 } })],
      lines: [],
      status: 501,
    },
    {
      name: "another upgrade than that to WebSocket",
      policies: [policy()],
      lines: ["connection: upgrade", "upgrade: foo"],
      status: 501,
    },
    { name: "a path with dots", policies: [policy()], lines: [], path: "/things/../x", status: 400 },
  ])("is not carried: $name", async ({ policies, lines, status, path }) => {
    const { sidecar, port } = await setUp({ policies });
    const answer = await send(sidecar.proxyPort, get(`localhost:${port}`, path ?? "/things/a", ...lines));
    expect(answer.status).toBe(status);
    expect(seen).toEqual([]);
  });

  test("gRPC needs HTTP/2, which this host does not take", async () => {
    const { sidecar, port } = await setUp({
      policies: [policy({ operations: [{ any: true }] })],
    });
    const call = post(`localhost:${port}`, "/upload", "", "content-type: application/grpc", "te: trailers");
    expect((await send(sidecar.proxyPort, call)).raw).toContain("grpc-status: 14");
    expect(seen).toEqual([]);
    // Which it is asked for again, by whom it is enough, on the connection that stands.
    expect((await send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"))).status).toBe(200);
    expect(hostSockets.size).toBe(1);
  });

  test("a resource that the body names is held against policy before anything goes out", async () => {
    const { sidecar, port } = await setUp({});
    const ask = (model: string) =>
      send(
        sidecar.proxyPort,
        post(`localhost:${port}`, "/chat", JSON.stringify({ model }), "content-type: application/json"),
      );
    expect((await ask("gpt")).status).toBe(200);
    expect(seen[0]?.body).toBe('{"model":"gpt"}');
    expect((await ask("other")).status).toBe(403);
    expect(seen.length).toBe(1);
  });

  test("a host that nobody vouches for gets nothing", async () => {
    const { sidecar, port } = await setUp({ trusted: false });
    const answer = await send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"));
    expect(answer.status).toBe(502);
    expect(seen).toEqual([]);
  });

  test("large bodies go both ways, and the connection is used again", async () => {
    const body = "x".repeat(700_000);
    const { sidecar, port } = await setUp({ handler: (one, response) => response.end(one.body) });
    const put = `PUT http://localhost:${port}/upload HTTP/1.1\r\nhost: localhost:${port}\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    const answer = await send(sidecar.proxyPort, put);
    expect([answer.status, answer.body === body]).toEqual([200, true]);
    const chunked = `PUT http://localhost:${port}/upload HTTP/1.1\r\nhost: localhost:${port}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`;
    const second = await send(sidecar.proxyPort, chunked);
    expect([second.status, second.body]).toEqual([200, "abc"]);
    await new Promise((resolve) => host.getConnections((_error, count) => resolve(expect(count).toBe(1))));
  });

  test("a kept connection that the host has closed loses no request", async () => {
    const { sidecar, port } = await setUp({});
    expect((await send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"))).status).toBe(200);
    host.closeAllConnections();
    const answers = await Promise.all(
      [1, 2].map(() => send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"))),
    );
    expect(answers.map(({ status }) => status)).toEqual([200, 200]);
  });

  test.each([
    ["with an event", "text/event-stream", /event: error\ndata: \{"reason":"REVOKED"\}/],
    ["by breaking off", "application/octet-stream", /first/],
  ])("an answer under way ends %s when what the call rests on is revoked", async (_how, type, expected) => {
    let more: (text: string) => void = () => {};
    const { sidecar, port } = await setUp({
      handler: (_one, response) => {
        response.writeHead(200, { "content-type": type });
        response.write("first");
        more = (text) => response.write(text);
      },
    });
    const socket = connect(sidecar.proxyPort, "127.0.0.1").setEncoding("latin1");
    let text = "";
    const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => {});
    const first = new Promise<void>((resolve) =>
      socket.on("data", (chunk: string) => {
        text += chunk;
        if (text.includes("first")) resolve();
      }),
    );
    socket.write(get(`localhost:${port}`, "/things/a", "connection: close"));
    await first;
    const { spiffeId } = world.identity(NOTEBOOK);
    const revocations = new Revocations([{ spiffeId, pod: "", beforeMs: Date.now() + 3_000 }]);
    const before = sidecar.plane.table;
    if (before === undefined) throw new Error("no table");
    expect(sidecar.plane.setTable({ ...before, revocations }).ok).toBe(true);
    more("second");
    await closed;
    expect(text).toMatch(expected);
    expect(text).not.toContain("second");
    const [event] = await sidecar.audit();
    expect(JSON.stringify(event)).toContain('"effect":"Deny","reason":"REVOKED"');
  });

  test("a host that breaks off in the middle of its answer is not taken for one that has finished", async () => {
    const { sidecar, port } = await setUp({
      handler: (_one, response) => {
        response.writeHead(200, { "content-length": "100" });
        response.write("half");
        setImmediate(() => response.destroy());
      },
    });
    const answer = await send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"), () => false);
    expect(answer.raw).toContain("content-length: 100");
    expect(answer.body).not.toHaveLength(100);
  });
});

describe("a captured call to a host outside the mesh", () => {
  const plain = (authority: string, path = "/things/a"): string =>
    `GET ${path} HTTP/1.1\r\nhost: ${authority}\r\n\r\n`;
  let to: OriginalDestination;
  const start = (more: Parameters<typeof setUp>[0] = {}) => setUp({ captured: () => to, ...more });
  const call = ({ captured }: Sidecar, text: string) => send(captured?.outbound ?? 0, text);
  const results = ({ plane }: Sidecar) => {
    const { captured } = plane.metrics;
    return ["external", "refused", "passed"].map((result) =>
      captured.read(captured.series("outbound", result)),
    );
  };

  test("in plaintext to port 80 is decided on, goes out over TLS to the host by name, and is recorded", async () => {
    const { sidecar, port } = await start();
    to = { address: "203.0.113.80", port: 80 };
    const answer = await call(sidecar, plain("localhost"));
    expect([answer.status, answer.body]).toEqual([200, "outside"]);
    expect(seen.map(({ url, headers }) => [url, headers.host])).toEqual([["/things/a", `localhost:${port}`]]);
    const denied = await call(sidecar, plain("localhost", "/nothing"));
    expect(denied).toMatchObject({ status: 403 });
    expect(JSON.parse(denied.body)).toMatchObject({
      reason: "NO_MATCHING_ALLOW",
      target: "localhost",
    });
    expect(seen).toHaveLength(1);
    const events = JSON.stringify(await sidecar.audit());
    expect(events.match(/"subject":"external\/outside"/g)).toHaveLength(2);
    expect(results(sidecar)).toEqual([2, 0, 0]);
  });

  test("in plaintext to the declared port is the same", async () => {
    const { sidecar, port } = await start();
    to = { address: "203.0.113.80", port };
    expect(await call(sidecar, plain(`localhost:${port}`))).toMatchObject({ status: 200 });
  });

  test.each([
    { name: "of a host that nobody declared", authority: "elsewhere.example", port: 80 },
    { name: "whose port is not the one that it went to", authority: "localhost:81", port: 80 },
    { name: "to a port that is not declared", authority: "localhost:8080", port: 8080 },
  ])("$name is refused as ever", async ({ authority, port }) => {
    const { sidecar } = await start();
    to = { address: "203.0.113.80", port };
    const answer = await call(sidecar, plain(authority));
    expect(answer).toMatchObject({ status: 403 });
    expect(JSON.parse(answer.body)).toMatchObject({
      reason: "OUTBOUND_DENIED",
      target: `203.0.113.80:${port}`,
    });
    expect(seen).toEqual([]);
  });

  test("to an address of the mesh stays the mesh's, whatever host it names", async () => {
    const { sidecar } = await start({ refusal: "NO_MATCHING_ALLOW" });
    to = { address: "10.96.0.9", port: 80 };
    const answer = await call(sidecar, plain("localhost"));
    expect(JSON.parse(answer.body)).toMatchObject({ reason: "NO_MATCHING_ALLOW", target: "10.96.0.9:80" });
    expect(seen).toEqual([]);
  });

  test("on one connection is each request's own affair", async () => {
    const { sidecar } = await start();
    to = { address: "203.0.113.80", port: 80 };
    const { raw } = await send(
      sidecar.captured?.outbound ?? 0,
      plain("localhost") + plain("elsewhere.example"),
      (text) => text.split("HTTP/1.1 ").length === 3 && text.endsWith("}"),
    );
    expect(raw).toMatch(/^HTTP\/1\.1 200[\s\S]*HTTP\/1\.1 403/);
    expect(seen).toHaveLength(1);
  });
});

describe("a WebSocket to a host outside the mesh", () => {
  const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
  const PATH = "/kernels/k-1/channels";
  const allowed = [
    policy({ operations: [{ op: "kernel.channel", resources: ["k-1"] }, { op: "thing.read" }] }),
  ];
  const handshake = (authority: string, path = PATH, ...lines: string[]): string =>
    get(
      authority,
      path,
      ...[
        "connection: Upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        `sec-websocket-key: ${KEY}`,
      ],
      ...lines,
    );
  const clients: WebSocket[] = [];
  const heads: IncomingMessage[] = [];
  afterEach(() => {
    for (const client of clients.splice(0)) client.terminate();
    heads.length = 0;
  });

  /** A real server of WebSockets. */
  const serve = (onOpen: (socket: WebSocket) => void): OnUpgrade => {
    const server = new WebSocketServer({ noServer: true, handleProtocols: () => "v1.kernel" });
    return (request, socket, rest) => {
      heads.push(request);
      server.handleUpgrade(request, socket, rest, onOpen);
    };
  };
  const echo = serve((socket) =>
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })),
  );
  /** Answers with these bytes; `{accept}` is the right one. */
  const answer =
    (text: string): OnUpgrade =>
    (request, socket) => {
      heads.push(request);
      socket.on("error", () => {});
      socket.write(
        text.replace("{accept}", webSocketAccept(request.headers["sec-websocket-key"] ?? "")),
        "latin1",
      );
    };
  const AGREED =
    "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n";

  const open = async (port: number, host?: string): Promise<WebSocket> => {
    const headers = host === undefined ? {} : { host };
    const client = new WebSocket(`ws://127.0.0.1:${port}${PATH}`, ["v1.kernel"], { headers });
    clients.push(client);
    await once(client, "open");
    return client;
  };
  /** What has come, once it is as the test wants it. */
  class Client {
    readonly socket: Socket;
    bytes = Buffer.alloc(0);
    ended = false;

    constructor(port: number) {
      this.socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      this.socket.on("error", () => {});
      this.socket.on("data", (chunk) => {
        this.bytes = Buffer.concat([this.bytes, chunk]);
      });
      this.socket.on("end", () => {
        this.ended = true;
      });
    }

    async until(done: () => boolean): Promise<void> {
      while (!done()) await new Promise((resolve) => setTimeout(resolve, 5));
    }

    async head(): Promise<string> {
      await this.until(() => this.bytes.includes("\r\n\r\n"));
      const end = this.bytes.indexOf("\r\n\r\n") + 4;
      const head = this.bytes.toString("latin1", 0, end);
      this.bytes = this.bytes.subarray(end);
      return head;
    }
  }
  const revoke = (sidecar: Sidecar): void => {
    const { spiffeId } = world.identity(NOTEBOOK);
    const revocations = new Revocations([{ spiffeId, pod: "", beforeMs: Date.now() + 3_000 }]);
    const before = sidecar.plane.table;
    if (before === undefined) throw new Error("no table");
    expect(sidecar.plane.setTable({ ...before, revocations }).ok).toBe(true);
  };

  test("passes messages of any size both ways, with a key of its own, and is recorded once, at its end", async () => {
    const { sidecar, port } = await setUp({ policies: allowed, onUpgrade: echo });
    const client = await open(sidecar.localPorts[0] ?? 0);
    expect(client.protocol).toBe("v1.kernel");
    for (const size of [1, 70_000, 3_000_000]) {
      const sent = Buffer.alloc(size, size % 251);
      client.send(sent);
      const [got] = (await once(client, "message")) as [Buffer];
      expect(got.equals(sent)).toBe(true);
    }
    expect(await sidecar.audit()).toEqual([]);
    client.close(1000, "done");
    const [code, reason] = (await once(client, "close")) as [number, Buffer];
    expect([code, reason.toString()]).toEqual([1000, "done"]);
    const [head] = heads;
    expect(head?.headers.host).toBe(`localhost:${port}`);
    expect(head?.headers["sec-websocket-extensions"]).toMatch(/^permessage-deflate/);
    expect(
      Object.keys(head?.headers ?? {}).filter((name) => /token|mesh|countersign|content|transfer/.test(name)),
    ).toEqual([]);
    await waitFor(async () => (await sidecar.audit()).length === 1);
    const text = JSON.stringify(await sidecar.audit());
    expect(text).toContain('"effect":"Allow"');
    expect(text).toContain("kernel.channel");
    expect(text).toContain('"statusCode":101');
  });

  test("comes from a captured application too", async () => {
    let to: OriginalDestination = { address: "203.0.113.80", port: 80 };
    const { sidecar, port } = await setUp({ policies: allowed, onUpgrade: echo, captured: () => to });
    to = { address: "203.0.113.80", port };
    const client = await open(sidecar.captured?.outbound ?? 0, `localhost:${port}`);
    client.send("hello");
    expect(String((await once(client, "message"))[0])).toBe("hello");
  });

  test("comes over HTTP/2 (RFC 8441), what is sent early and half-closed streams too", async () => {
    let got = "";
    const { sidecar, port } = await setUp({
      policies: allowed,
      onUpgrade: (request, socket) => {
        answer(AGREED)(request, socket, Buffer.alloc(0));
        socket.on("data", (chunk: Buffer) => {
          got += chunk.toString("latin1");
        });
        socket.on("end", () => socket.end("bye"));
      },
    });
    const session = connectHttp2(`http://127.0.0.1:${sidecar.proxyPort}`);
    session.on("error", () => {});
    await once(session, "remoteSettings");
    const stream = session.request({
      ...{ ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": PATH },
      ...{ ":authority": `localhost:${port}`, "sec-websocket-version": "13", "sec-websocket-key": KEY },
    } as OutgoingHttpHeaders);
    stream.end("early");
    const [head] = (await once(stream, "response")) as [IncomingHttpHeaders];
    expect([head[":status"], head["sec-websocket-accept"]]).toEqual([200, undefined]);
    let text = "";
    for await (const chunk of stream) text += String(chunk);
    expect([got, text]).toEqual(["early", "bye"]);
    expect(heads[0]?.headers["sec-websocket-key"]).not.toBe(KEY);
    session.destroy();
  });

  test("that the host ignores is 502 over HTTP/2, where a 2xx would agree", async () => {
    const { sidecar, port } = await setUp({ policies: allowed });
    const session = connectHttp2(`http://127.0.0.1:${sidecar.proxyPort}`);
    session.on("error", () => {});
    await once(session, "remoteSettings");
    const stream = session.request({
      ...{ ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": PATH },
      ...{ ":authority": `localhost:${port}`, "sec-websocket-version": "13" },
    } as OutgoingHttpHeaders);
    stream.on("error", () => {});
    stream.write("GET /things/a HTTP/1.1\r\nhost: localhost\r\n\r\n");
    const [head] = (await once(stream, "response")) as [IncomingHttpHeaders];
    expect(head[":status"]).toBe(502);
    let text = "";
    for await (const chunk of stream) text += String(chunk);
    expect(text).toBe("outside");
    expect(seen.map(({ url }) => url)).toEqual([PATH]);
    session.destroy();
  });

  test("what is sent early waits for the host's agreement", async () => {
    let got = "";
    let agree: () => void = () => {};
    const { sidecar, port } = await setUp({
      policies: allowed,
      onUpgrade: (request, socket, rest) => {
        got += rest.toString("latin1");
        socket.on("data", (chunk: Buffer) => {
          got += chunk.toString("latin1");
        });
        heads.push(request);
        socket.on("end", () => socket.end("answer"));
        agree = () => answer(AGREED)(request, socket, rest);
      },
    });
    const client = new Client(sidecar.proxyPort);
    client.socket.write(`${handshake(`localhost:${port}`)}early`);
    await client.until(() => heads.length > 0);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(got).toBe("");
    agree();
    expect(await client.head()).toContain(`sec-websocket-accept: ${webSocketAccept(KEY)}\r\n`);
    await client.until(() => got === "early");
    // The end of one direction leaves the other.
    client.socket.end("last");
    await client.until(() => got === "earlylast");
    await client.until(() => client.ended);
    expect(client.bytes.toString()).toBe("answer");
    client.socket.destroy();
  });

  test.each([
    {
      name: "an answer in words",
      text: "HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno",
      status: 403,
      body: "no",
    },
    {
      name: "200, as if nothing had been asked",
      text: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
      status: 200,
      body: "ok",
    },
    {
      name: "a wrong accept",
      text: AGREED.replace("{accept}", "AAAA"),
      status: 502,
      body: "Sec-WebSocket-Accept",
    },
    {
      name: "no accept",
      text: AGREED.replace(/sec-websocket-accept.*\r\n/, ""),
      status: 502,
      body: "UPSTREAM_FAILED",
    },
    {
      name: "two accepts",
      text: AGREED.replace("{accept}", "{accept}\r\nsec-websocket-accept: AAAA"),
      status: 502,
      body: "UPSTREAM_FAILED",
    },
    {
      name: "another protocol",
      text: AGREED.replace("upgrade: websocket", "upgrade: h2c"),
      status: 502,
      body: "another protocol",
    },
    {
      name: "two protocols",
      text: AGREED.replace("upgrade: websocket", "upgrade: websocket, foo"),
      status: 502,
      body: "UPSTREAM_FAILED",
    },
    {
      name: "101 without Connection",
      text: AGREED.replace("connection: upgrade\r\n", ""),
      status: 502,
      body: "UPSTREAM_FAILED",
    },
    { name: "bytes before its 101", text: `\x81\x01a${AGREED}`, status: 502, body: "UPSTREAM_FAILED" },
    {
      name: "a body in its 101",
      text: AGREED.replace("x\r\n", "x\r\ncontent-length: 5\r\n"),
      status: 502,
      body: "UPSTREAM_FAILED",
    },
  ])("is not agreed on by $name, and the connection is not used again", async ({ text, status, body }) => {
    const { sidecar, port } = await setUp({ policies: allowed, onUpgrade: answer(text) });
    const got = await send(sidecar.proxyPort, handshake(`localhost:${port}`));
    expect([got.status, got.body]).toEqual([status, expect.stringContaining(body)]);
    expect((await send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"))).body).toBe("outside");
    expect(hostSockets.size).toBe(2);
  });

  test("101 to a request that asked for nothing is a failure", async () => {
    const { sidecar, port } = await setUp({
      policies: allowed,
      handler: (_one, response) => response.socket?.write(AGREED.replace("{accept}", webSocketAccept(KEY))),
    });
    const plain = get(`localhost:${port}`, "/things/a", `sec-websocket-key: ${KEY}`);
    const got = await send(sidecar.proxyPort, plain);
    expect([got.status, got.body]).toEqual([502, expect.stringContaining("without being asked")]);
  });

  test("what is sent behind a handshake that is not agreed to is decided on by itself", async () => {
    const refusal = "HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno";
    const { sidecar, port } = await setUp({ policies: allowed, onUpgrade: answer(refusal) });
    const authority = `localhost:${port}`;
    const { raw } = await send(
      sidecar.proxyPort,
      handshake(authority) + get(authority, "/health") + get(authority, "/things/a"),
      (text) => text.split("HTTP/1.1 ").length === 4 && text.endsWith("outside"),
    );
    expect(raw.match(/HTTP\/1\.1 (\d+)/g)).toEqual(["HTTP/1.1 403", "HTTP/1.1 403", "HTTP/1.1 200"]);
    expect(seen.map(({ url }) => url)).toEqual(["/things/a"]);
  });

  test.each([
    { name: "the resource", path: "/kernels/k-2/channels", status: 403, reason: "NO_MATCHING_ALLOW" },
    {
      name: "an operation that is for requests",
      path: "/things/a",
      status: 403,
      reason: "NO_MATCHING_ALLOW",
    },
  ])("is denied at the handshake: $name", async ({ path, status, reason }) => {
    const { sidecar, port } = await setUp({ policies: allowed, onUpgrade: echo });
    const got = await send(
      sidecar.proxyPort,
      `${handshake(`localhost:${port}`, path)}${get("x", "/things/a")}`,
    );
    expect([got.status, JSON.parse(got.body).reason]).toEqual([status, reason]);
    expect([heads, seen]).toEqual([[], []]);
  });

  test.each([
    { name: "no key", change: (text: string) => text.replace(/sec-websocket-key.*\r\n/, ""), status: 400 },
    {
      name: "two keys",
      change: (text: string) => text.replace("\r\nhost:", `\r\nsec-websocket-key: ${KEY}\r\nhost:`),
      status: 400,
    },
    { name: "a key that is none", change: (text: string) => text.replace(KEY, "AAAA"), status: 400 },
    {
      name: "a body",
      change: (text: string) => `${text.replace("\r\nhost:", "\r\ncontent-length: 1\r\nhost:")}x`,
      status: 501,
    },
    { name: "POST", change: (text: string) => text.replace("GET", "POST"), status: 501 },
    {
      name: "two protocols",
      change: (text: string) => text.replace("websocket\r\n", "websocket, foo\r\n"),
      status: 501,
    },
  ])("a handshake with $name is answered $status", async ({ change, status }) => {
    const { sidecar, port } = await setUp({ policies: allowed, onUpgrade: echo });
    expect((await send(sidecar.proxyPort, change(handshake(`localhost:${port}`)))).status).toBe(status);
    expect(heads).toEqual([]);
  });

  test("lives on in silence, and ends with 1008 when what it rests on is revoked, though nothing passes", async () => {
    const { sidecar } = await setUp({ policies: allowed, onUpgrade: echo });
    const client = await open(sidecar.localPorts[0] ?? 0);
    sidecar.plane.sweep(systemClock.monotonicMs() + 86_400_000);
    client.send("still here");
    expect(String((await once(client, "message"))[0])).toBe("still here");
    const closed = once(client, "close");
    const before = sidecar.plane.table;
    if (before === undefined) throw new Error("no table");
    // Somebody else's.
    const spiffeId = world.identity({ ...NOTEBOOK, name: "nb-2" }).spiffeId;
    sidecar.plane.setTable({
      ...before,
      revocations: new Revocations([{ spiffeId, pod: "", beforeMs: Date.now() + 3_000 }]),
    });
    sidecar.plane.sweep(systemClock.monotonicMs());
    client.send("and now");
    expect(String((await once(client, "message"))[0])).toBe("and now");
    revoke(sidecar);
    const [code, reason] = (await closed) as [number, Buffer];
    expect([code, reason.toString()]).toEqual([1008, expect.stringMatching(/^REVOKED ./)]);
    await waitFor(async () => (await sidecar.audit()).length === 1);
    expect(JSON.stringify(await sidecar.audit())).toContain('"effect":"Deny","reason":"REVOKED"');
  });

  test.each([
    { name: "no policy allows it any more", left: [] as ProgramPolicy[], reason: /^DEFAULT_DENY ./ },
    { name: "the ExternalService is gone", left: undefined, reason: /^UNKNOWN_DESTINATION ./ },
  ])("ends with 1008 when $name, and not before", async ({ left, reason }) => {
    const { sidecar, port } = await setUp({ policies: allowed, onUpgrade: echo });
    const client = await open(sidecar.localPorts[0] ?? 0);
    const before = sidecar.plane.table;
    if (before === undefined) throw new Error("no table");
    const { externals, ...rest } = before;
    // Another policy that allows it too.
    const [first] = allowed;
    const other = [{ ...first, id: "lab/other" } as ProgramPolicy];
    expect(sidecar.plane.setTable(withOutside({ ...rest }, port, other)).ok).toBe(true);
    sidecar.plane.sweep(systemClock.monotonicMs());
    client.send("still here");
    expect(String((await once(client, "message"))[0])).toBe("still here");
    const closed = once(client, "close");
    expect(externals?.size).toBe(1);
    const next = left === undefined ? { ...rest } : withOutside({ ...rest }, port, left);
    expect(sidecar.plane.setTable(next).ok).toBe(true);
    const [code, text] = (await closed) as [number, Buffer];
    expect([code, text.toString()]).toEqual([1008, expect.stringMatching(reason)]);
    await waitFor(async () => (await sidecar.audit()).length === 1);
    expect(JSON.stringify(await sidecar.audit())).toContain('"effect":"Deny"');
  });

  test("in the middle of a frame ends by a reset when it is revoked", async () => {
    const { sidecar, port } = await setUp({ policies: allowed, onUpgrade: answer(`${AGREED}\x82\x05ab`) });
    const client = new Client(sidecar.proxyPort);
    client.socket.write(handshake(`localhost:${port}`));
    await client.head();
    await client.until(() => client.bytes.length === 4);
    // Not by `once`, to which the reset is an error.
    const closed = new Promise<void>((resolve) => client.socket.once("close", () => resolve()));
    revoke(sidecar);
    await closed;
    expect([client.ended, client.bytes.length]).toEqual([false, 4]);
  });

  test("a host that does not read is sent no more than buffers hold, and misses nothing", async () => {
    const TOTAL = 32 * 1024 * 1024;
    let got = 0;
    let far: Socket | undefined;
    const { sidecar, port } = await setUp({
      policies: allowed,
      onUpgrade: (request, socket) => {
        answer(AGREED)(request, socket, Buffer.alloc(0));
        far = socket.pause();
        socket.on("end", () => socket.end());
      },
    });
    const client = new Client(sidecar.proxyPort);
    client.socket.write(handshake(`localhost:${port}`));
    await client.head();
    const piece = Buffer.alloc(65_536, 7);
    let written = 0;
    const more = (): void => {
      while (written < TOTAL) {
        written += piece.length;
        if (!client.socket.write(piece)) return;
      }
      client.socket.end();
    };
    client.socket.on("drain", more);
    more();
    let last = -1;
    while (last !== written) {
      last = written;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    expect(written).toBeLessThan(TOTAL);
    far?.on("data", (chunk: Buffer) => {
      got += chunk.length;
    });
    far?.resume();
    await client.until(() => client.ended);
    expect(got).toBe(TOTAL);
    client.socket.destroy();
  });

  test("a host that is not read sends no more than buffers hold, and loses nothing", async () => {
    const TOTAL = 32 * 1024 * 1024;
    let written = 0;
    const { sidecar, port } = await setUp({
      policies: allowed,
      onUpgrade: (request, socket) => {
        answer(AGREED)(request, socket, Buffer.alloc(0));
        const piece = Buffer.alloc(65_536, 7);
        const more = (): void => {
          while (written < TOTAL) {
            written += piece.length;
            if (!socket.write(piece)) return;
          }
          socket.end();
        };
        socket.on("drain", more);
        more();
      },
    });
    const socket = connect(sidecar.proxyPort, "127.0.0.1");
    socket.write(handshake(`localhost:${port}`));
    await once(socket, "readable");
    let last = -1;
    while (last !== written) {
      last = written;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    expect(written).toBeLessThan(TOTAL);
    let bytes = 0;
    for await (const chunk of socket) bytes += (chunk as Buffer).length;
    expect(bytes).toBeGreaterThanOrEqual(TOTAL);
  });
});

test("events of a host outside the mesh arrive one by one", async () => {
  let more: (text: string) => void = () => {};
  const { sidecar, port } = await setUp({
    handler: (_one, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.flushHeaders();
      more = (text) => response.write(text);
    },
  });
  const socket = connect(sidecar.proxyPort, "127.0.0.1").setEncoding("latin1");
  let text = "";
  socket.on("data", (chunk: string) => {
    text += chunk;
  });
  socket.write(get(`localhost:${port}`, "/things/a", "accept: text/event-stream"));
  await waitFor(() => text.includes("\r\n\r\n"));
  for (let n = 0; n < 5; n++) {
    more(`data: ${n}\n\n`);
    // The next one is not sent before.
    await waitFor(() => text.includes(`data: ${n}\n\n`));
  }
  socket.destroy();
});

async function waitFor(done: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await done())) await new Promise((resolve) => setTimeout(resolve, 5));
}
