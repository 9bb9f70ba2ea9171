// What changes while a sidecar runs: table, identity, callers that misbehave, slow readers, chains of calls, the end.
import { once } from "node:events";
import { type ClientHttp2Session, connect as connectHttp2, constants } from "node:http2";
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { clientTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import {
  ALLOW_READ,
  type Answer,
  type App,
  hello,
  idOf,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const JOB: ServiceSpec = { namespace: "lab", kind: "job", name: "nightly", ports: [9999] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

const get = (target: string, fields = ""): string =>
  `GET http://things.ml:8080${target} HTTP/1.1\r\nhost: things.ml:8080\r\n${fields}\r\n`;

let world: World;
let app: App;
let respond: Answer;
let bundle: string;
let offsetMs: number;

beforeEach(async () => {
  world = await World.create();
  bundle = world.authority.bundle.json;
  respond = hello;
  offsetMs = 0;
  app = await world.app((head, socket, body) => respond(head, socket, body));
});
afterEach(() => world.close());

async function pair(
  policies: readonly ProgramPolicy[] = [ALLOW_READ],
): Promise<{ caller: Sidecar; callee: Sidecar }> {
  const meshNowMs = (): number => Date.now() + offsetMs;
  const callee = await world.sidecar(THINGS, { app, meshNowMs });
  const caller = await world.sidecar(NOTEBOOK, { meshNowMs });
  callee.plane.setTable(table({ self: THINGS, policies, bundle }));
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
  );
  return { caller, callee };
}

/** Resolves when it is closed, however. */
function closed(emitter: { once(event: "close", listener: () => void): unknown }): Promise<void> {
  return new Promise((resolve) => emitter.once("close", resolve));
}

const reasonOf = (body: string): unknown => (JSON.parse(body) as Record<string, unknown>)["reason"];

test("nothing is allowed before the first table, at either end", async () => {
  const callee = await world.sidecar(THINGS, { app });
  const caller = await world.sidecar(NOTEBOOK);
  const early = await send(caller.proxyPort, get("/things/a"));
  expect([early.status, reasonOf(early.body)]).toEqual([503, "NOT_READY"]);
  expect(early.head).toContain("retry-after: 1\r\n");
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
  );
  const later = await send(caller.proxyPort, get("/things/a"));
  expect([later.status, reasonOf(later.body)]).toEqual([503, "NOT_READY"]);
  expect(app.received).toHaveLength(0);
});

test("an expired identity fails closed and says so", async () => {
  const { caller } = await pair();
  expect((await send(caller.proxyPort, get("/things/a"))).status).toBe(200);
  offsetMs = 7 * 3_600_000;
  const answer = await send(caller.proxyPort, get("/things/a"));
  expect([answer.status, reasonOf(answer.body)]).toEqual([503, "IDENTITY_EXPIRED"]);
});

test("a table that cannot be used is refused and the one before stays in force", async () => {
  const { caller, callee } = await pair();
  const broken = {
    ...table({ self: THINGS, policies: [ALLOW_READ], bundle }),
    packs: new Map([["things", { name: "things", text: "no pack at all" }]]),
  };
  expect(callee.plane.setTable(broken)).toMatchObject({ ok: false });
  expect(callee.plane.setTable({ ...table({ self: THINGS, bundle }), trustBundle: "{}" })).toMatchObject({
    ok: false,
  });
  expect((await send(caller.proxyPort, get("/things/a"))).status).toBe(200);
  expect(callee.plane.setTable(table({ self: THINGS, bundle, revision: 2 }))).toMatchObject({ ok: true });
  expect((await send(caller.proxyPort, get("/things/a"))).status).toBe(403);
});

/** Requests one after the other on `connections` connections until `stop`; counts what was not 200. */
function load(port: number, connections: number): { stop: () => Promise<{ ok: number; bad: string[] }> } {
  const result = { ok: 0, bad: [] as string[] };
  let stopping = false;
  const loops = Array.from({ length: connections }, async () => {
    while (!stopping) {
      const answer = await send(port, get("/things/a"));
      if (answer.status === 200) result.ok++;
      else if (!stopping) result.bad.push(answer.raw.slice(0, 400));
    }
  });
  return {
    stop: async () => {
      stopping = true;
      await Promise.all(loops);
      return result;
    },
  };
}

test("identities and tables are swapped under load without a failed request", async () => {
  const { caller, callee } = await pair();
  const running = load(caller.proxyPort, 8);
  const before = callee.plane.inbound.connections.size;
  for (let round = 0; round < 5; round++) {
    await callee.plane.setIdentity(world.identity(THINGS));
    await caller.plane.setIdentity(world.identity(NOTEBOOK));
    callee.plane.setTable(table({ self: THINGS, policies: [ALLOW_READ], bundle, revision: round + 2 }));
    for (let i = 0; i < 10; i++) await send(caller.proxyPort, get("/things/a"));
  }
  const { ok, bad } = await running.stop();
  expect(bad).toEqual([]);
  expect(ok).toBeGreaterThan(10);
  expect(before).toBeLessThanOrEqual(1);
});

test("a sidecar that ends lets open requests finish", async () => {
  const { caller, callee } = await pair();
  const release: (() => void)[] = [];
  respond = (head, socket, body) => {
    release.push(() => hello(head, socket, body));
  };
  const open = Array.from({ length: 10 }, () => send(caller.proxyPort, get("/things/a")));
  while (release.length < 10) await new Promise((resolve) => setImmediate(resolve));
  const closing = callee.plane.close(5_000);
  const closingCaller = caller.plane.close(5_000);
  for (const answer of release) answer();
  const answers = await Promise.all(open);
  expect(answers.map((answer) => answer.status)).toEqual(Array(10).fill(200));
  await Promise.all([closing, closingCaller]);
});

test("a limit answers 429 and says when to come again", async () => {
  const limited: ProgramPolicy = {
    ...ALLOW_READ,
    rules: ALLOW_READ.rules.map((rule) => ({
      ...rule,
      with: { rateLimit: { key: ["workload"], requests: 2, perMs: 3_600_000, burst: 2 } },
    })),
  };
  const { caller } = await pair([limited]);
  const statuses: number[] = [];
  let last = await send(caller.proxyPort, get("/things/a"));
  for (let i = 0; i < 2; i++) {
    statuses.push(last.status);
    last = await send(caller.proxyPort, get("/things/a"));
  }
  expect(statuses).toEqual([200, 200]);
  expect([last.status, reasonOf(last.body)]).toEqual([429, "RATE_LIMITED"]);
  expect(last.head).toMatch(/\r\nretry-after: \d+\r\n/);
  expect(last.head).toContain('ratelimit: "workload";r=0;t=');
});

test("a reader that does not read stops the application, and memory stays bounded", async () => {
  const { caller } = await pair();
  let written = 0;
  const total = 64 * 1024 * 1024;
  const block = Buffer.alloc(65_536, 120);
  respond = (_head, socket) => {
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${total}\r\n\r\n`);
    const more = (): void => {
      while (written < total) {
        written += block.length;
        if (!socket.write(block)) return;
      }
    };
    socket.on("drain", more);
    more();
  };
  const socket = connect(caller.proxyPort, "127.0.0.1");
  socket.write(get("/things/a"));
  await once(socket, "readable");
  // Nothing is read from here on: everything fills up, and then the application is stopped.
  let before = -1;
  for (let quiet = 0; quiet < 20; ) {
    quiet = written === before ? quiet + 1 : 0;
    before = written;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  expect(written).toBeLessThan(32 * 1024 * 1024);
  let got = 0;
  socket.on("data", (chunk: Buffer) => {
    got += chunk.length;
    if (got > total) socket.destroy();
  });
  await once(socket, "close");
  expect(written).toBe(total);
});

test("the chain of calls is carried on by trace id", async () => {
  const backend: ServiceSpec = { namespace: "ml", kind: "serving", name: "backend", ports: [8081] };
  const backendApp = await world.app(hello);
  const last = await world.sidecar(backend, { app: backendApp });
  const { caller, callee } = await pair();
  const allow: ProgramPolicy = {
    ...ALLOW_READ,
    rules: [{ name: "any", from: [{ any: true }], operations: [{ any: true }] }],
  };
  last.plane.setTable(table({ self: backend, policies: [allow], bundle }));
  callee.plane.setTable(
    table({
      self: THINGS,
      policies: [ALLOW_READ],
      services: [{ service: backend, meshPort: last.meshPort }],
      bundle,
    }),
  );
  respond = (head, socket, body) => {
    const trace = /traceparent: .*\r\n/.exec(head)?.[0] ?? "";
    void send(
      callee.proxyPort,
      `GET http://backend.ml:8081/things/b HTTP/1.1\r\nhost: backend.ml:8081\r\n${trace}\r\n`,
    ).then((inner) => {
      expect(inner.status).toBe(200);
      hello(head, socket, body);
    });
  };
  expect((await send(caller.proxyPort, get("/things/a"))).status).toBe(200);
  const event = (await last.audit()).at(-1);
  expect(event).toMatchObject({
    data: {
      identityMetadata: {
        caller: "serving/things",
        origin: "notebook/nb-1",
        hops: 2,
        chain: [
          { s: "notebook/nb-1", o: "thing.read" },
          { s: "serving/things", o: "thing.read" },
        ],
      },
    },
  });
});

