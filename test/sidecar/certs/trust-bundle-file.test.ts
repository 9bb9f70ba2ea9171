import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { parseRoots, readTrustBundleFile } from "../../../sidecar/certs/trust-bundle-file.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority, testId } from "../../fakes/authority.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
let lake: TestAuthority;
let other: TestAuthority;
let dir: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "cs-roots-"));
  lake = await createTestAuthority(NOW);
  other = await createTestAuthority(NOW, "other.example");
});
afterAll(async () => {
  await lake.close();
  await other.close();
  rmSync(dir, { recursive: true, force: true });
});

describe("parseRoots", () => {
  test("reads several roots, with text between them", () => {
    const text = `# today's\n${lake.bundle.caPem}\n# tomorrow's\n${lake.bundle.caPem}`;
    expect(parseRoots(text, undefined)).toMatchObject({ ok: true, value: { trustDomain: "lake.example" } });
    expect(parseRoots(text, "lake.example")).toMatchObject({ ok: true });
  });

  test.each<{ name: string; text: () => string; trustDomain?: string; says: RegExp }>([
    { name: "nothing", text: () => "", says: /no certificate/ },
    {
      name: "half a certificate",
      text: () => lake.bundle.caPem.slice(0, 200),
      says: /no certificate/,
    },
    {
      name: "a certificate of nonsense",
      text: () => "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
      says: /cannot be read/,
    },
    {
      name: "a workload's certificate",
      text: () => issueTestIdentity(lake, testId("me"), NOW).certificateChainPem,
      says: /not a CA's/,
    },
    {
      name: "roots of two meshes",
      text: () => lake.bundle.caPem + other.bundle.caPem,
      says: /more than one trust domain/,
    },
    {
      name: "roots of another mesh than expected",
      text: () => other.bundle.caPem,
      trustDomain: "lake.example",
      says: /more than one trust domain/,
    },
    { name: "too much", text: () => "x".repeat(300_000), says: /larger than 256 KiB/ },
  ])("refuses $name", ({ text, trustDomain, says }) => {
    expect(parseRoots(text(), trustDomain)).toMatchObject({
      ok: false,
      error: expect.stringMatching(says),
    });
  });

  test("never throws, whatever a file holds", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.nat(800), (noise, at) => {
        const pem = lake.bundle.caPem;
        const text = pem.slice(0, at) + noise + pem.slice(at);
        const parsed = parseRoots(text, undefined);
        if (parsed.ok) expect(parsed.value.trustDomain).toBe("lake.example");
        expect(parseRoots(noise, undefined).ok).toBe(false);
      }),
    );
  });
});

describe("readTrustBundleFile", () => {
  test.each<{ name: string; make: (path: string) => void; code: string }>([
    { name: "that is not there yet", make: () => {}, code: "not_ready" },
    { name: "that is empty", make: (path) => writeFileSync(path, ""), code: "bad_token" },
    {
      name: "that is huge",
      make: (path) => writeFileSync(path, Buffer.alloc(300_000)),
      code: "bad_token",
    },
  ])("a file $name is `$code`", async ({ name, make, code }) => {
    const path = join(dir, name.replaceAll(" ", "-"));
    make(path);
    await expect(readTrustBundleFile(path, undefined)).rejects.toMatchObject({ code });
  });
});
