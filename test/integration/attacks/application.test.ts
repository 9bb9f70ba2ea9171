// An application that answers with whatever bytes it likes: the caller gets one whole answer or a problem that names the
// upstream, never a byte of another's answer, and a connection that went wrong is not used again.
import type { Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import {
  ALLOW_READ,
  type App,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "../sidecar/world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

let world: World;
let app: App;
let callee: Sidecar;
let caller: Sidecar;
/** How the application answers what it is asked next; it answers `/things/honest` as itself. */
let answer: (socket: Socket) => void;
let connections = new Set<Socket>();

beforeAll(async () => {
  world = await World.create();
  app = await world.app((head, socket) => {
    connections.add(socket);
    if (head.includes("/things/honest")) socket.write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhonest");
    else answer(socket);
  });
  callee = await world.sidecar(THINGS, { app });
  caller = await world.sidecar(NOTEBOOK);
  const bundle = world.authority.bundle.json;
  expect(callee.plane.setTable(table({ self: THINGS, policies: [ALLOW_READ], bundle })).ok).toBe(true);
  expect(
    caller.plane.setTable(
      table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
    ).ok,
  ).toBe(true);
});
afterAll(() => world.close());

const ask = (method: string, thing: string) =>
  send(
    caller.proxyPort,
    `${method} http://things.ml:8080/things/${thing} HTTP/1.1\r\nhost: things.ml:8080\r\nconnection: close\r\n\r\n`,
    () => false,
  );

/** Whatever happened, the next one is served, and by another connection if `fresh`. */
async function honestNext(fresh: boolean): Promise<void> {
  const before = connections;
  connections = new Set();
  const next = await ask("GET", "honest");
  expect([next.status, next.body]).toEqual([200, "honest"]);
  expect([...connections].some((socket) => before.has(socket))).toBe(!fresh);
}

const OK = "HTTP/1.1 200 OK\r\n";

describe("an answer that is none", () => {
  test.each<[string, string]>([
    ["both framings", `${OK}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`],
    ["two lengths", `${OK}content-length: 5\r\ncontent-length: 6\r\n\r\nhello`],
    ["a list of lengths", `${OK}content-length: 5, 5\r\n\r\nhello`],
    ["a negative length", `${OK}content-length: -1\r\n\r\n`],
    ["a length with a sign", `${OK}content-length: +5\r\n\r\nhello`],
    ["a hexadecimal length", `${OK}content-length: 0x5\r\n\r\nhello`],
    ["an endless length", `${OK}content-length: 99999999999999999999\r\n\r\nhello`],
    ["an encoding we do not know", `${OK}transfer-encoding: gzip\r\n\r\nhello`],
    ["chunked twice", `${OK}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n`],
    ["chunked not last", `${OK}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n`],
    ["bare line feeds", "HTTP/1.1 200 OK\ncontent-length: 5\n\nhello"],
    ["a bare carriage return in a value", `${OK}x: a\rb\r\ncontent-length: 5\r\n\r\nhello`],
    ["a NUL in a value", `${OK}x: a\0b\r\ncontent-length: 5\r\n\r\nhello`],
    ["a folded field", `${OK}x: a\r\n b\r\ncontent-length: 5\r\n\r\nhello`],
    ["a space before the colon", `${OK}content-length : 5\r\n\r\nhello`],
    ["a field without name", `${OK}: x\r\ncontent-length: 5\r\n\r\nhello`],
    ["another version", "HTTP/2.0 200 OK\r\ncontent-length: 5\r\n\r\nhello"],
    ["HTTP/0.9", "hello"],
    ["a status of two digits", "HTTP/1.1 20 OK\r\ncontent-length: 5\r\n\r\nhello"],
    ["a status below 100", "HTTP/1.1 099 OK\r\ncontent-length: 5\r\n\r\nhello"],
    [
      "a switch of protocols",
      "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello",
    ],
    ["a head without end", `${OK}${"x: y\r\n".repeat(20_000)}`],
    ["one endless field", `${OK}x: ${"y".repeat(200_000)}`],
    ["a length for 204", "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello"],
    ["a TLS alert", "\x15\x03\x03\x00\x02\x02\x28"],
    ["nothing, and the end", ""],
    ["informational answers without end", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(5_000)],
  ])("%s", async (_name, bytes) => {
    answer = (socket) => {
      socket.write(Buffer.from(bytes, "latin1"));
      if (bytes === "") socket.destroy();
      else socket.end();
    };
    const got = await ask("GET", "a");
    // Informational answers may have gone before; the final one is ours.
    const final = got.raw.slice(got.raw.lastIndexOf("HTTP/1.1 50"));
    expect(final).toMatch(/^HTTP\/1\.1 50[24] /);
    expect(final).toContain("application/problem+json");
    expect(final.toLowerCase()).toContain("proxy-status: countersign-sidecar/serving/things");
    expect(got.raw).not.toContain("hello");
    await honestNext(true);
  });
});

describe("an answer that breaks off or goes on", () => {
  test.each<[string, string]>([
    ["a body that is too short", `${OK}content-length: 50\r\n\r\nhello`],
    ["a chunk that is too short", `${OK}transfer-encoding: chunked\r\n\r\n10\r\nhello`],
    ["a chunk size that is none", `${OK}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n`],
    ["a chunk size with a sign", `${OK}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n+1\r\na\r\n0\r\n\r\n`],
    ["a chunk that is too long", `${OK}transfer-encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n`],
    [
      "endless chunk extensions",
      `${OK}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n5;${"x".repeat(100_000)}`,
    ],
    [
      "a trailer section without end",
      `${OK}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n${"x: y\r\n".repeat(20_000)}`,
    ],
  ])("%s ends the caller's answer without an end it could take for whole", async (_name, bytes) => {
    answer = (socket) => {
      socket.write(bytes);
      socket.end();
    };
    const got = await ask("GET", "a");
    expect(got.status).toBe(200);
    const length = /content-length: (\d+)/i.exec(got.head)?.[1];
    if (length === undefined) expect(got.raw).not.toContain("\r\n0\r\n");
    else expect(got.body.length).toBeLessThan(Number(length));
    await honestNext(true);
  });

  test.each<[string, string, string, string]>([
    [
      "a second answer right behind",
      "GET",
      `${OK}content-length: 5\r\n\r\nhello${OK}content-length: 6\r\n\r\npoison`,
      "hello",
    ],
    ["bytes behind the length", "GET", `${OK}content-length: 5\r\n\r\nhellopoison`, "hello"],
    ["a body for HEAD", "HEAD", `${OK}content-length: 6\r\n\r\npoison`, ""],
    ["a body for 204", "GET", "HTTP/1.1 204 No Content\r\n\r\npoison", ""],
    ["a body for 304", "GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\npoison", ""],
    [
      "bytes behind the last chunk",
      "GET",
      `${OK}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\npoison`,
      "hello",
    ],
  ])("%s: nobody else gets it", async (_name, method, bytes, body) => {
    answer = (socket) => {
      socket.write(bytes);
    };
    const got = await ask(method, "a");
    expect([200, 204, 304]).toContain(got.status);
    expect(got.raw).not.toContain("poison");
    expect(got.body.replace(/^5\r\n(hello)\r\n0\r\n\r\n$/, "$1")).toBe(body);
    await honestNext(true);
  });

  test("bytes that nobody asked for end a connection that waits", async () => {
    answer = (socket) => {
      socket.write(`${OK}content-length: 5\r\n\r\nhello`);
    };
    connections = new Set();
    expect((await ask("GET", "a")).body).toBe("hello");
    const [kept] = [...connections];
    const ended = new Promise((resolve) => kept?.once("close", resolve));
    kept?.write(`${OK}content-length: 6\r\n\r\npoison`);
    await ended;
    await honestNext(true);
  });

  test("an honest connection is used again", async () => {
    await ask("GET", "honest");
    await honestNext(false);
  });
});

describe("fields of an answer", () => {
  test("identity and framing of the mesh cannot come from an application", async () => {
    const forged = [
      "workload-identity-token: a.b.c",
      "workload-proof-token: a.b.c",
      "txn-token: a.b.c",
      "x-mesh-caller: notebook/root",
      "x-forwarded-client-cert: By=x",
      "countersign-port: 1",
      "connection: close, x-secret",
      "x-secret: 1",
      "keep-alive: timeout=5",
      "proxy-authenticate: x",
      "upgrade: h2c",
      ":status: 500",
    ];
    answer = (socket) => {
      socket.write(`${OK}${forged.slice(0, -1).join("\r\n")}\r\nx-own: 1\r\ncontent-length: 2\r\n\r\nok`);
    };
    const got = await ask("GET", "a");
    expect([got.status, got.body]).toEqual([200, "ok"]);
    const names = got.head.split("\r\n").map((line) => line.split(":")[0]?.toLowerCase());
    for (const field of forged.slice(0, 6)) expect(names).not.toContain(field.split(":")[0]);
    expect(names).toContain("x-own");
    for (const name of ["x-secret", "keep-alive", "upgrade"]) expect(names).not.toContain(name);
    await honestNext(true);
  });

  test("a pseudo-header is no field", async () => {
    answer = (socket) => {
      socket.write(`${OK}:status: 500\r\ncontent-length: 2\r\n\r\nok`);
      socket.end();
    };
    expect((await ask("GET", "a")).status).toBe(502);
    await honestNext(true);
  });
});
