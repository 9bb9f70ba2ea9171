// PURE. Which roles, bindings and policies changed, for the audit: somebody may do something else now.
import { isDeepStrictEqual } from "node:util";
import type { ClusterState } from "../sources/store.ts";

type Held = Pick<ClusterState, "roles" | "bindings" | "policies">;

/** One object each. */
export interface ObjectChange {
  readonly action: "roles.change" | "policies.change";
  readonly kind: string;
  /** `namespace/name`, or `name` of a cluster-scoped kind. */
  readonly name: string;
  readonly what: "added" | "changed" | "removed";
  /** As it is now; undefined: removed. */
  readonly value: object | undefined;
}

/** Roles first, policies last. */
export function objectChanges(before: Held, now: Held): readonly ObjectChange[] {
  const ofPolicies = changes(before.policies, now.policies).map(({ key, ...change }) => {
    const slash = key.indexOf("/");
    const [kind, name] = [key.slice(0, slash), key.slice(slash + 1)];
    return { action: "policies.change" as const, kind, name, ...change };
  });
  const ofRoles = (kind: string, found: readonly Change[]): ObjectChange[] =>
    found.map(({ key: name, ...change }) => ({ action: "roles.change", kind, name, ...change }));
  return [
    ...ofRoles("MeshRole", changes(before.roles, now.roles)),
    ...ofRoles("MeshRoleBinding", changes(before.bindings, now.bindings)),
    ...ofPolicies,
  ];
}

interface Change extends Pick<ObjectChange, "what" | "value"> {
  readonly key: string;
}

function changes(before: ReadonlyMap<string, object>, now: ReadonlyMap<string, object>): readonly Change[] {
  if (before === now) return [];
  const found: Change[] = [];
  for (const [key, value] of now) {
    const old = before.get(key);
    if (old === undefined) found.push({ key, what: "added", value });
    else if (old !== value && !isDeepStrictEqual(old, value)) found.push({ key, what: "changed", value });
  }
  for (const key of before.keys()) if (!now.has(key)) found.push({ key, what: "removed", value: undefined });
  return found;
}
