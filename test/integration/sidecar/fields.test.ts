// What happens to single fields on their way: repeated ones, traces, chains, Proxy-Status, changes by policy; MCP answers.
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import type { Obligations, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import {
  ALLOW_READ,
  type Answer,
  type App,
  hello,
  type ServiceSpec,
  type Sidecar,
  send,
  type TableSpec,
  table,
  World,
} from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const BACKEND: ServiceSpec = { namespace: "ml", kind: "serving", name: "backend", ports: [8081] };

const allow = (op: string, resources?: readonly string[], obligations?: Obligations): ProgramPolicy => ({
  ...ALLOW_READ,
  rules: [
    {
      name: "only",
      from: [{ any: true }],
      operations: [{ op, ...(resources ? { resources } : {}) }],
      ...(obligations ? { with: obligations } : {}),
    },
  ],
});

let world: World;
let app: App;
let respond: Answer;

beforeEach(async () => {
  world = await World.create();
  respond = hello;
  app = await world.app((head, socket, body) => respond(head, socket, body));
});
afterEach(() => world.close());

async function pair(spec: Partial<TableSpec>): Promise<{ caller: Sidecar; callee: Sidecar }> {
  const bundle = world.authority.bundle.json;
  const callee = await world.sidecar(THINGS, { app });
  const caller = await world.sidecar(NOTEBOOK);
  expect(callee.plane.setTable(table({ self: THINGS, bundle, ...spec }))).toMatchObject({ ok: true });
  const pack = spec.pack === undefined ? {} : { pack: spec.pack };
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle, ...pack }),
  );
  return { caller, callee };
}

const request = (method: string, target: string, fields: string, body = ""): string =>
  `${method} http://things.ml:8080${target} HTTP/1.1\r\nhost: things.ml:8080\r\n${fields}` +
  `${body === "" ? "" : `content-length: ${body.length}\r\n`}\r\n${body}`;
describe("a field that is sent twice", () => {
  const HEADER_PACK = "model.chat POST /chat model<header:x-model execute -\n";

  test.each([
    { name: "once, allowed", fields: "x-model: good\r\n", status: 200 },
    { name: "once, other", fields: "x-model: bad\r\n", status: 403 },
    { name: "twice, the allowed one first", fields: "x-model: good\r\nx-model: bad\r\n", status: 403 },
    { name: "twice, the allowed one last", fields: "x-model: bad\r\nx-model: good\r\n", status: 403 },
  ])("cannot show us one resource and the application another: $name", async ({ fields, status }) => {
    const { caller } = await pair({ pack: HEADER_PACK, policies: [allow("model.chat", ["good"])] });
    const answer = await send(caller.proxyPort, request("POST", "/chat", fields, "{}"));
    expect([200, 403, 400]).toContain(answer.status);
    expect(answer.status === 200).toBe(status === 200);
    expect(app.heads).toHaveLength(status === 200 ? 1 : 0);
  });

  test("makes the content type one that is not known", async () => {
    const { caller } = await pair({ policies: [allow("model.chat", ["good"])] });
    const body = '{"model":"good"}';
    const good = await send(
      caller.proxyPort,
      request("POST", "/chat", "content-type: application/json\r\n", body),
    );
    const twice = await send(
      caller.proxyPort,
      request("POST", "/chat", "content-type: application/json\r\ncontent-type: text/plain\r\n", body),
    );
    expect([good.status, twice.status]).toEqual([200, 403]);
  });
});

