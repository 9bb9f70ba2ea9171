// A real certificate authority in a temporary directory, and identities issued by it: the fixtures of identity tests.

import { X509Certificate } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { issueIdentity } from "../../control-plane/ca/issue.ts";
import { trustBundleJson } from "../../control-plane/ca/jwks.ts";
import { type CertificateAuthority, openCertificateAuthority } from "../../control-plane/ca/root.ts";
import { createCertificateRequest, createKeys } from "../../sidecar/certs/key-and-csr.ts";
import { formatSpiffeId, type SpiffeId, workloadOf } from "../../sidecar/core/identity/spiffe-id.ts";
import { type PeerFacts, parseSvid } from "../../sidecar/core/identity/svid.ts";
import { parseTrustBundle, type TrustBundle } from "../../sidecar/core/identity/trust-bundle.ts";
import {
  createWorkloadIdentity,
  type WorkloadIdentity,
} from "../../sidecar/core/identity/workload-identity.ts";

export interface TestAuthority {
  readonly ca: CertificateAuthority;
  readonly stateDir: string;
  readonly bundle: TrustBundle;
  close(): Promise<void>;
}

/** The value of a Result that must be good. */
export function must<T, E>(result: { ok: true; value: T } | { ok: false; error: E }): T {
  if (!result.ok)
    throw new Error(
      `expected a value, got ${String(result.error)} ${"detail" in result ? String(result.detail) : ""}`,
    );
  return result.value;
}

export async function createTestAuthority(
  nowMs: number,
  trustDomain = "lake.example",
): Promise<TestAuthority> {
  const stateDir = await mkdtemp(join(tmpdir(), "countersign-ca-"));
  const ca = await openCertificateAuthority({ stateDir, trustDomain, clock: { nowMs: () => nowMs } });
  const bundle = must(parseTrustBundle(trustBundleJson(ca)));
  return { ca, stateDir, bundle, close: () => rm(stateDir, { recursive: true, force: true }) };
}

export function testId(name: string, trustDomain = "lake.example"): SpiffeId {
  return formatSpiffeId({ trustDomain, namespace: "lab", serviceAccount: "default", kind: "service", name });
}

export function issueTestIdentity(
  authority: Pick<TestAuthority, "ca" | "bundle">,
  spiffeId: SpiffeId,
  nowMs: number,
  options: { ttlMs?: number; bundle?: TrustBundle } = {},
): WorkloadIdentity {
  const keys = createKeys();
  const name = workloadOf(spiffeId)?.name ?? "x";
  const issued = must(
    issueIdentity(authority.ca, {
      ...createCertificateRequest(keys),
      spiffeId,
      workloadFacts: {
        kind: "service",
        name,
        env: "dev",
        pod: "3f0c2a51-6d0e-4c1b-9a57-8b1f6f0c2d11",
        cluster: "eu1",
      },
      ttlMs: options.ttlMs ?? 6 * 3_600_000,
      nowMs,
    }),
  );
  return must(
    createWorkloadIdentity({
      chainDer: issued.chainDer,
      ...keys,
      wit: issued.wit,
      bundle: options.bundle ?? authority.bundle,
      nowMs,
    }),
  );
}

/** What the callee sees of this identity after the handshake. */
export function peerOf(identity: WorkloadIdentity): PeerFacts {
  return must(parseSvid(new X509Certificate(identity.certificateChainPem).raw));
}
