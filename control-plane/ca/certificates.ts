// Makes the two kinds of CA certificates (rare, so by library): the root and the issuing certificate below it, both
// name-constrained to the trust domain. Loaded only when one has to be made.
import {
  createHash,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  X509Certificate,
} from "node:crypto";
import { DerTag, der, derOid, Oid } from "../../sidecar/core/identity/der.ts";
import { SVID_BACKDATE_MS } from "../../sidecar/core/identity/renewal.ts";

/** A certificate with its private key. */
export interface CertifiedKey {
  readonly certificate: X509Certificate;
  readonly key: KeyObject;
}

/** Longest lifetime of an SVID and its WIT: 7 days. */
export const MAX_IDENTITY_TTL_MS = 7 * 86_400_000;

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

/** 16 random bytes, the first in 0x40 to 0x7f: positive, of one length, and not guessable. */
export function randomSerial(): Buffer {
  const serial = randomBytes(16);
  serial.writeUInt8(0x40 | (serial.readUInt8(0) & 0x3f), 0);
  return serial;
}

export function generateKey(): KeyObject {
  return generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
}

/** A short name for a key, by its public part. */
export function keyName(key: KeyObject): string {
  const digest = createHash("sha256").update(createPublicKey(key).export({ type: "spki", format: "der" }));
  return digest.digest("hex").slice(0, 16);
}

/** Name constraints: permitted subtree, URI host equal to the trust domain (RFC 5280 section 4.2.1.10). */
function nameConstraints(trustDomain: string): Buffer {
  const base = der(DerTag.uri, Buffer.from(trustDomain, "latin1"));
  return der(DerTag.sequence, der(DerTag.context0, der(DerTag.sequence, base)));
}

export interface AuthorityCertificateInput {
  readonly trustDomain: string;
  readonly commonName: string;
  readonly nowMs: number;
  readonly lifetimeMs: number;
  /** undefined: self-signed root. */
  readonly issuer: CertifiedKey | undefined;
}

/** Makes a CA certificate and its key. `notBefore` is 5 minutes back. */
export async function createAuthorityCertificate(input: AuthorityCertificateInput): Promise<CertifiedKey> {
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const { trustDomain, issuer } = input;
  const key = generateKey();
  const publicKey = createPublicKey(key);
  const subjectKey = publicKey.toCryptoKey(ALGORITHM, true, ["verify"]);
  const signer = (issuer?.key ?? key).toCryptoKey(ALGORITHM, true, ["sign"]);
  const issuerKey =
    issuer === undefined ? subjectKey : issuer.certificate.publicKey.toCryptoKey(ALGORITHM, true, ["verify"]);
  const subject = [{ O: ["Countersign"] }, { CN: [input.commonName] }];
  const notBeforeMs = Math.floor(input.nowMs / 1000) * 1000 - SVID_BACKDATE_MS;
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: randomSerial().toString("hex"),
    subject,
    issuer:
      issuer === undefined ? subject : new x509.X509Certificate(issuer.certificate.raw).subjectName.toJSON(),
    notBefore: new Date(notBeforeMs),
    notAfter: new Date(notBeforeMs + input.lifetimeMs),
    signingAlgorithm: ALGORITHM,
    publicKey: subjectKey,
    signingKey: signer,
    extensions: [
      new x509.BasicConstraintsExtension(true, issuer === undefined ? 1 : 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      new x509.SubjectAlternativeNameExtension([{ type: "url", value: `spiffe://${trustDomain}` }]),
      new x509.Extension("2.5.29.30", true, nameConstraints(trustDomain)),
      await x509.SubjectKeyIdentifierExtension.create(subjectKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuerKey),
    ],
  });
  return { certificate: new X509Certificate(Buffer.from(made.rawData)), key };
}

/** An extension as it stands in a certificate. */
export function extension(oid: string, critical: boolean, value: Buffer): Buffer {
  const flag = critical ? [der(DerTag.boolean, Buffer.of(0xff))] : [];
  return der(DerTag.sequence, derOid(oid), ...flag, der(DerTag.octetString, value));
}

/** AlgorithmIdentifier of ecdsa-with-SHA256. */
export const ECDSA_SHA256: Buffer = der(DerTag.sequence, derOid(Oid.ecdsaWithSha256));
