// CONNECT on the proxy port: joined to the service it names as a captured connection would be, refused in words.
import { once } from "node:events";
import { connect as connectHttp2, createServer as createHttp2Server } from "node:http2";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import type { PortProtocol, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { ALLOW_READ, type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const APP: ServiceSpec = { namespace: "data", kind: "service", name: "app", ports: [5432] };
const ANY: ProgramPolicy = { ...ALLOW_READ, rules: [{ name: "any", operations: [{ any: true }] }] };
const CONNECT = "CONNECT app.data:5432 HTTP/1.1\r\nHost: app.data:5432\r\n\r\n";
const AGREED = "HTTP/1.1 200 Connection established\r\n\r\n";

let world: World;
const servers: Server[] = [];
const sockets: Socket[] = [];

beforeEach(async () => {
  world = await World.create();
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await world.close();
  for (const server of servers.splice(0)) server.close();
});

async function listening(server: Server): Promise<number> {
  server.on("connection", (socket: Socket) => sockets.push(socket));
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

const echo = (greeting = ""): Promise<number> =>
  listening(
    createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("error", () => {});
      socket.write(greeting);
      socket.pipe(socket);
    }),
  );

interface Scene {
  readonly caller: Sidecar;
  readonly callee: Sidecar;
}

async function scene(
  protocol: PortProtocol,
  appPort: number,
  policies: readonly ProgramPolicy[] = [ANY],
): Promise<Scene> {
  const bundle = world.authority.bundle.json;
  const service = { ...APP, protocol };
  const callee = await world.sidecar(service, { appPort });
  const caller = await world.sidecar(NOTEBOOK, {
    config: {
      localServices: [
        { listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "data/app", port: 5432 },
      ],
    },
  });
  expect(callee.plane.setTable(table({ self: service, policies, bundle }))).toMatchObject({ ok: true });
  const services = [{ service, meshPort: callee.meshPort }];
  caller.plane.setTable(table({ self: NOTEBOOK, services, bundle }));
  return { caller, callee };
}

class Client {
  readonly socket: Socket;
  text = "";
  ended = false;
  error: NodeJS.ErrnoException | undefined;

  constructor(port: number, bytes: string) {
    this.socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    sockets.push(this.socket);
    this.socket.on("data", (chunk: Buffer) => {
      this.text += chunk.toString("latin1");
    });
    this.socket.on("end", () => {
      this.ended = true;
    });
    this.socket.on("error", (error) => {
      this.error = error;
    });
    this.socket.write(bytes, "latin1");
  }

  async until(done: () => boolean): Promise<void> {
    const untilMs = performance.now() + 60_000;
    while (!done()) {
      if (performance.now() > untilMs) throw new Error(`it never came: ${this.text} ${this.error}`);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** A socket whose CONNECT was agreed to, with nothing read behind that. */
  async agreed(): Promise<Socket> {
    await this.until(() => this.text === AGREED);
    this.socket.removeAllListeners("data");
    this.socket.removeAllListeners("end");
    return this.socket;
  }
}

describe("CONNECT to a port that speaks no HTTP", () => {
  test("opens a tunnel, with what was sent early, closed in order on both sides", async () => {
    const { caller, callee } = await scene("tcp", await echo("hello "));
    const client = new Client(caller.proxyPort, `${CONNECT}early`);
    await client.until(() => client.text === `${AGREED}hello early`);
    const bulk = "x".repeat(300_000);
    client.socket.end(bulk);
    await client.until(() => client.ended);
    expect(client.text.length).toBe(AGREED.length + "hello early".length + bulk.length);
    await client.until(() => callee.plane.inbound.openExchanges === 0);
    const event = JSON.stringify((await callee.audit()).at(-1));
    for (const said of ['"method":"TCP"', '"bytes":300005', "notebook/nb-1"]) expect(event).toContain(said);
  });

  test("that the callee denies is answered with its reason, and the application is not reached", async () => {
    let reached = 0;
    const port = await listening(createServer(() => reached++));
    const { caller, callee } = await scene("tcp", port, [ALLOW_READ]);
    const client = new Client(caller.proxyPort, CONNECT);
    await client.until(() => client.ended);
    expect(client.text).toMatch(/^HTTP\/1\.1 403 Forbidden\r\n/);
    expect(client.text.toLowerCase()).toContain("\r\nconnection: close\r\n");
    const body = JSON.parse(client.text.slice(client.text.indexOf("\r\n\r\n")));
    expect(body).toMatchObject({ reason: "NO_MATCHING_ALLOW", caller: "notebook/nb-1" });
    expect(reached).toBe(0);
    expect(JSON.stringify(await callee.audit())).toContain(body.decisionId);
    client.socket.end();
    await client.until(() => caller.plane.outbound.connections === 0);
  });

  test("whose callee cannot be reached is answered, not reset", async () => {
    const { caller, callee } = await scene("tcp", 1);
    const client = new Client(caller.proxyPort, CONNECT);
    await client.until(() => client.ended);
    expect(client.text).toMatch(/^HTTP\/1\.1 502 /);
    await callee.plane.close(0);
    const other = new Client(caller.proxyPort, CONNECT);
    await other.until(() => other.ended);
    expect(other.text).toMatch(/^HTTP\/1\.1 50[0-9] /);
    expect(JSON.parse(other.text.slice(other.text.indexOf("\r\n\r\n"))).reason).toBe("UPSTREAM_FAILED");
    expect(JSON.stringify(await caller.audit())).toContain("UPSTREAM_FAILED");
  });

  test("with TLS on it goes by the server name", async () => {
    const { tlsKey, certificateChainPem: cert } = world.identity(APP);
    const key = tlsKey.export({ type: "pkcs8", format: "pem" });
    const port = await listening(
      createTlsServer({ key, cert }, (socket) => socket.on("error", () => {}).end("secret")),
    );
    const { caller } = await scene("tls", port);
    const client = new Client(caller.proxyPort, CONNECT);
    const tls = connectTls({
      socket: await client.agreed(),
      servername: "app.data",
      rejectUnauthorized: false,
    });
    const [chunk] = (await once(tls, "data")) as [Buffer];
    expect(chunk.toString()).toBe("secret");
    const plain = new Client(caller.proxyPort, `${CONNECT}GET / HTTP/1.1\r\n\r\n`);
    await plain.until(() => plain.error !== undefined || plain.ended);
    expect(plain.error?.code).toBe("ECONNRESET");
  });
});

describe("CONNECT to a port that speaks HTTP", () => {
  test("brings requests, each decided on", async () => {
    const app = await world.app((head, socket) => {
      const text = head.split("\r\n")[0] ?? "";
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
    });
    const { caller } = await scene("http", app.port, [ALLOW_READ]);
    const client = new Client(caller.proxyPort, CONNECT);
    await client.until(() => client.text === AGREED);
    client.text = "";
    client.socket.write("GET /things/a HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n");
    await client.until(() => client.text.endsWith("GET /things/a HTTP/1.1"));
    client.text = "";
    client.socket.write("GET /health HTTP/1.1\r\nhost: app.data\r\n\r\n");
    await client.until(() => client.text.endsWith("}"));
    expect(client.text).toMatch(/^HTTP\/1\.1 403 /);
    expect(app.heads).toHaveLength(1);
  });

  test("brings HTTP/2", async () => {
    const server = createHttp2Server((request, response) => response.end(`h2 ${request.url}`));
    const { caller } = await scene("h2c", await listening(server as unknown as Server), [ALLOW_READ]);
    const client = new Client(caller.proxyPort, CONNECT);
    const socket = await client.agreed();
    const session = connectHttp2("http://app.data:5432", { createConnection: () => socket });
    session.on("error", () => {});
    const request = session.request({ ":path": "/things/a" });
    let text = "";
    request.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    await once(request, "end");
    expect(text).toBe("h2 /things/a");
    session.destroy();
  });
});

describe("CONNECT to a port that declares nothing", () => {
  test.each([
    { name: "HTTP from its first line", bytes: "GET /things/a HTTP/1.1\r\nhost: a\r\n\r\n", spoken: "http" },
    { name: "anything else", bytes: "\x00\x01\x02", spoken: "tcp" },
  ])("finds $name", async ({ bytes, spoken }) => {
    const app = await world.app((_head, socket) =>
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    );
    const { caller } = await scene("auto", spoken === "http" ? app.port : await echo());
    const client = new Client(caller.proxyPort, CONNECT);
    await client.until(() => client.text === AGREED);
    client.socket.write(bytes, "latin1");
    const expected = spoken === "http" ? "ok" : bytes;
    await client.until(() => client.text.endsWith(expected));
    const { detected } = caller.plane.metrics;
    expect(detected.read(detected.series(spoken))).toBe(1);
  });

  test("lets the server speak first, and the client say all at once", async () => {
    const { caller } = await scene("auto", await echo("220 ready\r\n"));
    const silent = new Client(caller.proxyPort, CONNECT);
    await silent.until(() => silent.text === `${AGREED}220 ready\r\n`);
    const brief = new Client(caller.proxyPort, CONNECT);
    await brief.until(() => brief.text === AGREED);
    brief.socket.end("bye");
    await brief.until(() => brief.ended);
    expect(brief.text).toBe(`${AGREED}220 ready\r\nbye`);
    const briefer = new Client(caller.proxyPort, "");
    briefer.socket.end(`${CONNECT}bye`);
    await briefer.until(() => briefer.ended);
    expect(briefer.text).toBe(`${AGREED}220 ready\r\nbye`);
  });
});

describe("CONNECT is refused", () => {
  test("with the reason where nobody knows the destination, and that is recorded", async () => {
    const { caller } = await scene("tcp", 1);
    const client = new Client(caller.proxyPort, CONNECT.replaceAll("app.data", "nobody.data"));
    await client.until(() => client.ended);
    expect(client.text).toMatch(/^HTTP\/1\.1 502 /);
    expect(JSON.parse(client.text.slice(client.text.indexOf("\r\n\r\n"))).reason).toBe("UNKNOWN_DESTINATION");
    expect(JSON.stringify(await caller.audit())).toContain("nobody.data:5432");
  });

  test("with 403 where the workload may not call it", async () => {
    const caller = await world.sidecar(NOTEBOOK, {
      resolve: () => Promise.resolve({ kind: "refused", reason: "NO_MATCHING_ALLOW" }),
    });
    caller.plane.setTable(table({ self: NOTEBOOK, bundle: world.authority.bundle.json }));
    const client = new Client(caller.proxyPort, CONNECT);
    await client.until(() => client.ended);
    expect(client.text).toMatch(/^HTTP\/1\.1 403 /);
    expect(JSON.parse(client.text.slice(client.text.indexOf("\r\n\r\n"))).reason).toBe("NO_MATCHING_ALLOW");
  });

  test("on a port that means one service already", async () => {
    const { caller } = await scene("http", 1);
    const client = new Client(caller.localPorts[0] ?? 0, CONNECT);
    await client.until(() => client.text.endsWith("}"));
    expect(client.text).toMatch(/^HTTP\/1\.1 501 /);
  });

  test.each([
    { name: "without a port", bytes: "CONNECT app.data HTTP/1.1\r\nHost: app.data\r\n\r\n" },
    { name: "with another Host", bytes: "CONNECT app.data:5432 HTTP/1.1\r\nHost: b.data:5432\r\n\r\n" },
    { name: "with a body", bytes: `${CONNECT.slice(0, -2)}content-length: 1\r\n\r\nx` },
  ])("$name", async ({ bytes }) => {
    const { caller } = await scene("tcp", await echo());
    const client = new Client(caller.proxyPort, bytes);
    await client.until(() => client.ended);
    expect(client.text).toMatch(/^HTTP\/1\.1 400 /);
  });

  test("before there is a configuration", async () => {
    const caller = await world.sidecar(NOTEBOOK);
    const client = new Client(caller.proxyPort, CONNECT);
    await client.until(() => client.ended);
    expect(client.text).toMatch(/^HTTP\/1\.1 503 /);
  });
});
