// Cost of identity on the data path: signing, verifying, and both caches. Run: node test/bench/sidecar/core/identity.bench.ts
import { X509Certificate } from "node:crypto";
import { Bench } from "tinybench";
import { issueIdentity } from "../../../../control-plane/ca/issue.ts";
import { createCertificateRequest, createKeys } from "../../../../sidecar/certs/key-and-csr.ts";
import { ProofSigner, ProofVerifier } from "../../../../sidecar/core/identity/proofs.ts";
import { parseSvid } from "../../../../sidecar/core/identity/svid.ts";
import { createTestAuthority, issueTestIdentity, must, peerOf, testId } from "../../../fakes/authority.ts";

const nowMs = Date.now();
const authority = await createTestAuthority(nowMs);
const identity = issueTestIdentity(authority, testId("caller"), nowMs);
const peer = peerOf(identity);
const leaf = new X509Certificate(identity.certificateChainPem).raw;
let count = 0;
const signer = new ProofSigner({
  identity: () => identity,
  nowMs: () => nowMs,
  randomId: () => `jti-${count++}-012345678901`,
});
const own = testId("callee");
const input = (operation: string) => ({ audience: own, operation, packsDigest: "0123456789abcdef", via: [] });
const slot = signer.slot(input("op"));
const inputs = Array.from({ length: 100 }, (_, i) => input(`op-${i}`));
const calls = inputs.map((one) => ({
  ...signer.proof(one),
  authorization: undefined,
  peer,
  ownSpiffeId: own,
  nowMs,
}));
const verifier = new ProofVerifier({ bundleOf: () => authority.bundle });
const verified = calls.map((call) => must(verifier.verify(call)));
const keys = createKeys();
const request = createCertificateRequest(keys);
const issue = {
  ...request,
  spiffeId: testId("a"),
  workloadFacts: { kind: "service", name: "a", pod: "p" },
  ttlMs: 3_600_000,
  nowMs,
};
let turn = 0;
const next = (): number => (turn = (turn + 1) % 100);

const bench = new Bench({ time: 300 });
bench
  .add("sign: slot hit", () => slot.current(nowMs))
  .add("sign: proof() hit, 100 in rotation", () => signer.proof(inputs[next()]!))
  .add("sign: miss", () => signer.sign(input("op"), undefined, identity, nowMs))
  .add("verify: held result is current", () => {
    const i = next();
    verified[i]!.isCurrent(calls[i]!, authority.bundle.epoch);
  })
  .add("verify: cache hit, 100 in rotation", () => verifier.verify(calls[next()]!))
  .add("verify: miss, WIT known", () => {
    must(verifier.verify({ ...calls[next()]!, nowMs: nowMs + (count++ % 2 === 0 ? 31_000 : 0) }));
  })
  .add("verify: miss, WIT new", () =>
    must(new ProofVerifier({ bundleOf: () => authority.bundle }).verify(calls[0]!)),
  )
  .add("parse an SVID", () => must(parseSvid(leaf)))
  .add("issue an identity", () => must(issueIdentity(authority.ca, issue)));
await bench.run();
for (const task of bench.tasks) {
  const result = task.result;
  if ("latency" in result)
    process.stdout.write(
      `${task.name.padEnd(38)} ${(result.latency.p50 * 1000).toFixed(2).padStart(9)} us p50\n`,
    );
}
await authority.close();
