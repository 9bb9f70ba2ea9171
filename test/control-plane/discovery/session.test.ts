import { describe, expect, test } from "@jest/globals";
import { Session, type SessionAction } from "../../../control-plane/discovery/session.ts";
import { buildPack, createTable, type WorkloadTable } from "../../../control-plane/resources/build.ts";
import type { Hello__Output } from "../../../proto/gen/countersign/mesh/v1/Hello.ts";
import type { SidecarMessage__Output } from "../../../proto/gen/countersign/mesh/v1/SidecarMessage.ts";

const table = (...names: string[]): WorkloadTable =>
  createTable(names.map((name) => buildPack(name, `# pack ${name}`)));
const A = table("a");
const B = table("a", "b");
const C = table("a", "b", "c");
const hex = (digest: string): Buffer => Buffer.from(digest, "hex");

function hello(over: Partial<Hello__Output> = {}): SidecarMessage__Output {
  return {
    hello: {
      protocolVersion: 1,
      softwareVersion: "test",
      features: [],
      node: "n",
      meshPort: 1,
      tableDigest: Buffer.alloc(0),
      tableRevision: 0,
      instance: "i",
      ...over,
    },
  };
}
const ack = (nonce: number, digest: string): SidecarMessage__Output => ({
  ack: { nonce, digest: hex(digest), revision: 0, prepared: false },
});
const nack = (nonce: number, digest: string): SidecarMessage__Output => ({
  nack: { nonce, reason: "no", resourceType: "", resourceName: "", digest: hex(digest) },
});

/** A session over a world that the test changes. */
function setUp(first: WorkloadTable | undefined = A, known: WorkloadTable[] = []) {
  const world = { revision: 5, isCurrent: false, table: first as WorkloadTable | undefined };
  const session = new Session(
    {
      world: {
        revision: () => world.revision,
        isCurrent: () => world.isCurrent,
        table: () => world.table,
        tableByDigest: (digest) => [world.table, ...known].find((one) => one?.digest === digest),
        resolve: (host) => (host === "good" ? { service: "ns/good" } : { reason: "UNKNOWN_DESTINATION" }),
      },
      softwareVersion: "cp",
      heartbeatMs: 1000,
    },
    0,
  );
  return { world, session };
}

/** Actions as short text, such as `delta 1 from - +a -`. */
function short(actions: readonly SessionAction[]): string[] {
  const name = (digest: string): string =>
    [A, B, C].map((one, at) => (one.digest === digest ? "ABC"[at] : undefined)).find((one) => one) ??
    (digest === "" ? "-" : "?");
  return actions.map((action) => {
    if (action.kind === "send") return Object.keys(action.message)[0] ?? "";
    if (action.kind === "delta")
      return `delta ${action.nonce} ${name(action.base)}>${name(action.digest)} +${action.changes.upsert.length} -${action.changes.remove.length}`;
    return action.kind === "close" ? `close ${action.code}` : action.kind;
  });
}

