// The content of certificate requests and of what the certificate authority answers, the same at both ports. PURE.
import type { Identity__Output } from "../../proto/gen/countersign/mesh/v1/Identity.ts";
import type { Result } from "../core/runtime/errors.ts";

/** Content of a certificate request (identity.proto); the private keys stay with the caller. */
export interface CertificateRequestInput {
  /** PKCS#10. */
  readonly csrDer: Buffer;
  /** JSON Web Key, public part. */
  readonly tokenJwk: string;
  /** ES256 (P1363) over SHA-256 of `csrDer` by the token key. */
  readonly tokenKeyProof: Buffer;
}

/** What the certificate authority answered; not verified yet (`createWorkloadIdentity` does that). */
export interface IdentityMessage {
  /** Leaf first. */
  readonly certificateChainDer: readonly Buffer[];
  readonly workloadIdentityToken: string;
  /** JWKS document. */
  readonly trustBundle: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly spiffeId: string;
  readonly serverTimeMs: number;
}

/** @returns the identity, or why it was refused. */
export function decodeIdentity(message: Identity__Output): Result<IdentityMessage, string> {
  if (message.error !== "") return { ok: false, error: message.error.slice(0, 500) };
  if (message.certificateChainDer.length === 0)
    return { ok: false, error: "the control plane sent no certificate" };
  return {
    ok: true,
    value: {
      // Copied: the decoded bytes are views into the received message.
      certificateChainDer: message.certificateChainDer.map((der) => Buffer.from(der)),
      workloadIdentityToken: message.workloadIdentityToken,
      trustBundle: message.trustBundle,
      notBeforeMs: message.notBeforeUnixMs,
      notAfterMs: message.notAfterUnixMs,
      spiffeId: message.spiffeId,
      serverTimeMs: message.serverTimeUnixMs,
    },
  };
}
