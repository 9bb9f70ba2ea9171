// The front of the gateway with real TLS clients: hosts, routes, fields, limits, pages of its own, sessions that end.

import { once } from "node:events";
import { request } from "node:http";
import type { ClientHttp2Stream, IncomingHttpHeaders, OutgoingHttpHeaders } from "node:http2";
import { afterEach, describe, expect, test } from "@jest/globals";
import type { Gateway } from "../../../sidecar/core/gateway/gateway.ts";
import { webSocketAccept } from "../../../sidecar/core/http/websocket.ts";
import type {
  Admitted,
  EdgeAnswer,
  EdgeProblem,
  EdgeRequest,
  People,
} from "../../../sidecar/gateway/people.ts";
import { edgeCertificate, writeSecret } from "../../fakes/edge-certificate.ts";
import { hello, table } from "../sidecar/world.ts";
import { APP, Edge, gatewayOf, route } from "./edge.ts";

let edge: Edge;
afterEach(() => edge.close());

/** Admits everybody, with what the test says. */
class StubPeople implements People {
  readonly asked: EdgeRequest[] = [];
  answer: Admitted | EdgeAnswer | Promise<Admitted | EdgeAnswer> = admitted();
  end: (session: string) => void = () => {};

  authenticate(asked: EdgeRequest): Admitted | EdgeAnswer | Promise<Admitted | EdgeAnswer> {
    this.asked.push(asked);
    return this.answer;
  }

  serve(asked: EdgeRequest, body: Buffer): Promise<EdgeAnswer> {
    const text = `${asked.method} ${asked.target} ${body.toString()}`;
    return Promise.resolve({
      kind: "answer",
      status: 200,
      fields: [["content-type", "text/plain"]],
      body: text,
    });
  }

  /** People who look at pages get one. */
  explain(asked: EdgeRequest, { status, decisionId }: EdgeProblem): EdgeAnswer | undefined {
    if (asked.field("sec-fetch-mode") !== "navigate") return undefined;
    const fields = [["content-type", "text/html"]] as const;
    return { kind: "answer", status, fields, body: `a page about ${decisionId}` };
  }

  onSessionEnd(listener: (session: string) => void): void {
    this.end = listener;
  }
}

function admitted(over: Partial<Admitted> = {}): Admitted {
  return { kind: "admitted", txn: undefined, session: undefined, setCookie: [], cookie: undefined, ...over };
}

const get = (target: string, ...lines: string[]): string[] => [
  `GET ${target} HTTP/1.1`,
  "host: app.example.com",
  ...lines,
];

const lastHead = (): string => edge.app.heads.at(-1) ?? "";

