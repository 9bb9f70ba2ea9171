// The trust bundle document of the own trust domain (SPIFFE Trust Domain and Bundle section 4), pushed to every sidecar.
import { RETIRING_MEMBER } from "../../sidecar/core/identity/trust-bundle.ts";
import type { CertificateAuthority } from "./root.ts";

const REFRESH_HINT_SECONDS = 300;

/** The bundle as JSON text; the same authority gives the same text. */
export function trustBundleJson(
  ca: Pick<CertificateAuthority, "roots" | "retiringRoots" | "witSigners" | "txnSigners" | "sequence">,
): string {
  const retiring = new Set(ca.retiringRoots.map(({ fingerprint256 }) => fingerprint256));
  const roots = ca.roots.map((root) => {
    // P-256 for a root of ours; a mounted one may be RSA.
    const { kty, crv, x, y, n, e } = root.publicKey.export({ format: "jwk" });
    const mark = retiring.has(root.fingerprint256) ? { [RETIRING_MEMBER]: true } : {};
    return { use: "x509-svid", kty, crv, x, y, n, e, x5c: [root.raw.toString("base64")], ...mark };
  });
  const wits = ca.witSigners.map(({ kid, jwk }) => ({ use: "wit-svid", kid, ...jwk }));
  const txns = ca.txnSigners.map(({ kid, jwk }) => ({ use: "txn-token", kid, ...jwk }));
  return JSON.stringify({
    keys: [...roots, ...wits, ...txns],
    spiffe_sequence: ca.sequence,
    spiffe_refresh_hint: REFRESH_HINT_SECONDS,
  });
}
