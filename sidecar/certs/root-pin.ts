// First contact without any certificate: fetch the control plane's root over TLS and compare it with the hash in the
// join token. Nothing is sent; the real connection that follows is verified against that root in the usual way.
import { hash, timingSafeEqual, X509Certificate } from "node:crypto";
import tls from "node:tls";
import { spkiSha256 } from "../core/identity/trust-bundle.ts";
import { MeshError } from "../core/runtime/errors.ts";

export interface RootPinInput {
  readonly host: string;
  readonly port: number;
  /** base64url SHA-256 of the root's public key, from the join token. */
  readonly rootSpkiSha256: string;
  readonly timeoutMs: number;
}

const MAX_CHAIN = 6;

/** Certificates that the server sent, leaf first. */
function sentChain(socket: tls.TLSSocket): readonly Buffer[] {
  const chain: Buffer[] = [];
  let certificate: tls.DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  while (certificate?.raw !== undefined && chain.length < MAX_CHAIN) {
    const { raw, issuerCertificate }: tls.DetailedPeerCertificate = certificate;
    chain.push(raw);
    // A self-signed certificate is its own issuer here.
    certificate = issuerCertificate === certificate ? undefined : issuerCertificate;
  }
  return chain;
}

/** Finds the root with that key in a chain: a self-signed CA certificate. */
export function pinnedRoot(chain: readonly Buffer[], rootSpkiSha256: string): X509Certificate | undefined {
  const expected = hash("sha256", rootSpkiSha256, "buffer");
  for (const bytes of chain) {
    const certificate = new X509Certificate(bytes);
    const isPinned = timingSafeEqual(hash("sha256", spkiSha256(certificate), "buffer"), expected);
    if (isPinned && certificate.ca && certificate.verify(certificate.publicKey)) return certificate;
  }
  return undefined;
}

/**
 * Asks the server for its chain and returns the root that the pin names, PEM. Use it as `ca` of the connection that
 * carries the join token, with `checkExpectedPeer` on the control plane's SPIFFE ID.
 *
 * @throws MeshError `join_rejected` when the chain has no such root (another mesh, or somebody in between), `timeout`,
 *   `io_failed`.
 */
export function fetchPinnedRoot(input: RootPinInput): Promise<string> {
  const { host, port, rootSpkiSha256, timeoutMs } = input;
  return new Promise((resolve, reject) => {
    // Not verified here on purpose: the chain is only looked at, and no byte of ours is sent over this connection.
    const socket = tls.connect({
      host,
      port,
      rejectUnauthorized: false,
      minVersion: "TLSv1.3",
      ALPNProtocols: ["h2"],
    });
    const timer = setTimeout(
      () => finish(new MeshError("timeout", `no answer from \`${host}:${port}\` within ${timeoutMs} ms`)),
      timeoutMs,
    );
    const finish = (error: MeshError | undefined, root = ""): void => {
      clearTimeout(timer);
      socket.destroy();
      if (error === undefined) resolve(root);
      else reject(error);
    };
    socket.on("error", (cause) =>
      finish(new MeshError("io_failed", `cannot reach the control plane at \`${host}:${port}\``, { cause })),
    );
    socket.once("close", () =>
      finish(new MeshError("io_failed", `\`${host}:${port}\` closed the connection`)),
    );
    socket.once("secureConnect", () => {
      let root: X509Certificate | undefined;
      try {
        root = pinnedRoot(sentChain(socket), rootSpkiSha256);
      } catch (cause) {
        finish(
          new MeshError("join_rejected", `\`${host}:${port}\` sent a certificate that cannot be read`, {
            cause,
          }),
        );
        return;
      }
      if (root !== undefined) finish(undefined, root.toString());
      else
        finish(
          new MeshError(
            "join_rejected",
            `the control plane at \`${host}:${port}\` is not the one that made the join token`,
          ),
        );
    });
  });
}
