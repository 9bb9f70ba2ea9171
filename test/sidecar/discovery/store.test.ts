import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import { encodeDelta } from "../../../control-plane/discovery/chunks.ts";
import { tableDelta } from "../../../control-plane/discovery/delta.ts";
import {
  type BuiltResource,
  createResource,
  createTable,
  type WorkloadTable,
} from "../../../control-plane/resources/build.ts";
import type { ControlPlaneMessage__Output } from "../../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import type { Delta__Output } from "../../../proto/gen/countersign/mesh/v1/Delta.ts";
import { messageCodec } from "../../../proto/load.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { openResourceStore, type ResourceStore } from "../../../sidecar/discovery/store.ts";
import { sampleResources } from "../../fakes/resources.ts";

const codec = messageCodec<object, ControlPlaneMessage__Output>("countersign.mesh.v1.ControlPlaneMessage");
const dirs: string[] = [];
afterAll(() => {
  for (const dir of dirs) rmSync(dir, { recursive: true });
});
function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "cs-store-"));
  dirs.push(dir);
  return dir;
}

function deltas(
  from: WorkloadTable | undefined,
  to: WorkloadTable,
  nonce = 1,
  limit?: number,
): Delta__Output[] {
  const head = { nonce, revision: nonce, base: from?.digest ?? "", digest: to.digest };
  return encodeDelta(head, tableDelta(from, to), limit).map((bytes) => codec.decode(bytes).delta!);
}

/** Feeds all chunks; commits what comes out. */
function feed(store: ResourceStore, chunks: readonly Delta__Output[]): string {
  for (const chunk of chunks) {
    const received = store.receive(chunk, 100);
    if (!received.ok) return received.error.reason;
    if (received.value) {
      store.commit(received.value);
      return "applied";
    }
  }
  return "incomplete";
}

const open = (stateDir?: string): Promise<ResourceStore> =>
  openResourceStore({ stateDir, features: ["known"], log: silentLogger });
const base = createTable(sampleResources());
const more = createTable([
  ...sampleResources(),
  ...sampleResources("other").filter(({ type }) => type === "service" || type === "endpoints"),
]);

