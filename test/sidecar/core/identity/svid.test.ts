import { X509Certificate } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { extension } from "../../../../control-plane/ca/certificates.ts";
import { DerReader, DerTag, der, derTime, Oid } from "../../../../sidecar/core/identity/der.ts";
import { checkSvid, parseSvid, type SvidFacts } from "../../../../sidecar/core/identity/svid.ts";
import {
  createTestAuthority,
  issueTestIdentity,
  must,
  peerOf,
  type TestAuthority,
  testId,
} from "../../../fakes/authority.ts";
import { createOddLeaf, type OddLeaf } from "../../../fakes/odd-leaf.ts";
import { run as fuzz } from "../../../fuzz/sidecar/core/identity/svid.fuzz.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
let authority: TestAuthority;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
});
afterAll(() => authority.close());

const A = "spiffe://lake.example/a";
const odd = (parts: Partial<OddLeaf>): Buffer =>
  createOddLeaf(authority.ca, { uris: [A], notBeforeMs: NOW, notAfterMs: NOW + 60_000, ...parts }).leaf;

describe("parseSvid", () => {
  test("reads what Node reads, and the thumbprint of RFC 8705", () => {
    const identity = issueTestIdentity(authority, testId("a"), NOW);
    const certificate = new X509Certificate(identity.certificateChainPem);
    const facts = must(parseSvid(certificate.raw));
    expect(facts).toEqual({
      spiffeId: testId("a"),
      trustDomain: "lake.example",
      notBeforeMs: Date.parse(certificate.validFrom),
      notAfterMs: Date.parse(certificate.validTo),
      instance: "3f0c2a51-6d0e-4c1b-9a57-8b1f6f0c2d11",
      serial: certificate.serialNumber.toLowerCase(),
      issuerKeyId: authority.ca.issuing.keyIdentifier.toString("hex"),
      leafThumbprint: Buffer.from(certificate.fingerprint256.replaceAll(":", ""), "hex").toString(
        "base64url",
      ),
    } satisfies SvidFacts);
  });

  test.each([
    { name: "none", more: [], id: "" },
    { name: "an empty one", more: [der(DerTag.sequence)], id: "" },
    {
      name: "one with more behind it",
      more: [der(DerTag.sequence, der(0x80, Buffer.of(1, 2)), der(0x82, Buffer.of(3)))],
      id: "0102",
    },
  ])("reads who issued it: $name", ({ more, id }) => {
    const extensions = more.map((value) => extension(Oid.authorityKeyIdentifier, false, value));
    expect(must(parseSvid(odd({ more: extensions }))).issuerKeyId).toBe(id);
  });

  const cases: { name: string; leaf: () => Buffer; error: string }[] = [
    {
      name: "two URIs",
      leaf: () => odd({ uris: [A, "spiffe://lake.example/b"] }),
      error: "several_uri_sans",
    },
    { name: "the same URI twice", leaf: () => odd({ uris: [A, A] }), error: "several_uri_sans" },
    { name: "no URI", leaf: () => odd({ uris: [] }), error: "no_uri_san" },
    {
      name: "a URI that hides a second one in its text",
      leaf: () => odd({ uris: [`${A}, URI:spiffe://x/y`] }),
      error: "bad_spiffe_id",
    },
    { name: "an https URI", leaf: () => odd({ uris: ["https://a/b"] }), error: "bad_spiffe_id" },
    {
      name: "a URI without path",
      leaf: () => odd({ uris: ["spiffe://lake.example"] }),
      error: "bad_spiffe_id",
    },
    { name: "CA=true", leaf: () => odd({ ca: true }), error: "is_ca" },
    { name: "no key usage", leaf: () => odd({ keyUsage: "none" }), error: "bad_key_usage" },
    { name: "key usage keyCertSign", leaf: () => odd({ keyUsage: "0284" }), error: "bad_key_usage" },
    { name: "key usage keyAgreement only", leaf: () => odd({ keyUsage: "0308" }), error: "bad_key_usage" },
    {
      name: "an authority key identifier that is none",
      leaf: () => odd({ more: [extension(Oid.authorityKeyIdentifier, false, Buffer.of(0x05, 0x00))] }),
      error: "malformed_certificate",
    },
    {
      name: "an authority key identifier that is critical",
      leaf: () => odd({ more: [extension(Oid.authorityKeyIdentifier, true, der(DerTag.sequence))] }),
      error: "unknown_critical_extension",
    },
    {
      name: "serverAuth only",
      leaf: () => odd({ extendedKeyUsage: [Oid.serverAuth] }),
      error: "bad_extended_key_usage",
    },
    {
      name: "no extended key usage",
      leaf: () => odd({ extendedKeyUsage: [] }),
      error: "bad_extended_key_usage",
    },
    {
      name: "an unknown critical extension",
      leaf: () => odd({ more: [extension("2a0304", true, der(DerTag.null))] }),
      error: "unknown_critical_extension",
    },
    {
      name: "a repeated extension",
      leaf: () =>
        odd({
          more: [extension(Oid.subjectAltName, false, der(DerTag.sequence, der(DerTag.uri, Buffer.from(A))))],
        }),
      error: "malformed_certificate",
    },
    { name: "bytes behind it", leaf: () => Buffer.concat([odd({}), Buffer.of(0)]), error: "trailing_bytes" },
    { name: "its end missing", leaf: () => odd({}).subarray(0, -1), error: "malformed_certificate" },
    { name: "nothing", leaf: () => Buffer.alloc(0), error: "malformed_certificate" },
    { name: "20 KiB", leaf: () => Buffer.alloc(20_000, 0x30), error: "malformed_certificate" },
  ];
  test.each(cases)("refuses a certificate with $name as $error", ({ leaf, error }) => {
    expect(parseSvid(leaf())).toEqual({ ok: false, error });
  });

  test("holds against random and mutated bytes", async () => {
    expect((await fuzz({ seconds: 0.5, seed: 1 })).cases).toBeGreaterThan(100);
  });
});

describe("checkSvid", () => {
  test("knows expired, not yet valid and foreign certificates", () => {
    const facts = peerOf(issueTestIdentity(authority, testId("a"), NOW, { ttlMs: 60_000 }));
    const at = (nowMs: number, trustDomains = ["lake.example"]) => checkSvid(facts, { nowMs, trustDomains });
    expect(at(NOW)).toBeUndefined();
    expect(at(facts.notAfterMs + 999)).toBeUndefined();
    expect(at(facts.notAfterMs + 1000)).toBe("expired");
    expect(at(facts.notBeforeMs - 1)).toBe("not_yet_valid");
    expect(at(NOW, ["other.example"])).toBe("foreign_trust_domain");
  });
});

describe("DER times", () => {
  test.each(["1999-12-31T23:59:59Z", "2026-02-28T00:00:00Z", "2049-12-31T23:59:59Z", "2050-01-01T00:00:00Z"])(
    "come back: %s",
    (text) => {
      expect(new DerReader(derTime(Date.parse(text))).time()).toBe(Date.parse(text));
    },
  );
  test.each(["260231000000Z", "2601010000Z", "260101000060Z", "261301000000Z", "260101000000+"])(
    "refuse %s",
    (text) => {
      expect(() => new DerReader(der(DerTag.utcTime, Buffer.from(text))).time()).toThrow(/bad time/);
    },
  );
});
