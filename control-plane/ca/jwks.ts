// The trust bundle document of the own trust domain (SPIFFE Trust Domain and Bundle section 4), pushed to every sidecar.
import type { CertificateAuthority } from "./root.ts";

const REFRESH_HINT_SECONDS = 300;

/** The bundle as JSON text; the same authority gives the same text. */
export function trustBundleJson(ca: Pick<CertificateAuthority, "roots" | "witSigners" | "sequence">): string {
  const roots = ca.roots.map((root) => {
    const { kty, crv, x, y } = root.publicKey.export({ format: "jwk" });
    return { use: "x509-svid", kty, crv, x, y, x5c: [root.raw.toString("base64")] };
  });
  const wits = ca.witSigners.map(({ kid, jwk }) => ({ use: "wit-svid", kid, ...jwk }));
  return JSON.stringify({
    keys: [...roots, ...wits],
    spiffe_sequence: ca.sequence,
    spiffe_refresh_hint: REFRESH_HINT_SECONDS,
  });
}
