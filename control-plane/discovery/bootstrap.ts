// The bootstrap port: server TLS only, one call, by which a workload without a certificate gets its first identity.
// Whoever reaches the port may call, so requests are small, slowed down, and told nothing that helps in guessing.
import { Server, type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import type { CertificateRequest__Output } from "../../proto/gen/countersign/mesh/v1/CertificateRequest.ts";
import type { Identity } from "../../proto/gen/countersign/mesh/v1/Identity.ts";
import type { JoinRequest__Output } from "../../proto/gen/countersign/mesh/v1/JoinRequest.ts";
import { serviceDefinition } from "../../proto/load.ts";
import { AddressLimiter } from "../../sidecar/core/runtime/address-limiter.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { type MeshError, messageOf, type Result } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { LiveCredentials } from "./credentials.ts";
import { bindServer, closeServer } from "./server.ts";

export interface BootstrapServerOptions {
  readonly host: string;
  readonly port: number;
  readonly credentials: LiveCredentials;
  /** Redeems the token and issues; the error is for the log, its code decides what the caller is told. */
  readonly join: (token: string, request: CertificateRequest__Output) => Promise<Result<Identity, MeshError>>;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface BootstrapServer {
  readonly port: number;
  close(graceMs: number): Promise<void>;
}

type JoinCall = ServerUnaryCall<JoinRequest__Output, Identity>;

/** Joins that may be worked on at once. */
const MAX_CONCURRENT = 32;
const REJECTED =
  "the join token is not valid: unknown, expired or used; make a new one with `countersign join-token create`";

/** Opens the bootstrap port. @throws MeshError `bad_config` when it is taken. */
export async function createBootstrapServer(options: BootstrapServerOptions): Promise<BootstrapServer> {
  const limiter = new AddressLimiter();
  let running = 0;
  const join = async (call: JoinCall, answer: sendUnaryData<Identity>): Promise<void> => {
    const address = call.getPeer().replace(/:\d+$/, "");
    const { joinToken, serviceAccountToken, request } = call.request;
    const fail = (code: status, details: string): void => answer({ code, details });
    if (running >= MAX_CONCURRENT || !limiter.admit(address, options.clock.monotonicMs())) {
      return fail(status.RESOURCE_EXHAUSTED, "too many join requests, wait a second");
    }
    if (serviceAccountToken) return fail(status.UNIMPLEMENTED, "this control plane takes join tokens only");
    if (!joinToken || joinToken.length > 256 || !request)
      return fail(status.INVALID_ARGUMENT, "a join token and a certificate request are needed");
    running += 1;
    try {
      const issued = await options.join(joinToken, request);
      if (issued.ok) {
        options.log.info("workload joined", { spiffeId: issued.value.spiffeId, address });
        answer(null, issued.value);
        return;
      }
      options.log.warn("join rejected", { address, code: issued.error.code, reason: issued.error.message });
      // What is wrong with a request is the caller's own business; what is wrong with a token helps in guessing.
      if (issued.error.code === "csr_rejected") fail(status.INVALID_ARGUMENT, issued.error.message);
      else fail(status.UNAUTHENTICATED, REJECTED);
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