describe("the mesh port", () => {
  function client(port: number, spec: ServiceSpec = NOTEBOOK): ClientHttp2Session {
    const session = connectHttp2(`https://127.0.0.1:${port}`, {
      createConnection: () =>
        connectTls({
          ...clientTlsOptions(world.identity(spec), idOf("ml", "serving", "things"), () => Date.now(), [
            "h2",
          ]),
          host: "127.0.0.1",
          port,
        }),
    });
    session.on("error", () => {});
    return session;
  }

  async function ask(
    session: ClientHttp2Session,
    headers: Record<string, string>,
  ): Promise<{ status: number; body: string }> {
    const stream = session.request({
      ":method": "GET",
      ":path": "/things/a",
      ":authority": "things.ml:8080",
      ...headers,
    });
    let body = "";
    stream.setEncoding("utf8");
    stream.on("data", (chunk: string) => {
      body += chunk;
    });
    stream.on("error", () => {});
    if (session.destroyed) return { status: 0, body };
    const [response] = (await once(stream, "response")) as [Record<string, unknown>];
    await once(stream, "close");
    return { status: Number(response[constants.HTTP2_HEADER_STATUS]), body };
  }

  test("decides on an HTTP/2 client with an SVID as a caller without tokens", async () => {
    const { callee } = await pair();
    const session = client(callee.meshPort);
    expect((await ask(session, {})).status).toBe(200);
    expect(app.heads.at(-1)).toContain("x-mesh-caller: notebook/nb-1\r\n");
    const other = client(callee.meshPort, JOB);
    const denied = await ask(other, {});
    expect([denied.status, reasonOf(denied.body)]).toEqual([403, "NO_MATCHING_ALLOW"]);
    session.close();
    other.close();
  });

  test.each([
    {
      name: "one token without the other",
      headers: { "workload-identity-token": "a.b.c" },
      status: 400,
      reason: "AUTHN_PROOF_INVALID",
    },
    {
      name: "tokens that are none",
      headers: { "workload-identity-token": "a.b.c", "workload-proof-token": "a.b.c" },
      status: 400,
      reason: "AUTHN_PROOF_INVALID",
    },
    {
      name: "a port that is not declared",
      headers: { "countersign-port": "22" },
      status: 400,
      reason: "REQ_MALFORMED",
    },
    {
      name: "a port that is no number",
      headers: { "countersign-port": "080" },
      status: 400,
      reason: "REQ_MALFORMED",
    },
    {
      name: "a Host other than :authority",
      headers: { host: "other" },
      status: 400,
      reason: "REQ_MALFORMED",
    },
    {
      name: "a path with an encoded slash",
      headers: { ":path": "/things/a%2fb" },
      status: 400,
      reason: "REQ_MALFORMED",
    },
  ])("refuses $name with zero bytes at the application", async ({ headers, status, reason }) => {
    const { callee } = await pair();
    const session = client(callee.meshPort);
    const answer = await ask(session, headers as unknown as Record<string, string>);
    expect(answer.status).toBe(status);
    if (reason === "AUTHN_PROOF_INVALID") expect(String(reasonOf(answer.body))).toMatch(/^AUTHN_/);
    else expect(reasonOf(answer.body)).toBe(reason);
    expect(app.received).toHaveLength(0);
    session.close();
  });

  test("requires proofs where the mesh says so", async () => {
    const { caller, callee } = await pair();
    callee.plane.setTable(
      table({ self: THINGS, policies: [ALLOW_READ], bundle, settings: { proofs: "Required" } }),
    );
    const session = client(callee.meshPort);
    expect((await ask(session, {})).status).toBe(400);
    expect((await send(caller.proxyPort, get("/things/a"))).status).toBe(200);
    session.close();
  });

  test("ends a connection after ten bad proofs", async () => {
    const { callee } = await pair();
    const session = client(callee.meshPort);
    const ended = closed(session);
    for (let i = 0; i < 10; i++)
      await ask(session, { "workload-identity-token": "a.b.c" }).catch(() => undefined);
    await ended;
    expect(app.received).toHaveLength(0);
  });

  test.each([
    { name: "no certificate", options: () => ({}) },
    {
      name: "another protocol than HTTP",
      options: () =>
        clientTlsOptions(world.identity(NOTEBOOK), idOf("ml", "serving", "things"), () => Date.now(), [
          "spdy/3",
        ]),
    },
  ])("refuses a client with $name", async ({ options }) => {
    const { callee } = await pair();
    const socket: Socket = connectTls({
      ...options(),
      host: "127.0.0.1",
      port: callee.meshPort,
      rejectUnauthorized: false,
    });
    socket.on("error", () => {});
    socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    await closed(socket);
    expect(app.received).toHaveLength(0);
  });

  test("refuses a certificate of another trust domain", async () => {
    const { callee } = await pair();
    const stranger = await World.create();
    const identity = stranger.identity(NOTEBOOK);
    const socket = connectTls({
      ...clientTlsOptions(identity, idOf("ml", "serving", "things"), () => Date.now(), ["h2"]),
      host: "127.0.0.1",
      port: callee.meshPort,
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
    });
    socket.on("error", () => {});
    socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    await closed(socket);
    expect(callee.plane.inbound.connections.size).toBe(0);
    await stranger.close();
  });
});