describe("a request from outside", () => {
  test("reaches the service behind its host and path, over HTTP/1.1 and HTTP/2", async () => {
    edge = await Edge.create(hello);
    const text = await edge.send(get("/things/a"));
    expect(text).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(text).toMatch(/\r\nstrict-transport-security: max-age=31536000\r\n/);
    expect(text).toMatch(/\r\nx-frame-options: SAMEORIGIN\r\n/);
    expect(text).toMatch(/hello$/);
    const answered = await edge.ask(edge.session(), { ":path": "/things/a" });
    expect([answered.status, answered.body]).toEqual([200, "hello"]);
    expect(answered.headers["x-content-type-options"]).toBe("nosniff");
    expect(lastHead()).toMatch(/\r\nhost: app\.example\.com\r\n/);
    const [event] = await edge.callee.audit();
    expect(JSON.stringify(event)).toContain("gateway/front");
  });

  test("that the mesh refuses is a page to people, and a document to programs", async () => {
    edge = await Edge.create(hello, gatewayOf(), new StubPeople());
    const bundle = edge.world.authority.bundle.json;
    edge.callee.plane.setTable(table({ self: APP, policies: [], bundle }));
    const text = await edge.send(get("/things/a", "sec-fetch-mode: navigate"));
    expect(text).toMatch(/^HTTP\/1\.1 403 Forbidden\r\n/);
    expect(text).toMatch(/\r\n\r\na page about d-[0-9a-f]{16}$/);
    expect(text).toMatch(/\r\nx-frame-options: SAMEORIGIN\r\n/);
    expect(text).not.toMatch(/problem\+json|proxy-status/);
    const session = edge.session();
    for (const status of [403, 403]) {
      const page = await edge.ask(session, { ":path": "/things/a", "sec-fetch-mode": "navigate" });
      expect([page.status, page.body.slice(0, 12)]).toEqual([status, "a page about"]);
      const document = await edge.ask(session, { ":path": "/things/a" });
      expect(document.status).toBe(status);
      expect(JSON.parse(document.body)).toMatchObject({ reason: "DEFAULT_DENY" });
      expect(document.headers["proxy-status"]).toContain("DEFAULT_DENY");
    }
    expect(edge.app.heads).toEqual([]);
  });

  test("keeps nothing of what only we may say", async () => {
    edge = await Edge.create(hello);
    await edge.send(
      get(
        "/things/a",
        "X-Forwarded-For: 6.6.6.6",
        "x_forwarded_user: root",
        "X-Forwarded-Email: root@example.com",
        "x.mesh.caller: notebook/nb-alice",
        "Txn-Token: forged",
        "Forwarded: for=6.6.6.6",
        "X-Auth-Request-User: root",
        "Remote_User: root",
        "X-HTTP-Method-Override: DELETE",
        "traceparent: 00-11111111111111111111111111111111-2222222222222222-01",
        "accept: text/plain",
      ),
    );
    const head = lastHead();
    expect(head).toMatch(/\r\naccept: text\/plain\r\n/);
    expect(head).toMatch(/\r\nx-forwarded-for: 127\.0\.0\.1\r\n/);
    expect(head).toMatch(/\r\nx-forwarded-proto: https\r\n/);
    expect(head).toMatch(/\r\nx-forwarded-host: app\.example\.com\r\n/);
    expect(head).not.toMatch(/6\.6\.6\.6|root|forged|nb-alice|DELETE|11111111/);
    expect(head).toMatch(/\r\ntraceparent: 00-[0-9a-f]{32}-/);
    const { headerAnomalies } = edge.front.plane.metrics;
    const counted = ["identity", "forwarded", "method_override"].map((kind) =>
      headerAnomalies.read(headerAnomalies.series(kind)),
    );
    expect(counted).toEqual([1, 1, 1]);
  });

  test("has the address that a trusted proxy saw", async () => {
    edge = await Edge.create(hello, gatewayOf({ trustedHops: ["127.0.0.0/8", "10.0.0.0/8"] }));
    await edge.send(get("/things/a", "x-forwarded-for: 6.6.6.6, 203.0.113.9, 10.1.2.3"));
    expect(lastHead()).toMatch(/\r\nx-forwarded-for: 203\.0\.113\.9\r\n/);
  });

  test.each([
    { name: "an unknown host", lines: ["GET / HTTP/1.1", "host: other.example.com"], status: 421 },
    { name: "a path outside of all routes", lines: get("/elsewhere"), status: 404 },
    { name: "a path with dots", lines: get("/things/../admin"), status: 400 },
    { name: "a slash that is escaped", lines: get("/things%2fa"), status: 400 },
    { name: "TRACE", lines: ["TRACE /things/a HTTP/1.1", "host: app.example.com"], status: 400 },
    {
      name: "CONNECT",
      lines: ["CONNECT app.example.com:443 HTTP/1.1", "host: app.example.com:443"],
      status: 400,
    },
    {
      name: "the absolute form of another scheme",
      lines: ["GET http://app.example.com/things/a HTTP/1.1", "host: app.example.com"],
      status: 400,
    },
    { name: "no host", lines: ["GET / HTTP/1.1"], status: 400 },
    { name: "two hosts", lines: get("/", "host: app.example.com"), status: 400 },
  ])("is refused: $name", async ({ lines, status }) => {
    edge = await Edge.create(
      hello,
      gatewayOf({ routes: [route({ path: { kind: "prefix", value: "/things" } })] }),
    );
    expect(await edge.send(lines)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(edge.app.heads).toEqual([]);
  });

  test("an escaped letter is the letter: no route is dodged by spelling", async () => {
    edge = await Edge.create(
      hello,
      gatewayOf({
        routes: [
          route({ name: "admin", path: { kind: "prefix", value: "/admin" }, access: "Login" }),
          route(),
        ],
      }),
    );
    const people = new StubPeople();
    people.answer = { kind: "answer", status: 401, fields: [], body: "sign in" };
    edge.gateway.people = people;
    expect(await edge.send(get("/%61dmin"))).toMatch(/^HTTP\/1\.1 401 /);
    expect(people.asked[0]?.route?.name).toBe("admin");
  });

  test("goes to the path that a route writes", async () => {
    edge = await Edge.create(
      hello,
      gatewayOf({
        routes: [
          route({
            path: { kind: "prefix", value: "/api" },
            rewrite: { prefix: "/things", host: "internal.example" },
          }),
        ],
      }),
    );
    await edge.send(get("/api/a?x=1"));
    expect(lastHead()).toMatch(/^GET \/things\/a\?x=1 HTTP\/1\.1\r\n/);
    expect(lastHead()).toMatch(/\r\nhost: internal\.example\r\n/);
    expect(lastHead()).toMatch(/\r\nx-forwarded-prefix: \/api\r\n/);
  });
});

test("an ExternalService that the table does not name is not reached", async () => {
  const backend = { kind: "external", id: "edge/databricks" } as const;
  edge = await Edge.create(hello, gatewayOf({ routes: [route({ backend })] }));
  expect(await edge.send(get("/things/a"))).toMatch(/^HTTP\/1\.1 502 /);
});

describe("TLS", () => {
  test("is 1.3, for names that are served alone", async () => {
    edge = await Edge.create(hello);
    const socket = await edge.socket("alice.nb.example.com");
    expect(socket.getProtocol()).toBe("TLSv1.3");
    socket.destroy();
    await expect(edge.socket("other.example.com")).rejects.toThrow();
    await expect(edge.socket("a.b.nb.example.com")).rejects.toThrow();
  });

  test("a connection serves the hosts of its own certificate", async () => {
    const both: Gateway = gatewayOf({
      listeners: [
        { name: "main", port: 8443, hosts: ["app.example.com"], secretName: "edge-tls" },
        { name: "other", port: 8443, hosts: ["other.example.com"], secretName: "other-tls" },
      ],
      routes: [route({ hosts: ["app.example.com", "other.example.com"] })],
    });
    edge = await Edge.create(hello, both);
    expect(await edge.send(["GET /things/a HTTP/1.1", "host: other.example.com"])).toMatch(
      /^HTTP\/1\.1 421 /,
    );
  });

  test("a new certificate is shown without the loss of a connection", async () => {
    edge = await Edge.create(hello);
    const session = edge.session();
    expect((await edge.ask(session, { ":path": "/things/a" })).status).toBe(200);
    const fresh = await edgeCertificate(["app.example.com"], Date.now(), 60);
    writeSecret(edge.secretsDir, "edge-tls", fresh);
    await edge.gateway.certificates.use(["edge-tls"]);
    await expect(edge.socket()).rejects.toThrow();
    const { ca } = fresh;
    Object.assign(edge.material, { ca });
    (await edge.socket()).destroy();
    expect((await edge.ask(session, { ":path": "/things/a" })).status).toBe(200);
    writeSecret(edge.secretsDir, "edge-tls", { ...fresh, key: "not a key" });
    await edge.gateway.certificates.use(["edge-tls"]);
    (await edge.socket()).destroy();
  });
});

test("the plain port sends everything to the port with TLS", async () => {
  edge = await Edge.create(hello);
  const ask = (host: string, path: string): Promise<[number, string | undefined]> =>
    new Promise((resolve, reject) => {
      request({ host: "127.0.0.1", port: edge.redirectPort, path, headers: { host } }, (answer) => {
        answer.resume();
        resolve([answer.statusCode ?? 0, answer.headers.location]);
      })
        .on("error", reject)
        .end();
    });
  expect(await ask("app.example.com", "/x?y=1")).toEqual([308, "https://app.example.com/x?y=1"]);
  expect(await ask("app.example.com:8080", "/x")).toEqual([308, "https://app.example.com:8443/x"]);
  expect(await ask("evil.example", "/x")).toEqual([421, undefined]);
});

describe("people", () => {
  test("are asked, and their cookie is taken off", async () => {
    edge = await Edge.create(hello, gatewayOf({ routes: [route({ access: "Login" })] }));
    const people = new StubPeople();
    people.answer = Promise.resolve(
      admitted({ session: "s-1", cookie: "theme=dark", setCookie: ["__Host-session=new; Secure"] }),
    );
    edge.gateway.people = people;
    const text = await edge.send(get("/things/a", "cookie: __Host-session=secret; theme=dark"));
    expect(text).toMatch(/\r\nset-cookie: __Host-session=new; Secure\r\n/);
    expect(lastHead()).toMatch(/\r\ncookie: theme=dark\r\n/);
    expect(lastHead()).not.toContain("secret");
  });

  test("have a cookie that no application sets", async () => {
    edge = await Edge.create((_head, socket) => {
      const cookies = ["__Host-session=stolen; Secure; Path=/", "=__host-Session-login-x=1", "_xsrf=1"];
      const lines = cookies.map((cookie) => `set-cookie: ${cookie}\r\n`).join("");
      socket.write(`HTTP/1.1 200 OK\r\n${lines}content-length: 2\r\n\r\nok`);
    });
    const { headers } = await edge.ask(edge.session(), { ":path": "/things/a" });
    expect(headers["set-cookie"]).toEqual(["_xsrf=1"]);
  });

  test("a body that comes while they think arrives whole", async () => {
    edge = await Edge.create((_head, socket, body) =>
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body.toString("latin1")}`),
    );
    const people = new StubPeople();
    const gate = Promise.withResolvers<Admitted>();
    people.answer = gate.promise;
    edge.gateway.people = people;
    const body = "x".repeat(40_000);
    const over1 = edge.send(
      ["POST /things/a HTTP/1.1", "host: app.example.com", `content-length: ${body.length}`],
      body,
    );
    const over2 = edge.ask(
      edge.session(),
      { ":method": "POST", ":path": "/things/a", "content-length": String(body.length) },
      Buffer.from(body),
    );
    while (people.asked.length < 2) await new Promise((resolve) => setImmediate(resolve));
    gate.resolve(admitted());
    expect((await over1).endsWith(body)).toBe(true);
    expect((await over2).body === body).toBe(true);
  });

  test("without them nothing but public routes is served", async () => {
    edge = await Edge.create(hello, gatewayOf({ routes: [route({ access: "Login" })] }));
    expect(await edge.send(get("/things/a"))).toMatch(/^HTTP\/1\.1 503 /);
    expect(edge.app.heads).toEqual([]);
  });

  test("without them no application gets a session's cookie either", async () => {
    edge = await Edge.create(hello);
    const cookie = "cookie: a=1; __Host-session=secret; __Host-session-login-x=secret";
    expect(await edge.send(get("/things/a", cookie))).toMatch(/^HTTP\/1\.1 200 /);
    expect(lastHead()).toMatch(/\r\ncookie: a=1\r\n/);
    expect(lastHead()).not.toContain("secret");
  });

  test("a promise that fails lets nobody in", async () => {
    edge = await Edge.create(hello);
    const people = new StubPeople();
    people.answer = Promise.reject(new Error("down"));
    people.answer.catch(() => {});
    edge.gateway.people = people;
    expect(await edge.send(get("/things/a"))).toMatch(/^HTTP\/1\.1 503 /);
    expect(edge.app.heads).toEqual([]);
  });

  test("serve the gateway's own paths on every host", async () => {
    edge = await Edge.create(hello);
    edge.gateway.people = new StubPeople();
    expect(await edge.send(get("/.countersign/whoami?x=1"))).toMatch(/GET \/\.countersign\/whoami\?x=1 $/);
    const post = await edge.send(
      ["POST /.countersign/logout HTTP/1.1", "host: app.example.com", "content-length: 3"],
      "a=b",
    );
    expect(post).toMatch(/POST \/\.countersign\/logout a=b$/);
    const long = "x".repeat(70_000);
    const lines = [
      "POST /.countersign/logout HTTP/1.1",
      "host: app.example.com",
      `content-length: ${long.length}`,
    ];
    expect(await edge.send(lines, long)).toMatch(/^HTTP\/1\.1 413 /);
    expect(edge.app.heads).toEqual([]);
  });

  test("a route that belongs to one person is closed to all others", async () => {
    edge = await Edge.create(hello, gatewayOf({ routes: [route({ access: "Login", owner: "okta|alice" })] }));
    edge.gateway.people = new StubPeople();
    expect(await edge.send(get("/things/a"))).toMatch(/^HTTP\/1\.1 403 /);
    expect(edge.app.heads).toEqual([]);
  });
});

describe("a WebSocket", () => {
  const echo: Parameters<typeof Edge.create>[0] = (head, socket) => {
    const key = /\r\nsec-websocket-key: (\S+)\r\n/i.exec(head)?.[1] ?? "";
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nset-cookie: __Host-session=stolen; Secure\r\nset-cookie: _xsrf=1\r\nsec-websocket-accept: ${webSocketAccept(key)}\r\n\r\n`,
    );
    socket.write(Buffer.from([0x81, 0x01, 0x61]));
  };
  const HANDSHAKE = {
    ...{ ":method": "CONNECT", ":protocol": "websocket", ":scheme": "https", ":path": "/stream/a" },
    ...{ ":authority": "app.example.com", "sec-websocket-version": "13" },
  };
  const open = async (people: StubPeople, headers: object = HANDSHAKE): Promise<ClientHttp2Stream> => {
    edge = await Edge.create(echo, gatewayOf({ routes: [route({ access: "Login" })] }));
    edge.gateway.people = people;
    const session = edge.session();
    if (session.remoteSettings.enableConnectProtocol !== true) await once(session, "remoteSettings");
    expect(session.remoteSettings.enableConnectProtocol).toBe(true);
    return session.request(headers as OutgoingHttpHeaders);
  };

  test("over HTTP/2 is one of the application, and ends with its session (RFC 8441)", async () => {
    const people = new StubPeople();
    people.answer = admitted({ session: "s-1", setCookie: ["__Host-session=new; Secure"] });
    const stream = await open(people);
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    const [head] = (await once(stream, "response")) as [IncomingHttpHeaders];
    expect(head[":status"]).toBe(200);
    // The application's cookie for the gateway's session stays away, the gateway's own comes.
    expect(head["set-cookie"]).toEqual(["_xsrf=1", "__Host-session=new; Secure"]);
    expect(people.asked[0]).toMatchObject({ method: "GET", isUpgrade: true });
    expect(lastHead()).toMatch(/^GET \/stream\/a HTTP\/1\.1\r\n/);
    while (Buffer.concat(chunks).length < 3) await once(stream, "data");
    people.end("s-1");
    await once(stream, "end");
    const rest = Buffer.concat(chunks).subarray(3);
    expect([rest[0], rest.readUInt16BE(2)]).toEqual([0x88, 1008]);
  });

  test("over HTTP/1.1 brings the gateway's cookie, and not the application's for it", async () => {
    edge = await Edge.create(echo, gatewayOf({ routes: [route({ access: "Login" })] }));
    const people = new StubPeople();
    people.answer = admitted({ setCookie: ["__Host-session=new; Secure"] });
    edge.gateway.people = people;
    const socket = await edge.socket();
    const lines = get(
      "/stream/a",
      ...["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"],
      "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    );
    socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    let text = "";
    while (!text.includes("\r\n\r\n")) text += String((await once(socket, "data"))[0]);
    expect(text).toMatch(/^HTTP\/1\.1 101 /);
    expect(text).toContain("set-cookie: __Host-session=new; Secure\r\n");
    expect(text).toContain("set-cookie: _xsrf=1\r\n");
    expect(text).not.toContain("stolen");
    socket.destroy();
  });

  test("of who is not signed in is refused, and other tunnels are for everybody", async () => {
    const people = new StubPeople();
    people.answer = { kind: "answer", status: 401, fields: [], body: "no" };
    const [refused] = (await once(await open(people), "response")) as [IncomingHttpHeaders];
    expect(refused[":status"]).toBe(401);
    const tunnel = edge.session().request({ ":method": "CONNECT", ":authority": "app.example.com:443" });
    const [answer] = (await once(tunnel, "response")) as [IncomingHttpHeaders];
    expect(answer[":status"]).toBe(400);
    expect(edge.app.heads).toEqual([]);
  });
});

describe("the end of a session", () => {
  const signedIn = async (answer: Parameters<typeof Edge.create>[0]): Promise<StubPeople> => {
    edge = await Edge.create(answer, gatewayOf({ routes: [route({ access: "Login" })] }));
    const people = new StubPeople();
    people.answer = admitted({ session: "s-1" });
    edge.gateway.people = people;
    return people;
  };

  test("ends events with an event that says so", async () => {
    const people = await signedIn((_head, socket) =>
      socket.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n"),
    );
    const socket = await edge.socket();
    socket.setEncoding("latin1");
    let text = "";
    const ended = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    const began = new Promise<void>((resolve) =>
      socket.on("data", (chunk: string) => {
        text += chunk;
        if (text.includes("data: 1")) resolve();
      }),
    );
    socket.write(`${get("/stream/a").join("\r\n")}\r\n\r\n`);
    await began;
    people.end("another");
    people.end("s-1");
    await ended;
    expect(text).toContain("event: error");
  });

  test("closes a WebSocket with 1008", async () => {
    const people = await signedIn((head, socket) => {
      const key = /\r\nsec-websocket-key: (\S+)\r\n/i.exec(head)?.[1] ?? "";
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${webSocketAccept(key)}\r\n\r\n`,
      );
      socket.write(Buffer.from([0x81, 0x01, 0x61]));
    });
    const socket = await edge.socket();
    const chunks: Buffer[] = [];
    const ended = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    const began = new Promise<void>((resolve) =>
      socket.on("data", (chunk: Buffer) => {
        chunks.push(chunk);
        if (Buffer.concat(chunks).includes(Buffer.from([0x81, 0x01, 0x61]))) resolve();
      }),
    );
    const lines = get(
      "/stream/a",
      "connection: upgrade",
      "upgrade: websocket",
      "sec-websocket-version: 13",
      "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    );
    socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    await began;
    people.end("s-1");
    await ended;
    const all = Buffer.concat(chunks);
    const frame = all.subarray(all.indexOf(Buffer.from([0x81, 0x01, 0x61])) + 3);
    expect([frame[0], frame.readUInt16BE(2)]).toEqual([0x88, 1008]);
  });

  test("ends a gRPC call with PERMISSION_DENIED", async () => {
    const people = await signedIn((_head, socket) =>
      socket.write(
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n",
      ),
    );
    const stream = edge.session().request({ ":authority": "app.example.com", ":path": "/stream/a" });
    stream.on("error", () => {});
    const trailers = new Promise<IncomingHttpHeaders>((resolve) => stream.once("trailers", resolve));
    await new Promise<void>((resolve) => stream.once("data", () => resolve()));
    people.end("s-1");
    expect(await trailers).toMatchObject({ "grpc-status": "7" });
  });

  test("resets what has no words for it: an answer of known length, and compressed events", async () => {
    for (const more of ["content-length: 1000", "content-encoding: gzip\r\ntransfer-encoding: chunked"]) {
      const people = await signedIn((_head, socket) =>
        socket.write(`HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n${more}\r\n\r\n1\r\na\r\n`),
      );
      const stream = edge.session().request({ ":authority": "app.example.com", ":path": "/stream/a" });
      const chunks: Buffer[] = [];
      const code = new Promise<number>((resolve) => stream.once("close", () => resolve(stream.rstCode)));
      stream.on("error", () => {});
      await new Promise<void>((resolve) =>
        stream.on("data", (chunk: Buffer) => {
          chunks.push(chunk);
          resolve();
        }),
      );
      people.end("s-1");
      expect(await code).toBe(8);
      expect(Buffer.concat(chunks).toString()).not.toContain("event:");
      await edge.close();
    }
    await signedIn(hello);
  });

  test("answers a request that waits with 401", async () => {
    const people = await signedIn(() => {});
    const answer = edge.send(get("/things/a"));
    while (edge.app.heads.length === 0) await new Promise((resolve) => setImmediate(resolve));
    people.end("s-1");
    expect(await answer).toMatch(/^HTTP\/1\.1 401 /);
  });
});

describe("limits", () => {
  test("of an address are told with a time to wait", async () => {
    const limits = { perIp: { requests: 1, perMs: 3_600_000, burst: 2 }, perUser: undefined };
    edge = await Edge.create(hello, gatewayOf({ limits }));
    const session = edge.session();
    const ask = () => edge.ask(session, { ":path": "/things/a" });
    expect([(await ask()).status, (await ask()).status]).toEqual([200, 200]);
    const limited = await ask();
    expect(limited.status).toBe(429);
    expect(Number(limited.headers["retry-after"])).toBeGreaterThan(3_000);
  });
});

describe("cross-origin requests", () => {
  const cors = {
    allowOrigins: ["https://ui.example.com"],
    allowMethods: ["GET", "POST"],
    allowHeaders: ["x-team"],
    exposeHeaders: [],
    allowCredentials: true,
    maxAgeSeconds: 600,
  };

  test("are answered as the route says, and the application has no say", async () => {
    edge = await Edge.create(
      (_head, socket) =>
        socket.write("HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 2\r\n\r\nok"),
      gatewayOf({ routes: [route({ cors, access: "Login" })] }),
    );
    edge.gateway.people = new StubPeople();
    const preflight = (origin: string, method: string): Promise<string> =>
      edge.send([
        "OPTIONS /things/a HTTP/1.1",
        "host: app.example.com",
        `origin: ${origin}`,
        `access-control-request-method: ${method}`,
        "access-control-request-headers: X-Team",
      ]);
    const good = await preflight("https://ui.example.com", "POST");
    expect(good).toMatch(/^HTTP\/1\.1 204 /);
    expect(good).toMatch(/\r\naccess-control-allow-methods: GET, POST\r\n/);
    // A preflight never has credentials (Fetch, "CORS-preflight fetch"): nobody needs to be signed in for it.
    expect(good).toMatch(/\r\naccess-control-allow-credentials: true\r\n/);
    expect(good).toMatch(/\r\nvary: origin\r\n/);
    for (const origin of [
      ...["https://evil.example", "null", "https://ui.example.com.evil.example", "http://ui.example.com"],
      ...["https://UI.example.com", "https://ui.example.com:443", "https://ui.example.com/"],
    ]) {
      const refused = await preflight(origin, "POST");
      expect([origin, refused.slice(0, 13)]).toEqual([origin, "HTTP/1.1 403 "]);
      expect(refused).not.toContain("access-control-allow");
    }
    expect(await preflight("https://ui.example.com", "DELETE")).toMatch(/^HTTP\/1\.1 403 /);
    const text = await edge.send(get("/things/a", "origin: https://ui.example.com"));
    expect(text).toMatch(/\r\naccess-control-allow-origin: https:\/\/ui\.example\.com\r\n/);
    expect(text).not.toContain("access-control-allow-origin: *");
    expect(await edge.send(get("/things/a", "origin: https://evil.example"))).not.toContain(
      "access-control-",
    );
  });
});
