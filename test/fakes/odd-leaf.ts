// Leaves that no authority of ours would issue (several URIs, CA=true, expired …), signed by the real issuing key.
import { createPublicKey, generateKeyPairSync, type KeyObject, sign, X509Certificate } from "node:crypto";
import { ECDSA_SHA256, extension, randomSerial } from "../../control-plane/ca/certificates.ts";
import type { CertificateAuthority } from "../../control-plane/ca/root.ts";
import {
  DerTag,
  der,
  derBitString,
  derOid,
  derTime,
  derUnsigned,
  Oid,
} from "../../sidecar/core/identity/der.ts";

export interface OddLeaf {
  readonly uris?: readonly string[];
  readonly ca?: boolean;
  /** Content of the key usage BIT STRING, hex; undefined: digitalSignature; "none": no such extension. */
  readonly keyUsage?: string;
  readonly extendedKeyUsage?: readonly string[];
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** Further extensions, whole. */
  readonly more?: readonly Buffer[];
}

export function createOddLeaf(
  ca: CertificateAuthority,
  odd: OddLeaf,
): { leaf: Buffer; chainPem: string; key: KeyObject } {
  const { privateKey: key } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const uris = (odd.uris ?? []).map((uri) => der(DerTag.uri, Buffer.from(uri, "latin1")));
  const uses = (odd.extendedKeyUsage ?? [Oid.serverAuth, Oid.clientAuth]).map((oid) => derOid(oid));
  const extensions = [
    extension(
      Oid.subjectAltName,
      false,
      der(DerTag.sequence, ...uris, ...(uris.length === 0 ? [der(0x82, Buffer.from("a.example"))] : [])),
    ),
    extension(
      Oid.basicConstraints,
      true,
      der(DerTag.sequence, ...(odd.ca === true ? [der(DerTag.boolean, Buffer.of(0xff))] : [])),
    ),
    ...(odd.keyUsage === "none"
      ? []
      : [extension(Oid.keyUsage, true, der(DerTag.bitString, Buffer.from(odd.keyUsage ?? "0780", "hex")))]),
    ...(uses.length === 0 ? [] : [extension(Oid.extendedKeyUsage, false, der(DerTag.sequence, ...uses))]),
    ...(odd.more ?? []),
  ];
  const tbs = der(
    DerTag.sequence,
    Buffer.from("a003020102", "hex"),
    derUnsigned(randomSerial()),
    ECDSA_SHA256,
    ca.issuing.nameDer,
    der(DerTag.sequence, derTime(odd.notBeforeMs), derTime(odd.notAfterMs)),
    der(
      DerTag.sequence,
      der(
        DerTag.set,
        der(
          DerTag.sequence,
          derOid(Oid.subjectSerialNumber),
          der(DerTag.printableString, Buffer.from("odd")),
        ),
      ),
    ),
    createPublicKey(key).export({ type: "spki", format: "der" }),
    der(DerTag.context3, der(DerTag.sequence, ...extensions)),
  );
  const leaf = der(DerTag.sequence, tbs, ECDSA_SHA256, derBitString(sign("sha256", tbs, ca.issuing.key)));
  return { leaf, chainPem: `${new X509Certificate(leaf).toString()}${ca.issuing.certificatePem}`, key };
}
