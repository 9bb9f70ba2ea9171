import { chmod, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { loadIdentity, saveIdentity } from "../../../sidecar/certs/identity-store.ts";
import { createKeys } from "../../../sidecar/certs/key-and-csr.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import {
  createTestAuthority,
  issueTestIdentity,
  must,
  type TestAuthority,
  testId,
} from "../../fakes/authority.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
let authority: TestAuthority;
let identity: WorkloadIdentity;
let parent: string;
let stateDir: string;
let path: string;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
  identity = issueTestIdentity(authority, testId("a"), NOW);
});
afterAll(() => authority.close());
beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), "countersign-identity-"));
  stateDir = join(parent, "state");
  path = join(stateDir, "identity.json");
});
afterEach(() => rm(parent, { recursive: true, force: true }));

describe("identity store", () => {
  test("gives back what was saved, from private files", async () => {
    expect(await loadIdentity(stateDir, NOW)).toEqual({ ok: true, value: undefined });
    await saveIdentity(stateDir, identity);
    await saveIdentity(stateDir, identity);
    expect(await readdir(stateDir)).toEqual(["identity.json"]);
    expect((await stat(stateDir)).mode & 0o777).toBe(0o700);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    const loaded = must(await loadIdentity(stateDir, NOW));
    const { tlsKey, tokenKey, bundle, ...rest } = identity;
    expect(loaded).toMatchObject(rest);
    expect(loaded?.bundle.epoch).toBe(bundle.epoch);
    expect(loaded?.tlsKey.equals(tlsKey)).toBe(true);
    expect(loaded?.tokenKey.equals(tokenKey)).toBe(true);
  });

  const edit = async (change: (stored: Record<string, unknown>) => object) =>
    writeFile(path, JSON.stringify(change(JSON.parse(await readFile(path, "utf8")))));
  const otherKey = () => createKeys().tlsKey.export({ type: "pkcs8", format: "pem" }).toString();
  test.each([
    { name: "a truncated file", spoil: () => truncate(path, 100), nowMs: NOW },
    { name: "an empty file", spoil: () => truncate(path, 0), nowMs: NOW },
    { name: "another version", spoil: () => edit((stored) => ({ ...stored, version: 2 })), nowMs: NOW },
    { name: "a missing member", spoil: () => edit(({ wit: _wit, ...stored }) => stored), nowMs: NOW },
    {
      name: "a key that is none",
      spoil: () => edit((stored) => ({ ...stored, tlsKeyPem: "x" })),
      nowMs: NOW,
    },
    {
      name: "another TLS key",
      spoil: () => edit((stored) => ({ ...stored, tlsKeyPem: otherKey() })),
      nowMs: NOW,
    },
    {
      name: "another token key",
      spoil: () => edit((stored) => ({ ...stored, tokenKeyPem: otherKey() })),
      nowMs: NOW,
    },
    {
      name: "no certificate",
      spoil: () => edit((stored) => ({ ...stored, certificateChainPem: "" })),
      nowMs: NOW,
    },
    { name: "a broken bundle", spoil: () => edit((stored) => ({ ...stored, bundle: "{}" })), nowMs: NOW },
    {
      name: "another trust domain",
      spoil: () => edit((stored) => ({ ...stored, trustDomain: "x" })),
      nowMs: NOW,
    },
    { name: "another WIT", spoil: () => edit((stored) => ({ ...stored, wit: "a.b.c" })), nowMs: NOW },
    { name: "a file that others may read", spoil: () => chmod(path, 0o644), nowMs: NOW },
    { name: "an expired certificate", spoil: async () => {}, nowMs: NOW + 7 * 3_600_000 },
  ])("says why $name is not used", async ({ spoil, nowMs }) => {
    await saveIdentity(stateDir, identity);
    await spoil();
    const result = await loadIdentity(stateDir, nowMs);
    expect(result).toMatchObject({
      ok: false,
      error: { code: "bad_config", message: expect.stringMatching(/is not used: ./) },
    });
    if (!result.ok) expect(result.error.message).not.toContain("PRIVATE");
  });

  test("refuses a chain that does not end in the bundle", async () => {
    const other = await createTestAuthority(NOW);
    try {
      await saveIdentity(stateDir, { ...identity, bundle: other.bundle });
      expect(await loadIdentity(stateDir, NOW)).toMatchObject({
        ok: false,
        error: { message: expect.stringMatching(/trust bundle/) },
      });
    } finally {
      await other.close();
    }
  });
});
