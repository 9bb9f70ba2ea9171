import { describe, expect, test } from "@jest/globals";
import { encodeDelta } from "../../../control-plane/discovery/chunks.ts";
import { tableDelta } from "../../../control-plane/discovery/delta.ts";
import { createTable } from "../../../control-plane/resources/build.ts";
import type { ControlPlaneMessage__Output } from "../../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import { messageCodec } from "../../../proto/load.ts";
import type { Result } from "../../../sidecar/core/runtime/errors.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { Receiver } from "../../../sidecar/discovery/receiver.ts";
import { Resolver } from "../../../sidecar/discovery/resolver.ts";
import { ResourceStore } from "../../../sidecar/discovery/store.ts";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import { sampleResources } from "../../fakes/resources.ts";

const codec = messageCodec<object, ControlPlaneMessage__Output>("countersign.mesh.v1.ControlPlaneMessage");
const base = createTable(sampleResources());
const message = (nonce: number, limit?: number): ControlPlaneMessage__Output[] =>
  encodeDelta(
    { nonce, revision: nonce, base: "", digest: base.digest },
    tableDelta(undefined, base),
    limit,
  ).map((bytes) => codec.decode(bytes));

function setUp(
  onTable: (table: SidecarTable) => Result<void, string> = () => ({ ok: true, value: undefined }),
) {
  const store = new ResourceStore({ stateDir: undefined, features: [], log: silentLogger });
  const applied: SidecarTable[] = [];
  const receiver = new Receiver({
    store,
    log: silentLogger,
    onTable,
    onApplied: (table) => void applied.push(table),
  });
  return { store, receiver, applied };
}
const digest = Buffer.from(base.digest, "hex");
const none = Buffer.alloc(0);

describe("receiver", () => {
  test("acknowledges with the digest of what is active", () => {
    const { receiver, applied } = setUp();
    const answers = message(3, 1_700).map((one) => receiver.receive(one));
    expect(answers.length).toBeGreaterThan(1);
    expect(answers.slice(0, -1).every((one) => one === undefined)).toBe(true);
    expect(answers.at(-1)).toEqual({ ack: { nonce: 3, digest, revision: 3 } });
    expect(applied).toHaveLength(1);
  });

  test.each([
    { name: "an error", onTable: (): Result<void, string> => ({ ok: false, error: "cannot" }) },
    {
      name: "an exception",
      onTable: (): Result<void, string> => {
        throw new Error("cannot");
      },
    },
  ])("turns $name of the owner into a NACK and keeps the table", ({ onTable }) => {
    const { receiver, store, applied } = setUp(onTable);
    expect(receiver.receive(message(1)[0]!)).toEqual({
      nack: { nonce: 1, reason: "cannot", resourceType: "", resourceName: "", digest: none },
    });
    expect(store.table).toBeUndefined();
    expect(applied).toHaveLength(0);
  });

  test("answers a refused delta once, not for each chunk", () => {
    const { receiver } = setUp();
    const chunks = message(1, 1_700);
    chunks[1]!.delta!.baseDigest = Buffer.from("aa", "hex");
    const answers = chunks.map((one) => receiver.receive(one)).filter((one) => one !== undefined);
    expect(answers).toHaveLength(1);
    expect(answers[0]).toMatchObject({ nack: { nonce: 1 } });
    expect(receiver.receive(message(2)[0]!)).toMatchObject({ ack: { nonce: 2 } });
  });

  test("holds a prepared delta until it is committed", () => {
    const { receiver, store } = setUp();
    receiver.receive({ prepare: { nonce: 5 } });
    expect(receiver.receive(message(5)[0]!)).toEqual({
      ack: { nonce: 5, digest: none, revision: 0, prepared: true },
    });
    expect(store.table).toBeUndefined();
    expect(receiver.receive({ commit: { nonce: 5, commit: true } })).toMatchObject({
      ack: { nonce: 5, digest },
    });
    expect(receiver.receive({ commit: { nonce: 5, commit: true } })).toMatchObject({ nack: { nonce: 5 } });
  });

  test("drops a prepared delta that is not committed", () => {
    const { receiver, store } = setUp();
    receiver.receive({ prepare: { nonce: 5 } });
    receiver.receive(message(5)[0]!);
    expect(receiver.receive({ commit: { nonce: 5, commit: false } })).toBeUndefined();
    expect(store.table).toBeUndefined();
    expect(receiver.receive(message(6)[0]!)).toMatchObject({ ack: { nonce: 6 } });
  });
});

