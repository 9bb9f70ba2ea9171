// What a TrafficPolicy says of gRPC, with real servers (grpc-js): UNAVAILABLE before any message is asked for elsewhere where
// that is safe, and endpoints are asked for their health by `grpc.health.v1`.
import {
  type Client,
  type MethodDefinition,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import type { TrafficSettings } from "../../../sidecar/core/traffic/traffic.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import { type GrpcApp, grpcClient, METHODS, PACK, startGrpcApp } from "./grpc-app.ts";
import { idOf, type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = {
  namespace: "ml",
  kind: "serving",
  name: "things",
  ports: [8080],
  protocol: "grpc",
};
const ALLOWED = `${PACK}health.check        GRPC    /grpc.health.v1.Health/Check   -                   read    -\n`;
const POLICY: ProgramPolicy = {
  id: "ml/items",
  name: "items",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "all", operations: [{ op: "store" }, { op: "health" }] }],
};
const NOTHING: TrafficSettings = {
  lb: { kind: "roundRobin" },
  preferZone: false,
  healthCheck: undefined,
  outlier: undefined,
  slowStartMs: undefined,
  limits: undefined,
  timeouts: undefined,
  retries: undefined,
};
const RETRIES = {
  attempts: 2,
  on: ["unavailable"],
  onlyAccess: [],
  idempotent: [],
  budgetPercent: 100,
  perTryTimeoutMs: undefined,
} as const;

/** One endpoint, and what it does. */
interface Endpoint {
  readonly app: GrpcApp;
  /** Calls other than checks. */
  calls: number;
  checks: number;
  isUnavailable: boolean;
  /** Its answer to a check; undefined: none. */
  health: number | undefined;
  /** Service that it was last asked about. */
  asked: string;
}

const CHECK: MethodDefinition<Buffer, Buffer> = {
  path: "/grpc.health.v1.Health/Check",
  requestStream: false,
  responseStream: false,
  requestSerialize: (bytes) => bytes,
  requestDeserialize: (bytes) => bytes,
  responseSerialize: (bytes) => bytes,
  responseDeserialize: (bytes) => bytes,
};

let world: World;
let endpoints: Endpoint[] = [];
let caller: Sidecar;
let client: Client;

beforeEach(async () => {
  world = await World.create();
});
afterEach(async () => {
  client.close();
  await world.close();
  for (const { app } of endpoints) app.close();
  endpoints = [];
});

async function endpoint(): Promise<{ made: Endpoint; meshPort: number }> {
  const gone = { code: status.UNAVAILABLE, details: "warming up" };
  const app = await startGrpcApp({
    get: (call: ServerUnaryCall<string, string>, done: sendUnaryData<string>) => {
      made.calls++;
      if (made.isUnavailable) done(gone);
      else done(null, `got ${call.request}`);
    },
    list: (call: ServerWritableStream<string, string>) => {
      made.calls++;
      call.write("first");
      if (made.isUnavailable) call.emit("error", gone);
      else call.end();
    },
    add: (call: ServerReadableStream<string, string>, done: sendUnaryData<string>) => {
      made.calls++;
      call.on("data", () => {});
      call.on("end", () => (made.isUnavailable ? done(gone) : done(null, "added")));
    },
    chat: () => {},
  });
  const made: Endpoint = { app, calls: 0, checks: 0, isUnavailable: false, health: 1, asked: "" };
  app.server.addService(
    { check: CHECK },
    {
      check: (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) => {
        made.checks++;
        made.asked = call.request.subarray(2).toString();
        if (made.health === undefined) done({ code: status.UNIMPLEMENTED });
        else done(null, Buffer.from([0x08, made.health]));
      },
    },
  );
  endpoints.push(made);
  const callee = await world.sidecar(THINGS, { appPort: app.port });
  const bundle = world.authority.bundle.json;
  const set = callee.plane.setTable(table({ self: THINGS, policies: [POLICY], bundle, pack: ALLOWED }));
  expect(set).toMatchObject({ ok: true });
  return { made, meshPort: callee.meshPort };
}

/** Two endpoints behind one caller. */
async function fleet(traffic: Partial<TrafficSettings>): Promise<readonly [Endpoint, Endpoint]> {
  const first = await endpoint();
  const second = await endpoint();
  caller = await world.sidecar(NOTEBOOK, {
    config: {
      localServices: [
        { listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "ml/things", port: 8080 },
      ],
    },
  });
  const plain = table({
    self: NOTEBOOK,
    services: [{ service: THINGS, meshPort: 1 }],
    bundle: world.authority.bundle.json,
    pack: ALLOWED,
    routes: [{ service: "ml/things", rules: [], traffic: { ...NOTHING, ...traffic } }],
  });
  const all = [first, second].map(({ meshPort }) => ({
    address: "127.0.0.1",
    meshPort,
    spiffeId: idOf("ml", "serving", "things"),
    ports: plain.services.get("ml/things")?.ports ?? [],
  }));
  caller.plane.setTable({ ...plain, endpoints: new Map([["ml/things", all]]) });
  client = grpcClient(caller.localPorts[0] ?? 0);
  return [first.made, second.made];
}

