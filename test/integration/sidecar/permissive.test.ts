// Plaintext callers where a namespace is in `Permissive` mode: decided on like everybody else, as callers of whom nothing
// is known; what they say about themselves reaches nobody. Original destinations are said by the test.
import { once } from "node:events";
import { connect, createServer, type Server } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { DEFAULT_LIMITS } from "../../../sidecar/config.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import {
  ALLOW_READ,
  type Answer,
  type App,
  complete,
  hello,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "./world.ts";

const callee: ServiceSpec = { namespace: "ml", kind: "serving", name: "scorer", ports: [8080] };
const caller: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb", ports: [] };

const policy = (changes: Partial<ProgramPolicy>, rule: ProgramPolicy["rules"][number]): ProgramPolicy => ({
  ...ALLOW_READ,
  id: "ml/other",
  name: "other",
  ...changes,
  rules: [rule],
});
const DENY_WRITES = policy({ action: "Deny" }, { name: "writes", operations: [{ op: "thing.write" }] });
const DENY_NOTEBOOKS = policy(
  { action: "Deny" },
  { name: "notebooks", from: [{ workload: { kinds: ["notebook"] } }], operations: [{ any: true }] },
);

let world: World;
let app: App;
let answer: Answer = hello;
let server: Sidecar;
let port = 8080;
let redis: Server;
let revision = 1;

beforeAll(async () => {
  world = await World.create();
  app = await world.app((head, socket, body) => answer(head, socket, body));
  redis = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    socket.write("+hello\r\n");
    socket.on("data", (chunk) => socket.write(chunk));
    socket.on("end", () => socket.end());
  }).listen(0, "127.0.0.1");
  await once(redis, "listening");
  const capture = {
    originalOf: () => ({ ok: true, value: { address: "10.1.1.1", port } }) as const,
    families: ["ipv4"],
    outboundPort: 0,
    inboundPort: 0,
    verifies: false,
  } as const;
  const at = redis.address();
  server = await world.sidecar(callee, {
    app,
    capture,
    config: {
      capture: true,
      limits: { ...DEFAULT_LIMITS, appConnections: 8 },
      appPorts: new Map([
        [8080, { kind: "tcp", host: "127.0.0.1", port: app.port }],
        [6379, { kind: "tcp", host: "127.0.0.1", port: typeof at === "object" && at ? at.port : 0 }],
      ]),
    },
  });
});
beforeEach(() => {
  answer = hello;
  port = 8080;
  use("Permissive", []);
});
afterAll(async () => {
  redis.close();
  await world.close();
});

function use(mtls: "Strict" | "Permissive", policies: readonly ProgramPolicy[]): void {
  const made = table({ self: callee, policies, bundle: world.authority.bundle.json, settings: { mtls } });
  const ports = [
    ...made.program.ports,
    { port: 6379, protocol: "tcp", packs: [] } as const,
    { port: 9000, protocol: "grpc", packs: [] } as const,
  ];
  revision++;
  expect(server.plane.setTable({ ...made, revision, program: { ...made.program, ports } })).toMatchObject({
    ok: true,
  });
}

const inbound = (): number => server.captured?.inbound ?? 0;
const knock = (bytes: string, done?: (text: string) => boolean) => send(inbound(), bytes, done);
const get = (path: string, fields = "") => knock(`GET ${path} HTTP/1.1\r\nhost: scorer\r\n${fields}\r\n`);

function count(result: string): number {
  const { captured } = server.plane.metrics;
  return captured.read(captured.series("inbound", result));
}

