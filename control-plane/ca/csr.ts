// Strict reader of certificate requests (PKCS#10, RFC 2986): one shape, P-256, self-signed, nothing left over. Only the
// public key is used; subject and attributes are skipped unread.
import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { DerReader, DerTag, isP256Spki, Oid } from "../../sidecar/core/identity/der.ts";
import { MeshError, type Result } from "../../sidecar/core/runtime/errors.ts";

export interface CertificateRequestFacts {
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Buffer;
  readonly publicKey: KeyObject;
}

const MAX_CSR_BYTES = 4096;

function rejected(message: string): MeshError {
  return new MeshError("csr_rejected", message);
}

function read(csrDer: Buffer): CertificateRequestFacts {
  const outer = new DerReader(csrDer);
  const request = outer.enter(DerTag.sequence);
  outer.finish();
  const info = request.element(DerTag.sequence);
  const algorithm = request.enter(DerTag.sequence);
  if (algorithm.content(DerTag.oid).toString("hex") !== Oid.ecdsaWithSha256 || !algorithm.atEnd) {
    throw rejected("the certificate request is not signed with ecdsa-with-SHA256");
  }
  const signature = request.content(DerTag.bitString);
  request.finish();

  const body = new DerReader(info).enter(DerTag.sequence);
  const version = body.content(DerTag.integer);
  if (version.length !== 1 || version[0] !== 0) throw rejected("the certificate request is not version 1");
  body.skip(DerTag.sequence); // subject: whatever it says, it is not used
  const spki = body.element(DerTag.sequence);
  body.skip(DerTag.context0); // attributes, requested extensions among them: not used
  body.finish();
  if (!isP256Spki(spki)) throw rejected("the certificate request's key is not P-256 in its usual encoding");
  if (signature[0] !== 0) throw rejected("the certificate request's signature is malformed");
  let publicKey: KeyObject;
  try {
    publicKey = createPublicKey({ key: spki, format: "der", type: "spki" });
  } catch (cause) {
    throw new MeshError("csr_rejected", "the certificate request's key is not a point on the curve", {
      cause,
    });
  }
  if (!verify("sha256", info, publicKey, signature.subarray(1))) {
    throw rejected("the certificate request's signature does not verify");
  }
  return { spki, publicKey };
}

/** Reads and verifies a request of at most 4 KiB. */
export function parseCsr(csrDer: Buffer): Result<CertificateRequestFacts, MeshError> {
  if (csrDer.length > MAX_CSR_BYTES)
    return { ok: false, error: rejected("the certificate request is larger than 4 KiB") };
  try {
    return { ok: true, value: read(csrDer) };
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    if (error.code === "csr_rejected") return { ok: false, error };
    return {
      ok: false,
      error: new MeshError("csr_rejected", "the certificate request is malformed", { cause: error }),
    };
  }
}
