import { X509Certificate } from "node:crypto";
import { chmod, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { trustBundleJson } from "../../../control-plane/ca/jwks.ts";
import { openCertificateAuthority } from "../../../control-plane/ca/root.ts";
import { parseTrustBundle } from "../../../sidecar/core/identity/trust-bundle.ts";
import { must } from "../../fakes/authority.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
const DAY = 86_400_000;
let stateDir: string;
beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "countersign-ca-"));
});
afterEach(() => rm(stateDir, { recursive: true, force: true }));
const open = (trustDomain = "lake.example", nowMs = NOW) =>
  openCertificateAuthority({ stateDir, trustDomain, clock: { nowMs: () => nowMs } });

describe("openCertificateAuthority", () => {
  test("survives a restart: the same root, issuing certificate, WIT key and bundle", async () => {
    const first = await open();
    const second = await open();
    expect(second.rootSpkiSha256).toBe(first.rootSpkiSha256);
    expect(second.issuing.certificatePem).toBe(first.issuing.certificatePem);
    expect(second.wit.kid).toBe(first.wit.kid);
    expect(trustBundleJson(second)).toBe(trustBundleJson(first));
    const bundle = must(parseTrustBundle(trustBundleJson(first)));
    expect(bundle).toMatchObject({ trustDomain: "lake.example", sequence: 1, refreshHintSeconds: 300 });
    expect(bundle.witKeys.has(first.wit.kid)).toBe(true);
  });

  test("keeps its files to itself and leaves nothing temporary behind", async () => {
    await open();
    expect((await stat(join(stateDir, "ca"))).mode & 0o777).toBe(0o700);
    expect(await readdir(stateDir)).toEqual(["ca"]);
    const files = await readdir(join(stateDir, "ca"));
    expect(files.sort()).toEqual([
      ...["authority.json", "issuing.pem", "root.pem"],
      expect.stringMatching(/^session-[0-9a-f]{16}\.key$/),
      expect.stringMatching(/^tts-[0-9a-f]{16}\.pem$/),
      "wit.pem",
    ]);
    for (const file of files) expect((await stat(join(stateDir, "ca", file))).mode & 0o777).toBe(0o600);
  });

  test("renews the issuing certificate when less than 30 days are left, under the same root", async () => {
    const first = await open();
    const later = await open("lake.example", NOW + 61 * DAY);
    expect(later.rootSpkiSha256).toBe(first.rootSpkiSha256);
    expect(later.issuing.certificatePem).not.toBe(first.issuing.certificatePem);
    expect(new X509Certificate(later.issuing.certificatePem).verify(later.roots[0]!.publicKey)).toBe(true);
    expect(await later.maintain()).toBe(false);
  });

  test.each([
    {
      name: "a missing file",
      spoil: () => rm(join(stateDir, "ca", "wit.pem")),
      message: /`wit.pem` is missing/,
    },
    {
      name: "a damaged key",
      spoil: () => writeFile(join(stateDir, "ca", "root.pem"), "-----BEGIN"),
      message: /cannot be read/,
    },
    {
      name: "a key that others may read",
      spoil: () => chmod(join(stateDir, "ca", "root.pem"), 0o644),
      message: /0600/,
    },
    {
      name: "a description that is no JSON",
      spoil: () => writeFile(join(stateDir, "ca", "authority.json"), "{"),
      message: /not JSON/,
    },
    {
      name: "another trust domain",
      spoil: async () => {},
      trustDomain: "other.example",
      message: /another state directory/,
    },
    {
      name: "a trust domain that is none",
      spoil: async () => {},
      trustDomain: "Lake",
      message: /lower-case/,
    },
  ])("refuses $name with a clear message", async ({ spoil, trustDomain, message }) => {
    await open();
    await spoil();
    await expect(open(trustDomain ?? "lake.example")).rejects.toMatchObject({
      code: "bad_config",
      message: expect.stringMatching(message),
    });
  });

  test("refuses an issuing certificate of another root", async () => {
    const other = await mkdtemp(join(tmpdir(), "countersign-ca-"));
    try {
      await open();
      const foreign = await openCertificateAuthority({
        stateDir: other,
        trustDomain: "lake.example",
        clock: { nowMs: () => NOW },
      });
      const pem =
        foreign.issuing.key.export({ type: "pkcs8", format: "pem" }) + foreign.issuing.certificatePem;
      await writeFile(join(stateDir, "ca", "issuing.pem"), pem);
      await expect(open()).rejects.toMatchObject({ message: expect.stringMatching(/was not signed by/) });
    } finally {
      await rm(other, { recursive: true, force: true });
    }
  });
});