describe("decisions on plaintext callers", () => {
  test.each([
    { name: "nobody says anything", policies: [], path: "/things/a", status: 200 },
    { name: "an Allow rule names others", policies: [ALLOW_READ], path: "/things/a", status: 200 },
    { name: "a Deny rule names other callers", policies: [DENY_NOTEBOOKS], path: "/things/a", status: 200 },
    { name: "a Deny rule names another operation", policies: [DENY_WRITES], path: "/things/a", status: 200 },
  ])("let them in where $name", async ({ policies, path, status }) => {
    use("Permissive", policies);
    expect(await get(path)).toMatchObject({ status, body: "hello" });
  });

  test("refuse them where a Deny rule without callers matches", async () => {
    use("Permissive", [ALLOW_READ, DENY_WRITES]);
    const heads = app.heads.length;
    const refused = await knock("POST /things/a HTTP/1.1\r\nhost: scorer\r\ncontent-length: 2\r\n\r\n{}");
    expect(refused.status).toBe(403);
    expect(JSON.parse(refused.body)).toMatchObject({
      reason: "DENIED_BY_POLICY",
      caller: "plaintext",
      target: "serving/scorer",
      operation: "thing.write",
    });
    expect(app.heads).toHaveLength(heads);
  });

  test("count a Deny rule in dry run, and let them in", async () => {
    use("Permissive", [ALLOW_READ, { ...DENY_WRITES, enforcement: "DryRun" }]);
    const { dryRun } = server.plane.metrics;
    const series = dryRun.series("ml/other", "writes", "Deny");
    const before = dryRun.read(series);
    const done = await knock("POST /things/a HTTP/1.1\r\nhost: scorer\r\ncontent-length: 2\r\n\r\n{}");
    expect(done.status).toBe(200);
    expect(dryRun.read(series)).toBe(before + 1);
  });

  test("are counted and recorded as plaintext", async () => {
    await get("/things/a", "traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\n");
    const { body } = exposition(server.plane.metrics);
    expect(body).toContain(
      'caller_kind="plaintext",caller="plaintext",callee_kind="serving",callee="scorer"',
    );
    const [event] = (await server.audit()).slice(-1);
    expect(event).toMatchObject({
      data: {
        decision: { effect: "Allow", reason: "DEFAULT_ALLOW" },
        identityMetadata: { caller: "plaintext", callerSpiffeId: null, hops: 1 },
        request: { sourceIp: "127.0.0.1" },
      },
    });
  });

  test("stay what they were for callers with an identity", async () => {
    use("Permissive", [DENY_NOTEBOOKS]);
    const nb = await world.sidecar(caller);
    const made = table({
      self: caller,
      bundle: world.authority.bundle.json,
      services: [{ service: callee, meshPort: server.meshPort }],
    });
    expect(nb.plane.setTable(made)).toMatchObject({ ok: true });
    const denied = await send(nb.proxyPort, "GET /things/a HTTP/1.1\r\nhost: scorer.ml:8080\r\n\r\n");
    expect(denied.status).toBe(403);
    expect(JSON.parse(denied.body)).toMatchObject({ reason: "DENIED_BY_POLICY", caller: "notebook/nb" });
  });
});

describe("what plaintext callers say about themselves", () => {
  test("ends here: identity headers in any spelling, and fields of the connection", async () => {
    const forged = [
      "workload-identity-token: a.b.c",
      "workload-proof-token: a.b.c",
      "Txn-Token: x",
      "X_Mesh_Caller: notebook/root",
      "x.forwarded.user: root",
      "x-forwarded-client-cert: By=spiffe://x",
      "countersign-port: 22",
      "x-http-method-override: DELETE",
      "connection: x-secret",
      "x-secret: 1",
      "x-kept: yes",
    ];
    expect(await get("/things/a", `${forged.join("\r\n")}\r\n`)).toMatchObject({ status: 200 });
    const head = app.heads.at(-1)?.toLowerCase() ?? "";
    expect(head).toContain("x-kept: yes\r\n");
    expect(head).not.toMatch(/token|mesh|forwarded|countersign|override|secret|connection/);
  });

  test("no proof is asked for, whatever the mesh asks of its own", async () => {
    const made = table({
      self: callee,
      bundle: world.authority.bundle.json,
      settings: { mtls: "Permissive", proofs: "Required" },
    });
    expect(server.plane.setTable(made)).toMatchObject({ ok: true });
    expect((await get("/things/a")).status).toBe(200);
  });
});

