// Logins that several replicas know of, over one store.
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { LiveLogins, type LoginRecords } from "../../../control-plane/tokens/live-logins.ts";
import { loginRecords } from "../../../control-plane/tokens/login-records.ts";
import { type Session, SessionHandles } from "../../../control-plane/tokens/session-handle.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { createTestAuthority, type TestAuthority } from "../../fakes/authority.ts";

const NOW = 1_790_000_000_000;
const session = (id: string, sid: string, openedAt = NOW / 1000): Session => ({
  ...{ gateway: "spiffe://a/b", sid, openedAt, expiresAt: openedAt + 100, subject: id },
  person: { idp: "main", id, type: "person", groups: [], claims: {}, amr: ["pwd"] },
});
const never = () => false;

let authority: TestAuthority;
let handles: SessionHandles;
let nowMs: number;
let objects: Map<string, { spec: { data: string; purpose: string; expiresAt: string } }>;
let fails: boolean;
let reads: number;
beforeEach(async () => {
  authority = await createTestAuthority(NOW);
  handles = new SessionHandles(() => authority.ca.handleKeys);
  objects = new Map();
  nowMs = 0;
  fails = false;
  reads = 0;
});
afterEach(() => authority.close());

const status = (code: number): Error => Object.assign(new Error(`status ${code}`), { code });
const records = (): LoginRecords =>
  loginRecords(
    {
      createNamespacedCustomObject: async ({ body }: { body: never }) => {
        const { metadata, spec } = body as { metadata: { name: string }; spec: never };
        if (fails) throw status(500);
        if (objects.has(metadata.name)) throw status(409);
        objects.set(metadata.name, { spec });
      },
      getNamespacedCustomObject: async ({ name }: { name: string }) => {
        reads += 1;
        if (fails) throw status(500);
        const found = objects.get(name);
        if (found === undefined) throw status(404);
        return found;
      },
      replaceNamespacedCustomObject: async ({ name, body }: { name: string; body: never }) => {
        objects.set(name, body);
      },
    } as never,
    "system",
  );
const replica = (store: LoginRecords | undefined = records()): LiveLogins =>
  new LiveLogins({ handles, records: store, monotonicMs: () => nowMs, log: silentLogger });

describe("a login at one replica", () => {
  test("is known to the others, by one record per user that nobody can read", async () => {
    const [one, other] = [replica(), replica()];
    for (const sid of ["s1", "s2"]) {
      const opened = session("alice", sid);
      await one.opened(opened, await handles.seal(opened));
    }
    expect((await other.of("main|alice", never))?.sid).toBe("s2");
    expect(objects.size).toBe(1);
    const [[name, { spec }] = ["", { spec: { data: "", purpose: "", expiresAt: "" } }]] = objects;
    expect(name).toMatch(/^live-login-[0-9a-f]{40}$/);
    expect(spec).toMatchObject({ purpose: "live-login", expiresAt: new Date(NOW + 100_000).toISOString() });
    expect(JSON.stringify(spec)).not.toContain("alice");
    expect(await other.of("main|bob", never)).toBeUndefined();
  });

  test("is forgotten when it is over; the store is not asked for each pod", async () => {
    const other = replica();
    expect(await other.of("main|alice", never)).toBeUndefined();
    const opened = session("alice", "s1");
    await replica().opened(opened, await handles.seal(opened));
    expect(await other.of("main|alice", never)).toBeUndefined();
    const before = reads;
    nowMs = 10_000;
    expect((await other.of("main|alice", never))?.sid).toBe("s1");
    expect(reads).toBe(before + 1);
    expect(await other.of("main|alice", () => true)).toBeUndefined();
  });

  test("in a record of somebody else, or one that is no handle, is nobody's", async () => {
    const opened = session("alice", "s1");
    await replica().opened(opened, await handles.seal(session("mallory", "s9")));
    expect(await replica().of("main|alice", never)).toBeUndefined();
    for (const one of objects.values()) one.spec.data = "x";
    expect(await replica().of("main|alice", never)).toBeUndefined();
  });

  test("stands while the API server is away", async () => {
    fails = true;
    const one = replica();
    const opened = session("alice", "s1");
    await one.opened(opened, await handles.seal(opened));
    expect((await one.of("main|alice", never))?.sid).toBe("s1");
    expect(await replica().of("main|alice", never)).toBeUndefined();
  });
});

test("an older login does not take the place of a newer one", async () => {
  const one = replica(undefined);
  one.seen(session("alice", "new", NOW / 1000 + 10));
  one.seen(session("alice", "old"));
  expect((await one.of("main|alice", never))?.sid).toBe("new");
});
