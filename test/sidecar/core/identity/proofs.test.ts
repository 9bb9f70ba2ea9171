import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import type { ViaHop } from "../../../../sidecar/core/identity/claims.ts";
import { ProofSigner, ProofVerifier, type VerifyInput } from "../../../../sidecar/core/identity/proofs.ts";
import type { PeerFacts } from "../../../../sidecar/core/identity/svid.ts";
import { parseTrustBundle, type TrustBundle } from "../../../../sidecar/core/identity/trust-bundle.ts";
import { type WorkloadIdentity, withBundle } from "../../../../sidecar/core/identity/workload-identity.ts";
import {
  createTestAuthority,
  issueTestIdentity,
  must,
  peerOf,
  type TestAuthority,
  testId,
} from "../../../fakes/authority.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
const OWN = testId("callee");
const INPUT = { audience: OWN, operation: "mlflow.runs.get", packsDigest: "d", via: [] };
let authority: TestAuthority;
let identity: WorkloadIdentity;
let peer: PeerFacts;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
  identity = issueTestIdentity(authority, testId("caller"), NOW);
  peer = peerOf(identity);
});
afterAll(() => authority.close());

function signerOf(current: () => WorkloadIdentity, clock = { nowMs: NOW }) {
  let count = 0;
  return new ProofSigner({ identity: current, nowMs: () => clock.nowMs, randomId: () => `jti-${count++}` });
}

describe("ProofSigner", () => {
  test("reuses a proof for 30 s, the same object each time", () => {
    const clock = { nowMs: NOW };
    const signer = signerOf(() => identity, clock);
    const first = signer.proof(INPUT);
    clock.nowMs += 29_999;
    expect(signer.proof({ ...INPUT })).toBe(first);
    clock.nowMs += 1;
    expect(signer.proof(INPUT).wpt).not.toBe(first.wpt);
    expect(signer.stats).toEqual({ hits: 1, signed: 2 });
  });

  test("signs anew for everything that the proof says", () => {
    const signer = signerOf(() => identity);
    const via: ViaHop[] = [{ s: testId("a"), o: "x" }];
    const inputs = [
      INPUT,
      { ...INPUT, audience: testId("other") },
      { ...INPUT, operation: "mlflow.runs.list" },
      { ...INPUT, packsDigest: "e" },
      { ...INPUT, via },
      { ...INPUT, via: [...via, ...via] },
      { ...INPUT, authorization: "Bearer a" },
      { ...INPUT, authorization: "Bearer b" },
      { ...INPUT, caveat: {} },
      { ...INPUT, caveat: { scope: "mlflow" } },
      { ...INPUT, caveat: { exp: 1 } },
      { ...INPUT, tth: "t" },
    ];
    expect(new Set(inputs.map((input) => signer.proof(input).wpt)).size).toBe(inputs.length);
    for (const input of inputs) signer.proof(input);
    expect(signer.stats).toEqual({ hits: inputs.length, signed: inputs.length });
  });

  test("signs with the renewed identity at once, through a slot that is held too", () => {
    let current = identity;
    const signer = signerOf(() => current);
    const slot = signer.slot(INPUT);
    const before = slot.current(NOW);
    expect(slot.current(NOW)).toBe(before);
    current = issueTestIdentity(authority, testId("caller"), NOW);
    const after = slot.current(NOW);
    expect(after.wit).toBe(current.wit);
    const verifier = new ProofVerifier({ bundleOf: () => authority.bundle });
    const base = { authorization: undefined, ownSpiffeId: OWN, nowMs: NOW };
    expect(verifier.verify({ ...base, ...after, peer: peerOf(current) }).ok).toBe(true);
    expect(verifier.verify({ ...base, ...before, peer: peerOf(current) })).toMatchObject({
      error: "AUTHN_PROOF_INVALID",
    });
  });
});

