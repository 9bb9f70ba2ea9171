// V9 of DOMAIN 2.5: is an operation within a transaction's scope?
import type { Operation } from "./call.ts";

/** Whether `name` is `pattern` or lies below it at a dot. */
export function coversOperation(pattern: string, name: string): boolean {
  if (!name.startsWith(pattern)) return false;
  return name.length === pattern.length || name.charCodeAt(pattern.length) === 46;
}

/**
 * @param scope operation patterns: the Txn-Token's scope intersected with all caveats; undefined: unlimited.
 * @returns false also for an operation that is unknown or undetermined while a scope is set (fails closed).
 */
export function withinScope(operation: Operation, scope: readonly string[] | undefined): boolean {
  if (scope === undefined) return true;
  if (operation.kind !== "known") return false;
  for (const pattern of scope) if (coversOperation(pattern, operation.name)) return true;
  return false;
}

/**
 * The operations that both scopes cover: how a caveat narrows a scope. The narrower pattern of each overlapping pair
 * is kept, so the result never covers more than either.
 */
export function intersectScopes(
  a: readonly string[] | undefined,
  b: readonly string[] | undefined,
): readonly string[] | undefined {
  if (a === undefined) return b;
  if (b === undefined) return a;
  const out = new Set<string>();
  for (const x of a) {
    for (const y of b) {
      if (coversOperation(x, y)) out.add(y);
      else if (coversOperation(y, x)) out.add(x);
    }
  }
  return [...out];
}
