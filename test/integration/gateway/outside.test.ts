// A gateway in front of a host outside the mesh: WebSockets over HTTP/1.1 and HTTP/2, and events, with real clients and a real
// HTTPS server.
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from "node:http2";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { WebSocket, WebSocketServer } from "ws";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { OUTSIDE, withOutside } from "../sidecar/outside.ts";
import { hello, PACK } from "../sidecar/world.ts";
import { ALLOW_GATEWAYS, Edge, FRONT, gatewayOf, route } from "./edge.ts";

const PATH = "/kernels/k-1/channels";

let edge: Edge;
let host: Server;
let dir: string;
let asked: IncomingMessage[];
let more: (text: string) => void;
const sockets = new Set<TLSSocket>();
const clients: WebSocket[] = [];

beforeEach(async () => {
  asked = [];
  dir = mkdtempSync(join(tmpdir(), "countersign-outside-"));
  const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
  const externalCaFile = join(dir, "ca.pem");
  writeFileSync(externalCaFile, ca);
  host = createServer({ cert, key }, (request, response) => {
    asked.push(request);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
    more = (text) => response.write(text);
  });
  const kernels = new WebSocketServer({ noServer: true });
  host.on("secureConnection", (socket: TLSSocket) => sockets.add(socket));
  host.on("upgrade", (request, socket, rest) => {
    asked.push(request);
    kernels.handleUpgrade(request, socket, rest, (open) =>
      open.on("message", (data, isBinary) => open.send(data, { binary: isBinary })),
    );
  });
  host.listen(0, "127.0.0.1");
  await once(host, "listening");
  const { port } = host.address() as AddressInfo;
  const backend = { kind: "external", id: OUTSIDE } as const;
  edge = await Edge.create(hello, gatewayOf({ routes: [route({ backend })] }), undefined, { externalCaFile });
  const before = edge.front.plane.table;
  if (before === undefined) throw new Error("no table");
  const text = `${PACK}\nkernel.channel    WS      /kernels/{kernel}/channels    kernel<path:kernel     execute  -\n`;
  const packs = new Map([["things", { name: "things", text }]]);
  const result = edge.front.plane.setTable(withOutside({ ...before, packs }, port, [ALLOW_GATEWAYS]));
  if (!result.ok) throw new Error(result.error);
});
afterEach(async () => {
  for (const client of clients.splice(0)) client.terminate();
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await edge.close();
  host.close();
  rmSync(dir, { recursive: true });
});

const until = async (done: () => boolean | Promise<boolean>): Promise<void> => {
  while (!(await done())) await new Promise((resolve) => setTimeout(resolve, 5));
};

function revoke(): void {
  const { spiffeId } = edge.world.identity(FRONT);
  const before = edge.front.plane.table;
  if (before === undefined) throw new Error("no table");
  const revocations = new Revocations([{ spiffeId, pod: "", beforeMs: Date.now() + 3_000 }]);
  expect(edge.front.plane.setTable({ ...before, revocations }).ok).toBe(true);
}

describe("a WebSocket through the gateway to a host outside the mesh", () => {
  const open = async (): Promise<WebSocket> => {
    const name = "app.example.com";
    const options = { servername: name, headers: { host: name }, ca: edge.material.ca };
    const client = new WebSocket(`wss://127.0.0.1:${edge.port}${PATH}`, options);
    clients.push(client);
    await once(client, "open");
    return client;
  };

  test("over HTTP/1.1 carries messages, is recorded here, and ends with 1008 when the gateway is revoked", async () => {
    const client = await open();
    for (const size of [10, 200_000]) {
      client.send("x".repeat(size));
      const [got] = (await once(client, "message")) as [Buffer];
      expect(got.length).toBe(size);
    }
    expect(asked[0]?.headers.host).toMatch(/^localhost:/);
    const far = systemClock.monotonicMs() + 86_400_000;
    edge.front.plane.sweep(far);
    client.send("still here");
    await once(client, "message");
    const closed = once(client, "close");
    revoke();
    // The gateway's own turn of looking at what is open.
    edge.gateway.sweep(systemClock.monotonicMs());
    expect((await closed)[0]).toBe(1008);
    await until(async () => (await edge.front.audit()).length === 1);
    const text = JSON.stringify(await edge.front.audit());
    expect(text).toContain("kernel.channel");
    expect(text).toContain('"reason":"REVOKED"');
  });

  test("over HTTP/2 carries bytes and both ends (RFC 8441)", async () => {
    const session = edge.session();
    if (session.remoteSettings.enableConnectProtocol !== true) await once(session, "remoteSettings");
    const stream = session.request({
      ...{ ":method": "CONNECT", ":protocol": "websocket", ":scheme": "https", ":path": PATH },
      ...{ ":authority": "app.example.com", "sec-websocket-version": "13" },
    } as OutgoingHttpHeaders);
    const [head] = (await once(stream, "response")) as [IncomingHttpHeaders];
    expect([head[":status"], head["sec-websocket-accept"]]).toEqual([200, undefined]);
    // A masked text and a close.
    stream.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69]));
    const [echoed] = (await once(stream, "data")) as [Buffer];
    expect([...echoed]).toEqual([0x81, 2, 0x68, 0x69]);
    stream.end(Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]));
    const rest: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => rest.push(chunk));
    await once(stream, "end");
    expect([...Buffer.concat(rest)]).toEqual([0x88, 2, 0x03, 0xe8]);
    await until(async () => (await edge.front.audit()).length === 1);
    expect(JSON.stringify(await edge.front.audit())).toContain('"statusCode":101');
  });
});

test.each(["http/1.1", "h2"])("events through the gateway come one by one over %s", async (alpn) => {
  let text = "";
  const take = (chunk: Buffer): void => {
    text += chunk.toString("latin1");
  };
  if (alpn === "h2") {
    const stream = edge.session().request({ ":authority": "app.example.com", ":path": "/stream/a" });
    stream.on("error", () => {});
    stream.on("data", take);
  } else {
    const socket = await edge.socket();
    socket.on("error", () => {});
    socket.on("data", take);
    socket.write("GET /stream/a HTTP/1.1\r\nhost: app.example.com\r\naccept: text/event-stream\r\n\r\n");
  }
  await until(() => asked.length === 1);
  for (let n = 0; n < 5; n++) {
    more(`data: ${n}\n\n`);
    // The next one is not sent before.
    await until(() => text.includes(`data: ${n}\n\n`));
  }
});
