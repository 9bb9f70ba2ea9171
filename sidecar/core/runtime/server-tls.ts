// What a port with mutual TLS is opened with: the same rules for every port of the control plane.
import { constants } from "node:crypto";
import type { SecureContextOptions } from "node:tls";

export interface ServerMaterial {
  /** Leaf first; ends with the root on the bootstrap port, so that a join token's pin can be checked. */
  readonly certificateChainPem: string;
  readonly keyPem: string;
  /** Roots that client certificates must lead to. */
  readonly rootsPem: string;
}

/** TLS 1.3 alone, and each connection checked anew. */
export function serverContextOptions(material: ServerMaterial): SecureContextOptions {
  return {
    key: material.keyPem,
    cert: material.certificateChainPem,
    ca: material.rootsPem,
    minVersion: "TLSv1.3",
    // No resumption: a resumed connection skips the check against the CA (a removed root's client would come back in).
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}
