// A server certificate of a gateway as a company's authority would make it, in the files of a mounted Secret.
import { createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import "reflect-metadata";
import * as x509 from "@peculiar/x509";
import { plainAuthority } from "./plain-authority.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const DAY_MS = 86_400_000;

export interface EdgeMaterial {
  /** PEM of the leaf. */
  readonly cert: string;
  /** PEM, PKCS#8. */
  readonly key: string;
  /** PEM of the root that clients trust. */
  readonly ca: string;
}

/**
 * @param names host names, or addresses.
 * @param days of validity from now.
 */
export async function edgeCertificate(
  names: readonly string[],
  nowMs: number,
  days = 30,
): Promise<EdgeMaterial> {
  // A name of its own: where two are trusted, a client picks the issuer by it.
  const root = await plainAuthority(`edge test root ${randomBytes(4).toString("hex")}`, undefined, nowMs);
  const key = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const publicKey = createPublicKey(key).toCryptoKey(ALGORITHM, true, ["verify"]);
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: `41${randomBytes(8).toString("hex")}`,
    subject: `CN=${names[0] ?? ""}`,
    issuer: root.certificate.subject,
    notBefore: new Date(nowMs - DAY_MS),
    notAfter: new Date(nowMs + days * DAY_MS),
    signingAlgorithm: ALGORITHM,
    publicKey,
    signingKey: root.key.toCryptoKey(ALGORITHM, true, ["sign"]),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(
        names.map((value) => ({ type: isIP(value) === 0 ? "dns" : "ip", value })),
      ),
    ],
  });
  return {
    cert: made.toString("pem"),
    key: key.export({ type: "pkcs8", format: "pem" }).toString(),
    ca: root.certificate.toString(),
  };
}

/** Writes it as the kubelet mounts a Secret of type `kubernetes.io/tls`. */
export function writeSecret(dir: string, name: string, { cert, key }: EdgeMaterial): void {
  mkdirSync(join(dir, name), { recursive: true });
  writeFileSync(join(dir, name, "tls.crt"), cert);
  writeFileSync(join(dir, name, "tls.key"), key);
}
