// PURE. How much of the calls stays in the caller's own zone.

/** So many times what the own zone's usable endpoints are of all its endpoints may stay: 72 % of them carry everything. */
const OVERPROVISIONING = 1.4;

/**
 * The part of the calls that stays in the own zone while enough of its endpoints are usable; the rest spills over.
 *
 * @returns 0 to 1; 0 when the own zone has no endpoints.
 */
export function localShare(usable: number, endpoints: number): number {
  return endpoints === 0 ? 0 : Math.min(1, (OVERPROVISIONING * usable) / endpoints);
}
