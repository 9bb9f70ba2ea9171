// gRPC between two applications across a real pair of sidecars: grpc-js on both ends.
import {
  type Client,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { type GrpcApp, grpcClient, METHODS, PACK, startGrpcApp } from "./grpc-app.ts";
import * as calls from "./grpc-calls.ts";
import { codeOf, type Outcome } from "./grpc-calls.ts";
import { type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = {
  namespace: "ml",
  kind: "serving",
  name: "things",
  ports: [8080],
  protocol: "grpc",
};

const POLICY: ProgramPolicy = {
  id: "ml/items",
  name: "items",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [
    {
      name: "notebooks",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "store.list" }, { op: "store", resources: ["good-*"] }],
    },
  ],
};

type Unary = ServerUnaryCall<string, string>;
type Streaming = ServerDuplexStream<string, string>;

/** Told of streams that the application sees cancelled. */
const cancelled: (() => void)[] = [];

const HANDLERS: UntypedServiceImplementation = {
  get: (call: Unary, done: sendUnaryData<string>) => {
    if (call.request === "good-slow") return;
    if (call.request === "good-deadline") {
      done(null, `left ${new Date(call.getDeadline()).getTime() - Date.now()}`);
      return;
    }
    if (call.request === "good-missing") done({ code: status.NOT_FOUND, details: "no such thing: ü%" });
    else done(null, `got ${call.request}`);
  },
  list: (call: ServerWritableStream<string, string>) => {
    for (let i = 0; i < Number(call.request); i++) call.write(`item ${i}`);
    call.end();
  },
  add: (call: ServerReadableStream<string, string>, done: sendUnaryData<string>) => {
    const got: string[] = [];
    call.on("data", (each: string) => got.push(each));
    call.on("end", () => done(null, got.join(",")));
  },
  chat: (call: Streaming) => {
    call.on("data", (each: string) => call.write(`re ${each}`));
    call.on("end", () => call.end());
    call.on("cancelled", () => cancelled.shift()?.());
  },
};

let world: World;
let app: GrpcApp;
let caller: Sidecar;
let callee: Sidecar;
let client: Client;

beforeAll(async () => {
  world = await World.create();
  app = await startGrpcApp(HANDLERS);
  callee = await world.sidecar(THINGS, { appPort: app.port });
  caller = await world.sidecar(NOTEBOOK, {
    config: {
      localServices: [
        { listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "ml/things", port: 8080 },
      ],
    },
  });
  const bundle = world.authority.bundle.json;
  callee.plane.setTable(table({ self: THINGS, policies: [POLICY], bundle, pack: PACK }));
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle, pack: PACK }),
  );
  client = grpcClient(caller.localPorts[0] ?? 0);
});

afterAll(async () => {
  client.close();
  app.close();
  await world.close();
});

const get = (name: string, deadlineMs?: number, via = client): Promise<Outcome> =>
  calls.get(via, name, deadlineMs);
const add = (names: readonly string[]): Promise<Outcome> => calls.add(client, names);
const chat = (names: readonly string[]): ReturnType<typeof calls.chat> => calls.chat(client, names);
const list = (count: number): Promise<string[]> => calls.list(client, count);

/** Text of the details of a refusal, as far as its strings tell. */
function detailsOf(outcome: string | ServiceError): string {
  if (typeof outcome === "string") return outcome;
  return Buffer.from(outcome.metadata.get("grpc-status-details-bin")[0] ?? "").toString("latin1");
}

describe("the four kinds of calls", () => {
  test("unary", async () => {
    expect(await get("good-1")).toBe("got good-1");
  });

  test("server streaming, more than any window holds", async () => {
    const got = await list(20_000);
    expect(got.length).toBe(20_000);
    expect(got.at(-1)).toBe("item 19999");
  });

  test("client streaming, more than any window holds", async () => {
    const names = Array.from({ length: 10_000 }, (_, at) => `good-${at}`);
    expect(await add(names)).toBe(names.join(","));
  });

  test("both ways, turn by turn", async () => {
    const names = Array.from({ length: 50 }, (_, at) => `good-${at}`);
    expect(await chat(names)).toEqual({ got: names.map((name) => `re ${name}`), error: undefined });
  });

  test("the status of the application arrives with its text", async () => {
    const outcome = await get("good-missing");
    expect(codeOf(outcome)).toBe(status.NOT_FOUND);
    expect((outcome as ServiceError).details).toBe("no such thing: ü%");
  });
});

