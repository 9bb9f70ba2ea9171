// Certificate authorities as others make them: no path length, no name constraints, no SPIFFE URI.
import { createPublicKey, generateKeyPairSync, randomBytes, X509Certificate } from "node:crypto";
import "reflect-metadata";
import * as x509 from "@peculiar/x509";
import type { CertifiedKey } from "../../control-plane/ca/certificates.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const DAY_MS = 86_400_000;

/** @param issuer undefined: self-signed. Valid from a day ago, for `days`. */
export async function plainAuthority(
  name: string,
  issuer: CertifiedKey | undefined,
  nowMs: number,
  days = 90,
): Promise<CertifiedKey> {
  const key = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const publicKey = createPublicKey(key).toCryptoKey(ALGORITHM, true, ["verify"]);
  const issuerKey = createPublicKey(issuer?.key ?? key).toCryptoKey(ALGORITHM, true, ["verify"]);
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: `41${randomBytes(8).toString("hex")}`,
    subject: `CN=${name}`,
    issuer: issuer === undefined ? `CN=${name}` : issuer.certificate.subject,
    notBefore: new Date(nowMs - DAY_MS),
    notAfter: new Date(nowMs + days * DAY_MS),
    signingAlgorithm: ALGORITHM,
    publicKey,
    signingKey: (issuer?.key ?? key).toCryptoKey(ALGORITHM, true, ["sign"]),
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuerKey),
    ],
  });
  return { certificate: new X509Certificate(Buffer.from(made.rawData)), key };
}
