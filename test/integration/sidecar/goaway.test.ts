// Connections that are left every second under load (a gRPC server with a short connection age, a callee's sidecar that
// drains): calls under way finish, new ones take a new connection, nothing fails and nothing is done twice.
import { once } from "node:events";
import {
  type ClientHttp2Session,
  connect,
  createServer,
  type Http2Server,
  type ServerHttp2Session,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { ALLOW_READ, type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = {
  namespace: "ml",
  kind: "serving",
  name: "things",
  ports: [8080],
  protocol: "grpc",
};
const ANY = { ...ALLOW_READ, rules: [{ name: "any", operations: [{ any: true as const }] }] };
const SECONDS = 3;
const CALLS_PER_STEP = 10;
const STEP_MS = 20;
const STEPS_PER_SECOND = 1_000 / STEP_MS;
/** How long the application takes: some calls are under way whenever a connection is left. */
const SERVED_IN_MS = 30;

let world: World;
let app: Http2Server;
let callee: Sidecar;
let caller: Sidecar;
let client: ClientHttp2Session;
const sessions = new Set<ServerHttp2Session>();
/** How often the application has seen each call. */
const seen = new Map<string, number>();

beforeEach(async () => {
  seen.clear();
  world = await World.create();
  app = createServer();
  app.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
    session.on("error", () => {});
  });
  app.on("stream", (stream, headers) => {
    const id = String(headers["x-call"]);
    seen.set(id, (seen.get(id) ?? 0) + 1);
    stream.on("error", () => {});
    stream.resume();
    stream.on("end", () => {
      setTimeout(() => {
        stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
        stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
        stream.end(Buffer.from([0, 0, 0, 0, 1, 7]));
      }, SERVED_IN_MS);
    });
  });
  app.listen(0, "127.0.0.1");
  await once(app, "listening");
  callee = await world.sidecar(THINGS, { appPort: (app.address() as AddressInfo).port });
  caller = await world.sidecar(NOTEBOOK);
  const bundle = world.authority.bundle.json;
  expect(callee.plane.setTable(table({ self: THINGS, policies: [ANY], bundle }))).toMatchObject({ ok: true });
  const services = [{ service: THINGS, meshPort: callee.meshPort }];
  caller.plane.setTable(table({ self: NOTEBOOK, services, bundle }));
  client = connect(`http://127.0.0.1:${caller.proxyPort}`);
  await once(client, "connect");
});
afterEach(async () => {
  client.destroy();
  await world.close();
  for (const session of sessions) session.destroy();
  app.close();
});

/** What went wrong; empty: nothing. */
function call(id: string): Promise<string> {
  const request = client.request({
    ":method": "POST",
    ":path": "/things.Store/Add",
    ":authority": "things.ml:8080",
    "content-type": "application/grpc",
    te: "trailers",
    "x-call": id,
  });
  let status = 0;
  let grpc = "";
  let bytes = 0;
  let failed = "";
  request.on("response", (headers) => {
    status = headers[":status"] ?? 0;
    grpc = String(headers["grpc-status"] ?? "");
  });
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
  });
  request.on("trailers", (headers) => {
    grpc = String(headers["grpc-status"] ?? "");
  });
  request.on("error", (error) => {
    failed = String(error);
  });
  request.end(Buffer.from([0, 0, 0, 0, 2, 8, 1]));
  return new Promise((resolve) => {
    request.on("close", () => {
      const isGood = status === 200 && grpc === "0" && bytes === 6 && failed === "";
      resolve(isGood ? "" : `call ${id}: status ${status}, grpc-status ${grpc}, ${bytes} bytes ${failed}`);
    });
  });
}

test.each([
  {
    name: "the application",
    // Node names the last stream that it has seen: what comes behind it was not processed.
    leaves: { mesh: false, app: true },
  },
  {
    name: "the callee's sidecar",
    leaves: { mesh: true, app: false },
  },
  {
    name: "both, at once",
    leaves: { mesh: true, app: true },
  },
])("500 calls a second do not fail when $name leaves its connections every second", async ({ leaves }) => {
  const results: Promise<string>[] = [];
  const { metrics, inbound } = callee.plane;
  let accepted = 0;
  app.on("session", () => accepted++);
  let first: { readonly app: ServerHttp2Session[]; readonly mesh: object[] } | undefined;
  const leave = (): void => {
    first ??= { app: [...sessions], mesh: [...inbound.connections] };
    if (leaves.app) for (const session of sessions) session.close();
    if (leaves.mesh) for (const connection of inbound.connections) connection.drain();
  };
  const startMs = performance.now();
  for (let step = 0; step < SECONDS * STEPS_PER_SECOND; step++) {
    for (let i = 0; i < CALLS_PER_STEP; i++) results.push(call(String(results.length)));
    if (step % STEPS_PER_SECOND === STEPS_PER_SECOND - 1) leave();
    await sleep(Math.max(0, startMs + (step + 1) * STEP_MS - performance.now()));
  }
  const failures = (await Promise.all(results)).filter((failure) => failure !== "");
  expect(failures).toEqual([]);
  expect(results.length).toBe(SECONDS * 500);
  expect(seen.size).toBe(results.length);
  expect([...seen.values()].filter((times) => times !== 1)).toEqual([]);
  // One to begin with, and one more for each that was left; what is well is kept.
  const mesh = metrics.connections.read(metrics.connections.series("mesh", "accepted"));
  if (leaves.mesh) expect(mesh).toBeGreaterThanOrEqual(SECONDS);
  else expect(first?.mesh.every((one) => new Set<object>(inbound.connections).has(one))).toBe(true);
  if (leaves.app) expect(accepted).toBeGreaterThanOrEqual(SECONDS);
  else expect(first?.app.every((session) => sessions.has(session))).toBe(true);
});
