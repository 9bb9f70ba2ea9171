// HTTP/2 of applications across a pair of sidecars, and what becomes of a request where the two sides speak different
// versions: node:http2 and raw sockets on the ends.
import { createHash, randomBytes } from "node:crypto";
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  createServer as createHttp2Server,
  type Http2Server,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from "node:http2";
import { type AddressInfo, connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { type Answer, type App, hello, type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const OLD: ServiceSpec = { namespace: "ml", kind: "serving", name: "old", ports: [8080] };
const NEW: ServiceSpec = { namespace: "ml", kind: "serving", name: "new", ports: [8081], protocol: "h2c" };

const POLICY: ProgramPolicy = {
  id: "ml/all",
  name: "all",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [
    {
      name: "notebooks",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "thing" }],
      with: {
        identity: { forward: ["caller"] },
        headers: { set: new Map([["x-team", "ml"]]), remove: ["x-out"] },
      },
    },
  ],
};

type Handler = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

let world: World;
let oldApp: App;
let newApp: Http2Server;
let oldAnswer: Answer = hello;
let newAnswer: Handler;
let caller: Sidecar;
const open: ClientHttp2Session[] = [];

const echo: Handler = (stream) => {
  stream.respond({ ":status": 200, "content-type": "text/plain" });
  stream.pipe(stream);
};

beforeAll(async () => {
  world = await World.create();
  oldApp = await world.app((head, socket, body) => oldAnswer(head, socket, body));
  newApp = createHttp2Server();
  newApp.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    newAnswer(stream, headers);
  });
  await new Promise<void>((resolve) => newApp.listen(0, "127.0.0.1", resolve));
  const oldCallee = await world.sidecar(OLD, { app: oldApp });
  const newCallee = await world.sidecar(NEW, { appPort: (newApp.address() as AddressInfo).port });
  caller = await world.sidecar(NOTEBOOK);
  const bundle = world.authority.bundle.json;
  oldCallee.plane.setTable(table({ self: OLD, policies: [POLICY], bundle }));
  newCallee.plane.setTable(table({ self: NEW, policies: [POLICY], bundle }));
  const services = [
    { service: OLD, meshPort: oldCallee.meshPort },
    { service: NEW, meshPort: newCallee.meshPort },
  ];
  caller.plane.setTable(table({ self: NOTEBOOK, services, bundle }));
});

afterAll(async () => {
  for (const session of open) session.destroy();
  await new Promise((resolve) => newApp.close(resolve));
  await world.close();
});

function session(): ClientHttp2Session {
  const made = connectHttp2(`http://127.0.0.1:${caller.proxyPort}`);
  made.on("error", () => {});
  open.push(made);
  return made;
}

interface Got {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly trailers: IncomingHttpHeaders;
  readonly informational: number[];
  readonly body: Buffer;
  readonly reset: number;
}

function ask(from: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: Buffer): Promise<Got> {
  const stream = from.request(headers, { endStream: body === undefined });
  const chunks: Buffer[] = [];
  const informational: number[] = [];
  let answered: IncomingHttpHeaders = {};
  let trailers: IncomingHttpHeaders = {};
  stream.on("headers", (each) => informational.push(Number(each[":status"])));
  stream.on("response", (each) => {
    answered = each;
  });
  stream.on("trailers", (each) => {
    trailers = each;
  });
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  stream.on("error", () => {});
  if (body !== undefined) stream.end(body);
  return new Promise((resolve) =>
    stream.on("close", () =>
      resolve({
        status: Number(answered[":status"] ?? 0),
        headers: answered,
        trailers,
        informational,
        body: Buffer.concat(chunks),
        reset: stream.rstCode,
      }),
    ),
  );
}

const to = (service: ServiceSpec, path: string, more: OutgoingHttpHeaders = {}): OutgoingHttpHeaders => ({
  ":authority": `${service.name}.ml:${service.ports[0]}`,
  ":path": path,
  ...more,
});

