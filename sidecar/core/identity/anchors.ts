// What the certificate of an open connection rests on, so that it can be asked again when the trust bundle changes:
// TLS looks at the bundle during the handshake only, and connections between sidecars live for days.
import type { X509Certificate } from "node:crypto";

/** Certificates kept for all connections together; a mesh has one or two issuing certificates at a time. */
const MAX_KEPT = 64;
/** Longest chain of issuers that is followed. */
const MAX_DEPTH = 8;

export class Anchors {
  readonly #kept = new Map<string, X509Certificate>();

  /**
   * The last certificate that the peer sent, which only a root of the bundle can have issued: usually the issuing
   * certificate of the mesh, one object for all connections.
   *
   * @param leaf of `getPeerX509Certificate()` on the client's side, the first time it is asked: Node gives its issuers
   *   once, and on the server's side never.
   */
  of(leaf: X509Certificate | undefined): X509Certificate | undefined {
    let top = leaf;
    for (let depth = 0; depth < MAX_DEPTH && top?.issuerCertificate !== undefined; depth++) {
      if (top.issuerCertificate.fingerprint256 === top.fingerprint256) break;
      top = top.issuerCertificate;
    }
    if (top === undefined) return undefined;
    const same = this.#kept.get(top.fingerprint256);
    if (same !== undefined) return same;
    if (this.#kept.size >= MAX_KEPT) this.#kept.clear();
    this.#kept.set(top.fingerprint256, top);
    return top;
  }
}

/**
 * Whether what a connection rests on is (still) issued by one of these roots, or is one of them. The links below it
 * were verified by the handshake and do not change.
 */
export function isAnchored(top: X509Certificate | undefined, roots: readonly X509Certificate[]): boolean {
  if (top === undefined) return false;
  return roots.some(
    (root) =>
      root.fingerprint256 === top.fingerprint256 || (top.checkIssued(root) && top.verify(root.publicKey)),
  );
}
