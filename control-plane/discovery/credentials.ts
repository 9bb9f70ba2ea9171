// TLS of the control plane's gRPC ports, with a certificate that is exchanged while streams stay open.
import { createSecureContext } from "node:tls";
import { ServerCredentials } from "@grpc/grpc-js";
import { type ServerMaterial, serverContextOptions } from "../../sidecar/core/runtime/server-tls.ts";

/** Server credentials whose certificate can be exchanged; streams survive. */
export class LiveCredentials extends ServerCredentials {
  /** @param mutual true: clients must present a certificate that leads to `rootsPem`. */
  constructor(material: ServerMaterial, mutual: boolean) {
    super(
      { requestCert: mutual, rejectUnauthorized: mutual, ALPNProtocols: ["h2"], handshakeTimeout: 5_000 },
      serverContextOptions(material),
    );
  }

  /** Uses other material from the next connection on. @throws Error when it does not fit together; nothing changes then. */
  rotate(material: ServerMaterial): void {
    // grpc-js does not throw for a bad pair but drops every new connection, hence the check first.
    createSecureContext(serverContextOptions(material));
    this.updateSecureContextOptions(serverContextOptions(material));
  }

  override _equals(other: ServerCredentials): boolean {
    return other === this;
  }
}
