// When a certificate is due for renewal; shared by sidecars and the control plane's own identity.

/**
 * The moment to renew: after half of the lifetime, give or take a tenth of the lifetime, so that workloads that started
 * together do not renew together.
 *
 * @param random in [0, 1).
 * @returns Unix milliseconds.
 */
export function renewAtMs(notBeforeMs: number, notAfterMs: number, random: number): number {
  return notBeforeMs + (notAfterMs - notBeforeMs) * (0.4 + 0.2 * random);
}
