// One gRPC connection to the control plane. The gRPC library is loaded at first use, off the path to a ready listener.
import type { KeyObject } from "node:crypto";
import { createSecureContext, type PeerCertificate } from "node:tls";
import type { ChannelCredentials, ChannelOptions } from "@grpc/grpc-js";
import type { ControlPlaneMessage__Output } from "../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import type { DiscoveryClient as GrpcDiscovery } from "../../proto/gen/countersign/mesh/v1/Discovery.ts";
import type { SidecarMessage } from "../../proto/gen/countersign/mesh/v1/SidecarMessage.ts";
import { serviceDefinition } from "../../proto/load.ts";
import { CONTROL_PLANE_SERVER_NAME, controlPlaneSpiffeId } from "../../proto/protocol.ts";
import { parseSvid } from "../core/identity/svid.ts";

/** What the mutual TLS connection needs; a `WorkloadIdentity` has all of it. */
export interface ClientCredentials {
  /** Leaf first, then the issuing certificate. */
  readonly certificateChainPem: string;
  readonly tlsKey: KeyObject;
  readonly trustDomain: string;
  readonly bundle: { readonly caPem: string };
}

export interface StreamHandler {
  onMessage(message: ControlPlaneMessage__Output): void;
  /** The stream is over; called at least once, also after `close`. */
  onEnd(reason: string): void;
}

export interface StreamHandle {
  send(message: SidecarMessage): void;
  /** Ends the stream and its connection. */
  close(): Promise<void>;
}

/** Checks that a server certificate is the control plane's of this trust domain; host names do not matter. */
export function checkControlPlane(
  trustDomain: string,
): (host: string, certificate: PeerCertificate) => Error | undefined {
  return (_host, certificate) => {
    const svid = parseSvid(certificate.raw);
    const isControlPlane = svid.ok && svid.value.spiffeId === controlPlaneSpiffeId(trustDomain);
    return isControlPlane ? undefined : new Error("the server's certificate is not the control plane's");
  };
}

/** Whether a failed handshake was about a certificate of a CA that is not trusted here. */
export function isForeignCa(reason: string): boolean {
  return /self-signed certificate|unable to (?:verify|get (?:local )?issuer)|signature failure/i.test(reason);
}

/** Options of every channel to the control plane. */
export const CHANNEL_OPTIONS: ChannelOptions = {
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.ssl_target_name_override": CONTROL_PLANE_SERVER_NAME,
  "grpc.default_authority": CONTROL_PLANE_SERVER_NAME,
  "grpc.enable_retries": 0,
  // The environment's `http_proxy` is for applications, and may be this very sidecar.
  "grpc.enable_http_proxy": 0,
  "grpc.service_config_disable_resolution": 1,
  "grpc.max_receive_message_length": 4 * 1024 * 1024,
};

/** Opens a stream; a name in `address` is looked up each time. Its failure to connect is told through `onEnd`. */
export async function openStream(
  address: string,
  credentials: ClientCredentials,
  handler: StreamHandler,
): Promise<StreamHandle> {
  const grpc = await import("@grpc/grpc-js");
  // The library writes text to standard error; what matters reaches our own log as errors.
  grpc.setLogVerbosity(grpc.logVerbosity.NONE);
  const context = createSecureContext({
    key: credentials.tlsKey.export({ type: "pkcs8", format: "pem" }),
    cert: credentials.certificateChainPem,
    ca: credentials.bundle.caPem,
    minVersion: "TLSv1.3",
  });
  const channel: ChannelCredentials = grpc.credentials.createFromSecureContext(context, {
    checkServerIdentity: checkControlPlane(credentials.trustDomain),
  });
  // proto-loader's definition has all that grpc-js asks of one; the generated type belongs to this service.
  const Discovery = grpc.makeGenericClientConstructor(
    serviceDefinition("countersign.mesh.v1.Discovery") as never,
    "Discovery",
  );
  const client = new Discovery(address, channel, CHANNEL_OPTIONS) as unknown as GrpcDiscovery;
  const call = client.stream();
  let closed = false;
  call.on("data", (message: ControlPlaneMessage__Output) => {
    if (!closed) handler.onMessage(message);
  });
  call.on("error", (error) => handler.onEnd(error.message.slice(0, 300)));
  call.on("end", () => handler.onEnd("closed by the control plane"));
  return {
    send: (message) => {
      if (!closed) call.write(message);
    },
    async close() {
      if (closed) return;
      closed = true;
      call.end();
      call.cancel();
      client.close();
    },
  };
}
