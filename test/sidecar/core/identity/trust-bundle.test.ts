import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import {
  parseTrustBundle,
  RETIRING_MEMBER,
  spkiSha256,
} from "../../../../sidecar/core/identity/trust-bundle.ts";
import { createTestAuthority, must, type TestAuthority } from "../../../fakes/authority.ts";
import { createOddLeaf } from "../../../fakes/odd-leaf.ts";
import { TestTokenService } from "../../../fakes/txn.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
type Key = Record<string, unknown>;
let authority: TestAuthority;
let other: TestAuthority;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
  other = await createTestAuthority(NOW);
});
afterAll(async () => {
  await authority.close();
  await other.close();
});
const document = (from = authority): { keys: Key[] } => JSON.parse(from.bundle.json);
const withKeys = (keys: unknown[], more: Key = {}) => JSON.stringify({ ...document(), keys, ...more });

describe("parseTrustBundle", () => {
  test("holds several roots and keys during a rotation, in any order one epoch", () => {
    const keys = [...document().keys, ...document(other).keys];
    const bundle = must(parseTrustBundle(withKeys(keys, { spiffe_sequence: 7, spiffe_refresh_hint: 60 })));
    expect(bundle).toMatchObject({ trustDomain: "lake.example", sequence: 7, refreshHintSeconds: 60 });
    expect(bundle.roots.map((root) => spkiSha256(root)).sort()).toEqual(
      [authority.ca.rootSpkiSha256, other.ca.rootSpkiSha256].sort(),
    );
    expect([...bundle.witKeys.keys()].sort()).toEqual([authority.ca.wit.kid, other.ca.wit.kid].sort());
    expect(bundle.caPem.match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
    expect(must(parseTrustBundle(withKeys(keys.toReversed()))).epoch).toBe(bundle.epoch);
    expect(bundle.epoch).not.toBe(authority.bundle.epoch);
  });

  test("knows a root that is about to leave, in an epoch of its own", () => {
    const [leaving, ...rest] = document().keys;
    const marked = must(parseTrustBundle(withKeys([{ ...leaving, [RETIRING_MEMBER]: true }, ...rest])));
    expect(marked.retiring.map((root) => spkiSha256(root))).toEqual([authority.ca.rootSpkiSha256]);
    expect(marked.roots).toHaveLength(1);
    expect(marked.epoch).not.toBe(authority.bundle.epoch);
    expect(authority.bundle.retiring).toEqual([]);
    const unsure = must(parseTrustBundle(withKeys([{ ...leaving, [RETIRING_MEMBER]: "yes" }, ...rest])));
    expect(unsure.retiring).toEqual([]);
  });

  test("skips keys of uses that it does not know", () => {
    const keys = [...document().keys, { use: "jwt-svid", kty: "RSA" }, { kty: "oct" }];
    expect(must(parseTrustBundle(withKeys(keys))).epoch).toBe(authority.bundle.epoch);
  });

  test("holds the token service's keys apart from those of WITs, in an epoch of its own", () => {
    const service = new TestTokenService();
    const bundle = service.bundle(authority.bundle);
    expect([...bundle.txnKeys.keys()]).toEqual([...authority.bundle.txnKeys.keys(), service.kid]);
    expect([...bundle.witKeys.keys()]).toEqual([authority.ca.wit.kid]);
    expect(bundle.epoch).not.toBe(authority.bundle.epoch);
    const twice = withKeys([...document().keys, service.jwk, service.jwk]);
    expect(parseTrustBundle(twice)).toMatchObject({
      ok: false,
      error: expect.stringMatching(/two txn-token/),
    });
    expect(parseTrustBundle(withKeys([...document().keys, { ...service.jwk, x: "AA" }]))).toMatchObject({
      ok: false,
    });
  });

  test("is of one trust domain", () => {
    expect(parseTrustBundle(authority.bundle.json, "other.example")).toMatchObject({ ok: false });
    expect(parseTrustBundle(authority.bundle.json, "lake.example")).toMatchObject({ ok: true });
  });

  const root = (): Key => document().keys[0]!;
  const wit = (): Key => document().keys[1]!;
  const x5c = (bytes: Buffer): Key => ({ ...root(), x5c: [bytes.toString("base64")] });
  test.each([
    { name: "no JSON", json: () => "{" },
    { name: "a list", json: () => "[]" },
    { name: "no keys", json: () => "{}" },
    { name: "too many keys", json: () => withKeys(Array.from({ length: 65 }, root)) },
    { name: "256 KiB", json: () => " ".repeat(262_145) },
    { name: "no root", json: () => withKeys([wit()]) },
    { name: "a null key", json: () => withKeys([root(), null]) },
    { name: "two certificates in x5c", json: () => withKeys([{ ...root(), x5c: [1, 2] }]) },
    { name: "a root that is no certificate", json: () => withKeys([x5c(Buffer.from("x"))]) },
    {
      name: "a root with bytes behind it",
      json: () => withKeys([x5c(Buffer.concat([authority.ca.roots[0]!.raw, Buffer.of(0)]))]),
    },
    {
      name: "a leaf as root",
      json: () =>
        withKeys([
          x5c(
            createOddLeaf(authority.ca, { uris: ["spiffe://a/b"], notBeforeMs: NOW, notAfterMs: NOW + 1000 })
              .leaf,
          ),
        ]),
    },
    { name: "a token key without kid", json: () => withKeys([root(), { ...wit(), kid: undefined }]) },
    { name: "the same kid twice", json: () => withKeys([root(), wit(), wit()]) },
    { name: "a token key for RS256", json: () => withKeys([root(), { ...wit(), alg: "RS256" }]) },
    { name: "a token key off the curve", json: () => withKeys([root(), { ...wit(), x: "A".repeat(43) }]) },
  ])("refuses $name", ({ json }) => {
    expect(parseTrustBundle(json())).toMatchObject({ ok: false, error: expect.any(String) });
  });
});
