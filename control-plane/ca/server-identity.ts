// The control plane's own server certificate, issued by itself and renewed in process.
import { createPublicKey, type KeyObject } from "node:crypto";
import { renewAtMs } from "../../sidecar/core/identity/renewal.ts";
import { formatSpiffeId, type SpiffeId } from "../../sidecar/core/identity/spiffe-id.ts";
import { backoffMs } from "../../sidecar/core/runtime/backoff.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { generateKey } from "./certificates.ts";
import { DEFAULT_TTL_MS, validity, writeLeaf } from "./issue.ts";
import type { CertificateAuthority } from "./root.ts";

/** SPIFFE ID of the control plane: what sidecars expect of the other end. */
export function controlPlaneId(trustDomain: string): SpiffeId {
  return formatSpiffeId({
    trustDomain,
    namespace: "countersign-system",
    serviceAccount: "control-plane",
    kind: "service",
    name: "control-plane",
  });
}

export interface ServerIdentity {
  readonly spiffeId: SpiffeId;
  /** Leaf and issuing certificate; the server's also its root, so that a joining client can compare it with its pin. */
  readonly certificateChainPem: string;
  readonly key: KeyObject;
  readonly keyPem: string;
  /** What clients are verified against. */
  readonly caPem: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

function pem(certificateDer: Buffer): string {
  const lines = certificateDer.toString("base64").match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}

/** Issues a server identity with a new key. */
export function createServerIdentity(
  ca: CertificateAuthority,
  nowMs: number,
  ttlMs = DEFAULT_TTL_MS,
): ServerIdentity {
  const spiffeId = controlPlaneId(ca.trustDomain);
  const made = createKeyedIdentity(ca, { spiffeId, instance: "", ttlMs, nowMs });
  return { ...made, certificateChainPem: made.certificateChainPem + ca.serverRoot.toString() };
}

/** Issues a certificate together with its key; chain without the root. */
function createKeyedIdentity(
  ca: CertificateAuthority,
  input: {
    readonly spiffeId: SpiffeId;
    readonly instance: string;
    readonly ttlMs: number;
    readonly nowMs: number;
  },
): ServerIdentity {
  const { spiffeId, instance } = input;
  const key = generateKey();
  const signer = { issuing: ca.serverIssuing };
  const times = validity(signer, input.nowMs, input.ttlMs);
  const spki = createPublicKey(key).export({ type: "spki", format: "der" });
  const leaf = writeLeaf(signer, { spiffeId, spki, instance, ...times });
  return {
    spiffeId,
    certificateChainPem: pem(leaf) + ca.serverIssuing.certificatePem,
    key,
    keyPem: key.export({ type: "pkcs8", format: "pem" }).toString(),
    caPem: ca.roots.map((root) => root.toString()).join(""),
    ...times,
  };
}

export interface ServerIdentityDeps {
  readonly ca: CertificateAuthority;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  /** Puts a new identity into the listeners; called first with the initial one. */
  readonly onIdentity: (identity: ServerIdentity) => void;
  readonly ttlMs?: number | undefined;
}

const RETRY = { firstMs: 1_000, maxMs: 60_000 };
// However short a lifetime is configured, renewals never turn into a busy loop.
const SHORTEST_WAIT_MS = 250;

/**
 * Keeps the server identity fresh until `signal` aborts; the old one stays on failure. A change of the authority (roots
 * that clients are verified against, or the certificate that signs) is taken up at once.
 */
export async function runServerIdentity(deps: ServerIdentityDeps, signal: AbortSignal): Promise<void> {
  const { ca, clock, random, log } = deps;
  let changed = new AbortController();
  const unsubscribe = ca.subscribe(() => changed.abort());
  let failures = 0;
  while (!signal.aborted) {
    let waitMs: number;
    changed = new AbortController();
    const wake = AbortSignal.any([signal, changed.signal]);
    try {
      const identity = createServerIdentity(ca, clock.nowMs(), deps.ttlMs);
      deps.onIdentity(identity);
      failures = 0;
      const dueMs = renewAtMs(identity.notBeforeMs, identity.notAfterMs, random());
      waitMs = Math.max(SHORTEST_WAIT_MS, dueMs - clock.nowMs());
    } catch (error) {
      log.error("server certificate not renewed", { error: messageOf(error), failures });
      waitMs = backoffMs(failures++, RETRY, random());
    }
    await clock.sleep(waitMs, wake);
  }
  unsubscribe();
}
