// An issuer from files, as cert-manager mounts them: what is refused, and how a change of them reaches the mesh.
import { execFile } from "node:child_process";
import { generateKeyPairSync, type X509Certificate } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { type CertifiedKey, createAuthorityCertificate } from "../../../control-plane/ca/certificates.ts";
import { issueIdentity } from "../../../control-plane/ca/issue.ts";
import { trustBundleJson } from "../../../control-plane/ca/jwks.ts";
import { allowsUriHost, readMountedIssuer } from "../../../control-plane/ca/mounted-issuer.ts";
import { type CertificateAuthority, openCertificateAuthority } from "../../../control-plane/ca/root.ts";
import { createServerIdentity } from "../../../control-plane/ca/server-identity.ts";
import { createCertificateRequest, createKeys } from "../../../sidecar/certs/key-and-csr.ts";
import { DerTag, der } from "../../../sidecar/core/identity/der.ts";
import { parseTrustBundle } from "../../../sidecar/core/identity/trust-bundle.ts";
import { identityOf } from "../../../sidecar/enrolment.ts";
import { issueTestIdentity, must, testId } from "../../fakes/authority.ts";
import { MemoryStore } from "../../fakes/authority-store.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { plainAuthority } from "../../fakes/plain-authority.ts";

const run = promisify(execFile);
const NOW = Date.parse("2026-11-20T10:00:00Z");
const DAY = 86_400_000;

let dir: string;
let clock: FakeClock;
let root: CertifiedKey;
let issuing: CertifiedKey;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "countersign-mounted-"));
  clock = new FakeClock(NOW);
  root = await authority(undefined);
  issuing = await authority(root);
  await mount({});
});
afterEach(() => rm(dir, { recursive: true, force: true }));

function authority(
  issuer: CertifiedKey | undefined,
  more: { trustDomain?: string; lifetimeMs?: number } = {},
): Promise<CertifiedKey> {
  const { trustDomain = "lake.example", lifetimeMs = 90 * DAY } = more;
  return createAuthorityCertificate({
    trustDomain,
    commonName: issuer === undefined ? "corporate root" : "mesh issuer",
    nowMs: clock.nowMs(),
    lifetimeMs,
    issuer,
  });
}

const keyPem = ({ key }: Pick<CertifiedKey, "key">, type: "pkcs8" | "sec1" = "sec1"): string =>
  key.export({ type, format: "pem" }).toString();

async function mount(files: {
  chain?: readonly X509Certificate[];
  key?: string;
  roots?: readonly X509Certificate[];
}): Promise<void> {
  const { chain = [issuing.certificate], key = keyPem(issuing), roots = [root.certificate] } = files;
  await writeFile(join(dir, "tls.crt"), chain.join(""));
  await writeFile(join(dir, "tls.key"), key);
  await writeFile(join(dir, "ca.crt"), roots.join(""));
}

const read = (trustDomain = "lake.example") => readMountedIssuer(dir, { trustDomain, nowMs: clock.nowMs() });

