// Both sidecars over real sockets: what may pass, what must not, and that nothing is lost or invented on the way.
import { createHash, randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import {
  ALLOW_READ,
  type Answer,
  type App,
  parseAnswer,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const GONE: ServiceSpec = { namespace: "ml", kind: "serving", name: "gone", ports: [8080] };

const POLICIES: readonly ProgramPolicy[] = [
  ALLOW_READ,
  {
    id: "ml/models",
    name: "models",
    cluster: false,
    source: "policy",
    action: "Allow",
    enforcement: "Enforce",
    rules: [
      {
        name: "good",
        from: [{ workload: { kinds: ["notebook"] } }],
        operations: [{ op: "model.chat", resources: ["good-*"] }],
      },
    ],
  },
  {
    id: "no-bad-things",
    name: "no-bad-things",
    cluster: true,
    source: "policy",
    action: "Deny",
    enforcement: "Enforce",
    rules: [{ name: "bad", operations: [{ op: "thing", resources: ["bad"] }] }],
  },
];

let world: World;
let app: App;
let caller: Sidecar;
let callee: Sidecar;
let respond: Answer;
const big = randomBytes(3_000_000);

const answers = new Map<string, Answer>([
  [
    "/things/chunked",
    (_head, socket) =>
      socket.write(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n",
      ),
  ],
  ["/things/close", (_head, socket) => socket.end("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil close")],
  ["/things/none", (_head, socket) => socket.write("HTTP/1.1 204 No Content\r\n\r\n")],
  [
    "/things/crash",
    (_head, socket) =>
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this", () => socket.destroy()),
  ],
  ["/things/silent-crash", (_head, socket) => socket.destroy()],
  ["/things/garbage", (_head, socket) => socket.write("SSH-2.0-OpenSSH_9\r\n\r\n")],
  [
    "/things/both",
    (_head, socket) =>
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
  ],
  [
    "/things/hints",
    (_head, socket) =>
      socket.write(
        "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
      ),
  ],
  [
    "/things/forger",
    (_head, socket) =>
      socket.write(
        "HTTP/1.1 200 OK\r\nx-mesh-caller: admin/root\r\nworkload-identity-token: x\r\nconnection: x-hop\r\nx-hop: 1\r\ncontent-length: 2\r\n\r\nok",
      ),
  ],
  [
    "/things/big",
    (_head, socket) => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${big.length}\r\n\r\n`);
      socket.write(big);
    },
  ],
]);

beforeAll(async () => {
  world = await World.create();
  respond = (head, socket, body) => {
    const [, target = ""] = head.split(" ");
    const special = answers.get(target);
    if (special) return special(head, socket, body);
    const text = `${head.split(" ")[0]} ${target} ${createHash("sha256").update(body).digest("hex").slice(0, 8)} ${body.length}`;
    socket.write(
      `HTTP/1.1 200 OK\r\ncontent-length: ${text.length}\r\n\r\n${head.startsWith("HEAD") ? "" : text}`,
    );
  };
  app = await world.app((head, socket, body) => respond(head, socket, body));
  callee = await world.sidecar(THINGS, { app });
  caller = await world.sidecar(NOTEBOOK, {
    config: {
      localServices: [
        { listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "ml/things", port: 8080 },
        { listen: { kind: "unix", path: join(world.dir, "things.sock") }, service: "ml/things", port: 8080 },
        { listen: { kind: "unix", path: join(world.dir, "secret.sock") }, service: "ml/secret", port: 8080 },
      ],
    },
    resolve: (host) =>
      Promise.resolve({
        kind: "refused",
        reason: host === "secret.ml" ? "NO_MATCHING_ALLOW" : "UNKNOWN_DESTINATION",
      }),
  });
  const bundle = world.authority.bundle.json;
  expect(callee.plane.setTable(table({ self: THINGS, policies: POLICIES, bundle })).ok).toBe(true);
  expect(
    caller.plane.setTable(
      table({
        self: NOTEBOOK,
        services: [
          { service: THINGS, meshPort: callee.meshPort },
          { service: GONE, meshPort: 1 },
        ],
        bundle,
      }),
    ).ok,
  ).toBe(true);
});
afterAll(() => world.close());

const get = (target: string, fields = ""): string =>
  `GET http://things.ml:8080${target} HTTP/1.1\r\nhost: things.ml:8080\r\n${fields}\r\n`;
const problemOf = (body: string): Record<string, unknown> => JSON.parse(body) as Record<string, unknown>;

describe("a call through both sidecars", () => {
  test("reaches the application when a policy allows it, and the application learns who called", async () => {
    const answer = await send(
      caller.proxyPort,
      get("/things/a", "user-agent: curl\r\nconnection: x-local\r\nx-local: 1\r\n"),
    );
    expect(answer.status).toBe(200);
    const head = app.heads.at(-1) ?? "";
    expect(head).toContain("GET /things/a HTTP/1.1\r\nhost: things.ml:8080\r\n");
    expect(head).toContain("x-mesh-caller: notebook/nb-1\r\n");
    expect(head).toContain("user-agent: curl\r\n");
    expect(head).toMatch(/\r\ntraceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-01\r\n/);
    expect(head).not.toMatch(/workload-|countersign|x-local|txn-token/);
  });

  test.each([
    { name: "no rule allows it", path: "/health", reason: "NO_MATCHING_ALLOW", operation: "health.probe" },
    {
      name: "a guard rail forbids it",
      path: "/things/bad",
      reason: "DENIED_BY_POLICY",
      operation: "thing.read",
    },
    {
      name: "it is no known operation",
      path: "/else/where",
      reason: "NO_MATCHING_ALLOW",
      operation: "unknown",
    },
  ])(
    "is answered with a problem and nothing reaches the application when $name",
    async ({ path, reason, operation }) => {
      const before = app.received.length;
      const answer = await send(caller.proxyPort, get(path));
      expect(answer.status).toBe(403);
      expect(answer.head).toContain("content-type: application/problem+json\r\n");
      expect(answer.head).toContain(
        "proxy-status: countersign-sidecar/serving/things; error=http_request_denied",
      );
      const problem = problemOf(answer.body);
      expect(problem).toMatchObject({ reason, operation, caller: "notebook/nb-1", target: "serving/things" });
      expect(app.received.length).toBe(before);
      expect(callee.plane.trail.denial(String(problem["decisionId"]))).toMatchObject({ reason });
    },
  );

  test("strips identity fields that the application of the caller makes up", async () => {
    await send(
      caller.proxyPort,
      get(
        "/things/a",
        "x-mesh-caller: gateway/admin\r\nX_Mesh_Caller: gateway/admin\r\nx-forwarded-user: root\r\nx-http-method-override: DELETE\r\nworkload-proof-token: forged\r\ncountersign-port: 22\r\n",
      ),
    );
    const head = app.heads.at(-1) ?? "";
    expect(head.match(/mesh.caller/gi)).toHaveLength(1);
    expect(head).not.toMatch(/admin|x-forwarded-user|override|forged|countersign-port/);
  });

  test("strips identity fields and hop-by-hop fields from the answer", async () => {
    const answer = await send(caller.proxyPort, get("/things/forger"));
    expect(answer.status).toBe(200);
    expect(answer.head).not.toMatch(/x-mesh-caller|workload-identity|x-hop/);
  });

  test("goes through local ports, Unix sockets and the Host field", async () => {
    for (const [port, bytes] of [
      [caller.localPorts[0] ?? 0, "GET /things/l HTTP/1.1\r\nhost: whatever\r\n\r\n"],
      [join(world.dir, "things.sock"), "GET /things/u HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n"],
      [caller.proxyPort, "GET /things/h HTTP/1.1\r\nhost: things.ml\r\n\r\n"],
    ] as const) {
      expect((await send(port, bytes)).status).toBe(200);
    }
  });

  test("asks by name about the service of a local port, and says why it is forbidden", async () => {
    const answer = await send(
      join(world.dir, "secret.sock"),
      "GET /things/s HTTP/1.1\r\nhost: whatever\r\n\r\n",
    );
    expect(answer).toMatchObject({ status: 403 });
    expect(answer.body).toContain("NO_MATCHING_ALLOW");
  });

  test.each([
    {
      name: "an unknown host",
      target: "nowhere.example",
      bytes: "GET http://nowhere.example/ HTTP/1.1\r\nhost: nowhere.example\r\n\r\n",
      status: 502,
      reason: "UNKNOWN_DESTINATION",
    },
    {
      name: "a host that policy forbids",
      target: "secret.ml",
      bytes: "GET http://secret.ml/ HTTP/1.1\r\nhost: secret.ml\r\n\r\n",
      status: 403,
      reason: "NO_MATCHING_ALLOW",
    },
    {
      name: "CONNECT to a host that policy forbids",
      target: "secret.ml:80",
      bytes: "CONNECT secret.ml:80 HTTP/1.1\r\nhost: secret.ml\r\n\r\n",
      status: 403,
      reason: "NO_MATCHING_ALLOW",
    },
    {
      name: "an upgrade that HTTP/2 has no word for",
      target: "things.ml:8080",
      bytes: get("/things/a", "connection: upgrade\r\nupgrade: foo, bar\r\n"),
      status: 501,
      reason: "UNSUPPORTED",
    },
    {
      name: "a malformed path",
      target: "serving/things",
      bytes: get("/things/%2e%2e/x"),
      status: 400,
      reason: "REQ_MALFORMED",
    },
    {
      name: "an endpoint that is not there",
      target: "serving/gone",
      bytes: "GET http://gone.ml:8080/things/a HTTP/1.1\r\nhost: gone.ml:8080\r\n\r\n",
      status: 502,
      reason: "UPSTREAM_FAILED",
    },
  ])("$name is answered and recorded at the caller", async ({ bytes, status, reason, target }) => {
    const before = app.received.length;
    const traceId = randomBytes(16).toString("hex");
    const traced = bytes.replace(/\r\n\r\n$/, `\r\ntraceparent: 00-${traceId}-00f067aa0ba902b7-01\r\n\r\n`);
    const answer = await send(caller.proxyPort, traced);
    expect(answer.status).toBe(status);
    expect(answer.head).toContain("proxy-status: countersign-sidecar/notebook/nb-1; error=");
    expect(problemOf(answer.body)).toMatchObject({ reason });
    expect(app.received.length).toBe(before);
    const events = await caller.audit();
    expect(events.at(-1)).toMatchObject({
      traceparent: `00-${traceId}-00f067aa0ba902b7-01`,
      subject: target,
      data: {
        identityMetadata: { caller: "notebook/nb-1" },
        decision: { effect: "Deny", reason },
        response: { statusCode: status },
      },
    });
  });

  test("leaves one numbered audit event at the callee per decided request", async () => {
    const before = (await callee.audit()).length;
    await send(caller.proxyPort, get("/things/audited?token=s3cret"));
    await send(caller.proxyPort, get("/health"));
    const events = (await callee.audit()).slice(before);
    expect(events).toHaveLength(2);
    expect(events[0]).toMatchObject({
      specversion: "1.0",
      type: "dev.countersign.invocation.v1",
      subject: "serving/things",
      data: {
        actionName: "thing.read",
        resource: { type: "thing", name: "audited" },
        identityMetadata: { caller: "notebook/nb-1", hops: 1 },
        decision: {
          effect: "Allow",
          reason: "ALLOWED",
          policy: "ml/readers",
          rule: "notebooks",
          revision: 1,
        },
        request: { method: "GET", pathTemplate: "/things/{thing}" },
        response: { statusCode: 200 },
      },
    });
    expect(events[1]).toMatchObject({
      data: { decision: { effect: "Deny", reason: "NO_MATCHING_ALLOW" }, response: { statusCode: 403 } },
    });
    const seq = events.map(
      (event) => (event["data"] as { integrity: { proxySeq: number } }).integrity.proxySeq,
    );
    expect(seq[1]).toBe((seq[0] ?? 0) + 1);
    expect(JSON.stringify(events)).not.toMatch(/s3cret|eyJ/);
  });
});

describe("bodies", () => {
  test("with a length pass both ways, whatever their size", async () => {
    const body = randomBytes(2_000_000);
    const answer = await send(
      caller.proxyPort,
      Buffer.concat([
        Buffer.from(
          `POST http://things.ml:8080/things/up HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-length: ${body.length}\r\n\r\n`,
        ),
        body,
      ]),
    );
    expect(answer.body).toBe(
      `POST /things/up ${createHash("sha256").update(body).digest("hex").slice(0, 8)} 2000000`,
    );
    const down = await send(caller.proxyPort, get("/things/big"));
    expect(Buffer.from(down.body, "latin1").equals(big)).toBe(true);
  });

  test("in chunks pass both ways with trailers", async () => {
    const answer = await send(
      caller.proxyPort,
      "POST http://things.ml:8080/things/c HTTP/1.1\r\nhost: things.ml:8080\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nx-end: 1\r\n\r\n",
    );
    expect(answer.status).toBe(200);
    expect(app.heads.at(-1)).toContain("transfer-encoding: chunked\r\n");
    const down = await send(caller.proxyPort, get("/things/chunked"));
    expect(down.head).toContain("transfer-encoding: chunked\r\n");
    expect(down.body).toMatch(/abc\r\n/);
    expect(down.body).toMatch(/0\r\nx-sum: 7\r\n\r\n$/);
  });

  test("that end with the connection get a framing of ours", async () => {
    const answer = await send(caller.proxyPort, get("/things/close"));
    expect(answer.head).toContain("transfer-encoding: chunked\r\n");
    expect(answer.body).toContain("until close");
  });

  test("are absent for HEAD and 204", async () => {
    const head = await send(caller.proxyPort, get("/things/a").replace("GET", "HEAD"), (text) =>
      text.includes("\r\n\r\n"),
    );
    expect(head.status).toBe(200);
    expect(head.head).toMatch(/content-length: \d+\r\n/);
    expect(head.body).toBe("");
    expect((await send(caller.proxyPort, get("/things/none"))).status).toBe(204);
  });

  test("decide when the resource is in them, and only complete ones are forwarded", async () => {
    const post = (body: string): string =>
      `POST http://things.ml:8080/chat HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    expect((await send(caller.proxyPort, post('{"model":"good-1"}'))).status).toBe(200);
    const before = app.received.length;
    for (const [body, status] of [
      ['{"model":"other"}', 403],
      ['{"model":"good-1","model":"x"}', 400],
      ['{"model":"good-1","Model":"x"}', 400],
      [`{"model":"good-1","pad":"${"x".repeat(70_000)}"}`, 403],
    ] as const) {
      expect((await send(caller.proxyPort, post(body))).status).toBe(status);
    }
    expect(app.received.length).toBe(before);
  });

  test("follow Expect: 100-continue", async () => {
    respond = (
      (normal) => (head, socket, body) =>
        normal(head, socket, body)
    )(respond);
    const bytes =
      "POST http://things.ml:8080/chat HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 18\r\n\r\n";
    const socket = connect(caller.proxyPort, "127.0.0.1");
    socket.setEncoding("latin1");
    let text = "";
    socket.write(bytes);
    await new Promise<void>((resolve) => {
      socket.on("data", (chunk: string) => {
        text += chunk;
        if (text === "HTTP/1.1 100 Continue\r\n\r\n") socket.write('{"model":"good-1"}');
        else if (text.includes("POST /chat")) resolve();
      });
    });
    socket.destroy();
    expect(text).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
  });
});

describe("answers", () => {
  test("informational ones pass", async () => {
    const answer = await send(caller.proxyPort, get("/things/hints"));
    expect(answer.raw).toMatch(/^HTTP\/1\.1 103 Early Hints\r\nlink: <\/x>\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
  });

  test("to pipelined requests come in order", async () => {
    const answer = await send(
      caller.proxyPort,
      get("/things/1") + get("/health") + get("/things/3"),
      (text) => text.includes("/things/3"),
    );
    expect(answer.raw.match(/HTTP\/1\.1 (\d+)/g)).toEqual(["HTTP/1.1 200", "HTTP/1.1 403", "HTTP/1.1 200"]);
  });

  test("stream at once", async () => {
    const arrived: string[] = [];
    let push: Socket | undefined;
    answers.set("/things/sse", (_head, socket) => {
      push = socket;
      socket.write(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata:1\r\n",
      );
    });
    const socket = connect(caller.proxyPort, "127.0.0.1");
    socket.setEncoding("latin1");
    socket.write(get("/things/sse"));
    await new Promise<void>((resolve) => {
      socket.on("data", (chunk: string) => {
        arrived.push(chunk);
        if (chunk.includes("data:1")) push?.write("6\r\ndata:2\r\n");
        if (chunk.includes("data:2")) resolve();
      });
    });
    expect(arrived.join("")).toContain("data:1");
    const gone = new Promise<void>((resolve) => push?.on("close", () => resolve()));
    socket.destroy();
    // The caller's disconnect reaches the application.
    await gone;
  });

  test.each([
    { name: "dies in the middle", path: "/things/crash", status: 200, whole: false },
    { name: "closes without an answer", path: "/things/silent-crash", status: 502, whole: true },
    { name: "does not speak HTTP", path: "/things/garbage", status: 502, whole: true },
    { name: "frames its answer twice", path: "/things/both", status: 502, whole: true },
  ])("an application that $name is reported", async ({ path, status, whole }) => {
    const answer = await send(caller.proxyPort, get(path));
    expect(answer.status).toBe(status);
    if (whole) {
      expect(problemOf(answer.body)).toMatchObject({ reason: "UPSTREAM_FAILED" });
      expect(answer.head).toContain(
        "proxy-status: countersign-sidecar/serving/things; error=http_protocol_error",
      );
    } else expect(answer.body).toBe("only this");
  });
});

describe("hostile bytes", () => {
  const host = "host: things.ml:8080\r\n";
  test.each([
    `POST http://things.ml:8080/things/x HTTP/1.1\r\n${host}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
    `POST http://things.ml:8080/things/x HTTP/1.1\r\n${host}content-length: 3\r\ncontent-length: 3\r\n\r\nabc`,
    `GET http://things.ml:8080/things/x HTTP/1.1\n${host}\n`,
    `GET http://things.ml:8080/things/x HTTP/1.1\r\n${host}x : 1\r\n\r\n`,
    `GET http://things.ml:8080/things/x HTTP/1.1\r\n${host} folded\r\n\r\n`,
    "GET http://things.ml:8080/things/x HTTP/1.1\r\nhost: other.ml\r\n\r\n",
    `POST http://things.ml:8080/things/x HTTP/1.1\r\n${host}transfer-encoding: xchunked\r\n\r\n`,
    `GET http://things.ml:8080/things/x HTTP/3.0\r\n${host}\r\n`,
    `GET http://things.ml:8080/things/x HTTP/1.1\r\n${host}x: ${"a".repeat(20_000)}\r\n\r\n`,
    "\x16\x03\x01\x02\x00\x01\x00",
  ])("on the proxy port end in an error and zero bytes at the application: case %#", async (bytes) => {
    const before = app.received.length;
    const socket = connect(caller.proxyPort, "127.0.0.1");
    socket.setEncoding("latin1");
    let text = "";
    socket.on("data", (chunk: string) => {
      text += chunk;
    });
    socket.on("error", () => {});
    socket.end(bytes, "latin1");
    await new Promise<void>((resolve) => socket.on("close", () => resolve()));
    if (text !== "") expect(parseAnswer(text).status).toBeGreaterThanOrEqual(400);
    expect(app.received.length).toBe(before);
  });

  test("in a chunked body break the request off before the application could take it for whole", async () => {
    const answer = await send(
      caller.proxyPort,
      `POST http://things.ml:8080/things/x HTTP/1.1\r\n${host}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n`,
      () => false,
    );
    expect([answer.status, JSON.parse(answer.body)["reason"]]).toEqual([400, "REQ_MALFORMED"]);
    expect(answer.head).toContain("connection: close\r\n");
    expect(app.heads.at(-1)).not.toContain("/things/x ");
  });

  test("on the mesh port end the connection", async () => {
    for (const bytes of ["GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\x05hello", randomBytes(300)]) {
      const before = app.received.length;
      const socket = connect(callee.meshPort, "127.0.0.1");
      socket.on("error", () => {});
      socket.on("data", () => {});
      socket.write(bytes);
      await new Promise<void>((resolve) => socket.on("close", () => resolve()));
      expect(app.received.length).toBe(before);
    }
  });
});

test("requests that reached the application equal decisions allowed and forwarded", () => {
  const { metrics } = callee.plane;
  expect(metrics.forwarded.read(metrics.allowedAndForwarded)).toBeGreaterThan(20);
  // One retry: the application closed a kept connection without an answer (`silent-crash`).
  expect(metrics.forwarded.read(metrics.attempts)).toBeLessThanOrEqual(
    metrics.forwarded.read(metrics.allowedAndForwarded) + 1,
  );
});
