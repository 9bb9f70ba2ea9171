// TLS of the control plane's ports, with a certificate that is exchanged while streams stay open.
import { constants } from "node:crypto";
import { createSecureContext, type SecureContextOptions } from "node:tls";
import { ServerCredentials } from "@grpc/grpc-js";

export interface ServerMaterial {
  /** Leaf first; ends with the root on the bootstrap port, so that a join token's pin can be checked. */
  readonly certificateChainPem: string;
  readonly keyPem: string;
  /** Roots that client certificates must lead to. */
  readonly rootsPem: string;
}

/** Of every port with mutual TLS: 1.3 alone, and each connection checked anew. */
export function contextOptions(material: ServerMaterial): SecureContextOptions {
  return {
    key: material.keyPem,
    cert: material.certificateChainPem,
    ca: material.rootsPem,
    minVersion: "TLSv1.3",
    // No resumption: a resumed connection skips the check against the CA (a removed root's client would come back in).
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

/** Server credentials whose certificate can be exchanged; streams survive. */
export class LiveCredentials extends ServerCredentials {
  /** @param mutual true: clients must present a certificate that leads to `rootsPem`. */
  constructor(material: ServerMaterial, mutual: boolean) {
    super(
      { requestCert: mutual, rejectUnauthorized: mutual, ALPNProtocols: ["h2"], handshakeTimeout: 5_000 },
      contextOptions(material),
    );
  }

  /** Uses other material from the next connection on. @throws Error when it does not fit together; nothing changes then. */
  rotate(material: ServerMaterial): void {
    // grpc-js does not throw for a bad pair but drops every new connection, hence the check first.
    createSecureContext(contextOptions(material));
    this.updateSecureContextOptions(contextOptions(material));
  }

  override _equals(other: ServerCredentials): boolean {
    return other === this;
  }
}
