// When a certificate is due for renewal; shared by sidecars and the control plane's own identity.

/** Certificates begin this long before they are issued, for clocks that are behind. */
export const SVID_BACKDATE_MS = 300_000;

/**
 * The moment to renew: after half of the lifetime as issued, give or take a tenth of it, so that workloads that started
 * together do not renew together.
 *
 * @param random in [0, 1).
 * @returns Unix milliseconds.
 */
export function renewAtMs(notBeforeMs: number, notAfterMs: number, random: number): number {
  const issuedAtMs = Math.min(notBeforeMs + SVID_BACKDATE_MS, notAfterMs);
  return issuedAtMs + (notAfterMs - issuedAtMs) * (0.4 + 0.2 * random);
}