describe("readMountedIssuer", () => {
  test("takes what fits together, in either form of key", async () => {
    expect((await read()).root.fingerprint256).toBe(root.certificate.fingerprint256);
    await mount({ key: keyPem(issuing, "pkcs8") });
    expect(await read()).toMatchObject({ isConstrained: true });
  });

  test.each([
    { name: "a missing file", spoil: () => rm(join(dir, "ca.crt")), message: /`ca.crt` cannot be read/ },
    { name: "no certificate", spoil: () => mount({ chain: [] }), message: /has 0 certificates/ },
    {
      name: "a damaged certificate",
      spoil: () =>
        writeFile(join(dir, "tls.crt"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
      message: /cannot be read/,
    },
    { name: "no key", spoil: () => mount({ key: "none" }), message: /not a private key/ },
    {
      name: "a key of another kind",
      spoil: () =>
        mount({ key: keyPem({ key: generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey }) }),
      message: /P-256/,
    },
    {
      name: "the key of another certificate",
      spoil: () => mount({ key: keyPem(root) }),
      message: /not the key of/,
    },
    {
      name: "a root that is another one",
      spoil: async () => mount({ roots: [(await authority(undefined)).certificate] }),
      message: /does not lead to/,
    },
    {
      name: "a file that is too large",
      spoil: () => writeFile(join(dir, "ca.crt"), "x".repeat(70_000)),
      message: /64 KiB/,
    },
  ])("refuses $name", async ({ spoil, message }) => {
    await spoil();
    await expect(read()).rejects.toMatchObject({
      code: "bad_config",
      message: expect.stringMatching(message),
    });
  });

  test("refuses a leaf in place of a CA, an expired one, one of the future, and one for other trust domains", async () => {
    const ca = await open();
    const leaf = createServerIdentity(ca, NOW);
    await writeFile(join(dir, "tls.crt"), leaf.certificateChainPem);
    await writeFile(join(dir, "tls.key"), leaf.keyPem);
    await expect(read()).rejects.toMatchObject({ message: expect.stringMatching(/not a CA's/) });
    await mount({});
    await expect(read("other.example")).rejects.toMatchObject({
      message: expect.stringMatching(/name constraints do not permit URIs of `other.example`/),
    });
    clock.advance(91 * DAY);
    await expect(read()).rejects.toMatchObject({ message: expect.stringMatching(/expired/) });
    clock.advance(-100 * DAY);
    await expect(read()).rejects.toMatchObject({ message: expect.stringMatching(/not valid yet/) });
  });
});

const uri = (text: string): Buffer => der(DerTag.sequence, der(DerTag.uri, Buffer.from(text)));
const dns = (text: string): Buffer => der(DerTag.sequence, der(0x82, Buffer.from(text)));

/** A certificate as far as the reader looks: version, five members, extensions. */
function withConstraints(...subtrees: readonly Buffer[]): Buffer {
  const extension = der(
    DerTag.sequence,
    der(DerTag.oid, Buffer.from("551d1e", "hex")),
    der(DerTag.boolean, Buffer.of(0xff)),
    der(DerTag.octetString, der(DerTag.sequence, ...subtrees)),
  );
  return der(
    DerTag.sequence,
    der(
      DerTag.sequence,
      der(DerTag.integer, Buffer.of(1)),
      der(DerTag.context3, der(DerTag.sequence, extension)),
    ),
  );
}

describe("allowsUriHost", () => {
  const permitted = (...bases: readonly Buffer[]): Buffer => der(DerTag.context0, ...bases);
  const excluded = (...bases: readonly Buffer[]): Buffer => der(0xa1, ...bases);
  test.each([
    { name: "the host itself", subtrees: [permitted(uri("lake.example"))], allowed: true },
    { name: "the host in capitals", subtrees: [permitted(uri("LAKE.example"))], allowed: true },
    { name: "hosts below a domain", subtrees: [permitted(uri(".example"))], allowed: true },
    { name: "hosts below itself only", subtrees: [permitted(uri(".lake.example"))], allowed: false },
    { name: "another host", subtrees: [permitted(uri("pond.example"))], allowed: false },
    { name: "one of several", subtrees: [permitted(dns("x"), uri("a"), uri("lake.example"))], allowed: true },
    { name: "other kinds of names only", subtrees: [permitted(dns("lake.example"))], allowed: undefined },
    {
      name: "the host taken out",
      subtrees: [permitted(uri("lake.example")), excluded(uri("lake.example"))],
      allowed: false,
    },
    { name: "every URI taken out", subtrees: [excluded(uri(""))], allowed: false },
    { name: "another host taken out", subtrees: [excluded(uri("pond.example"))], allowed: undefined },
    { name: "what cannot be read", subtrees: [Buffer.of(0xa0, 0x05, 0x01)], allowed: false },
  ])("$name: $allowed", ({ subtrees, allowed }) => {
    expect(allowsUriHost(withConstraints(...subtrees), "lake.example")).toBe(allowed);
  });
});

/** What openssl says of a leaf with its chain, given `ca.crt` alone. */
async function verified(chainPem: string): Promise<string> {
  await writeFile(join(dir, "leaf.pem"), chainPem);
  const { stdout } = await run("openssl", [
    ...["verify", "-x509_strict", "-attime", String(NOW / 1000), "-CAfile", join(dir, "ca.crt")],
    ...["-untrusted", join(dir, "leaf.pem"), join(dir, "leaf.pem")],
  ]);
  return stdout;
}

const store = { current: new MemoryStore() };
const open = (more: { issuerDir?: undefined } = {}): Promise<CertificateAuthority> => {
  store.current = more.issuerDir === undefined && "issuerDir" in more ? store.current : new MemoryStore();
  return openCertificateAuthority({
    store: store.current,
    clock,
    trustDomain: "lake.example",
    ...("issuerDir" in more ? {} : { issuerDir: dir }),
  });
};

describe("an authority with a mounted issuer", () => {
  const bundle = (ca: CertificateAuthority) => must(parseTrustBundle(trustBundleJson(ca), "lake.example"));

  test("issues what openssl verifies", async () => {
    const ca = await open();
    const identity = issueTestIdentity({ ca, bundle: bundle(ca) }, testId("a"), NOW);
    expect(await verified(identity.certificateChainPem)).toContain("OK");
    expect([...store.current.files.keys()].sort()).toEqual([
      "authority.json",
      expect.stringMatching(/^session-/),
      expect.stringMatching(/^tts-/),
      "wit.pem",
    ]);
  });

  test("leaves carry what stands between them and the root", async () => {
    const corporate = await plainAuthority("corporate", undefined, NOW);
    const department = await plainAuthority("department", corporate, NOW);
    issuing = await plainAuthority("mesh", department, NOW);
    await mount({
      chain: [issuing.certificate, department.certificate],
      roots: [corporate.certificate],
    });
    expect(await read()).toMatchObject({ isConstrained: false });
    const ca = await open();
    const identity = issueTestIdentity({ ca, bundle: bundle(ca) }, testId("a"), NOW);
    expect(identity.certificateChainPem.match(/BEGIN CERTIFICATE/g)).toHaveLength(3);
    expect(await verified(identity.certificateChainPem)).toContain("OK");
    // A sidecar takes it although the root names no trust domain.
    const keys = createKeys();
    const issued = must(
      issueIdentity(ca, {
        ...createCertificateRequest(keys),
        spiffeId: testId("b"),
        workloadFacts: { kind: "service", name: "b" },
        ttlMs: DAY,
        nowMs: NOW,
      }),
    );
    const message = {
      certificateChainDer: issued.chainDer,
      workloadIdentityToken: issued.wit,
      trustBundle: trustBundleJson(ca),
      serverTimeMs: NOW,
    };
    expect(identityOf(message as never, keys, NOW)).toMatchObject({ spiffeId: testId("b") });
    await mount({ roots: [corporate.certificate] });
    await expect(read()).rejects.toMatchObject({ message: expect.stringMatching(/does not lead to/) });
  });

  test("a new issuing certificate below the same root is used at once; broken files change nothing", async () => {
    const ca = await open();
    expect(await ca.refresh()).toEqual({ bundle: false, issuing: false });
    await mount({ key: keyPem(root) });
    await expect(ca.refresh()).rejects.toMatchObject({ code: "bad_config" });
    issuing = await authority(root);
    await mount({});
    expect(await ca.refresh()).toEqual({ bundle: false, issuing: true });
    expect(ca.issuing.certificatePem).toBe(issuing.certificate.toString());
  });

  test("a new root is published before anything is issued below it", async () => {
    const ca = await open();
    const { sequence } = ca;
    const before = ca.issuing.certificatePem;
    const next = await authority(undefined);
    issuing = await authority(next);
    await mount({ roots: [next.certificate, root.certificate] });
    expect(await ca.refresh()).toEqual({ bundle: true, issuing: false });
    await ca.maintain();
    expect(ca.sequence).toBe(sequence + 1);
    expect(bundle(ca).roots).toHaveLength(2);
    clock.advance(60_000);
    expect(await ca.refresh()).toEqual({ bundle: false, issuing: false });
    expect(ca.issuing.certificatePem).toBe(before);
    clock.advance(61_000);
    expect(await ca.refresh()).toMatchObject({ issuing: true });
    expect(ca.issuing.certificatePem).toBe(issuing.certificate.toString());
  });

  test("cannot rotate the root, and cannot change places with a root of its own", async () => {
    const ca = await open();
    await expect(ca.startRotation()).rejects.toMatchObject({
      code: "bad_config",
      message: expect.stringMatching(/where it is made/),
    });
    await expect(open({ issuerDir: undefined })).rejects.toMatchObject({
      message: expect.stringMatching(/give `--issuer-dir` again/),
    });
    const own = new MemoryStore();
    await openCertificateAuthority({ store: own, clock, trustDomain: "lake.example" });
    await expect(
      openCertificateAuthority({ store: own, clock, trustDomain: "lake.example", issuerDir: dir }),
    ).rejects.toMatchObject({ message: expect.stringMatching(/leave `--issuer-dir` out/) });
  });
});
