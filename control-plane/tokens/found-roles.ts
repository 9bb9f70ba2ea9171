// The roles of people that were found before: a session is minted from every few minutes and at each new address, and finding
// its roles (a look-up per group, an expression per binding) costs as much as half a signature. PURE.
import { createRoleFinder, type RoleBook } from "../policy/role-subjects.ts";
import { userIdOf } from "./person.ts";
import type { Person } from "./session-handle.ts";

interface Found {
  readonly book: RoleBook;
  readonly roles: readonly string[];
}

export class FoundRoles {
  readonly #finder = createRoleFinder();
  /** By the object: that of an open session stays the same, and a person is never changed in place. */
  readonly #found = new WeakMap<Person, Found>();

  /** The roles of a person by the bindings, roles, providers and policies of a state. */
  of(person: Person, book: RoleBook): readonly string[] {
    const known = this.#found.get(person);
    if (known !== undefined && isSame(known.book, book)) return known.roles;
    const { idp, type, groups, claims } = person;
    const { roles } = this.#finder.rolesOf({ idp, userId: userIdOf(person), type, groups, claims }, book);
    const { bindings, roles: defined, identityProviders, policies } = book;
    // Not the whole state, which would live as long as the person.
    this.#found.set(person, { book: { bindings, roles: defined, identityProviders, policies }, roles });
    return roles;
  }
}

function isSame(a: RoleBook, b: RoleBook): boolean {
  return (
    a.bindings === b.bindings &&
    a.roles === b.roles &&
    a.identityProviders === b.identityProviders &&
    a.policies === b.policies
  );
}
