// What does not come, does not end, or cannot be written: every wait has a limit, and nothing waits for a disk.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import {
  ALLOW_READ,
  type Answer,
  type App,
  hello,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const GET = "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n";
const silent: Answer = () => {};

let world: World;
let app: App;
let respond: Answer;
const servers: Server[] = [];

beforeEach(async () => {
  world = await World.create();
  respond = hello;
  app = await world.app((head, socket, body) => respond(head, socket, body));
});
afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  await world.close();
});

/** @param meshPort in place of the callee's own. */
async function pair(meshPort?: number, auditFile?: string): Promise<{ caller: Sidecar; callee: Sidecar }> {
  const bundle = world.authority.bundle.json;
  const callee = await world.sidecar(THINGS, { app, ...(auditFile ? { config: { auditFile } } : {}) });
  const caller = await world.sidecar(NOTEBOOK);
  callee.plane.setTable(table({ self: THINGS, policies: [ALLOW_READ], bundle }));
  caller.plane.setTable(
    table({
      self: NOTEBOOK,
      services: [{ service: THINGS, meshPort: meshPort ?? callee.meshPort }],
      bundle,
    }),
  );
  return { caller, callee };
}

/** Lets `ms` pass for everything that has a deadline. */
const pass = (sidecar: Sidecar, ms: number): void => sidecar.plane.sweep(systemClock.monotonicMs() + ms);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const reasonOf = (body: string): unknown => (JSON.parse(body) as Record<string, unknown>)["reason"];

async function listener(onSocket: (socket: Socket) => void): Promise<number> {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    onSocket(socket);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

describe("a wait has a limit", () => {
  test.each([
    { name: "for the rest of a head", bytes: "GET http://thi", ms: 11_000 },
    { name: "for a first request", bytes: "", ms: 301_000 },
  ])("$name", async ({ bytes, ms }) => {
    const { caller } = await pair();
    const socket = connect(caller.proxyPort, "127.0.0.1");
    await once(socket, "connect");
    if (bytes !== "") socket.write(bytes);
    while (caller.plane.outbound.connections === 0) await turn();
    for (let i = 0; i < 20; i++) await turn();
    const ended = once(socket, "close");
    socket.resume();
    pass(caller, ms - 2_000);
    expect(socket.destroyed).toBe(false);
    pass(caller, ms);
    await ended;
  });

  test("for the answer of the application", async () => {
    const { caller, callee } = await pair();
    respond = silent;
    const asked = send(caller.proxyPort, GET);
    while (app.heads.length === 0) await turn();
    pass(callee, 301_000);
    const answer = await asked;
    expect([answer.status, reasonOf(answer.body)]).toEqual([504, "UPSTREAM_TIMEOUT"]);
    expect(answer.head).toContain("proxy-status: countersign-sidecar/serving/things;");
  });

  test("for the answer of the other sidecar", async () => {
    const { caller } = await pair();
    respond = silent;
    const asked = send(caller.proxyPort, GET);
    while (app.heads.length === 0) await turn();
    caller.plane.outbound.sweep(systemClock.monotonicMs() + 301_000);
    const answer = await asked;
    expect([answer.status, reasonOf(answer.body)]).toEqual([504, "UPSTREAM_TIMEOUT"]);
    expect(answer.head).toContain("proxy-status: countersign-sidecar/notebook/nb-1;");
  });

  test("for a connection to the other sidecar", async () => {
    let accepted = 0;
    const port = await listener(() => {
      accepted++;
    });
    const { caller } = await pair(port);
    const asked = send(caller.proxyPort, GET);
    while (accepted === 0) await turn();
    // Every new attempt gets its own time.
    const timer = setInterval(() => pass(caller, 6_000), 20);
    const answer = await asked;
    clearInterval(timer);
    expect([answer.status, reasonOf(answer.body)]).toEqual([502, "UPSTREAM_FAILED"]);
  });
});

test("a sidecar that vanished is noticed by its silence, and the next call goes to a new connection", async () => {
  const { callee } = await pair();
  let hole = false;
  const sockets: Socket[] = [];
  const port = await listener((socket) => {
    const inner = connect(callee.meshPort, "127.0.0.1");
    inner.on("error", () => {});
    sockets.push(socket, inner);
    const open = !hole;
    socket.on("data", (chunk) => {
      if (!hole || !open) inner.write(chunk);
    });
    inner.on("data", (chunk) => {
      if (!hole || !open) socket.write(chunk);
    });
  });
  const { caller } = await pair(port);
  // The relay leads to the first callee: both have the same name.
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  hole = true;
  const asked = send(caller.proxyPort, GET);
  while (caller.plane.outbound.busy === 0) await turn();
  for (const ms of [0, 11_000, 22_000]) caller.plane.upstreams.sweep(systemClock.monotonicMs() + ms);
  const answer = await asked;
  expect([answer.status, reasonOf(answer.body)]).toEqual([502, "UPSTREAM_FAILED"]);
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  for (const socket of sockets) socket.destroy();
});

test("an audit file on a full disk costs events, counted, and no call", async () => {
  const { caller, callee } = await pair(undefined, "/dev/full");
  for (let i = 0; i < 20; i++) expect((await send(caller.proxyPort, GET)).status).toBe(200);
  await callee.plane.flush();
  const { body } = exposition(callee.plane.metrics);
  expect(body).toMatch(/^countersign_audit_dropped_total\{sink="file",result="write_failed"\} 20$/m);
  expect(body).toMatch(/^countersign_audit_events_total\{sink="file",result="written"\} 0$/m);
});

test("a log file that cannot be opened is a setting to correct", async () => {
  await expect(
    world.sidecar(THINGS, { app, config: { auditFile: join(world.dir, "no", "such", "folder") } }),
  ).rejects.toMatchObject({ code: "bad_config", message: expect.stringContaining("--audit-file") });
});

test("the application may be reached by Unix socket too", async () => {
  const path = join(world.dir, "app.sock");
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nunix"));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const bundle = world.authority.bundle.json;
  const callee = await world.sidecar(THINGS, {
    config: { appPorts: new Map([[8080, { kind: "unix", path }]]) },
  });
  const out = join(world.dir, "out.sock");
  const caller = await world.sidecar(NOTEBOOK, { config: { outboundProxy: { kind: "unix", path: out } } });
  callee.plane.setTable(table({ self: THINGS, policies: [ALLOW_READ], bundle }));
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
  );
  expect((await send(out, GET)).body).toBe("unix");
});

test("the last answer before the end says so on a connection that is kept alive", async () => {
  const { caller } = await pair();
  let answer: (() => void) | undefined;
  respond = (head, socket, body) => {
    answer = () => hello(head, socket, body);
  };
  const asked = send(caller.proxyPort, GET, (text) => text.endsWith("hello"));
  while (answer === undefined) await turn();
  const closing = caller.plane.close(5_000);
  answer();
  const last = await asked;
  expect(last.status).toBe(200);
  expect(last.head).toMatch(/\r\nconnection: close\r\n/);
  await closing;
});
