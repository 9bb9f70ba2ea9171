import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import {
  fileJoinTokens,
  listJoinTokens,
  purgeJoinTokens,
} from "../../../control-plane/ca/join-token-files.ts";
import { recordJoinTokens } from "../../../control-plane/ca/join-token-records.ts";
import { createJoinToken, redeemJoinToken } from "../../../control-plane/ca/join-tokens.ts";
import { formatJoinToken, parseJoinToken } from "../../../sidecar/core/identity/join-token.ts";
import { must } from "../../fakes/authority.ts";

const NOW = 1_790_000_000_000;
const ROOT = "r".repeat(43);
let stateDir: string;
beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "countersign-join-"));
});
afterEach(() => rm(stateDir, { recursive: true, force: true }));
const create = (ttlSeconds = 60) =>
  createJoinToken({
    store: fileJoinTokens(stateDir),
    workload: "ml-dev/nb-alice",
    ttlSeconds,
    rootSpkiSha256: ROOT,
    nowMs: NOW,
  });
const redeem = (token: string, nowMs = NOW) =>
  redeemJoinToken({ store: fileJoinTokens(stateDir), token, nowMs });

describe("join tokens", () => {
  test("let one workload in, once", async () => {
    const { token, record } = await create();
    expect(must(await redeem(token))).toEqual({ id: record.id, workload: "ml-dev/nb-alice" });
    expect(await redeem(token)).toMatchObject({
      ok: false,
      error: { code: "join_rejected", message: expect.stringMatching(/used before/) },
    });
    expect(await listJoinTokens(stateDir)).toEqual([{ ...record, used: true }]);
  });

  test("let in only one of many that come at once", async () => {
    const { token } = await create();
    const results = await Promise.all(Array.from({ length: 20 }, () => redeem(token)));
    expect(results.filter((result) => result.ok)).toHaveLength(1);
  });

  test("expire, and are purged then", async () => {
    const { token } = await create(60);
    expect(await redeem(token, NOW + 60_000)).toMatchObject({
      ok: false,
      error: { message: expect.stringMatching(/expired/) },
    });
    expect(await purgeJoinTokens(stateDir, NOW + 59_999)).toBe(0);
    expect(await purgeJoinTokens(stateDir, NOW + 60_000)).toBe(1);
    expect(await readdir(join(stateDir, "join-tokens"))).toEqual([]);
  });

  test("are kept as a hash only, in private files", async () => {
    const { token } = await create();
    const { id, secret } = must(parseJoinToken(token));
    const path = join(stateDir, "join-tokens", `${id}.json`);
    expect(await readFile(path, "utf8")).not.toContain(secret);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

  test("are refused with a wrong secret, an unknown ID or another form, and stay good", async () => {
    const { token, record } = await create();
    const parts = must(parseJoinToken(token));
    const wrong = [
      formatJoinToken({ ...parts, secret: "A".repeat(43) }),
      formatJoinToken({ ...parts, id: "0".repeat(16) }),
      formatJoinToken({ ...parts, id: "../../../etc/pas".slice(0, 16) }),
      formatJoinToken({ ...parts, id: "_-_-_-_-_-_-_-_-" }),
      `${token}x`,
      "",
      "cs1...",
      "x".repeat(100_000),
    ];
    for (const text of wrong)
      expect(await redeem(text)).toMatchObject({ ok: false, error: { code: "join_rejected" } });
    expect(must(await redeem(` ${token}\n`)).id).toBe(record.id);
  });

  test.each([
    { workload: "nb-alice", ttlSeconds: 60 },
    { workload: "../x/y", ttlSeconds: 60 },
    { workload: "a/b", ttlSeconds: 0 },
    { workload: "a/b", ttlSeconds: Number.NaN },
    { workload: "a/b", ttlSeconds: 8 * 86_400 },
  ])("cannot be made for $workload with $ttlSeconds s", async (bad) => {
    await expect(
      createJoinToken({ store: fileJoinTokens(stateDir), rootSpkiSha256: ROOT, nowMs: NOW, ...bad }),
    ).rejects.toMatchObject({ code: "bad_config" });
  });
});

describe("join tokens in a cluster", () => {
  /** The few calls, over a map. */
  function records() {
    const kept = new Map<string, object>();
    const missing = { code: 404 };
    type Named = { readonly name: string };
    const custom = {
      createNamespacedCustomObject: async ({ body }: { readonly body: { metadata: Named } }) =>
        void kept.set(body.metadata.name, body),
      getNamespacedCustomObject: async ({ name }: Named) => {
        if (!kept.has(name)) throw missing;
        return kept.get(name);
      },
      deleteNamespacedCustomObject: async ({ name }: Named) => {
        if (!kept.delete(name)) throw missing;
      },
      listNamespacedCustomObject: async () => ({ items: [...kept.values()] }),
    };
    // Only the calls that a store makes.
    return { kept, store: recordJoinTokens({ custom: custom as never, namespace: "countersign-system" }) };
  }

  test("let one workload in, once, whichever replica is asked", async () => {
    const { kept, store } = records();
    const made = { store, workload: "ml-dev/vm", ttlSeconds: 60, rootSpkiSha256: ROOT, nowMs: NOW };
    const { token } = await createJoinToken(made);
    expect(JSON.stringify([...kept.values()])).not.toContain(token.split(".")[2]);
    const results = await Promise.all(
      Array.from({ length: 20 }, () => redeemJoinToken({ store, token, nowMs: NOW })),
    );
    expect(results.filter((result) => result.ok)).toHaveLength(1);
    expect(kept.size).toBe(0);
  });

  test("are refused when they are expired or unknown", async () => {
    const { store } = records();
    const made = { store, workload: "ml-dev/vm", ttlSeconds: 60, rootSpkiSha256: ROOT, nowMs: NOW };
    const { token } = await createJoinToken(made);
    expect(await redeemJoinToken({ store, token, nowMs: NOW + 60_000 })).toMatchObject({ ok: false });
    expect(await redeemJoinToken({ store: records().store, token, nowMs: NOW })).toMatchObject({ ok: false });
  });
});
