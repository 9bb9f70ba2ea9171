// A hostile peer with a valid certificate tries to make the mesh port work, hold or wait without end, and to be decided on
// by a policy that is no longer in force.
import { once } from "node:events";
import { afterAll, beforeAll, beforeEach, expect, test } from "@jest/globals";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { createField, FieldFlag } from "../../../sidecar/wire/field.ts";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";
import { HpackDecoder } from "../../../sidecar/wire/http2/hpack-decoder.ts";
import {
  ALLOW_READ,
  type App,
  hello,
  type ServiceSpec,
  type Sidecar,
  table,
  World,
} from "../sidecar/world.ts";
import { HostilePeer, request } from "./peer.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const MODELS: ProgramPolicy = {
  ...ALLOW_READ,
  rules: [
    {
      name: "good",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "model.chat", resources: ["good-*"] }, { op: "thing" }],
    },
  ],
};
const JSON_TYPE: [string, string] = ["content-type", "application/json"];

let world: World;
let app: App;
let callee: Sidecar;
let identity: WorkloadIdentity;
let revision = 0;

function use(policies: readonly ProgramPolicy[]): void {
  revision++;
  const { json } = world.authority.bundle;
  expect(callee.plane.setTable(table({ self: THINGS, policies, bundle: json, revision })).ok).toBe(true);
}

beforeAll(async () => {
  world = await World.create();
  app = await world.app(hello);
  callee = await world.sidecar(THINGS, { app });
  identity = world.identity(NOTEBOOK);
});
beforeEach(() => use([MODELS]));
afterAll(() => world.close());

const connect = (): Promise<HostilePeer> => HostilePeer.connect(callee.meshPort, identity);
/** Lets sockets and the loop do what is due until something holds. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}

test("a long name in the HPACK table costs nothing each time it is named", () => {
  const length = 40_000;
  const decoder = new HpackDecoder(new FieldCache(), {
    tableSize: 131_072,
    maxListSize: 16_384,
    maxFields: 100,
  });
  const more = length - 127;
  const size = [0x3f, 0xe1, 0xff, 0x07];
  const literal = [0x40, 0x7f, (more & 0x7f) | 0x80, ((more >> 7) & 0x7f) | 0x80, more >> 14];
  const first = Buffer.concat([
    Buffer.from([...size, ...literal]),
    Buffer.alloc(length, "_"),
    Buffer.from([0]),
  ]);
  expect(decoder.decode(first, 0, first.length)).toBe(true);
  expect(decoder.tableBytes).toBe(length + 32);
  const bomb = Buffer.concat(new Array<Buffer>(16_000).fill(Buffer.from([0x0f, 62 - 15, 0])));
  const startedAt = process.cpuUsage();
  expect(decoder.decode(bomb, 0, bomb.length)).toBe(true);
  // 11 s before it was bounded, 5 ms since.
  expect(process.cpuUsage(startedAt).user).toBeLessThan(1_000_000);
  expect(decoder.oversized).toBe(true);
});

test.each(["transfer_encoding", "content.length", "keep_alive"])("%s is never passed on", (name) => {
  expect(createField(name, "x").flags & (FieldFlag.framing | FieldFlag.hopByHop)).not.toBe(0);
});

test("a body that the decision waits for has to come, and the table in force then decides", async () => {
  const peer = await connect();
  const before = app.received.length;
  const late = peer.open(request("POST", "/chat", JSON_TYPE), false);
  const never = peer.open(request("POST", "/chat", JSON_TYPE), false);
  peer.data(late, '{"model":', false);
  await until(() => callee.plane.inbound.openExchanges === 2);
  use([]);
  peer.data(late, '"good-1"}', true);
  expect((await late.done).status).toBe(403);
  callee.plane.sweep(performance.now() + 20_000);
  expect(callee.plane.inbound.openExchanges).toBe(1);
  callee.plane.sweep(performance.now() + 31_000);
  expect((await never.done).status).toBe(400);
  expect(app.received.length).toBe(before);
  peer.close();
});

test("a body that came whole is forwarded under a new table that still allows it", async () => {
  const peer = await connect();
  const asked = peer.open(request("POST", "/chat", JSON_TYPE), false);
  peer.data(asked, '{"model":', false);
  await until(() => callee.plane.inbound.openExchanges === 1);
  use([MODELS]);
  peer.data(asked, '"good-1"}', true);
  expect(await asked.done).toMatchObject({ status: 200, body: "hello" });
  peer.close();
});

test("a denied upload is not read to its end", async () => {
  const peer = await connect();
  const denied = peer.open(request("POST", "/nope"), false);
  expect((await denied.done).status).toBe(403);
  await until(() => callee.plane.inbound.openExchanges === 0);
  peer.close();
});

test("a connection that its peer does not close is closed", async () => {
  const peer = await connect();
  expect((await peer.ask(request("GET", "/things/a"))).status).toBe(200);
  peer.socket.pause();
  const now = performance.now();
  callee.plane.inbound.sweep(now + 301_000);
  callee.plane.inbound.sweep(now + 302_000);
  await until(() => [...callee.plane.inbound.connections].every((each) => each.openExchanges === 0));
  callee.plane.inbound.sweep(now + 313_000);
  await until(() => callee.plane.inbound.connections.size === 0);
  peer.close();
});

test("ten requests with a bad identity end the connection", async () => {
  const peer = await connect();
  const ended = once(peer.socket, "close");
  for (let i = 0; i < 10; i++) await peer.ask(request("GET", "/things/a", ["workload-proof-token", "x"]));
  await ended;
  expect(peer.goawayCode).toBe(0xb);
});
