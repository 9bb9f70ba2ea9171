import { execFile } from "node:child_process";
import { createPublicKey, generateKeyPairSync, randomBytes, sign, X509Certificate } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import "reflect-metadata";
import * as x509 from "@peculiar/x509";
import { decodeProtectedHeader, importJWK, jwtVerify } from "jose";
import { parseCsr } from "../../../control-plane/ca/csr.ts";
import { issueIdentity } from "../../../control-plane/ca/issue.ts";
import { createServerIdentity } from "../../../control-plane/ca/server-identity.ts";
import { createCertificateRequest, createCsr, createKeys } from "../../../sidecar/certs/key-and-csr.ts";
import { DerTag, der, derBitString, derOid, Oid } from "../../../sidecar/core/identity/der.ts";
import { parseSvid } from "../../../sidecar/core/identity/svid.ts";
import { createTestAuthority, must, type TestAuthority, testId } from "../../fakes/authority.ts";
import { run as fuzz } from "../../fuzz/control-plane/ca/csr.fuzz.ts";

const run = promisify(execFile);
const NOW = Date.parse("2026-11-20T10:00:00Z");
let authority: TestAuthority;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
});
afterAll(() => authority.close());

function input(keys = createKeys()) {
  return {
    ...createCertificateRequest(keys),
    spiffeId: testId("nb-alice"),
    workloadFacts: { kind: "service", name: "nb-alice", env: "dev", pod: "pod-1.a" },
    ttlMs: 3_600_000,
    nowMs: NOW,
  };
}

const SIGNED_SHA256 = der(DerTag.sequence, derOid(Oid.ecdsaWithSha256));
/** A request with a chosen body, correctly signed over it. */
function craft(parts: {
  version?: string;
  spki?: Buffer;
  attributes?: Buffer;
  algorithm?: Buffer;
  after?: Buffer;
}): Buffer {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const spki = parts.spki ?? createPublicKey(privateKey).export({ type: "spki", format: "der" });
  const info = der(
    DerTag.sequence,
    Buffer.from(parts.version ?? "020100", "hex"),
    der(DerTag.sequence),
    spki,
    parts.attributes ?? der(DerTag.context0),
  );
  const signature = derBitString(sign("sha256", info, privateKey));
  return der(
    DerTag.sequence,
    info,
    parts.algorithm ?? SIGNED_SHA256,
    signature,
    parts.after ?? Buffer.alloc(0),
  );
}

