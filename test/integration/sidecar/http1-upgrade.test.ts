// WebSocket and other upgrades of callers that come over HTTP/1.1: with an SVID on the mesh port, and in plaintext where the
// namespace lets them in. Decided at the handshake, bytes held until 101, decided again with every table.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, createServer, connect as dial, type Server, type Socket } from "node:net";
import { connect as dialTls } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { clientTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { idOf, type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const KERNELS: ServiceSpec = { namespace: "ml", kind: "notebook", name: "kernels", ports: [8888] };
const PACK = `
# operation       method  template                          resource               access   level
kernel.channel    WS      /api/kernels/{kernel}/channels    kernel<path:kernel     execute  -
kernel.read       GET     /api/kernels/{kernel}/channels    kernel<path:kernel     read     -
`;
const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
const rules = (action: "Allow" | "Deny", op: string): ProgramPolicy => ({
  id: "ml/channel",
  name: "channel",
  cluster: false,
  source: "policy",
  action,
  enforcement: "Enforce",
  rules: [{ name: "only", operations: [{ op }] }],
});

const handshake = (path = "/api/kernels/k-1/channels", more = "", upgrade = "websocket"): string =>
  `GET ${path} HTTP/1.1\r\nHost: kernels.ml\r\nConnection: Upgrade\r\nUpgrade: ${upgrade}\r\n` +
  `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${KEY}\r\n${more}\r\n`;

let world: World;
let callee: Sidecar;
let server: Server;
let revision = 0;
/** What the application has got: heads, and bytes behind them; and its side of the last connection. */
const heads: string[] = [];
let behind = "";
let far: Socket | undefined;
let answer: (head: string, socket: Socket) => void;
const sockets: Socket[] = [];

/** 101, with what it is sent coming back. */
function agree(head: string, socket: Socket): void {
  const key = /\r\nsec-websocket-key: (\S+)\r\n/i.exec(head)?.[1];
  const upgrade = /\r\nupgrade: (\S+)\r\n/i.exec(head)?.[1];
  const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
  const line = key === undefined ? "" : `Sec-WebSocket-Accept: ${accept}\r\n`;
  socket.write(`HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: ${upgrade}\r\n${line}X-App: 1\r\n\r\n`);
}

function plainly(_head: string, socket: Socket): void {
  socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
}

beforeAll(async () => {
  world = await World.create();
  server = createServer((socket) => {
    sockets.push(socket);
    far = socket;
    socket.on("error", () => {});
    let text = "";
    let isBehind = false;
    socket.on("data", (chunk: Buffer) => {
      if (isBehind) {
        behind += chunk.toString("latin1");
        socket.write(chunk);
        return;
      }
      text += chunk.toString("latin1");
      const end = text.indexOf("\r\n\r\n");
      if (end < 0) return;
      const head = text.slice(0, end + 4);
      behind += text.slice(end + 4);
      text = "";
      heads.push(head);
      isBehind = /\r\nupgrade: /i.test(head) && answer !== plainly;
      answer(head, socket);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  callee = await world.sidecar(KERNELS, {
    appPort: (server.address() as AddressInfo).port,
    capture: {
      originalOf: () => ({ ok: true, value: { address: "10.1.1.1", port: 8888 } }) as const,
      families: ["ipv4"],
      outboundPort: 0,
      inboundPort: 0,
      verifies: false,
    },
    config: { capture: true },
  });
});
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
});
afterAll(async () => {
  await world.close();
  server.close();
});

const open = (): number => callee.plane.busy + callee.plane.inbound.openExchanges;

class Client {
  readonly socket: Socket;
  text = "";
  ended = false;
  reset = false;

  constructor(socket: Socket) {
    this.socket = socket;
    sockets.push(socket);
    socket.on("data", (chunk: Buffer) => {
      this.text += chunk.toString("latin1");
    });
    socket.on("error", () => {
      this.reset = true;
    });
    socket.on("end", () => {
      this.ended = true;
    });
  }

  async until(done: () => boolean): Promise<void> {
    const untilMs = performance.now() + 60_000;
    while (!done()) {
      if (performance.now() > untilMs) throw new Error(`it never came: ${this.text}`);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** The head of the answer; what is behind it stays in `text`. */
  async ask(bytes: string): Promise<string> {
    this.socket.write(bytes, "latin1");
    await this.until(() => this.text.includes("\r\n\r\n"));
    const end = this.text.indexOf("\r\n\r\n") + 4;
    const head = this.text.slice(0, end);
    this.text = this.text.slice(end);
    return head;
  }
}

describe.each([
  { way: "over mutual TLS", action: "Allow", who: "notebook/nb-1" },
  { way: "in plaintext", action: "Deny", who: "plaintext" },
] as const)("an upgrade $way", ({ action, who }) => {
  /** @param allowed operation that may be called. */
  function permit(allowed: "kernel.channel" | "kernel.read"): void {
    revision++;
    const isDenied = allowed === "kernel.read";
    const policies = action === "Allow" ? [rules(action, allowed)] : [rules(action, "kernel.channel")];
    const made = table({
      self: KERNELS,
      // Plaintext callers are let in but for what is denied.
      policies: action === "Allow" || isDenied ? policies : [],
      bundle: world.authority.bundle.json,
      pack: PACK,
      revision,
      settings: { mtls: "Permissive" },
    });
    expect(callee.plane.setTable(made)).toMatchObject({ ok: true });
  }

  async function client(): Promise<Client> {
    heads.length = 0;
    behind = "";
    answer = agree;
    permit("kernel.channel");
    if (who === "plaintext")
      return new Client(
        dial({ port: callee.captured?.inbound ?? 0, host: "127.0.0.1", allowHalfOpen: true }),
      );
    const options = clientTlsOptions(world.identity(NOTEBOOK), idOf("ml", "notebook", "kernels"), Date.now, [
      "http/1.1",
    ]);
    const socket = dialTls({ ...options, host: "127.0.0.1", port: callee.meshPort });
    await once(socket, "secureConnect");
    return new Client(socket);
  }

  test("is agreed on with the keys of each hop, and recorded when it is over", async () => {
    const one = await client();
    const head = (await one.ask(handshake(undefined, "x-mesh-caller: forged\r\n"))).toLowerCase();
    expect(head).toMatch(/^http\/1\.1 101 /);
    expect(head).toContain("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n");
    expect(head).toContain("\r\nconnection: upgrade\r\n");
    expect(head).toContain("\r\nx-app: 1\r\n");
    expect(heads[0]).not.toMatch(new RegExp(`${KEY.replace("+", ".")}|forged`));
    const bytes = "\x81\x85".repeat(50_000);
    one.socket.write(bytes, "latin1");
    await one.until(() => one.text.length === bytes.length);
    expect(one.text).toBe(bytes);
    one.socket.destroy();
    await one.until(() => open() === 0);
    const event = JSON.stringify((await callee.audit()).at(-1));
    for (const said of ["kernel.channel", '"statusCode":101', who, `"bytes":${bytes.length}`])
      expect(event).toContain(said);
  });

  test("holds what the caller sends early until the application agrees", async () => {
    const one = await client();
    answer = () => {};
    one.socket.write(`${handshake()}early`, "latin1");
    await one.until(() => heads.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(behind).toBe("");
    if (far !== undefined) agree(heads[0] ?? "", far);
    await one.until(() => one.text.includes(" 101 ") && behind === "early");
  });

  test("is denied at the handshake, before the application is asked", async () => {
    const one = await client();
    permit("kernel.read");
    expect(await one.ask(handshake())).toMatch(/^HTTP\/1\.1 403 /);
    expect(heads).toEqual([]);
    // The connection goes on with requests.
    await one.until(() => one.text.endsWith("}"));
    one.text = "";
    answer = plainly;
    const get = "GET /api/kernels/k-1/channels HTTP/1.1\r\nhost: kernels.ml\r\n\r\n";
    expect(await one.ask(get)).toMatch(/^HTTP\/1\.1 200 /);
  });

  test("ends with a close frame when it is allowed no more", async () => {
    const one = await client();
    expect(await one.ask(handshake())).toContain(" 101 ");
    one.socket.write("\x81\x00", "latin1");
    await one.until(() => one.text === "\x81\x00");
    permit("kernel.read");
    await one.until(() => one.ended || one.reset);
    expect(one.text.charCodeAt(2)).toBe(0x88);
    expect(one.text.slice(4, 6)).toBe("\x03\xf0"); // 1008
    await one.until(() => open() === 0);
    expect(JSON.stringify((await callee.audit()).at(-1))).toContain(
      action === "Allow" ? "NO_MATCHING_ALLOW" : "DENIED_BY_POLICY",
    );
  });

  test("may name another protocol, with a version", async () => {
    const one = await client();
    const head = await one.ask(handshake(undefined, "", "foo/1").replace(/Sec-.*\r\n/g, ""));
    expect(head).toMatch(/^HTTP\/1\.1 101 [\s\S]*\r\nupgrade: foo\/1\r\n/);
    one.socket.write("x");
    await one.until(() => one.text === "x");
    // Broken off on the far side: no end in order for the caller.
    far?.resetAndDestroy();
    await one.until(() => one.reset || one.ended);
    if (who === "plaintext") expect(one.reset).toBe(true);
  });

  test("that the application ignores is answered like any request", async () => {
    const one = await client();
    answer = plainly;
    for (let i = 0; i < 2; i++) {
      expect(await one.ask(handshake())).toMatch(/^HTTP\/1\.1 200 /);
      await one.until(() => one.text === "ok");
      one.text = "";
    }
    expect(one.ended).toBe(false);
  });

  test.each([
    { name: "no key", bytes: handshake().replace(/Sec-WebSocket-Key.*\r\n/, ""), status: 400 },
    { name: "POST", bytes: handshake().replace("GET", "POST"), status: 501 },
    { name: "a body", bytes: `${handshake(undefined, "content-length: 1\r\n")}x`, status: 501 },
    { name: "two protocols", bytes: handshake(undefined, "", "websocket, foo"), status: 501 },
  ])("with $name is answered $status", async ({ bytes, status }) => {
    const one = await client();
    expect(await one.ask(bytes)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(heads).toEqual([]);
  });

  test("carries the end of either side", async () => {
    const one = await client();
    await one.ask(handshake());
    far?.end("last");
    await one.until(() => one.ended);
    expect(one.text).toBe("last");
    const two = await client();
    await two.ask(handshake());
    let isFarEnded = false;
    far?.on("end", () => {
      isFarEnded = true;
    });
    two.socket.end("bye");
    await two.until(() => isFarEnded);
    expect(behind).toBe("bye");
  });

  test("lives on in silence", async () => {
    const one = await client();
    await one.ask(handshake());
    callee.plane.inbound.sweep(performance.now() + 86_400_000);
    one.socket.write("still here");
    await one.until(() => one.text === "still here");
  });
});