describe("HTTP/1.1 from outside", () => {
  test("several requests of one connection, bodies of both kinds, and answers of every framing", async () => {
    const answers = [
      "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none",
      "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nx-sum: 1\r\n\r\n",
      "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
      "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
      "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil close",
    ];
    const bodies: string[] = [];
    answer = (_head, socket, body) => {
      bodies.push(body.toString());
      const text = answers.shift() ?? "";
      if (text.includes("until close")) socket.end(text);
      else socket.write(text);
    };
    const bytes =
      "PUT /upload HTTP/1.1\r\nhost: scorer\r\ncontent-length: 3\r\n\r\nabc" +
      "PUT /upload HTTP/1.1\r\nhost: scorer\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n" +
      "GET /things/a HTTP/1.1\r\nhost: scorer\r\n\r\n" +
      "HEAD /things/a HTTP/1.1\r\nhost: scorer\r\n\r\n" +
      "GET /things/a HTTP/1.1\r\nhost: scorer\r\n\r\n";
    const { raw } = await knock(bytes, (text) => text.endsWith("until close\r\n0\r\n\r\n"));
    expect(raw.split("HTTP/1.1 ").map((part) => part.slice(0, 3))).toEqual([
      "",
      "200",
      "200",
      "103",
      "204",
      "200",
      "200",
    ]);
    expect(raw).toContain("\r\n\r\none");
    expect(raw).toContain("3\r\ntwo\r\n0\r\nx-sum: 1\r\n\r\n");
    expect(bodies[0]).toBe("abc");
    expect(bodies[1]).toContain("2\r\nde\r\n");
    expect(raw).not.toContain("connection: close");
  });

  test("HTTP/1.0, without Host and until the connection closes", async () => {
    answer = (_head, socket) => socket.end("HTTP/1.1 200 OK\r\n\r\nold");
    const { raw } = await knock("GET /things/a HTTP/1.0\r\n\r\n", () => false);
    expect(raw).toMatch(/^HTTP\/1\.1 200 OK\r\n(?:.*\r\n)*connection: close\r\n\r\nold$/);
    expect(app.heads.at(-1)).toContain("host: 10.1.1.1:8080\r\n");
  });

  test.each([
    { name: "an ambiguous request", bytes: "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", status: 400 },
    {
      name: "a smuggled one",
      bytes: "POST /things/a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
      status: 400,
    },
    {
      name: "an upgrade to two protocols",
      bytes: "GET /things/a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: foo, bar\r\n\r\n",
      status: 501,
    },
    { name: "CONNECT", bytes: "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", status: 501 },
    { name: "an undeclared port", bytes: "GET / HTTP/1.1\r\nhost: a\r\n\r\n", status: 400, port: 9999 },
  ])("refuses $name", async (row) => {
    port = row.port ?? 8080;
    const bytes = app.received.length;
    const refused = await knock(row.bytes);
    expect(refused.status).toBe(row.status);
    expect(app.received).toHaveLength(bytes);
  });

  test("holds back a body that nobody takes, and a slow reader's answer", async () => {
    const size = 4 * 1024 * 1024;
    answer = (_head, socket, body) => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n`);
      socket.write(body);
    };
    const text = "x".repeat(size);
    const head = `PUT /upload HTTP/1.1\r\nhost: scorer\r\ncontent-length: ${size}\r\n\r\n`;
    const done = await knock(head + text, (raw) => raw.length > size && complete(raw));
    expect(done.body).toHaveLength(size);
  });

  test("whatever bytes come in whatever pieces, the application sees what was allowed and nothing else", async () => {
    use("Permissive", [DENY_WRITES]);
    const fragments = [
      "GET /things/a HTTP/1.1\r\nhost: a\r\n\r\n",
      "PUT /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nGET ",
      "PUT /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
      "POST /things/a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx",
      "POST /chat HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
      "PUT /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabcGET /things/a HTTP/1.1\r\n",
      "HEAD /things/a HTTP/1.0\r\n\r\n",
      "\r\n",
      " /things HTTP/1.1\r\n",
    ];
    const { forwarded, allowedAndForwarded } = server.plane.metrics;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...fragments), { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 1, max: 80 }),
        async (parts, step) => {
          const [heads, allowed] = [app.heads.length, forwarded.read(allowedAndForwarded)];
          const text = `${parts.join("")}GET /things/last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`;
          const socket = connect(inbound(), "127.0.0.1").setNoDelay(true).setEncoding("latin1");
          let answers = "";
          socket.on("data", (chunk: string) => {
            answers += chunk;
          });
          socket.on("error", () => {});
          const closed = new Promise((resolve) => socket.once("close", resolve));
          for (let at = 0; at < text.length && !socket.writableEnded; at += step) {
            socket.write(text.slice(at, at + step), "latin1");
            await new Promise((resolve) => setImmediate(resolve));
          }
          await closed;
          const count = forwarded.read(allowedAndForwarded) - allowed;
          // A request whose body breaks off was allowed; the application never sees the end of it.
          expect(app.heads.length - heads).toBeLessThanOrEqual(count);
          expect(app.heads.length - heads).toBe(answers.match(/HTTP\/1\.1 200 /g)?.length ?? 0);
          for (const head of app.heads.slice(heads))
            expect(head).toMatch(/^(?:GET \/things\/|PUT \/upload |HEAD )/);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("an answer before the end of the request is the last of its connection", async () => {
    use("Permissive", [DENY_WRITES]);
    const { raw } = await knock(
      "POST /things/a HTTP/1.1\r\nhost: scorer\r\ncontent-length: 100\r\n\r\nGET /things/a HTTP/1.1\r\nhost: a\r\n\r\n",
      () => false,
    );
    expect(raw.split("HTTP/1.1 ")).toHaveLength(2);
    expect(raw).toContain("connection: close\r\n");
  });
});

describe("many at a time", () => {
  test("leave a quarter of the connections to the application to callers of the mesh", async () => {
    const before = count("reset");
    const sockets = Array.from({ length: 8 }, () => connect(inbound(), "127.0.0.1"));
    const ends = sockets.map(
      (socket) =>
        new Promise<string>((resolve) => {
          socket.on("error", () => resolve("reset"));
          socket.once("data", () => resolve("answer"));
          socket.write("GET /things/a HTTP/1.1\r\nhost: scorer\r\n\r\n");
        }),
    );
    const outcomes = await Promise.all(ends);
    expect(outcomes.filter((one) => one === "answer")).toHaveLength(6);
    expect(count("reset")).toBe(before + 2);
    for (const socket of sockets) socket.destroy();
    // Their places are free again.
    while (server.plane.busy > 0 || (await get("/things/a")).status !== 200);
  });
});

describe("TCP from outside", () => {
  beforeEach(() => {
    port = 6379;
  });

  test("is passed on to a port of protocol tcp, server first, and recorded when it is over", async () => {
    const before = count("passed");
    const { recorded } = server.plane.trail;
    const { raw } = await knock("PING\r\n", (text) => text === "+hello\r\nPING\r\n");
    expect(raw).toBe("+hello\r\nPING\r\n");
    expect(count("passed")).toBe(before + 1);
    while (server.plane.trail.recorded === recorded) await new Promise((resolve) => setImmediate(resolve));
    const event = (await server.audit()).find((one) => JSON.stringify(one).includes('"method":"TCP"'));
    expect(event).toMatchObject({ data: { decision: { effect: "Allow", reason: "DEFAULT_ALLOW" } } });
  });

  test("is refused where a Deny rule covers every caller and operation", async () => {
    use("Permissive", [policy({ action: "Deny", ports: [6379] }, { name: "all" })]);
    const before = count("reset");
    expect((await knock("PING\r\n")).raw).toBe("");
    expect(count("reset")).toBe(before + 1);
  });

  test.each([
    { name: "a Deny rule", change: () => use("Permissive", [policy({ action: "Deny" }, { name: "all" })]) },
    { name: "Strict mode", change: () => use("Strict", []) },
  ])("ends in the middle when $name comes", async ({ change }) => {
    const socket = connect(inbound(), "127.0.0.1");
    socket.on("error", () => {});
    await once(socket, "data");
    const closed = new Promise((resolve) => socket.once("close", resolve));
    change();
    server.plane.sweep(0);
    // A reset, not an orderly end.
    expect(await closed).toBe(true);
    expect(server.plane.table?.revision).toBe(revision);
  });
});

describe("the mode", () => {
  test("changes with the table, also on connections that stand", async () => {
    use("Strict", []);
    const refused = await get("/things/a");
    expect(refused.status).toBe(403);
    expect(JSON.parse(refused.body)).toMatchObject({ reason: "AUTHN_MTLS_REQUIRED" });
    use("Permissive", []);
    const before = count("plaintext");
    const socket = connect(inbound(), "127.0.0.1").setEncoding("latin1");
    const request = "GET /things/a HTTP/1.1\r\nhost: scorer\r\n\r\n";
    socket.write(request);
    expect((await once(socket, "data"))[0]).toMatch(/^HTTP\/1\.1 200 /);
    expect(count("plaintext")).toBe(before + 1);
    use("Strict", []);
    socket.write(request);
    const [last] = await once(socket, "data");
    expect(last).toMatch(/^HTTP\/1\.1 403 (?:.*\r\n)*connection: close\r\n/);
    await once(socket, "end");
    socket.destroy();
  });
});