describe("an MCP endpoint", () => {
  const MCP_PACK =
    "mcp.tool.call MCP tools/call tool<header:mcp-name execute -\nmcp.(tool,prompt).list MCP (tools/list,prompts/list) - read -\n";
  const call = (id: unknown, name: string): string =>
    JSON.stringify({ jsonrpc: "2.0", id, method: "tools/call", params: { name } });

  test.each([
    { name: "a denial", fields: "", body: call(7, "rm"), status: 403, id: 7, code: -32001 },
    {
      name: "a denial of a text id",
      fields: "",
      body: call("a-1", "rm"),
      status: 403,
      id: "a-1",
      code: -32001,
    },
    {
      name: "headers that disagree",
      fields: "mcp-method: tools/list\r\n",
      body: call(8, "ls"),
      status: 400,
      id: 8,
      code: -32020,
    },
    {
      name: "a header twice",
      fields: "mcp-name: ls\r\nmcp-name: rm\r\n",
      body: call(9, "ls"),
      status: 400,
      id: 9,
      code: -32020,
    },
    { name: "a batch", fields: "", body: `[${call(1, "ls")}]`, status: 400, id: null, code: -32600 },
    { name: "no id", fields: "", body: '{"method":"tools/call"}', status: 403, id: null, code: -32001 },
  ])("answers $name as JSON-RPC", async ({ fields, body, status, id, code }) => {
    const { caller } = await pair({ pack: MCP_PACK, policies: [allow("mcp", ["ls"])] });
    const allowed = await send(
      caller.proxyPort,
      request("POST", "/mcp", "content-type: application/json\r\n", call(1, "ls")),
    );
    expect(allowed.status).toBe(200);
    const answer = await send(
      caller.proxyPort,
      request("POST", "/mcp", `content-type: application/json\r\n${fields}`, body),
    );
    expect(answer.status).toBe(status);
    expect(JSON.parse(answer.body)).toMatchObject({ jsonrpc: "2.0", id, error: { code } });
    expect(app.heads).toHaveLength(1);
  });
});

describe("the trace", () => {
  const TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

  test.each([
    {
      name: "passes on unchanged, with its state",
      fields: `traceparent: ${TRACE}\r\ntracestate: a=1\r\ntracestate: b=2\r\n`,
      kept: true,
    },
    { name: "is begun where there is none", fields: "", kept: false },
    {
      name: "is replaced when broken",
      fields: "traceparent: 00-xyz-b7ad6b7169203331-01\r\ntracestate: a=1\r\n",
      kept: false,
    },
    {
      name: "is replaced when all zero",
      fields: "traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01\r\ntracestate: a=1\r\n",
      kept: false,
    },
    {
      name: "is replaced when there are two",
      fields: `traceparent: ${TRACE}\r\ntraceparent: ${TRACE.replace("0af", "1af")}\r\ntracestate: a=1\r\n`,
      kept: false,
    },
  ])("$name", async ({ fields, kept }) => {
    const { caller } = await pair({ policies: [ALLOW_READ] });
    expect((await send(caller.proxyPort, request("GET", "/things/a", fields))).status).toBe(200);
    const head = app.heads.at(-1) ?? "";
    const parents = [...head.matchAll(/\r\ntraceparent: (.*)(?=\r\n)/g)].map((match) => match[1]);
    expect(parents).toHaveLength(1);
    if (kept) expect(parents).toEqual([TRACE]);
    else expect(parents[0]).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
    expect(parents[0] === TRACE).toBe(kept);
    expect([...head.matchAll(/\r\ntracestate: (.*)(?=\r\n)/g)].map((match) => match[1])).toEqual(
      kept ? ["a=1", "b=2"] : [],
    );
  });

  /** Two hops; the first workload passes on what it got, and answers what it was answered. */
  async function chain(
    propagation: readonly ("trace" | "none" | "session")[],
    backendApp: App | undefined,
  ): Promise<{ caller: Sidecar; last: Sidecar }> {
    const bundle = world.authority.bundle.json;
    const last = await world.sidecar(BACKEND, backendApp === undefined ? {} : { app: backendApp });
    const { caller, callee } = await pair({ policies: [ALLOW_READ] });
    last.plane.setTable(table({ self: BACKEND, policies: [allow("thing")], bundle }));
    callee.plane.setTable(
      table({
        self: THINGS,
        policies: [ALLOW_READ],
        services: [{ service: BACKEND, meshPort: last.meshPort }],
        settings: { propagation },
        bundle,
      }),
    );
    respond = (head, socket) => {
      const trace = /traceparent: .*\r\n/.exec(head)?.[0] ?? "";
      void send(
        callee.proxyPort,
        `GET http://backend.ml:8081/things/b HTTP/1.1\r\nhost: backend.ml:8081\r\n${trace}\r\n`,
      ).then((inner) => {
        const status = /proxy-status: .*\r\n/.exec(inner.head)?.[0] ?? "";
        socket.write(`HTTP/1.1 ${inner.status} Inner\r\n${status}content-length: 0\r\n\r\n`);
      });
    };
    return { caller, last };
  }

  test.each([
    { propagation: ["trace"] as const, hops: 2 },
    { propagation: ["trace", "session"] as const, hops: 2 },
    { propagation: ["session"] as const, hops: 1 },
    { propagation: ["none"] as const, hops: 1 },
  ])("carries the chain of calls with $propagation: $hops", async ({ propagation, hops }) => {
    const { caller, last } = await chain(propagation, await world.app(hello));
    expect((await send(caller.proxyPort, request("GET", "/things/a", ""))).status).toBe(200);
    expect((await last.audit()).at(-1)).toMatchObject({
      data: { identityMetadata: { caller: "serving/things", hops } },
    });
  });

  test("and Proxy-Status tell which hop of a chain failed", async () => {
    const { caller } = await chain(["trace"], undefined);
    const answer = await send(caller.proxyPort, request("GET", "/things/a", ""));
    expect(answer.status).toBe(502);
    expect(answer.head).toMatch(
      /\r\nproxy-status: countersign-sidecar\/serving\/backend; error=http_protocol_error; details="UPSTREAM_FAILED d-/,
    );
  });
});