describe("resolver", () => {
  function world(connected = true) {
    let nowMs = 0;
    let table: SidecarTable | undefined;
    const timers: (() => void)[] = [];
    const asked: string[] = [];
    const resolver = new Resolver({
      clock: {
        nowMs: () => nowMs,
        monotonicMs: () => nowMs,
        sleep: (_ms, signal) =>
          new Promise((resolve) => {
            timers.push(resolve);
            signal?.addEventListener("abort", () => resolve());
          }),
      },
      table: () => table,
      ask: (id, host, port) => connected && asked.push(`${id} ${host}:${port}`) > 0,
    });
    const { receiver, applied } = setUp();
    receiver.receive(message(1)[0]!);
    const full = applied[0]!;
    return {
      resolver,
      asked,
      timers,
      full,
      advance: (ms: number) => (nowMs += ms),
      set: (next: SidecarTable | undefined) => (table = next),
    };
  }
  const empty = { id: 0, service: "", reason: "", ttlMs: 0 };

  test("answers from the table, any case, bare names in the own namespace", async () => {
    const { resolver, set, full, asked } = world();
    set(full);
    expect(await resolver.resolve("SVC.ns", 80)).toMatchObject({
      kind: "service",
      service: { id: "ns/svc" },
    });
    expect(await resolver.resolve("svc", 80)).toMatchObject({ kind: "service" });
    expect(asked).toEqual([]);
  });

  test("asks once for the same thing and remembers a refusal as long as it was told", async () => {
    const { resolver, asked, advance } = world();
    const both = [resolver.resolve("x.ns", 80), resolver.resolve("x.ns", 80)];
    resolver.answered({ ...empty, id: 1, reason: "NO_MATCHING_ALLOW", ttlMs: 1_000 });
    expect(await Promise.all(both)).toEqual([
      { kind: "refused", reason: "NO_MATCHING_ALLOW" },
      { kind: "refused", reason: "NO_MATCHING_ALLOW" },
    ]);
    await resolver.resolve("x.ns", 80);
    expect(asked).toEqual(["1 x.ns:80"]);
    advance(1_001);
    void resolver.resolve("x.ns", 80);
    expect(asked).toEqual(["1 x.ns:80", "2 x.ns:80"]);
  });

  test("waits for a service that was promised, forgets refusals at a new table", async () => {
    const { resolver, set, full, asked } = world();
    const promised = resolver.resolve("svc.ns", 8080);
    resolver.answered({ ...empty, id: 1, service: "ns/svc" });
    set(full);
    resolver.tableChanged(full);
    expect(await promised).toMatchObject({ kind: "service" });
    const refused = resolver.resolve("y.ns", 80);
    resolver.answered({ ...empty, id: 2, reason: "DEFAULT_DENY", ttlMs: 9_000 });
    await refused;
    resolver.tableChanged(full);
    void resolver.resolve("y.ns", 80);
    expect(asked).toHaveLength(3);
  });

  test("is not ready without a connection, when it is lost, and when no answer comes", async () => {
    const notReady = { kind: "refused", reason: "NOT_READY" };
    expect(await world(false).resolver.resolve("x.ns", 80)).toEqual(notReady);
    const lost = world();
    const waiting = lost.resolver.resolve("x.ns", 80);
    lost.resolver.disconnected();
    expect(await waiting).toEqual(notReady);
    const silent = world();
    const asked = silent.resolver.resolve("x.ns", 80);
    silent.timers[0]?.();
    expect(await asked).toEqual(notReady);
  });
});
