// The bootstrap port: server TLS only, one call, by which a workload without a certificate gets its first identity.
// Whoever reaches the port may call, so requests are small, slowed down, and told nothing that helps in guessing.
import { Server, type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import type { CertificateRequest__Output } from "../../proto/gen/countersign/mesh/v1/CertificateRequest.ts";
import type { Identity } from "../../proto/gen/countersign/mesh/v1/Identity.ts";
import type { JoinRequest__Output } from "../../proto/gen/countersign/mesh/v1/JoinRequest.ts";
import { serviceDefinition } from "../../proto/load.ts";
import { AddressLimiter } from "../../sidecar/core/runtime/address-limiter.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { type ErrorCode, messageOf, type Result } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { JoinProof, JoinRefusal } from "../attestation/refusal.ts";
import { MAX_SERVICE_ACCOUNT_TOKEN_BYTES } from "../attestation/service-account.ts";
import type { LiveCredentials } from "./credentials.ts";
import { bindServer, closeServer } from "./server.ts";

export interface BootstrapServerOptions {
  readonly host: string;
  readonly port: number;
  readonly credentials: LiveCredentials;
  /** Checks the proof and issues. */
  readonly join: (
    proof: JoinProof,
    request: CertificateRequest__Output,
  ) => Promise<Result<Identity, JoinRefusal>>;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface BootstrapServer {
  readonly port: number;
  close(graceMs: number): Promise<void>;
}

type JoinCall = ServerUnaryCall<JoinRequest__Output, Identity>;

/** Joins that may be worked on at once: some wait for their TokenReview, some 3 s for the watch of pods. */
const MAX_CONCURRENT = 512;
const MAX_JOIN_TOKEN_BYTES = 256;

/** The proof in a request; undefined when there is none, or one that is too long to be looked at. */
function proofOf({ joinToken, serviceAccountToken }: JoinRequest__Output): JoinProof | undefined {
  if (serviceAccountToken)
    return serviceAccountToken.length <= MAX_SERVICE_ACCOUNT_TOKEN_BYTES
      ? { kind: "service-account-token", token: serviceAccountToken }
      : undefined;
  return joinToken && joinToken.length <= MAX_JOIN_TOKEN_BYTES
    ? { kind: "join-token", token: joinToken }
    : undefined;
}

function statusOfCode(code: ErrorCode): status {
  if (code === "csr_rejected") return status.INVALID_ARGUMENT;
  if (code === "join_rejected") return status.UNAUTHENTICATED;
  return code === "unsupported" ? status.UNIMPLEMENTED : status.UNAVAILABLE;
}

/** Opens the bootstrap port. @throws MeshError `bad_config` when it is taken. */
export async function createBootstrapServer(options: BootstrapServerOptions): Promise<BootstrapServer> {
  const limiter = new AddressLimiter();
  let running = 0;
  const join = async (call: JoinCall, answer: sendUnaryData<Identity>): Promise<void> => {
    const address = call.getPeer().replace(/:\d+$/, "");
    const { request } = call.request;
    const fail = (code: status, details: string): void => answer({ code, details });
    if (running >= MAX_CONCURRENT || !limiter.admit(address, options.clock.monotonicMs())) {
      return fail(status.RESOURCE_EXHAUSTED, "too many join requests, wait a second");
    }
    const proof = proofOf(call.request);
    if (!proof || !request)
      return fail(
        status.INVALID_ARGUMENT,
        "a join token or a ServiceAccount token, and a certificate request, are needed",
      );
    running += 1;
    try {
      const issued = await options.join(proof, request);
      if (issued.ok) {
        options.log.info("workload joined", { spiffeId: issued.value.spiffeId, address, proof: proof.kind });
        answer(null, issued.value);
        return;
      }
      const { code, message, told } = issued.error;
      options.log.warn("join rejected", { address, proof: proof.kind, code, reason: message });
      fail(statusOfCode(code), told);
    } catch (error) {
      options.log.error("join failed", { address, error: messageOf(error) });
      fail(status.UNAVAILABLE, "the control plane failed, try again");
    } finally {
      running -= 1;
    }
  };
  const server = new Server({
    "grpc.max_receive_message_length": 65_536,
    "grpc.max_concurrent_streams": 4,
    "grpc.max_connection_idle_ms": 10_000,
  });
  // proto-loader's definition has all that grpc-js asks of one; the two packages name the type separately.
  server.addService(serviceDefinition("countersign.mesh.v1.Bootstrap") as never, {
    Join: (call: JoinCall, answer: sendUnaryData<Identity>) => void join(call, answer),
  });
  const port = await bindServer(server, options.host, options.port, options.credentials);
  return { port, close: (graceMs) => closeServer(server, options.clock, graceMs) };
}