describe("session", () => {
  test("greets, sends the whole table, and takes the acknowledgement", () => {
    const { session } = setUp();
    expect(short(session.receive(hello(), 0))).toEqual(["welcome", "delta 1 ->A +1 -0"]);
    expect(short(session.receive(ack(1, A.digest), 1))).toEqual(["acknowledged"]);
    expect(session.status).toMatchObject({
      phase: "open",
      digest: A.digest,
      inFlight: false,
      nack: undefined,
    });
  });

  test.each([
    { name: "nothing to one that has the table", digest: A.digest, known: [], expected: ["welcome"] },
    {
      name: "a small delta to one with an earlier table",
      digest: B.digest,
      known: [B],
      expected: ["welcome", "delta 1 B>A +0 -1"],
    },
    {
      name: "everything to one with a table that nobody knows",
      digest: C.digest,
      known: [],
      expected: ["welcome", "delta 1 ->A +1 -0"],
    },
  ])("sends $name", ({ digest, known, expected }) => {
    const { session } = setUp(A, known);
    expect(short(session.receive(hello({ tableDigest: hex(digest), tableRevision: 4 }), 0))).toEqual(
      expected,
    );
  });

  test("has at most one delta under way; what changes meanwhile merges into the next", () => {
    const { session, world } = setUp();
    session.receive(hello(), 0);
    world.table = B;
    expect(session.changed(1)).toEqual([]);
    world.table = C;
    expect(session.changed(2)).toEqual([]);
    expect(short(session.receive(ack(1, A.digest), 3))).toEqual(["acknowledged", "delta 2 A>C +2 -0"]);
    world.table = A;
    expect(short(session.receive(ack(2, C.digest), 4))).toEqual(["acknowledged", "delta 3 C>A +0 -2"]);
  });

  test("a change that ends where the sidecar is sends nothing", () => {
    const { session, world } = setUp();
    session.receive(hello(), 0);
    world.table = B;
    session.changed(1);
    world.table = A;
    expect(short(session.receive(ack(1, A.digest), 2))).toEqual(["acknowledged"]);
  });

  test("does not repeat a refused table, tries the next one, and goes back without sending", () => {
    const { session, world } = setUp();
    session.receive(hello(), 0);
    session.receive(ack(1, A.digest), 1);
    world.table = B;
    expect(short(session.changed(2))).toEqual(["delta 2 A>B +1 -0"]);
    expect(short(session.receive(nack(2, A.digest), 3))).toEqual(["refused-by-sidecar"]);
    expect(session.changed(4)).toEqual([]);
    expect(session.status.nack?.reason).toBe("no");
    world.table = C;
    expect(short(session.changed(5))).toEqual(["delta 3 A>C +2 -0"]);
    session.receive(ack(3, C.digest), 6);
    expect(session.status.nack).toBeUndefined();
  });

  test("sends everything once more when the sidecar turns out to have another table", () => {
    const { session, world } = setUp();
    session.receive(hello(), 0);
    session.receive(ack(1, A.digest), 1);
    world.table = B;
    session.changed(2);
    expect(short(session.receive(nack(2, C.digest), 3))).toEqual(["delta 3 ->B +2 -0"]);
    expect(short(session.receive(ack(3, C.digest), 4))).toEqual(["close protocol"]);
  });

  test("a replica that has followed everything for a while serves a sidecar with a higher number", () => {
    const { world, session } = setUp();
    expect(short(session.receive(hello({ tableRevision: 7 }), 0))).toEqual(["welcome"]);
    expect(short(session.tick(2_999))).toEqual(["heartbeat"]);
    world.isCurrent = true;
    expect(session.status.phase).toBe("waiting");
    expect(short(session.tick(3_000))).toEqual(["heartbeat", "delta 1 ->A +1 -0"]);
    expect(session.status.phase).toBe("open");
  });

  test("waits while the sidecar is ahead, then sends", () => {
    const { session, world } = setUp();
    expect(short(session.receive(hello({ tableRevision: 7 }), 0))).toEqual(["welcome"]);
    expect(session.status.phase).toBe("waiting");
    world.revision = 6;
    expect(session.changed(1)).toEqual([]);
    world.revision = 7;
    expect(short(session.changed(2))).toEqual(["heartbeat", "delta 1 ->A +1 -0"]);
  });

  test.each([
    { name: "another first message", messages: [ack(1, A.digest)], expected: "close protocol" },
    { name: "a second hello", messages: [hello(), hello()], expected: "close protocol" },
    { name: "version 0", messages: [hello({ protocolVersion: 0 })], expected: "close version" },
    { name: "version 99", messages: [hello({ protocolVersion: 99 })], expected: "close version" },
    {
      name: "a hello out of bounds",
      messages: [hello({ node: "x".repeat(300) })],
      expected: "close protocol",
    },
    {
      name: "an acknowledgement of nothing",
      messages: [hello(), ack(9, A.digest)],
      expected: "close protocol",
    },
    { name: "a refusal of nothing", messages: [hello(), nack(9, A.digest)], expected: "close protocol" },
    {
      name: "a flood",
      messages: [hello(), ...Array.from({ length: 500 }, () => ({ report: {} }))],
      expected: "close overload",
    },
  ])("ends the stream on $name", ({ messages, expected }) => {
    const { session } = setUp();
    const actions = messages.flatMap((message) =>
      short(session.receive(message as SidecarMessage__Output, 0)),
    );
    expect(actions.at(-1)).toBe(expected);
    expect(session.receive(hello(), 1)).toEqual([]);
  });

  test("ends the stream when no hello or no acknowledgement comes, and beats in between", () => {
    const { session } = setUp();
    expect(session.tick(9_000)).toEqual([]);
    expect(short(session.tick(10_001))).toEqual(["close timeout"]);
    const second = setUp().session;
    second.receive(hello(), 0);
    expect(short(second.tick(1_000))).toEqual(["heartbeat"]);
    expect(short(second.tick(1_500))).toEqual([]);
    expect(short(second.tick(30_001))).toEqual(["close timeout"]);
  });

  test("answers resolve, hands on certificate requests, and ends when the workload is gone", () => {
    const { session, world } = setUp();
    session.receive(hello(), 0);
    expect(session.receive({ resolve: { id: 1, host: "good", port: 80 } }, 1)).toEqual([
      { kind: "send", message: { resolved: { id: 1, service: "ns/good" } } },
    ]);
    expect(session.receive({ resolve: { id: 2, host: "x".repeat(300), port: 80 } }, 1)).toMatchObject([
      { message: { resolved: { id: 2, reason: "UNKNOWN_DESTINATION" } } },
    ]);
    const request = { id: 3, csrDer: Buffer.alloc(1), tokenJwk: "", tokenKeyProof: Buffer.alloc(1) };
    expect(session.receive({ certificateRequest: request }, 1)).toEqual([{ kind: "issue", request }]);
    session.receive(ack(1, A.digest), 2);
    world.table = undefined;
    expect(short(session.changed(3))).toEqual(["close identity"]);
  });
});
