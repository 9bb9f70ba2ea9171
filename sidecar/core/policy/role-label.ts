// What a token says of roles beside their names, which begin with a letter or digit. `@binding`: through which MeshRoleBinding
// its user holds a role; what a role itself allows is limited to the namespaces of the binding, which the name alone cannot
// tell. `?role`: whether the user holds it is not known, so a Deny on it holds. PURE.
import { hash } from "node:crypto";

const MARK = "@";
const DOUBT = "?";
const LONGEST = 100;

/** @param binding name of the MeshRoleBinding. */
export function bindingLabel(binding: string): string {
  return MARK + (binding.length <= LONGEST ? binding : hash("sha256", binding, "hex"));
}

export function isBindingLabel(role: string): boolean {
  return role.startsWith(MARK);
}

/** Of a role that somebody may hold, for all that is known. */
export function doubtLabel(role: string): string {
  return DOUBT + role;
}

/** For people: the roles that a Deny was written with. */
export function withoutDoubts(roles: readonly string[]): readonly string[] {
  return roles.filter((role) => !role.startsWith(DOUBT));
}

const isLabel = (role: string): boolean => role.startsWith(MARK) || role.startsWith(DOUBT);

/** The roles that have a name: what applications and limits are told of. */
export function namedRoles(roles: readonly string[]): readonly string[] {
  return roles.some(isLabel) ? roles.filter((role) => !isLabel(role)) : roles;
}