describe("resource store", () => {
  test("applies whole tables and deltas, in one chunk and in many, and keeps what did not change", async () => {
    const store = await open();
    expect(feed(store, deltas(undefined, base, 1, 1_700))).toBe("applied");
    const before = store.table;
    expect(before?.digest).toBe(base.digest);
    expect(feed(store, deltas(base, more, 2))).toBe("applied");
    expect([...(store.table?.services.keys() ?? [])]).toEqual(["ns/svc", "ns/other"]);
    expect(store.table?.servicesByHost.get("other.ns")?.id).toBe("ns/other");
    expect(store.table?.program).toBe(before?.program);
    expect(feed(store, deltas(more, base, 3))).toBe("applied");
    expect(store.digest).toBe(base.digest);
  });

  const replaced = (type: string, resource: BuiltResource | undefined): WorkloadTable =>
    createTable([...sampleResources().filter((one) => one.type !== type), ...(resource ? [resource] : [])]);
  test.each([
    [
      "an unknown resource type",
      createTable([...sampleResources(), createResource("flux-capacitor" as never, "x", Buffer.alloc(0))]),
      /type `flux-capacitor` is not known/,
    ],
    [
      "an unknown feature",
      createTable([...sampleResources(), createResource("operation-pack", "x", Buffer.alloc(0), ["warp"])]),
      /feature `warp`/,
    ],
    [
      "a body that is not protobuf",
      replaced("settings", createResource("settings", "s", Buffer.from("ffffff", "hex"))),
      /./,
    ],
    [
      "settings without a trust domain",
      replaced("settings", createResource("settings", "s", Buffer.alloc(0))),
      /trust domain/,
    ],
    [
      "a revocation of nobody",
      createTable([
        ...sampleResources(),
        createResource("revocations", "mesh", Buffer.from("0a0218 05".replace(" ", ""), "hex")),
      ]),
      /no subject/,
    ],
    ["a table without a program", replaced("workload-program", undefined), /no program/],
    ["a table without settings", replaced("settings", undefined), /no settings/],
    ["a table without a trust bundle", replaced("trust-bundle", undefined), /no trust bundle/],
    [
      "a body about something else",
      createTable([
        ...sampleResources(),
        createResource("operation-pack", "x", Buffer.from("0a0179", "hex")),
      ]),
      /about `y`/,
    ],
    [
      "a service with a host that is none",
      createTable([
        ...sampleResources(),
        createResource("service", "ns/x", Buffer.from("0a046e732f781203412062", "hex")),
      ]),
      /host name/,
    ],
  ])("refuses %s and keeps the last good table", async (_name, bad, reason) => {
    const store = await open();
    feed(store, deltas(undefined, base));
    const before = store.table;
    expect(feed(store, deltas(base, bad, 2))).toMatch(reason);
    expect(store.table).toBe(before);
    expect(feed(store, deltas(base, more, 3))).toBe("applied");
  });

  test.each<[string, (delta: Delta__Output) => void, RegExp]>([
    ["a hash that is not the body's", (delta) => (delta.upsert[0]!.hash[0]! ^= 1), /announced hash/],
    ["a body that was changed", (delta) => (delta.upsert[0]!.body = Buffer.from("x")), /announced hash/],
    ["another digest", (delta) => (delta.digest[0]! ^= 1), /digest/],
    ["a missing resource", (delta) => void delta.upsert.pop(), /digest/],
    ["a resource that stands twice", (delta) => void delta.upsert.push(delta.upsert[0]!), /twice/],
    [
      "a removal of what is not there",
      (delta) => void delta.remove.push({ type: "service", name: "no" }),
      /not there/,
    ],
    ["another base", (delta) => (delta.baseDigest = Buffer.from("00", "hex")), /another table/],
  ])("refuses a delta with %s", async (_name, spoil, reason) => {
    const store = await open();
    feed(store, deltas(undefined, base));
    const [delta] = deltas(undefined, more, 2);
    const copy: Delta__Output = {
      ...delta!,
      upsert: delta!.upsert.map((one) => ({ ...one, hash: Buffer.from(one.hash) })),
      digest: Buffer.from(delta!.digest),
    };
    spoil(copy);
    expect(feed(store, [copy])).toMatch(reason);
    expect(store.digest).toBe(base.digest);
  });

  test("refuses chunks of two deltas mixed", async () => {
    const store = await open();
    const [first] = deltas(undefined, more, 1, 1_700);
    expect(feed(store, [first!, ...deltas(undefined, base, 2)])).toMatch(/mixed/);
  });

  test("saves the last good table and loads it; the file is private", async () => {
    const dir = join(tempDir(), "state");
    const store = await open(dir);
    expect(store.table).toBeUndefined();
    feed(store, deltas(undefined, base));
    feed(store, deltas(base, more, 2));
    await store.flush();
    expect(statSync(join(dir, "table.bin")).mode & 0o777).toBe(0o600);
    expect(statSync(dir).mode & 0o777).toBe(0o700);
    const again = await open(dir);
    expect(again.table).toEqual(store.table);
    expect(feed(again, deltas(more, base, 3))).toBe("applied");
    await again.flush();
  });

  test("ignores a damaged file at every byte", async () => {
    const dir = tempDir();
    const store = await open(dir);
    feed(store, deltas(undefined, base));
    await store.flush();
    const path = join(dir, "table.bin");
    const good = readFileSync(path);
    for (let at = 0; at < good.length; at += Math.ceil(good.length / 60)) {
      const bad = Buffer.from(good);
      bad[at]! ^= 0x41;
      writeFileSync(path, bad);
      expect((await open(dir)).table).toBeUndefined();
      writeFileSync(path, good.subarray(0, at));
      expect((await open(dir)).table).toBeUndefined();
    }
  });
});
