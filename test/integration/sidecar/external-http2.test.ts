// Calls over HTTP/2 to a host outside the mesh: chosen by ALPN, shared connections, and whatever the application speaks. A
// real HTTP/2 server stands for the host.
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import {
  type ClientHttp2Session,
  connect,
  createSecureServer,
  createServer,
  type Http2SecureServer,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { OUTSIDE, withOutside } from "./outside.ts";
import { type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };

const policy = (rule: Partial<ProgramPolicy["rules"][number]> = {}): ProgramPolicy => ({
  id: "lab/out",
  name: "out",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "things", operations: [{ op: "thing" }], ...rule }],
});

let world: World;
let host: Http2SecureServer;
let sessions: ServerHttp2Session[];
let clients: ClientHttp2Session[];

afterEach(async () => {
  for (const client of clients) client.destroy();
  for (const session of sessions) session.destroy();
  host.close();
  await world.close();
});

type Handler = (request: Http2ServerRequest, response: Http2ServerResponse, body: Buffer) => void;

async function setUp(
  handler: Handler,
  policies: readonly ProgramPolicy[] = [policy()],
): Promise<{ sidecar: Sidecar; port: number; base: SidecarTable }> {
  world = await World.create();
  sessions = [];
  clients = [];
  const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
  host = createSecureServer({ cert, key, allowHTTP1: true }, (request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => handler(request, response, Buffer.concat(chunks)));
    request.on("error", () => {});
  });
  host.on("session", (session) => {
    sessions.push(session);
    session.on("error", () => {});
  });
  host.listen(0, "127.0.0.1");
  await once(host, "listening");
  const { port } = host.address() as AddressInfo;
  const externalCaFile = join(world.dir, "ca.pem");
  writeFileSync(externalCaFile, ca);
  const listen = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;
  const sidecar = await world.sidecar(NOTEBOOK, {
    config: { externalCaFile, localServices: [{ listen, service: OUTSIDE, port }] },
  });
  const base = withOutside(table({ self: NOTEBOOK, bundle: world.authority.bundle.json }), port, policies);
  const result = sidecar.plane.setTable(base);
  if (!result.ok) throw new Error(result.error);
  return { sidecar, port, base };
}

const get = (port: number, path: string, ...lines: string[]): string =>
  `GET http://localhost:${port}${path} HTTP/1.1\r\n${[`host: localhost:${port}`, ...lines].join("\r\n")}\r\n\r\n`;

/** An application that speaks HTTP/2. */
function application(sidecar: Sidecar): ClientHttp2Session {
  const session = connect(`http://127.0.0.1:${sidecar.localPorts[0]}`);
  session.on("error", () => {});
  clients.push(session);
  return session;
}

async function ask(
  session: ClientHttp2Session,
  head: Record<string, string>,
  body?: Buffer,
): Promise<{ head: IncomingHttpHeaders; trailers: IncomingHttpHeaders; body: Buffer }> {
  const stream = session.request({ ":path": "/things/a", ...head }, { endStream: body === undefined });
  if (body !== undefined) stream.end(body);
  let trailers: IncomingHttpHeaders = {};
  stream.on("trailers", (fields: IncomingHttpHeaders) => {
    trailers = fields;
  });
  const [answer] = (await once(stream, "response")) as [IncomingHttpHeaders];
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return { head: answer, trailers, body: Buffer.concat(chunks) };
}

const echo: Handler = ({ headers, method }, response, body) => {
  response.setHeader("x-seen", JSON.stringify({ method, ...headers }));
  response.end(body.length > 0 ? body : "outside");
};
const until = async (done: () => boolean | Promise<boolean>): Promise<void> => {
  while (!(await done())) await new Promise((resolve) => setTimeout(resolve, 5));
};

