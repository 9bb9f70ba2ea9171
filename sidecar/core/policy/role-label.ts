// The label by which a token says through which MeshRoleBinding its user holds a role. What a role itself allows is limited
// to the namespaces of the binding, which the role's name alone cannot tell. PURE.
import { hash } from "node:crypto";

/** No role that people may write begins so. */
const MARK = "@";
const LONGEST = 100;

/** @param binding name of the MeshRoleBinding. */
export function bindingLabel(binding: string): string {
  return MARK + (binding.length <= LONGEST ? binding : hash("sha256", binding, "hex"));
}

export function isBindingLabel(role: string): boolean {
  return role.startsWith(MARK);
}

/** The roles that have a name: what applications and limits are told of. */
export function namedRoles(roles: readonly string[]): readonly string[] {
  return roles.some(isBindingLabel) ? roles.filter((role) => !isBindingLabel(role)) : roles;
}