describe("issueIdentity", () => {
  test("issues a leaf that openssl verifies in strict mode, name constraints included", async () => {
    const issued = must(issueIdentity(authority.ca, input()));
    const [leaf] = issued.chainDer;
    const write = async (name: string, pem: string): Promise<string> => {
      const path = join(authority.stateDir, name);
      await writeFile(path, pem);
      return path;
    };
    const root = await write("root.pem", String(authority.ca.roots[0]));
    const issuing = await write("issuing.pem", authority.ca.issuing.certificatePem);
    for (const purpose of ["sslclient", "sslserver"]) {
      const path = await write("leaf.pem", String(new X509Certificate(leaf!)));
      const { stdout } = await run("openssl", [
        "verify",
        "-x509_strict",
        "-purpose",
        purpose,
        "-attime",
        String(NOW / 1000),
        "-CAfile",
        root,
        "-untrusted",
        issuing,
        path,
      ]);
      expect(stdout).toContain("OK");
    }
    // The same CA cannot speak for another trust domain: the name constraint stops it.
    const foreign = createServerIdentity(
      {
        trustDomain: "other.example",
        serverIssuing: authority.ca.issuing,
        serverRoot: authority.ca.serverRoot,
        roots: authority.ca.roots,
      } as never,
      NOW,
    );
    const path = await write("foreign.pem", foreign.certificateChainPem);
    const refused = run("openssl", [
      "verify",
      "-attime",
      String(NOW / 1000),
      "-CAfile",
      root,
      "-untrusted",
      issuing,
      path,
    ]);
    await expect(refused).rejects.toThrow(/permitted subtree violation/);
  });

  test("writes what another parser reads: one URI, CA=false, both usages, serial of 16 bytes", () => {
    const issued = must(issueIdentity(authority.ca, input()));
    const leaf = new x509.X509Certificate(issued.chainDer[0]!);
    expect(leaf.getExtension(x509.SubjectAlternativeNameExtension)?.names.toJSON()).toEqual([
      { type: "url", value: testId("nb-alice") },
    ]);
    expect(leaf.getExtension(x509.BasicConstraintsExtension)?.ca).toBe(false);
    expect(leaf.getExtension(x509.KeyUsagesExtension)?.usages).toBe(x509.KeyUsageFlags.digitalSignature);
    expect(leaf.getExtension(x509.ExtendedKeyUsageExtension)?.usages).toEqual([
      "1.3.6.1.5.5.7.3.1",
      "1.3.6.1.5.5.7.3.2",
    ]);
    expect(leaf.serialNumber).toMatch(/^[4-7][0-9a-f]{31}$/);
    expect(leaf.notBefore.getTime()).toBe(NOW - 300_000);
    expect(leaf.notAfter.getTime()).toBe(NOW + 3_600_000);
    expect(must(parseSvid(issued.chainDer[0]!))).toMatchObject({
      spiffeId: testId("nb-alice"),
      instance: "pod-1.a",
    });
  });

  test("mints a WIT of the same lifetime that jose verifies", async () => {
    const issued = must(issueIdentity(authority.ca, input()));
    const key = await importJWK({ ...authority.ca.wit.jwk }, "ES256");
    const { payload } = await jwtVerify(issued.wit, key, {
      algorithms: ["ES256"],
      typ: "wit+jwt",
      currentDate: new Date(NOW),
      requiredClaims: ["sub", "exp", "jti", "cnf"],
    });
    expect(payload).toMatchObject({
      sub: testId("nb-alice"),
      iat: NOW / 1000,
      nbf: NOW / 1000 - 300,
      exp: NOW / 1000 + 3600,
    });
    expect(payload).not.toHaveProperty("aud");
    expect(decodeProtectedHeader(issued.wit)).toEqual({
      alg: "ES256",
      typ: "wit+jwt",
      kid: authority.ca.wit.kid,
    });
  });

  test("never outlives the issuing certificate", () => {
    const late = authority.ca.issuing.notAfterMs - 60_000;
    const issued = must(issueIdentity(authority.ca, { ...input(), nowMs: late }));
    expect(issued.notAfterMs).toBe(authority.ca.issuing.notAfterMs);
  });

  test.each([
    { name: "a token key that is the TLS key", change: () => same(), message: /separate/ },
    { name: "a proof by another key", change: () => ({ tokenKeyProof: randomBytes(64) }), message: /proof/ },
    {
      name: "a proof of another length",
      change: () => ({ tokenKeyProof: Buffer.alloc(70) }),
      message: /proof/,
    },
    {
      name: "a token key with a private part",
      change: () => ({ tokenJwk: withMember("d", "x") }),
      message: /private part/,
    },
    {
      name: "a token key off the curve",
      change: () => ({ tokenJwk: withMember("x", "A".repeat(43)) }),
      message: /point/,
    },
    {
      name: "a token key for RS256",
      change: () => ({ tokenJwk: withMember("alg", "RS256") }),
      message: /ES256/,
    },
    { name: "a token key that is no JSON", change: () => ({ tokenJwk: "{" }), message: /JSON/ },
    {
      name: "a foreign trust domain",
      change: () => ({ spiffeId: testId("a", "other.example") }),
      message: /trust domain/,
    },
    {
      name: "an instance with odd characters",
      change: () => ({ workloadFacts: { kind: "a", name: "b", pod: "ä" } }),
      message: /instance/,
    },
    { name: "a lifetime of NaN", change: () => ({ ttlMs: Number.NaN }), message: /lifetime/ },
  ])("refuses $name", ({ change, message }) => {
    const result = issueIdentity(authority.ca, { ...input(), ...change() });
    expect(result.ok).toBe(false);
    if (!result.ok)
      expect(result.error).toMatchObject({ code: "csr_rejected", message: expect.stringMatching(message) });
  });

  function same() {
    const { tlsKey } = createKeys();
    return createCertificateRequest({ tlsKey, tokenKey: tlsKey });
  }
  function withMember(name: string, value: string): string {
    return JSON.stringify({ ...JSON.parse(input().tokenJwk), [name]: value });
  }
});

