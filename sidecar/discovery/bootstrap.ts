// How a workload without a certificate gets its first identity: one call to the bootstrap port (server TLS), with a
// join token that also pins the root of the mesh.
import { MeshError } from "../core/runtime/errors.ts";
import type { CertificateRequestInput, IdentityMessage } from "./client.ts";

export interface JoinInput {
  /** `host:port` of the bootstrap port. */
  readonly address: string;
  /** `cs1.<id>.<secret>.<b64url SHA-256 of the root's public key>`. */
  readonly joinToken: string;
  readonly request: CertificateRequestInput;
  readonly timeoutMs: number;
}

/**
 * Redeems a join token.
 *
 * @throws MeshError `join_rejected` (token unknown, used or expired, or the server is not the one the token pins),
 *   `timeout` or `io_failed`.
 */
export async function join(input: JoinInput, signal?: AbortSignal): Promise<IdentityMessage> {
  void input;
  void signal;
  throw new MeshError("unsupported", "bootstrap is not written yet");
}