const http1 = (service: ServiceSpec, head: string, body = ""): string => {
  const [method, path, ...lines] = head.split(" ");
  const host = `${service.name}.ml:${service.ports[0]}`;
  return `${method} http://${host}${path} HTTP/1.1\r\nhost: ${host}\r\n${lines.map((line) => `${line.replace("=", ": ")}\r\n`).join("")}\r\n${body}`;
};

describe("an application that calls over HTTP/2", () => {
  test("gets an answer of HTTP/1.1, and its fields arrive as they should", async () => {
    oldAnswer = hello;
    const got = await ask(
      session(),
      to(OLD, "/things/a", { cookie: ["a=1", "b=2"], te: "trailers", "x-out": "1", "x-team": "other" }),
    );
    expect([got.status, got.body.toString()]).toEqual([200, "hello"]);
    expect(got.headers["connection"]).toBeUndefined();
    const head = oldApp.heads.at(-1) ?? "";
    expect(head).toContain("cookie: a=1; b=2\r\n");
    expect(head).toContain("x-mesh-caller: notebook/nb-1\r\n");
    expect(head).toContain("x-team: ml\r\n");
    expect(head).not.toMatch(/\r\n(?:te|x-out|:path|workload-proof-token): ?/);
    expect(head).not.toContain("x-team: other");
  });

  test("leaves nothing open behind it", async () => {
    oldAnswer = hello;
    const from = session();
    await Promise.all(Array.from({ length: 8 }, () => ask(from, to(OLD, "/things/a"))));
    expect(caller.plane.outbound.busy).toBe(0);
  });

  test("a body without a length becomes chunks, and chunks become frames", async () => {
    oldAnswer = (head, socket, body) => {
      expect(head).toContain("transfer-encoding: chunked\r\n");
      expect(body.toString("latin1")).toContain("abc");
      socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n");
      socket.write("3\r\nxyz\r\n0\r\nx-sum: 9\r\n\r\n");
    };
    const got = await ask(session(), to(OLD, "/things/a", { ":method": "POST" }), Buffer.from("abc"));
    expect([got.status, got.body.toString(), got.trailers["x-sum"]]).toEqual([200, "xyz", "9"]);
  });

  test.each([
    { name: "HEAD", method: "HEAD", answer: "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", status: 200 },
    { name: "204", method: "GET", answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204 },
    { name: "304", method: "GET", answer: "HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", status: 304 },
    { name: "no body", method: "GET", answer: "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", status: 200 },
  ])("an answer without content: $name", async ({ method, answer, status }) => {
    oldAnswer = (_head, socket) => socket.write(answer);
    const got = await ask(session(), to(OLD, "/things/a", { ":method": method }));
    expect([got.status, got.body.length, got.reset]).toEqual([status, 0, 0]);
  });

  test("103 arrives before the answer; 101 is refused", async () => {
    oldAnswer = (_head, socket) =>
      socket.write(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
      );
    expect((await ask(session(), to(OLD, "/things/a"))).informational).toEqual([103]);
    oldAnswer = (_head, socket) => socket.write("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    expect((await ask(session(), to(OLD, "/things/a"))).status).toBe(502);
  });

  test.each([
    { name: "an unknown host", headers: { ":authority": "nobody.ml" }, status: 502 },
    { name: "a Host that differs", headers: { host: "other.ml:8080" }, status: 400 },
    { name: "a path with dots", headers: { ":path": "/things/../x" }, status: 400 },
    { name: "an operation that nobody allows", headers: { ":path": "/health" }, status: 403 },
  ])("is refused in words: $name", async ({ headers, status }) => {
    const before = oldApp.heads.length;
    const got = await ask(session(), { ...to(OLD, "/things/a"), ...headers } as OutgoingHttpHeaders);
    expect(got.status).toBe(status);
    expect(JSON.parse(got.body.toString())).toMatchObject({ status });
    expect(oldApp.heads.length).toBe(before);
  });

  test("requests of one connection are decided on one by one", async () => {
    oldAnswer = hello;
    const shared = session();
    const paths = Array.from({ length: 40 }, (_, at) => (at % 4 === 0 ? "/health" : `/things/${at}`));
    const all = await Promise.all(paths.map((path) => ask(shared, to(OLD, path))));
    expect(all.map(({ status }) => status)).toEqual(paths.map((path) => (path === "/health" ? 403 : 200)));
  });

  test("bytes that are no HTTP/2 behind its preface end the connection", async () => {
    const before = oldApp.received.length;
    const answer = await send(
      caller.proxyPort,
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n",
      () => false,
    );
    expect(answer.raw.length).toBeGreaterThan(9);
    expect(oldApp.received.length).toBe(before);
  });

  test("the preface may come byte by byte", async () => {
    const socket = connect(caller.proxyPort, "127.0.0.1");
    socket.setNoDelay(true);
    const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "latin1");
    const answered = new Promise<Buffer>((resolve) => socket.once("data", resolve));
    for (const byte of preface) {
      socket.write(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    // SETTINGS.
    expect((await answered)[3]).toBe(4);
    socket.destroy();
  });
});

describe("an application that is called over HTTP/2", () => {
  test("gets requests of HTTP/1.1", async () => {
    let seen: IncomingHttpHeaders = {};
    newAnswer = (stream, headers) => {
      seen = headers;
      stream.respond({ ":status": 200, "x-was": "here" });
      stream.end("new");
    };
    const got = await send(
      caller.proxyPort,
      http1(NEW, "GET /things/a?q=1 cookie=a=1 connection=x-gone x-gone=1 x-kept=2 x-out=1"),
      (text) => text.endsWith("0\r\n\r\n"),
    );
    expect(got.status).toBe(200);
    expect(got.body).toContain("new");
    expect(seen).toMatchObject({
      ":method": "GET",
      ":path": "/things/a?q=1",
      ":authority": "new.ml:8081",
      ":scheme": "http",
      cookie: "a=1",
      "x-kept": "2",
      "x-team": "ml",
      "x-mesh-caller": "notebook/nb-1",
    });
    for (const gone of ["host", "connection", "x-gone", "x-out", "workload-proof-token", "transfer-encoding"])
      expect(seen[gone]).toBeUndefined();
  });

  test("chunks become frames with trailers, and the other way round", async () => {
    newAnswer = (stream) => {
      const chunks: Buffer[] = [];
      let sum = "";
      stream.on("data", (chunk: Buffer) => chunks.push(chunk));
      stream.on("trailers", (trailers) => {
        sum = String(trailers["x-sum"]);
      });
      stream.on("end", () => {
        stream.respond({ ":status": 200 }, { waitForTrailers: true });
        stream.on("wantTrailers", () => stream.sendTrailers({ "x-back": `${sum}!` }));
        stream.end(Buffer.concat(chunks));
      });
    };
    const got = await send(
      caller.proxyPort,
      http1(NEW, "POST /things/a transfer-encoding=chunked", "2\r\nab\r\n1\r\nc\r\n0\r\nx-sum: 7\r\n\r\n"),
      (text) => text.includes("x-back"),
    );
    expect(got.raw).toContain("3\r\nabc\r\n0\r\nx-back: 7!\r\n\r\n");
  });

  test("HEAD and 204 end with their head", async () => {
    newAnswer = (stream, headers) => {
      stream.respond({ ":status": headers[":method"] === "HEAD" ? 200 : 204, "x-was": "here" });
      stream.end();
    };
    const head = await send(caller.proxyPort, http1(NEW, "HEAD /things/a"), (text) =>
      text.endsWith("\r\n\r\n"),
    );
    expect([head.status, head.body]).toEqual([200, ""]);
    const none = await send(caller.proxyPort, http1(NEW, "GET /things/a"), (text) =>
      text.endsWith("\r\n\r\n"),
    );
    expect([none.status, none.body]).toEqual([204, ""]);
    expect(none.head).not.toMatch(/content-length|transfer-encoding/i);
  });

  test("one that does not speak it is reported, and has seen the preface alone", async () => {
    const liar = await world.app((_head, socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
    const spec: ServiceSpec = { ...NEW, name: "liar" };
    const callee = await world.sidecar(spec, { app: liar });
    const bundle = world.authority.bundle.json;
    callee.plane.setTable(table({ self: spec, policies: [POLICY], bundle }));
    const asking = await world.sidecar({ ...NOTEBOOK, name: "nb-2" });
    const services = [{ service: spec, meshPort: callee.meshPort }];
    asking.plane.setTable(table({ self: { ...NOTEBOOK, name: "nb-2" }, services, bundle }));
    const got = await send(asking.proxyPort, http1(spec, "GET /things/secret"));
    expect(got.status).toBe(502);
    expect(got.body).toContain("does not speak HTTP/2");
    expect(Buffer.concat(liar.received).toString("latin1")).not.toContain("secret");
  });
});

describe("HTTP/2 on both sides", () => {
  test("a large body goes both ways unchanged", async () => {
    newAnswer = echo;
    const body = randomBytes(5_000_000);
    const got = await ask(session(), to(NEW, "/things/a", { ":method": "POST" }), body);
    const digest = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
    expect([got.status, digest(got.body)]).toEqual([200, digest(body)]);
  });

  test("an application that does not read holds the caller back, and nobody else", async () => {
    const shared = session();
    let take: (() => void) | undefined;
    newAnswer = (stream, headers) => {
      if (headers[":path"] !== "/things/slow") {
        echo(stream, headers);
        return;
      }
      stream.respond({ ":status": 200 });
      let bytes = 0;
      take = () => {
        stream.on("data", (chunk: Buffer) => {
          bytes += chunk.length;
        });
        stream.on("end", () => stream.end(String(bytes)));
      };
    };
    const upload = shared.request(to(NEW, "/things/slow", { ":method": "POST" }));
    const chunk = Buffer.alloc(65_536);
    let written = 0;
    let blocked = false;
    while (!blocked && written < 64 * 1024 * 1024) {
      blocked = !upload.write(chunk);
      written += chunk.length;
      if (blocked)
        await Promise.race([
          new Promise<void>((resolve) => upload.once("drain", resolve)).then(() => {
            blocked = false;
          }),
          new Promise((resolve) => setTimeout(resolve, 300)),
        ]);
    }
    // Windows and queues of three hops, nowhere near what was offered.
    expect(written).toBeLessThan(16 * 1024 * 1024);
    const other = await ask(shared, to(NEW, "/things/quick", { ":method": "POST" }), Buffer.from("quick"));
    expect(other.body.toString()).toBe("quick");
    take?.();
    const told = new Promise<string>((resolve) => {
      let text = "";
      upload.on("data", (part: Buffer) => {
        text += part.toString();
      });
      upload.on("end", () => resolve(text));
    });
    upload.end();
    expect(await told).toBe(String(written));
  });

  test("many streams share few connections of the application", async () => {
    let sessions = 0;
    newApp.on("session", () => sessions++);
    newAnswer = echo;
    const all = await Promise.all(
      Array.from({ length: 200 }, (_, at) =>
        ask(session(), to(NEW, `/things/${at}`, { ":method": "POST" }), Buffer.from(`body ${at}`)),
      ),
    );
    expect(all.filter(({ status }) => status === 200).length).toBe(200);
    expect(all.map(({ body }) => body.toString())).toEqual(all.map((_, at) => `body ${at}`));
    expect(sessions).toBeLessThanOrEqual(3);
  });

  test("a reset of either side reaches the other", async () => {
    const shared = session();
    newAnswer = (stream) => {
      stream.respond({ ":status": 200 });
      stream.write("some");
      setTimeout(() => stream.destroy(new Error("broken")), 20);
    };
    const broken = await ask(shared, to(NEW, "/things/a"));
    expect(broken.reset).not.toBe(0);
    const gone = new Promise<number>((resolve) => {
      newAnswer = (stream) => {
        stream.respond({ ":status": 200 });
        stream.on("close", () => resolve(stream.rstCode));
      };
    });
    const stream = shared.request(to(NEW, "/things/a", { ":method": "POST" }));
    stream.on("error", () => {});
    stream.on("response", () => stream.close(8));
    expect(await gone).toBe(8);
  });
});
