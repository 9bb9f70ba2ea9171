// The connection between two replicas: TLS 1.3 with the control plane's own certificate at both ends, and lines of text.
import { constants } from "node:crypto";
import type { SecureContextOptions, TLSSocket } from "node:tls";
import { controlPlaneSpiffeId } from "../../proto/protocol.ts";
import { parseSvid } from "../../sidecar/core/identity/svid.ts";
import { MAX_REPORT_LINE } from "./replica-report.ts";

/** As of `discovery/credentials.ts`. */
export interface ReplicaMaterial {
  readonly certificateChainPem: string;
  readonly keyPem: string;
  /** Roots of the mesh. */
  readonly rootsPem: string;
}

/** A line says at least that its sender lives. */
export const HEARTBEAT_MS = 5_000;
/** A connection on which nothing came for so long is dead. */
export const IDLE_MS = 15_000;

export function contextOf({ certificateChainPem, keyPem, rootsPem }: ReplicaMaterial): SecureContextOptions {
  return {
    ...{ cert: certificateChainPem, key: keyPem, ca: rootsPem, minVersion: "TLSv1.3" },
    // No resumption: a resumed connection skips the check against the CA.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

/** Whether a certificate, verified against the roots, is the control plane's. */
export function isControlPlane(certificate: Buffer | undefined, trustDomain: string): boolean {
  const svid = certificate && parseSvid(certificate);
  return svid?.ok === true && svid.value.spiffeId === controlPlaneSpiffeId(trustDomain);
}

/** Hands over each line; what is too long, or refused by `onLine`, ends the connection. */
export function readLines(socket: TLSSocket, onLine: (line: string) => boolean): void {
  let rest = "";
  socket.setEncoding("utf8");
  socket.on("data", (chunk: string) => {
    const parts = (rest + chunk).split("\n");
    rest = parts.pop() ?? "";
    for (const line of parts) {
      if (line.length <= MAX_REPORT_LINE && onLine(line)) continue;
      socket.destroy();
      return;
    }
    if (rest.length > MAX_REPORT_LINE) socket.destroy();
  });
}
