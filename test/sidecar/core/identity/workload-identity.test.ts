import { X509Certificate } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { issueIdentity } from "../../../../control-plane/ca/issue.ts";
import { createCertificateRequest, createKeys } from "../../../../sidecar/certs/key-and-csr.ts";
import {
  createWorkloadIdentity,
  type IdentityMaterial,
  isRetiring,
  withBundle,
} from "../../../../sidecar/core/identity/workload-identity.ts";
import {
  createTestAuthority,
  issueTestIdentity,
  must,
  type TestAuthority,
  testId,
} from "../../../fakes/authority.ts";
import { createOddLeaf } from "../../../fakes/odd-leaf.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
let authority: TestAuthority;
let other: TestAuthority;
let material: IdentityMaterial;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
  other = await createTestAuthority(NOW);
  const keys = createKeys();
  const issued = must(
    issueIdentity(authority.ca, {
      ...createCertificateRequest(keys),
      spiffeId: testId("a"),
      workloadFacts: { kind: "service", name: "a" },
      ttlMs: 60_000,
      nowMs: NOW,
    }),
  );
  material = { chainDer: issued.chainDer, ...keys, wit: issued.wit, bundle: authority.bundle, nowMs: NOW };
});
afterAll(async () => {
  await authority.close();
  await other.close();
});

describe("createWorkloadIdentity", () => {
  test("puts together what was issued, also for a workload without an instance", () => {
    expect(must(createWorkloadIdentity(material))).toMatchObject({
      spiffeId: testId("a"),
      trustDomain: "lake.example",
      notBeforeMs: NOW - 300_000,
      notAfterMs: NOW + 60_000,
      witExpiresAtMs: NOW + 60_000,
    });
  });

  const oddChain = (uris: string[]) => {
    const odd = createOddLeaf(authority.ca, { uris, notBeforeMs: NOW, notAfterMs: NOW + 60_000 });
    return { chainDer: [odd.leaf, authority.ca.issuing.chainDer[0]!], tlsKey: odd.key };
  };
  const cases: { name: string; change: () => Partial<IdentityMaterial>; message: RegExp }[] = [
    { name: "an empty chain", change: () => ({ chainDer: [] }), message: /empty/ },
    {
      name: "a chain of five",
      change: () => ({ chainDer: Array(5).fill(material.chainDer[0]) }),
      message: /longer/,
    },
    {
      name: "a chain without its middle",
      change: () => ({ chainDer: material.chainDer.slice(0, 1) }),
      message: /trust bundle/,
    },
    {
      name: "a chain in another order",
      change: () => ({ chainDer: material.chainDer.toReversed() }),
      message: /URI|CA/,
    },
    {
      name: "an issuer of another root",
      change: () => ({ chainDer: [material.chainDer[0]!, other.ca.issuing.chainDer[0]!] }),
      message: /hold together/,
    },
    { name: "a bundle of another root", change: () => ({ bundle: other.bundle }), message: /trust bundle/ },
    { name: "another TLS key", change: () => ({ tlsKey: createKeys().tlsKey }), message: /another key/ },
    {
      name: "another token key",
      change: () => ({ tokenKey: createKeys().tokenKey }),
      message: /another key/,
    },
    {
      name: "the WIT of another workload",
      change: () => ({ wit: issueTestIdentity(authority, testId("b"), NOW).wit }),
      message: /TLS peer/,
    },
    { name: "an expired leaf", change: () => ({ nowMs: NOW + 60_000 }), message: /expired/ },
    { name: "two URIs", change: () => oddChain([testId("a"), testId("b")]), message: /more than one URI/ },
    {
      name: "a foreign trust domain",
      change: () => oddChain([testId("a", "other.example")]),
      message: /another trust domain/,
    },
    {
      name: "bytes that are no certificate",
      change: () => ({ chainDer: [material.chainDer[0]!, Buffer.from("x")] }),
      message: /DER/,
    },
  ];
  test.each(cases)("refuses $name", ({ change, message }) => {
    const result = createWorkloadIdentity({ ...material, ...change() });
    expect(result).toMatchObject({ ok: false, error: expect.stringMatching(message) });
  });

  test("keeps the chain in order, leaf first", () => {
    const pem = must(createWorkloadIdentity(material)).certificateChainPem;
    expect(new X509Certificate(pem).raw.equals(material.chainDer[0]!)).toBe(true);
    expect(pem.match(/BEGIN/g)).toHaveLength(2);
  });
});

test("an identity is retiring when the root that it is below is, and not when another one is", () => {
  const identity = must(createWorkloadIdentity(material));
  const { bundle } = authority;
  const of = (...retiring: readonly X509Certificate[]) =>
    isRetiring(withBundle(identity, { ...bundle, retiring }));
  expect(of()).toBe(false);
  expect(of(...bundle.roots)).toBe(true);
  // The same subject name, another key.
  expect(of(...other.bundle.roots)).toBe(false);
  expect(of(...other.bundle.roots, ...bundle.roots)).toBe(true);
});
