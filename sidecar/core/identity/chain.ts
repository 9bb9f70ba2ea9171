// The call chain: step V8 (depth and loops), caveats that only narrow, and step V6 (the operation in the proof).
import type { Result } from "../runtime/errors.ts";
import type { Caveat, HopClaim, ViaHop } from "./claims.ts";

/** How often one workload may appear in a chain, the caller included. */
const MAX_APPEARANCES = 2;

/**
 * Step V8: `n` counts the hops and is at most `maxHops` (the caller counts), and no SPIFFE ID appears more than twice.
 *
 * @param via earlier hops, oldest first, without the caller.
 * @param maxHops limit of the mesh or of the target.
 */
export function checkChain(
  via: readonly ViaHop[],
  callerId: string,
  n: number,
  maxHops: number,
): Result<undefined, "CHAIN_TOO_DEEP" | "CHAIN_LOOP"> {
  // Without earlier hops (nearly every call) there is nothing to count.
  if (via.length === 0 && n === 1 && maxHops >= 1) return { ok: true, value: undefined };
  if (n !== via.length + 1 || !(n <= maxHops)) return { ok: false, error: "CHAIN_TOO_DEEP" };
  const counts = new Map<string, number>([[callerId, 1]]);
  for (const hop of via) {
    const count = (counts.get(hop.s) ?? 0) + 1;
    if (count > MAX_APPEARANCES) return { ok: false, error: "CHAIN_LOOP" };
    counts.set(hop.s, count);
  }
  return { ok: true, value: undefined };
}

/** The entries of a scope string; the empty scope has none and permits nothing. */
export function scopeEntries(scope: string): readonly string[] {
  return scope.split(" ").filter((entry) => entry !== "");
}

/** True when `inner` is `outer` or lies below it at a dot. */
function isBelow(inner: string, outer: string): boolean {
  return inner === outer || (inner.startsWith(outer) && inner.charCodeAt(outer.length) === 46);
}

/** What two scopes both permit: of each pair the narrower entry. */
export function intersectScopes(a: readonly string[], b: readonly string[]): readonly string[] {
  const both = new Set<string>();
  for (const one of a) {
    for (const other of b) {
      if (isBelow(one, other)) both.add(one);
      else if (isBelow(other, one)) both.add(other);
    }
  }
  return [...both];
}

/**
 * The caveat to put into a proof, from the one received and one of our own: never wider than either.
 *
 * @returns undefined when neither restricts anything.
 */
export function narrowCaveat(received: Caveat | undefined, own: Caveat | undefined): Caveat | undefined {
  if (received === undefined || own === undefined) return received ?? own;
  const scope =
    received.scope === undefined || own.scope === undefined
      ? (received.scope ?? own.scope)
      : intersectScopes(scopeEntries(received.scope), scopeEntries(own.scope)).join(" ");
  const exp = Math.min(received.exp ?? Number.POSITIVE_INFINITY, own.exp ?? Number.POSITIVE_INFINITY);
  return { ...(scope === undefined ? {} : { scope }), ...(Number.isFinite(exp) ? { exp } : {}) };
}

/**
 * Step V6: the operation that the caller named against the one that this proxy computed.
 *
 * @returns `skew` when the caller knew another pack list: count it and let the own computation decide.
 */
export function checkOperation(
  hop: Pick<HopClaim, "op" | "packs">,
  ownOperation: string,
  ownPacksDigest: string,
): "match" | "skew" | "AUTHN_PROOF_MISMATCH" {
  if (hop.packs !== ownPacksDigest) return "skew";
  return hop.op === ownOperation ? "match" : "AUTHN_PROOF_MISMATCH";
}
