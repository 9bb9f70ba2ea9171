// What a caller without identity may prove itself with, and why it gets none: one text for the log, which tells the
// operator all, and one for the caller, which must not help in guessing. PURE.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";

export type JoinProof =
  | { readonly kind: "join-token"; readonly token: string }
  | { readonly kind: "service-account-token"; readonly token: string };

/**
 * `message` is for the log; `told` is what the caller reads. Codes: `csr_rejected` (its request), `join_rejected` (its
 * proof), `unsupported` (this kind of proof is not taken here), anything else: try again.
 */
export class JoinRefusal extends MeshError {
  readonly told: string;

  constructor(
    code: "csr_rejected" | "join_rejected" | "unsupported" | "not_ready" | "io_failed" | "timeout",
    message: string,
    told: string = message,
    options?: { readonly cause?: unknown },
  ) {
    super(code, message, options);
    this.told = told;
  }
}
