// PURE. Certificates (PEM) of authorities that a company trusts for hosts outside the mesh.
import { X509Certificate } from "node:crypto";
import { messageOf, type Result } from "../runtime/errors.ts";

/** Of the whole text, and of the certificates in it. */
export const MAX_AUTHORITIES_CHARS = 65_536;
const MAX_AUTHORITIES = 64;
const BEGIN = "-----BEGIN ";
const LABEL = "CERTIFICATE-----";
const END = "-----END CERTIFICATE-----";

/**
 * Reads authorities one by one. Text between certificates is passed over, as in bundles that name what follows.
 *
 * @returns one PEM for each, without repetition, or what is wrong, in words for whoever wrote the text.
 */
export function parseAuthorities(pem: string): Result<readonly string[], string> {
  if (pem.length > MAX_AUTHORITIES_CHARS)
    return { ok: false, error: `is longer than ${MAX_AUTHORITIES_CHARS} characters` };
  const found = new Map<string, string>();
  let number = 0;
  for (let at = pem.indexOf(BEGIN); at >= 0; at = pem.indexOf(BEGIN, at)) {
    if (!pem.startsWith(LABEL, at + BEGIN.length))
      return { ok: false, error: "holds something else than certificates: a private key has no place here" };
    const end = pem.indexOf(END, at);
    if (end < 0) return { ok: false, error: "ends in the middle of a certificate" };
    if (++number > MAX_AUTHORITIES)
      return { ok: false, error: `holds more than ${MAX_AUTHORITIES} certificates` };
    const one = readAuthority(pem.slice(at, end + END.length));
    if (!one.ok) return { ok: false, error: `certificate ${number} ${one.error}` };
    found.set(one.value.fingerprint256, one.value.toString());
    at = end + END.length;
  }
  return found.size === 0
    ? { ok: false, error: "holds no certificate (PEM, `-----BEGIN CERTIFICATE-----`)" }
    : { ok: true, value: [...found.values()] };
}

/** An authority, or a certificate that vouches for itself alone. */
function readAuthority(pem: string): Result<X509Certificate, string> {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(pem);
  } catch (error) {
    return { ok: false, error: `cannot be read: ${messageOf(error).split("\n")[0] ?? ""}` };
  }
  if (certificate.ca || certificate.issuer === certificate.subject) return { ok: true, value: certificate };
  const subject = certificate.subject.replaceAll("\n", ", ").slice(0, 128);
  return { ok: false, error: `(\`${subject}\`) is no authority's: give the one that issued it` };
}