describe("parseCsr", () => {
  test("holds against random and mutated bytes", async () => {
    expect((await fuzz({ seconds: 0.5, seed: 1 })).cases).toBeGreaterThan(100);
  });

  test("reads our own request and one of openssl, whatever names that asks for", async () => {
    const keys = createKeys();
    expect(parseCsr(createCsr(keys.tlsKey)).ok).toBe(true);
    const key = join(authority.stateDir, "key.pem");
    await writeFile(key, keys.tlsKey.export({ type: "pkcs8", format: "pem" }));
    const { stdout } = await run(
      "openssl",
      [
        "req",
        "-new",
        "-key",
        key,
        "-outform",
        "DER",
        "-subj",
        "/CN=evil",
        "-addext",
        "subjectAltName=URI:spiffe://evil/x",
      ],
      { encoding: "buffer" },
    );
    const facts = must(parseCsr(stdout));
    expect(facts.publicKey.equals(createPublicKey(keys.tlsKey))).toBe(true);
  });

  const good = createCsr(createKeys().tlsKey);
  const p384 = createPublicKey(generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey).export({
    type: "spki",
    format: "der",
  });
  const offCurve = Buffer.concat([
    createPublicKey(createKeys().tlsKey).export({ type: "spki", format: "der" }).subarray(0, 27),
    Buffer.alloc(64, 1),
  ]);
  const flipped = Buffer.from(good);
  flipped.writeUInt8(good.readUInt8(good.length - 1) ^ 1, good.length - 1);
  test.each([
    { name: "bytes behind the request", csr: Buffer.concat([good, Buffer.of(0)]) },
    { name: "a truncated request", csr: good.subarray(0, good.length - 1) },
    { name: "an empty request", csr: Buffer.alloc(0) },
    {
      name: "a long-form length that is not minimal",
      csr: Buffer.concat([Buffer.of(0x30, 0x83, 0), good.subarray(2)]),
    },
    {
      name: "an indefinite length",
      csr: Buffer.concat([Buffer.of(0x30, 0x80), good.subarray(3), Buffer.of(0, 0)]),
    },
    { name: "another version", csr: craft({ version: "020101" }) },
    { name: "a P-384 key", csr: craft({ spki: p384 }) },
    { name: "a point off the curve", csr: craft({ spki: offCurve }) },
    {
      name: "a signature of another key",
      csr: craft({ spki: createPublicKey(createKeys().tlsKey).export({ type: "spki", format: "der" }) }),
    },
    { name: "a flipped signature bit", csr: flipped },
    {
      name: "another signature algorithm",
      csr: craft({ algorithm: der(DerTag.sequence, derOid("2a864886f70d01010b")) }),
    },
    { name: "a fourth element", csr: craft({ after: der(DerTag.null) }) },
    { name: "more than 4 KiB", csr: craft({ attributes: der(DerTag.context0, Buffer.alloc(5000)) }) },
  ])("refuses $name", ({ csr }) => {
    const result = parseCsr(csr);
    expect(result.ok).toBe(false);
    if (!result.ok) expect(result.error.code).toBe("csr_rejected");
  });
});
