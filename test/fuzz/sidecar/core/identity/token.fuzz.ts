// Tokens from random and mutated text: the verifiers always answer, never throw, and accept nothing but what was signed
// (or its signature twin).
import { X509Certificate } from "node:crypto";
import fc from "fast-check";
import {
  parseClaimsJson,
  parseWitClaims,
  parseWptClaims,
} from "../../../../../sidecar/core/identity/claims.ts";
import { ProofSigner } from "../../../../../sidecar/core/identity/proofs.ts";
import { parseSvid } from "../../../../../sidecar/core/identity/svid.ts";
import { splitToken, tokenKeyOf, verifyWit, verifyWpt } from "../../../../../sidecar/core/identity/token.ts";
import { parseTxnClaims } from "../../../../../sidecar/core/identity/txn.ts";
import { TxnVerifier } from "../../../../../sidecar/core/identity/txn-verifier.ts";
import { createTestAuthority, issueTestIdentity, must, testId } from "../../../../fakes/authority.ts";
import { TestTokenService, txnClaims } from "../../../../fakes/txn.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const authority = await createTestAuthority(NOW);
  const identity = issueTestIdentity(authority, testId("a"), NOW);
  await authority.close();
  const peer = must(parseSvid(new X509Certificate(identity.certificateChainPem).raw));
  const signer = new ProofSigner({ identity: () => identity, nowMs: () => NOW, randomId: () => "jti" });
  const { wit, wpt } = signer.proof({ audience: testId("b"), operation: "op", packsDigest: "d", via: [] });
  const witContext = { bundle: authority.bundle, peerSpiffeId: peer.spiffeId, nowMs: NOW };
  const claims = must(verifyWit(wit, witContext));
  const witKey = tokenKeyOf(claims.jwk);
  if (witKey === undefined) throw new Error("no key");
  const wptContext = {
    wit,
    witJwk: claims.jwk,
    witKey,
    authorization: undefined,
    ownSpiffeId: testId("b"),
    peerLeafThumbprint: peer.leafThumbprint,
    nowMs: NOW,
  };
  const service = new TestTokenService();
  const bundle = service.bundle(authority.bundle);
  const txn = service.mint(txnClaims("alice", NOW));
  const txns = new TxnVerifier();
  if (!txns.verify(txn, bundle, NOW).ok) throw new Error("refused a good transaction token");
  const mutate = (token: string) =>
    fc
      .tuple(
        fc.nat(token.length),
        fc.nat(3),
        fc.string({ unit: fc.constantFrom(..."ABab09-_.=+/ \n\0é"), maxLength: 3 }),
      )
      .map(([at, drop, add]) => token.slice(0, at) + add + token.slice(at + drop));
  const json = fc.json({ maxDepth: 5 }).map((text) => Buffer.from(text));
  let cases = 0;
  fc.assert(
    fc.property(
      fc.oneof(mutate(wit), mutate(wpt), mutate(txn), fc.string({ maxLength: 300 })),
      json,
      (token, bytes) => {
        cases++;
        splitToken(token);
        if (verifyWit(token, witContext).ok && token !== wit) throw new Error("accepted an altered WIT");
        if (verifyWpt(token, wptContext).ok && token !== wpt) throw new Error("accepted an altered WPT");
        if (txns.verify(token, bundle, NOW).ok && token !== txn)
          throw new Error("accepted an altered Txn-Token");
        const parsed = parseClaimsJson(bytes);
        if (!parsed.ok) return;
        parseWitClaims(parsed.value);
        parseWptClaims(parsed.value);
        parseTxnClaims(parsed.value);
      },
    ),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  return { cases };
}