describe("what policy refuses", () => {
  test("a unary call that names another resource: PERMISSION_DENIED with ErrorInfo", async () => {
    const outcome = await get("bad-1");
    expect(codeOf(outcome)).toBe(status.PERMISSION_DENIED);
    const details = detailsOf(outcome);
    expect(details).toContain("google.rpc.ErrorInfo");
    for (const part of ["NO_MATCHING_ALLOW", "countersign.dev", "decisionId", "store.get", "serving/things"])
      expect(details).toContain(part);
  });

  test("a stream whose third message names another resource, and the application sees none of it", async () => {
    const seen: string[] = [];
    const { got, error } = await chat(["good-1", "good-2", "bad-3", "good-4"]);
    seen.push(...got);
    expect(seen).toEqual(["re good-1", "re good-2"]);
    expect(codeOf(error)).toBe(status.PERMISSION_DENIED);
  });

  test("a client stream with one bad message among many", async () => {
    expect(codeOf(await add(["good-1", "good-2", "bad", "good-3"]))).toBe(status.PERMISSION_DENIED);
  });

  test("a message too long to be looked at names nothing that is allowed", async () => {
    expect(codeOf(await get(`good-${"x".repeat(70_000)}`))).toBe(status.PERMISSION_DENIED);
  });

  test("the audit trail has the decision and the status", async () => {
    await get("bad-audited");
    const events = await callee.audit();
    const data = events.at(-1)?.["data"] as Record<string, unknown>;
    expect(JSON.stringify(data)).toContain("NO_MATCHING_ALLOW");
  });
});

describe("deadlines and cancellation", () => {
  test("a call without an answer ends with DEADLINE_EXCEEDED", async () => {
    const outcome = await get("good-slow", 300);
    expect(codeOf(outcome)).toBe(status.DEADLINE_EXCEEDED);
  });

  test("the application is told what is left of the deadline", async () => {
    const answered = await get("good-deadline", 60_000);
    expect(typeof answered).toBe("string");
    const left = Number(String(answered).split(" ")[1]);
    expect(left).toBeGreaterThan(10_000);
    expect(left).toBeLessThanOrEqual(60_000);
  });

  test("a cancelled stream is cancelled at the application", async () => {
    const { path, requestSerialize, responseDeserialize } = METHODS.chat;
    const call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
    call.on("error", () => {});
    const ended = new Promise<void>((resolve) => cancelled.push(resolve));
    call.write("good-cancel");
    await new Promise((resolve) => call.once("data", resolve));
    call.cancel();
    await ended;
  });
});

describe("an application that comes and goes", () => {
  test("its restart under load fails no call that it answers", async () => {
    const outcomes: (string | ServiceError)[] = [];
    let running = true;
    const load = async (): Promise<void> => {
      while (running) outcomes.push(await get("good-load"));
    };
    const loads = Array.from({ length: 8 }, load);
    for (let round = 0; round < 3; round++) {
      const wanted = outcomes.length + 20;
      while (outcomes.length < wanted) await new Promise((resolve) => setImmediate(resolve));
      const old = app;
      await new Promise<void>((resolve) => old.server.tryShutdown(() => resolve()));
      app = await startGrpcApp(HANDLERS, old.port);
    }
    running = false;
    await Promise.all(loads);
    const failed = outcomes.filter((each) => typeof each !== "string");
    // While nobody listens there is nobody to answer; a call that reached an application is never lost.
    expect(failed.filter((each) => codeOf(each) !== status.UNAVAILABLE)).toEqual([]);
    expect(outcomes.length).toBeGreaterThan(50);
  });
});
