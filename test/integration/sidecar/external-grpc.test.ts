// gRPC to a host outside the mesh: grpc-js on both ends, TLS from the sidecar on. Decided on here by method and by what the
// messages name.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Client,
  type ClientReadableStream,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { grpcClient, METHODS, PACK } from "./grpc-app.ts";
import { add, chat, codeOf, get, list } from "./grpc-calls.ts";
import { OUTSIDE, withOutside } from "./outside.ts";
import { type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const POLICY: ProgramPolicy = {
  id: "lab/out",
  name: "out",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "items", operations: [{ op: "store.list" }, { op: "store", resources: ["good-*"] }] }],
};

/** Names that the host was asked for. */
let asked: string[] = [];
const HANDLERS: UntypedServiceImplementation = {
  get: (call: ServerUnaryCall<string, string>, done: sendUnaryData<string>) => {
    asked.push(call.request);
    if (call.request === "good-slow") return;
    if (call.request === "good-deadline")
      done(null, `left ${new Date(call.getDeadline()).getTime() - Date.now()}`);
    else if (call.request === "good-missing") done({ code: status.NOT_FOUND, details: "no such thing: ü%" });
    else done(null, `got ${call.request}`);
  },
  list: (call: ServerWritableStream<string, string>) => {
    if (call.request === "forever") {
      call.write("first");
      return;
    }
    for (let i = 0; i < Number(call.request); i++) call.write(`item ${i}`);
    call.end();
  },
  add: (call: ServerReadableStream<string, string>, done: sendUnaryData<string>) => {
    const got: string[] = [];
    call.on("data", (each: string) => got.push(each));
    call.on("end", () => done(null, got.join(",")));
  },
  chat: (call: ServerDuplexStream<string, string>) => {
    call.on("data", (each: string) => {
      asked.push(each);
      call.write(`re ${each}`);
    });
    call.on("end", () => call.end());
  },
};

let world: World;
let host: Server;
let sidecar: Sidecar;
let client: Client;
let full: SidecarTable;

beforeAll(async () => {
  world = await World.create();
  const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
  host = new Server();
  host.addService(METHODS, HANDLERS);
  const pair = { cert_chain: Buffer.from(cert), private_key: Buffer.from(key) };
  const port = await new Promise<number>((resolve, reject) =>
    host.bindAsync("127.0.0.1:0", ServerCredentials.createSsl(null, [pair]), (error, at) =>
      error === null ? resolve(at) : reject(error),
    ),
  );
  const externalCaFile = join(world.dir, "ca.pem");
  writeFileSync(externalCaFile, ca);
  const listen = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;
  sidecar = await world.sidecar(NOTEBOOK, {
    config: { externalCaFile, localServices: [{ listen, service: OUTSIDE, port }] },
  });
  const base = table({ self: NOTEBOOK, bundle: world.authority.bundle.json, pack: PACK });
  full = withOutside(base, port, [POLICY]);
  client = grpcClient(sidecar.localPorts[0] ?? 0, { "grpc.default_authority": `localhost:${port}` });
});
afterAll(async () => {
  client.close();
  host.forceShutdown();
  await world.close();
});

const use = (next: SidecarTable): void => {
  const result = sidecar.plane.setTable(next);
  if (!result.ok) throw new Error(result.error);
};
beforeAll(() => use(full));
afterEach(() => {
  asked = [];
  use(full);
});

/** What was recorded last. */
async function lastEvent(): Promise<string> {
  return JSON.stringify((await sidecar.audit()).at(-1));
}

describe("the four kinds of calls to a host outside the mesh", () => {
  test("unary, recorded here with the status", async () => {
    expect(await get(client, "good-1")).toBe("got good-1");
    const event = await lastEvent();
    for (const part of ["external/outside", "store.get", '"effect":"Allow"', '"grpcStatus":0', "good-1"])
      expect(event).toContain(part);
  });

  test("server streaming, more than any window holds", async () => {
    const got = await list(client, 20_000);
    expect([got.length, got.at(-1)]).toEqual([20_000, "item 19999"]);
  });

  test("client streaming, more than any window holds", async () => {
    const names = Array.from({ length: 10_000 }, (_, at) => `good-${at}`);
    expect(await add(client, names)).toBe(names.join(","));
  });

  test("both ways, turn by turn", async () => {
    const names = Array.from({ length: 50 }, (_, at) => `good-${at}`);
    expect(await chat(client, names)).toEqual({ got: names.map((name) => `re ${name}`), error: undefined });
  });

  test("the host's own status arrives with its text, and is recorded", async () => {
    const outcome = await get(client, "good-missing");
    expect(outcome).toMatchObject({ code: status.NOT_FOUND, details: "no such thing: ü%" });
    expect(await lastEvent()).toContain('"grpcStatus":5');
  });
});

