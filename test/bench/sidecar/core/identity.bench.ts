// Cost of identity on the data path: signing, verifying, and both caches. Run: node test/bench/sidecar/core/identity.bench.ts
import { createPublicKey, sign, verify, X509Certificate } from "node:crypto";
import { issueIdentity } from "../../../../control-plane/ca/issue.ts";
import { createCertificateRequest, createKeys } from "../../../../sidecar/certs/key-and-csr.ts";
import { ProofSigner, ProofVerifier } from "../../../../sidecar/core/identity/proofs.ts";
import { parseSvid } from "../../../../sidecar/core/identity/svid.ts";
import { createTestAuthority, issueTestIdentity, must, peerOf, testId } from "../../../fakes/authority.ts";
import { median } from "../../measure.ts";

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
const [inputs0, calls0] = [
  input("op-0"),
  { ...signer.proof(input("op-0")), authorization: undefined, peer, ownSpiffeId: own, nowMs },
];
const publicKey = createPublicKey(identity.tokenKey);
const signature = sign("sha256", leaf, identity.tokenKey);
let turn = 0;
const next = (): number => (turn = (turn + 1) % 100);

// CPU time of this process, not latency: the machine is shared and latency would measure the neighbours.
function measure(name: string, rounds: number, run: (i: number) => unknown): void {
  const batches: number[] = [];
  for (let batch = 0; batch < 5; batch++) {
    const before = process.cpuUsage();
    for (let i = 0; i < rounds; i++) run(i);
    const used = process.cpuUsage(before);
    batches.push((used.user + used.system) / rounds);
  }
  process.stdout.write(`${name.padEnd(38)} ${median(batches).toFixed(2).padStart(8)} us CPU\n`);
}

measure("sign: slot hit", 1_000_000, () => slot.current(nowMs));
measure("sign: proof() hit, 100 in rotation", 500_000, () => signer.proof(inputs[next()] ?? inputs0));
measure("sign: miss", 2000, () => signer.sign(inputs0, undefined, identity, nowMs));
measure("verify: held result is current", 1_000_000, () => {
  const i = next();
  const call = calls[i];
  return call !== undefined && verified[i]?.isCurrent(call, authority.bundle.epoch);
});
measure("verify: cache hit, 100 in rotation", 500_000, () => verifier.verify(calls[next()] ?? calls0));
const fresh = Array.from({ length: 5000 }, () => ({
  ...calls0,
  wpt: signer.sign(inputs0, undefined, identity, nowMs).wpt,
}));
let used = 0;
measure("verify: miss, WIT known", 1000, () => must(verifier.verify(fresh[used++] ?? calls0)));
measure("verify: miss, WIT new", 500, () =>
  must(new ProofVerifier({ bundleOf: () => authority.bundle }).verify(calls0)),
);
measure("parse an SVID", 20_000, () => must(parseSvid(leaf)));
measure("issue an identity", 500, () => must(issueIdentity(authority.ca, issue)));
measure("bare crypto.sign", 2000, () => sign("sha256", leaf, identity.tokenKey));
measure("bare crypto.verify", 2000, () => verify("sha256", leaf, publicKey, signature));
await authority.close();