describe("headers that a policy changes", () => {
  const change = (set: Record<string, string>, remove: readonly string[]): ProgramPolicy =>
    allow("thing", undefined, { headers: { set: new Map(Object.entries(set)), remove } });

  test("are set and removed under every spelling, and nothing else is touched", async () => {
    const { caller } = await pair({ policies: [change({ "x-team": "fraud" }, ["x-debug"])] });
    const fields =
      "x-team: evil\r\nX_Team: evil\r\nx-debug: 1\r\nx.debug: 1\r\nx-other: kept\r\ncookie: c=1\r\n";
    expect((await send(caller.proxyPort, request("GET", "/things/a", fields))).status).toBe(200);
    const head = app.heads.at(-1) ?? "";
    expect(head).toContain("\r\nx-team: fraud\r\n");
    expect(head).toContain("\r\nx-other: kept\r\n");
    expect(head).toContain("\r\ncookie: c=1\r\n");
    expect(head).toMatch(/\r\ntraceparent: 00-/);
    expect(head).not.toMatch(/evil|debug/i);
  });

  test.each([
    { name: "x-mesh-caller", value: "a/b" },
    { name: "host", value: "elsewhere" },
    { name: "content-length", value: "0" },
    { name: "content-type", value: "text/plain" },
    { name: "mcp-name", value: "x" },
    { name: "x-http-method-override", value: "DELETE" },
    { name: "authorization", value: "Bearer x" },
    { name: "connection", value: "close" },
    { name: "x team", value: "a" },
    { name: "x-team", value: "a\r\nx-admin: 1" },
    { name: "x-team", value: "" },
  ])("refuse the table when they are not a policy's to change: $name", async ({ name, value }) => {
    const { callee } = await pair({ policies: [ALLOW_READ] });
    const bundle = world.authority.bundle.json;
    const result = callee.plane.setTable(
      table({ self: THINGS, policies: [change({ [name]: value }, [])], bundle }),
    );
    expect(result).toMatchObject({ ok: false });
  });
});

test("a refusal of a malformed body is recorded at the caller, and nothing whole reaches the application", async () => {
  const { caller } = await pair({ policies: [ALLOW_READ, { ...allow("thing"), id: "ml/all", name: "all" }] });
  await send(
    caller.proxyPort,
    `POST http://things.ml:8080/things/x HTTP/1.1\r\nhost: things.ml:8080\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n`,
  );
  expect((await caller.audit()).at(-1)).toMatchObject({
    subject: "serving/things",
    data: { decision: { effect: "Deny", reason: "REQ_MALFORMED" } },
  });
  expect(app.heads).toHaveLength(0);
});