describe("what policy refuses at the caller", () => {
  test("a call that names another resource: PERMISSION_DENIED, and the host hears nothing", async () => {
    const outcome = await get(client, "bad-1");
    expect(codeOf(outcome)).toBe(status.PERMISSION_DENIED);
    const details = (outcome as ServiceError).metadata.get("grpc-status-details-bin")[0] ?? "";
    for (const part of ["google.rpc.ErrorInfo", "NO_MATCHING_ALLOW", "store.get"])
      expect(Buffer.from(details).toString("latin1")).toContain(part);
    expect(asked).toEqual([]);
    const event = await lastEvent();
    for (const part of ['"effect":"Deny"', "NO_MATCHING_ALLOW", '"grpcStatus":7'])
      expect(event).toContain(part);
  });

  test("a method that nobody allows", async () => {
    use(withPolicies([{ ...POLICY, rules: [{ name: "list", operations: [{ op: "store.list" }] }] }]));
    expect(codeOf(await get(client, "good-1"))).toBe(status.PERMISSION_DENIED);
    expect(await list(client, 1)).toEqual(["item 0"]);
    expect(asked).toEqual([]);
  });

  test("a stream whose third message names another resource, which the host never sees", async () => {
    const { got, error } = await chat(client, ["good-1", "good-2", "bad-3", "good-4"]);
    expect([got, codeOf(error)]).toEqual([["re good-1", "re good-2"], status.PERMISSION_DENIED]);
    expect(asked).toEqual(["good-1", "good-2"]);
  });

  test("a client stream with one bad message among many", async () => {
    expect(codeOf(await add(client, ["good-1", "bad", "good-3"]))).toBe(status.PERMISSION_DENIED);
  });

  test("a message too long to be looked at", async () => {
    expect(codeOf(await get(client, `good-${"x".repeat(70_000)}`))).toBe(status.PERMISSION_DENIED);
  });
});

function withPolicies(policies: readonly ProgramPolicy[]): SidecarTable {
  const [one] = full.externals?.values() ?? [];
  if (one === undefined) throw new Error("no external service");
  return { ...full, externals: new Map([[one.id, { ...one, program: { ...one.program, policies } }]]) };
}

describe("deadlines", () => {
  test("a call without an answer ends with DEADLINE_EXCEEDED", async () => {
    expect(codeOf(await get(client, "good-slow", 300))).toBe(status.DEADLINE_EXCEEDED);
  });

  test("the host is told what is left", async () => {
    const left = Number(String(await get(client, "good-deadline", 60_000)).split(" ")[1]);
    expect(left).toBeGreaterThan(0);
    expect(left).toBeLessThanOrEqual(60_000);
  });

  test("a malformed one is refused", async () => {
    const { path, requestSerialize, responseDeserialize } = METHODS.get;
    const { Metadata } = await import("@grpc/grpc-js");
    const metadata = new Metadata();
    metadata.set("grpc-timeout", "soon");
    const error = await new Promise<ServiceError | null>((resolve) =>
      client.makeUnaryRequest(path, requestSerialize, responseDeserialize, "good-1", metadata, resolve),
    );
    expect(error?.details).toContain("REQ_MALFORMED");
  });
});

describe("a stream under way", () => {
  const begin = async (): Promise<{ call: ClientReadableStream<string>; error: Promise<ServiceError> }> => {
    const { path, requestSerialize, responseDeserialize } = METHODS.list;
    const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, "forever");
    const error = new Promise<ServiceError>((resolve) => call.once("error", resolve));
    await new Promise((resolve) => call.once("data", resolve));
    return { call, error };
  };
  const sweep = (): void => sidecar.plane.sweep(systemClock.monotonicMs());

  test("ends with PERMISSION_DENIED when what it rests on is revoked, though nothing passes", async () => {
    const { error } = await begin();
    const { spiffeId } = world.identity(NOTEBOOK);
    use({ ...full, revocations: new Revocations([{ spiffeId, pod: "", beforeMs: Date.now() + 3_000 }]) });
    sweep();
    expect(await error).toMatchObject({ code: status.PERMISSION_DENIED });
    expect(await lastEvent()).toContain('"reason":"REVOKED"');
  });

  test("ends when policy allows it no more", async () => {
    const { error } = await begin();
    use(withPolicies([]));
    sweep();
    expect(await error).toMatchObject({ code: status.PERMISSION_DENIED });
  });

  test("lives on with another table, and through any silence", async () => {
    const { call } = await begin();
    use({ ...full });
    const far = systemClock.monotonicMs() + 250_000;
    for (const atMs of [0, far]) sidecar.plane.sweep(atMs === 0 ? systemClock.monotonicMs() : atMs);
    let ended = false;
    call.on("error", () => {
      ended = true;
    });
    expect(await get(client, "good-after")).toBe("got good-after");
    expect(ended).toBe(false);
    call.cancel();
  });

  test("ends with a status when the host is gone", async () => {
    const { error } = await begin();
    host.forceShutdown();
    expect(codeOf(await error)).not.toBe(status.OK);
    expect(codeOf(await get(client, "good-1"))).toBe(status.UNAVAILABLE);
  });
});