type Outcome = string | number;

const get = (name: string): Promise<Outcome> =>
  new Promise((resolve) => {
    const { path, requestSerialize, responseDeserialize } = METHODS.get;
    client.makeUnaryRequest(path, requestSerialize, responseDeserialize, name, (error, got) =>
      resolve(error === null ? (got ?? "") : error.code),
    );
  });

const add = (): Promise<Outcome> =>
  new Promise((resolve) => {
    const { path, requestSerialize, responseDeserialize } = METHODS.add;
    const call = client.makeClientStreamRequest(path, requestSerialize, responseDeserialize, (error, got) =>
      resolve(error === null ? (got ?? "") : error.code),
    );
    call.write("one");
    call.end();
  });

const list = (): Promise<{ items: string[]; code: number }> =>
  new Promise((resolve) => {
    const { path, requestSerialize, responseDeserialize } = METHODS.list;
    const items: string[] = [];
    const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, "1");
    call.on("data", (item: string) => items.push(item));
    call.on("error", (error: ServiceError) => resolve({ items, code: error.code }));
    call.on("end", () => resolve({ items, code: status.OK }));
  });

async function until(done: () => boolean): Promise<void> {
  const untilMs = performance.now() + 100_000;
  while (!done()) {
    if (performance.now() > untilMs) throw new Error(exposition(caller.plane.metrics).body);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe("a server that is UNAVAILABLE", () => {
  test("is passed over for calls that read, in whatever order they come", async () => {
    const [first, second] = await fleet({ retries: RETRIES });
    first.isUnavailable = true;
    const outcomes = await Promise.all(Array.from({ length: 20 }, (_, i) => get(`good-${i}`)));
    expect(outcomes).toEqual(Array.from({ length: 20 }, (_, i) => `got good-${i}`));
    expect(first.calls).toBeGreaterThan(0);
    expect(second.calls).toBe(20);
    const retried = exposition(caller.plane.metrics).body;
    expect(retried).toMatch(/countersign_retries_total\{[^}]*unavailable[^}]*\} [1-9]/);
  });

  test("answers calls that write itself, once", async () => {
    const [first, second] = await fleet({ retries: RETRIES });
    first.isUnavailable = true;
    const outcomes = [await add(), await add()];
    expect(outcomes.toSorted()).toEqual([status.UNAVAILABLE, "added"]);
    expect([first.calls, second.calls]).toEqual([1, 1]);
  });

  test("is not left once it has sent a message", async () => {
    const [first, second] = await fleet({ retries: RETRIES });
    first.isUnavailable = true;
    second.isUnavailable = true;
    expect(await list()).toEqual({ items: ["first"], code: status.UNAVAILABLE });
    expect(first.calls + second.calls).toBe(1);
  });

  test("is the answer where policy says nothing", async () => {
    const [first, second] = await fleet({});
    first.isUnavailable = true;
    const outcomes = [await get("a"), await get("a")];
    expect(outcomes).toContain(status.UNAVAILABLE);
    expect([first.calls, second.calls]).toEqual([1, 1]);
  });
});

describe("grpc.health.v1", () => {
  const healthCheck = {
    probe: { kind: "grpc" as const, service: "things.Store" },
    intervalMs: 20,
    timeoutMs: 30_000,
    healthyThreshold: 2,
    unhealthyThreshold: 2,
  };
  const state = (name: string, count: number) => (): boolean => {
    caller.plane.sweep(performance.now());
    const line = `countersign_endpoints{service="ml/things",state="${name}"} ${count}`;
    return exposition(caller.plane.metrics).body.includes(line);
  };

  test.each([
    { name: "says NOT_SERVING", sick: 2 },
    { name: "does not know the service", sick: undefined },
  ])("takes out an endpoint that $name, and brings it back", async ({ sick }) => {
    const [first, second] = await fleet({ healthCheck });
    first.health = sick;
    expect(await get("a")).toBe("got a");
    await until(state("unhealthy", 1));
    expect(first.asked).toBe("things.Store");
    await until(() => {
      caller.plane.sweep(performance.now());
      return second.checks > 0;
    });
    const before = first.calls;
    for (let i = 0; i < 10; i++) expect(await get("a")).toBe("got a");
    expect(first.calls).toBe(before);
    first.health = 1;
    await until(state("healthy", 2));
    for (let i = 0; i < 10; i++) await get("a");
    expect(first.calls).toBeGreaterThan(before);
  });
});