describe("ProofVerifier", () => {
  let bundle: TrustBundle;
  let verifier: ProofVerifier;
  beforeEach(() => {
    bundle = authority.bundle;
    verifier = new ProofVerifier({ bundleOf: (name) => (name === "lake.example" ? bundle : undefined) });
  });
  function input(change: Partial<VerifyInput> = {}): VerifyInput {
    const proof = signerOf(() => identity).proof(INPUT);
    return { ...proof, authorization: undefined, peer, ownSpiffeId: OWN, nowMs: NOW, ...change };
  }
  /** The same key set and one more: another epoch. */
  function otherEpoch(): TrustBundle {
    const document = JSON.parse(authority.bundle.json);
    const { kid: _kid, ...key } = document.keys[1];
    return must(
      parseTrustBundle(JSON.stringify({ ...document, keys: [...document.keys, { ...key, kid: "next" }] })),
    );
  }

  test("verifies once, then answers from the cache with the same object", () => {
    const call = input();
    const first = must(verifier.verify(call));
    expect(first).toMatchObject({
      kind: "proof",
      via: [],
      hop: { op: "mlflow.runs.get" },
      bundleEpoch: bundle.epoch,
    });
    expect(first.wit?.workload).toMatchObject({ name: "caller" });
    expect(must(verifier.verify({ ...call }))).toBe(first);
    expect(verifier.stats).toMatchObject({ hits: 1, misses: 1, witMisses: 1 });
    must(verifier.verify(input()));
    expect(verifier.stats).toMatchObject({ misses: 2, witMisses: 1, witHits: 1 });
  });

  test("takes neither token as a caller by mutual TLS alone, one without the other as broken", () => {
    const bare = must(verifier.verify(input({ wit: undefined, wpt: undefined })));
    expect(bare).toMatchObject({ kind: "mtls", via: [], wit: undefined, hop: undefined });
    expect(must(verifier.verify(input({ wit: undefined, wpt: undefined })))).toBe(bare);
    expect(verifier.verify(input({ wit: undefined }))).toMatchObject({ error: "AUTHN_PROOF_INVALID" });
    expect(verifier.verify(input({ wpt: undefined }))).toMatchObject({ error: "AUTHN_PROOF_INVALID" });
    expect(verifier.verify(input({ wit: undefined, wpt: undefined, txnToken: "x" }))).toMatchObject({
      error: "AUTHN_TXN_INVALID",
    });
    expect(verifier.verify(input({ wit: "", wpt: "" }))).toMatchObject({ error: "AUTHN_PROOF_INVALID" });
    expect(verifier.refusals.get("AUTHN_PROOF_INVALID")).toBe(3);
  });

  test("looks at expiry on every use, also of what is cached", () => {
    const call = input();
    const verified = must(verifier.verify(call));
    expect(verified.expiresAtMs).toBe(NOW + 120_000);
    expect(verified.isCurrent({ ...call, nowMs: NOW + 29_999 }, bundle.epoch)).toBe(true);
    expect(verified.isCurrent({ ...call, nowMs: NOW + 30_000 }, bundle.epoch)).toBe(false);
    expect(verifier.verify({ ...call, nowMs: NOW + 119_999 }).ok).toBe(true);
    expect(verifier.verify({ ...call, nowMs: NOW + 120_000 })).toMatchObject({
      error: "AUTHN_PROOF_INVALID",
    });
    expect(verified.recheck(NOW + 119_999, bundle.epoch)).toBeUndefined();
    expect(verified.recheck(NOW + 120_000, bundle.epoch)).toBe("AUTHN_PROOF_INVALID");
    expect(verified.recheck(NOW, "other")).toBe("AUTHN_WIT_INVALID");
    expect(verified.recheck(peer.notAfterMs + 1000, bundle.epoch)).toBe("AUTHN_MTLS_REQUIRED");
    expect(verifier.verify({ ...call, nowMs: peer.notAfterMs + 1000 })).toMatchObject({
      error: "AUTHN_MTLS_REQUIRED",
    });
  });

  test.each([
    {
      name: "another leaf of the same workload",
      change: () => ({ peer: { ...peer, leafThumbprint: "x".repeat(43) } }),
      error: "AUTHN_PROOF_INVALID",
    },
    {
      name: "another workload",
      change: () => ({ peer: { ...peer, spiffeId: testId("thief"), leafThumbprint: "x" } }),
      error: "AUTHN_WIT_INVALID",
    },
    { name: "another callee", change: () => ({ ownSpiffeId: testId("x") }), error: "AUTHN_PROOF_INVALID" },
    {
      name: "a bearer token added",
      change: () => ({ authorization: "Bearer x" }),
      error: "AUTHN_PROOF_INVALID",
    },
    {
      name: "a foreign trust domain",
      change: () => ({ peer: { ...peer, trustDomain: "other.example" } }),
      error: "AUTHN_MTLS_REQUIRED",
    },
  ])("does not let a cached proof pass for $name, nor forget it for its owner", ({ change, error }) => {
    const call = input();
    const verified = must(verifier.verify(call));
    for (let i = 0; i < 3; i++)
      expect(verifier.verify({ ...call, ...change() })).toMatchObject({ ok: false, error });
    expect(must(verifier.verify(call))).toBe(verified);
  });

  test("remembers a refusal for 2 s", () => {
    const call = input();
    const bad = { ...call, wpt: `${call.wpt?.slice(0, -4)}AAAA` };
    for (let i = 0; i < 3; i++) expect(verifier.verify(bad)).toMatchObject({ error: "AUTHN_PROOF_INVALID" });
    expect(verifier.stats).toMatchObject({ misses: 1, refusedHits: 2 });
    verifier.verify({ ...bad, nowMs: NOW + 2_000 });
    expect(verifier.stats).toMatchObject({ misses: 2 });
    expect(verifier.refusals.get("AUTHN_PROOF_INVALID")).toBe(4);
  });

  test("drops everything when the bundle changes, and a withdrawn key at once", () => {
    const call = input();
    const before = must(verifier.verify(call));
    bundle = otherEpoch();
    const after = must(verifier.verify(call));
    expect(after).not.toBe(before);
    expect(after.bundleEpoch).toBe(bundle.epoch);
    const document = JSON.parse(authority.bundle.json);
    bundle = must(parseTrustBundle(JSON.stringify({ ...document, keys: document.keys.slice(0, 1) })));
    expect(verifier.verify(call)).toMatchObject({ error: "AUTHN_WIT_INVALID" });
  });

  test("lets go of proofs that are worn out, and keeps what is used", () => {
    const worn = Array.from({ length: 100 }, () => input());
    for (const one of worn) must(verifier.verify(one));
    expect(verifier.entries).toBeGreaterThanOrEqual(100);
    // Two spans later, each with a proof of its own.
    for (const laterMs of [121_000, 242_000, 363_000]) {
      const proof = signerOf(() => identity, { nowMs: NOW + laterMs }).proof(INPUT);
      must(verifier.verify(input({ ...proof, nowMs: NOW + laterMs })));
    }
    expect(verifier.entries).toBeLessThan(10);
  });

  test("holds a bounded number of entries and bytes", () => {
    const small = new ProofVerifier({ bundleOf: () => bundle }, { maxEntries: 8, maxBytes: 64 * 1024 });
    const signer = signerOf(() => identity);
    for (let i = 0; i < 40; i++) {
      const proof = signer.proof({ ...INPUT, operation: `op-${i}` });
      must(small.verify({ ...proof, authorization: undefined, peer, ownSpiffeId: OWN, nowMs: NOW }));
    }
    const again = signer.proof({ ...INPUT, operation: "op-0" });
    must(small.verify({ ...again, authorization: undefined, peer, ownSpiffeId: OWN, nowMs: NOW }));
    expect(small.stats.misses).toBe(41);
  });

  test("works with a bundle that was renewed under the same identity", () => {
    bundle = otherEpoch();
    const renewed = withBundle(identity, bundle);
    const proof = signerOf(() => renewed).proof(INPUT);
    expect(verifier.verify(input(proof)).ok).toBe(true);
  });
});
