// The certificate under which the API server meets the webhooks: names of our Service, issued by the mesh's own authority,
// and made anew at half of its life and whenever the authority changes.
import { createPublicKey, generateKeyPairSync, randomBytes, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { renewAtMs, SVID_BACKDATE_MS } from "../../sidecar/core/identity/renewal.ts";
import { backoffMs } from "../../sidecar/core/runtime/backoff.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { CertificateAuthority } from "../ca/root.ts";
import type { AdmissionCertificate } from "./server.ts";

export interface WebhookCertificate extends AdmissionCertificate {
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** A root that leaves the trust bundle may still be the one that another replica's certificate rests on for so long at most. */
const TTL_MS = 24 * 3_600_000;
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const RETRY = { firstMs: 1_000, maxMs: 60_000 };
const SHORTEST_WAIT_MS = 250;

/** DNS names of the control plane's Service. */
export function webhookNames(namespace: string): readonly string[] {
  return [`countersign.${namespace}.svc`, `countersign.${namespace}.svc.cluster.local`];
}

/**
 * Issues a server certificate. It has no SPIFFE ID, so it is nobody in the mesh.
 *
 * @param names DNS names (or IP addresses, where the API server calls one), the first also the subject.
 */
export async function createWebhookCertificate(
  ca: Pick<CertificateAuthority, "serverIssuing">,
  names: readonly string[],
  nowMs: number,
): Promise<WebhookCertificate> {
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const { chainDer, key: issuingKey, certificatePem, notAfterMs: issuingEndsMs } = ca.serverIssuing;
  const issuing = new x509.X509Certificate(chainDer[0] ?? Buffer.alloc(0));
  const key = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const publicKey = createPublicKey(key).toCryptoKey(ALGORITHM, true, ["verify"]);
  const notBeforeMs = Math.floor(nowMs / 1000) * 1000 - SVID_BACKDATE_MS;
  const notAfterMs = Math.min(Math.floor((nowMs + TTL_MS) / 1000) * 1000, issuingEndsMs);
  const made = await x509.X509CertificateGenerator.create({
    // Positive, and of one length: it begins with 0x40.
    serialNumber: `40${randomBytes(15).toString("hex")}`,
    subject: [{ O: ["Countersign"] }, { CN: [names[0] ?? ""] }],
    issuer: issuing.subjectName.toJSON(),
    notBefore: new Date(notBeforeMs),
    notAfter: new Date(notAfterMs),
    signingAlgorithm: ALGORITHM,
    publicKey,
    signingKey: issuingKey.toCryptoKey(ALGORITHM, true, ["sign"]),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(
        names.map((value) => ({ type: isIP(value) === 0 ? "dns" : "ip", value })),
      ),
      await x509.AuthorityKeyIdentifierExtension.create(issuing.publicKey),
    ],
  });
  return {
    certificateChainPem: new X509Certificate(Buffer.from(made.rawData)).toString() + certificatePem,
    keyPem: key.export({ type: "pkcs8", format: "pem" }).toString(),
    notBeforeMs,
    notAfterMs,
  };
}

export interface WebhookCertificateDeps {
  readonly ca: CertificateAuthority;
  readonly names: readonly string[];
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  /** Puts it into the server; the one that the server started with is `initial`. */
  readonly onCertificate: (certificate: WebhookCertificate) => void;
  readonly initial: WebhookCertificate;
}

/** Keeps the certificate fresh until `signal` aborts; the old one stays on failure. */
export async function runWebhookCertificate(
  deps: WebhookCertificateDeps,
  signal: AbortSignal,
): Promise<void> {
  const { ca, names, clock, random, log } = deps;
  let changed = new AbortController();
  const unsubscribe = ca.subscribe(() => changed.abort());
  let current = deps.initial;
  let failures = 0;
  let waitMs = renewAtMs(current.notBeforeMs, current.notAfterMs, random()) - clock.nowMs();
  while (!signal.aborted) {
    await clock.sleep(Math.max(SHORTEST_WAIT_MS, waitMs), AbortSignal.any([signal, changed.signal]));
    if (signal.aborted) break;
    changed = new AbortController();
    try {
      current = await createWebhookCertificate(ca, names, clock.nowMs());
      deps.onCertificate(current);
      failures = 0;
      waitMs = renewAtMs(current.notBeforeMs, current.notAfterMs, random()) - clock.nowMs();
    } catch (error) {
      log.error("webhook certificate not renewed", { reason: messageOf(error), failures });
      waitMs = backoffMs(failures++, RETRY, random());
    }
  }
  unsubscribe();
}