describe("a host outside the mesh that speaks HTTP/2", () => {
  test("is asked over it by an application that speaks HTTP/1.1, without anything of the mesh", async () => {
    const { sidecar, port } = await setUp(echo);
    const answer = await send(
      sidecar.proxyPort,
      get(port, "/things/a?q=1", "authorization: Bearer mine", "x-mesh-caller: root", "x-more: 1"),
    );
    expect([answer.status, answer.body]).toEqual([200, "7\r\noutside\r\n0\r\n\r\n"]);
    const seen = JSON.parse(/x-seen: (.*)\r\n/.exec(answer.raw)?.[1] ?? "{}");
    expect(seen).toMatchObject({
      ":method": "GET",
      ":scheme": "https",
      ":authority": `localhost:${port}`,
      ":path": "/things/a?q=1",
      authorization: "Bearer mine",
      "x-more": "1",
    });
    expect(Object.keys(seen).filter((name) => /token|mesh|countersign|^host$/.test(name))).toEqual([]);
    expect(JSON.stringify(await sidecar.audit())).toContain('"statusCode":200');
  });

  test("gets many requests at once on one connection, from applications of either kind", async () => {
    const { sidecar, port } = await setUp(echo);
    const app = application(sidecar);
    // The first opens it: what comes meanwhile waits for the same.
    const both = Array.from({ length: 40 }, (_, n) =>
      n % 2 === 0
        ? ask(app, { ":path": `/things/t${n}` }).then(({ head }) => head[":status"])
        : send(sidecar.proxyPort, get(port, `/things/t${n}`)).then(({ status }) => status),
    );
    expect(new Set(await Promise.all(both))).toEqual(new Set([200]));
    expect(sessions).toHaveLength(1);
  });

  test("large bodies and trailers go both ways", async () => {
    const { sidecar, port } = await setUp((request, response, body) => {
      response.addTrailers({ "x-sum": String(body.length), "x-sent": String(request.trailers["x-told"]) });
      response.write(body);
      response.end();
    });
    const app = application(sidecar);
    const body = Buffer.alloc(3_000_000, "x");
    const stream = app.request({ ":method": "POST", ":path": "/things/a" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-told": "yes" }));
    let trailers: IncomingHttpHeaders = {};
    stream.on("trailers", (fields: IncomingHttpHeaders) => {
      trailers = fields;
    });
    stream.end(body);
    let length = 0;
    for await (const chunk of stream) length += (chunk as Buffer).length;
    expect(length).toBe(body.length);
    expect(trailers).toMatchObject({ "x-sum": "3000000", "x-sent": "yes" });
    const chunked = `POST http://localhost:${port}/things/a HTTP/1.1\r\nhost: localhost:${port}\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-told: too\r\n\r\n`;
    const answer = await send(
      sidecar.proxyPort,
      chunked,
      (raw) => raw.endsWith("\r\n\r\n") && raw.includes("x-sum"),
    );
    expect(answer.raw).toContain("x-sum: 3");
    expect(answer.raw).toContain("x-sent: too");
    expect(sessions).toHaveLength(1);
  });

  test("a reader that stops holds the host back, and others get theirs", async () => {
    let written = 0;
    const { sidecar } = await setUp(({ url }, response) => {
      if (url !== "/things/much") {
        response.end("small");
        return;
      }
      const more = (): void => {
        while (written < 200_000_000) {
          written += 65_536;
          if (!response.write(Buffer.alloc(65_536))) {
            response.once("drain", more);
            return;
          }
        }
      };
      more();
    });
    const slow = application(sidecar).request({ ":path": "/things/much" });
    slow.on("error", () => {});
    await once(slow, "response");
    slow.pause();
    let before = -1;
    // It has stopped when nothing more was written in a while of other requests.
    const app = application(sidecar);
    while (before !== written) {
      before = written;
      for (let n = 0; n < 20; n++)
        expect((await ask(app, { ":path": "/things/few" })).body.toString()).toBe("small");
    }
    expect(written).toBeLessThan(30_000_000);
    slow.destroy();
  });

  test.each([
    ["HEAD", "/things/a", 200],
    ["GET", "/things/none", 204],
  ])("an answer without a body: %s %s", async (method, path, status) => {
    const { sidecar, port } = await setUp((request, response) => {
      if (request.url === "/things/none") response.statusCode = 204;
      else response.setHeader("content-length", "7");
      response.end();
    });
    const answer = await ask(application(sidecar), { ":method": method, ":path": path });
    expect(answer.body).toHaveLength(0);
    const text = `${method} http://localhost:${port}${path} HTTP/1.1\r\nhost: localhost:${port}\r\n\r\n`;
    const over1 = await send(sidecar.proxyPort, text, (raw) => raw.endsWith("\r\n\r\n"));
    expect([over1.status, over1.body]).toEqual([status, ""]);
  });

  test("an upload that is answered early is stopped, and the connection serves on", async () => {
    const { sidecar } = await setUp(() => {});
    host.removeAllListeners("request");
    host.on("request", (request, response) => {
      if (request.method === "GET") {
        response.end("again");
        return;
      }
      response.writeHead(413);
      response.end("too much");
    });
    const app = application(sidecar);
    const stream = app.request({ ":method": "POST", ":path": "/things/a" });
    stream.on("error", () => {});
    stream.write(Buffer.alloc(1_000));
    const [head] = (await once(stream, "response")) as [IncomingHttpHeaders];
    expect(head[":status"]).toBe(413);
    stream.destroy();
    expect((await ask(app, {})).body.toString()).toBe("again");
    expect(sessions).toHaveLength(1);
  });

  test("a host that says goodbye finishes what it has, and gets the next request on another connection", async () => {
    let finish: (() => void) | undefined;
    const { sidecar } = await setUp(({ url }, response) => {
      if (url === "/things/slow") {
        response.writeHead(200);
        response.write("begun ");
        finish = () => response.end("and done");
      } else response.end("next");
    });
    const app = application(sidecar);
    const slow = ask(app, { ":path": "/things/slow" });
    await until(() => finish !== undefined);
    sessions[0]?.goaway();
    await until(async () => {
      await ask(app, {});
      return sessions.length === 2;
    });
    finish?.();
    expect((await slow).body.toString()).toBe("begun and done");
  });

  test("two ExternalServices with the same host share no connection", async () => {
    const { sidecar, port, base } = await setUp(echo);
    const [one] = base.externals?.values() ?? [];
    if (one === undefined) throw new Error("no external service");
    const other = {
      ...one,
      id: "lab/other",
      program: { ...one.program, id: "external:lab/other", name: "other" },
    };
    expect((await ask(application(sidecar), {})).head[":status"]).toBe(200);
    const externals = new Map([
      [one.id, { ...one, hosts: ["elsewhere.example"] }],
      [other.id, other],
    ] as const);
    expect(sidecar.plane.setTable({ ...base, externals }).ok).toBe(true);
    expect((await send(sidecar.proxyPort, get(port, "/things/a"))).status).toBe(200);
    expect(sessions).toHaveLength(2);
  });

  test("connections that nobody uses are closed", async () => {
    const { sidecar } = await setUp(echo);
    await ask(application(sidecar), {});
    const closed = once(sessions[0] as ServerHttp2Session, "close");
    sidecar.plane.sweep(systemClock.monotonicMs() + 60_000);
    await closed;
  });

  test("a WebSocket is asked for over HTTP/1.1, on a connection of its own", async () => {
    const { sidecar, port } = await setUp(echo, [policy({ operations: [{ any: true }] })]);
    await ask(application(sidecar), {});
    const upgraded = once(host, "upgrade");
    const text = get(
      port,
      "/things/a",
      "connection: upgrade",
      "upgrade: websocket",
      "sec-websocket-version: 13",
      "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    );
    const answer = send(sidecar.proxyPort, text);
    const [request, socket] = await upgraded;
    expect(request.httpVersion).toBe("1.1");
    socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    socket.destroySoon();
    expect((await answer).status).toBe(403);
  });
});

describe("a host outside the mesh without TLS", () => {
  test.each([
    ["http", "http/1.1"],
    ["h2c", "h2"],
  ] as const)("is spoken to in %s where its ExternalService says so", async (plaintext, alpn) => {
    const { sidecar, base } = await setUp(echo);
    const seen: string[] = [];
    const plain =
      plaintext === "http"
        ? createHttpServer(({ headers }, response) => {
            seen.push(JSON.stringify(headers));
            response.end("in the clear");
          })
        : createServer(({ headers }, response) => {
            seen.push(JSON.stringify(headers));
            response.end("in the clear");
          });
    plain.listen(0, "127.0.0.1");
    await once(plain, "listening");
    const { port } = plain.address() as AddressInfo;
    expect(sidecar.plane.setTable(withOutside(base, port, [policy()], plaintext)).ok).toBe(true);
    const answers = await Promise.all(
      [1, 2, 3].map(() => send(sidecar.proxyPort, get(port, "/things/a", "connection: close"))),
    );
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(answers[0]?.raw).toContain("in the clear");
    const name = alpn === "h2" ? '":authority":' : '"host":';
    for (const headers of seen) expect(headers).toContain(`${name}"localhost:${port}"`);
    expect((await send(sidecar.proxyPort, get(port, "/nothing"))).status).toBe(403);
    expect(seen).toHaveLength(3);
    sidecar.plane.sweep(systemClock.monotonicMs() + 60_000);
    plain.close();
  });
});

describe("a call under way to a host over HTTP/2", () => {
  test("ends when the time that its rule gives is over, though no table comes", async () => {
    const { sidecar, port, base } = await setUp((_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: 1\n\n");
    });
    const stream = application(sidecar).request({ ":path": "/things/a" });
    let text = "";
    stream.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    await once(stream, "response");
    const ended = once(stream, "end");
    const brief = policy({ when: { notAfterMs: Date.now() + 1_500 } });
    expect(sidecar.plane.setTable(withOutside(base, port, [brief])).ok).toBe(true);
    const turn = setInterval(() => sidecar.plane.sweep(systemClock.monotonicMs()), 100);
    await ended;
    clearInterval(turn);
    expect(text).toContain('event: error\ndata: {"reason":"NO_MATCHING_ALLOW"}');
    expect(JSON.stringify(await sidecar.audit())).toContain('"reason":"NO_MATCHING_ALLOW"');
  });
});
