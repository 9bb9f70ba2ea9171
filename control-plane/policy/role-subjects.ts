// Who holds which roles, and by which binding: the one place that answers it, for tokens and for people who ask. PURE.
import { createClaimCompiler } from "../../sidecar/core/policy/cel.ts";
import type { CelCompiler } from "../../sidecar/core/policy/condition.ts";
import { bindingLabel, doubtLabel } from "../../sidecar/core/policy/role-label.ts";
import type { ClusterState, MeshRoleBinding } from "../sources/store.ts";

/** Somebody or something that may hold roles, as it was verified. */
export interface RoleHolder {
  /** Name of the IdentityProvider; undefined: a workload without user. */
  readonly idp?: string | undefined;
  /** `idp|user`. */
  readonly userId?: string | undefined;
  readonly type?: "person" | "servicePrincipal" | undefined;
  /** As the provider gave them; `unknown`: it gave none although there are some (overage), or could not be asked. */
  readonly groups: readonly string[] | "unknown";
  /** Of the ID or access token. */
  readonly claims: Readonly<Record<string, unknown>>;
  /** Of a workload: `namespace/name`. */
  readonly serviceAccount?: string | undefined;
}

/** One way from a holder to a role. */
export interface RolePath {
  readonly role: string;
  /** Name of the MeshRoleBinding. */
  readonly binding: string;
  /** What the binding names: for people. */
  readonly through: string;
  /** Where rules that the role itself has hold; undefined: everywhere. */
  readonly namespaces: readonly string[] | undefined;
}

export interface HeldRoles {
  /**
   * Names of roles, the labels (`@binding`) of the bindings whose roles have rules of their own, and labels (`?role`) of
   * unknown roles that some Deny names; sorted.
   */
  readonly roles: readonly string[];
  readonly paths: readonly RolePath[];
  /** Roles that may be held besides, because the groups are not known; sorted. */
  readonly unknown: readonly string[];
}

export type RoleBook = Pick<ClusterState, "bindings" | "roles" | "identityProviders" | "policies">;

type Subject = MeshRoleBinding["subjects"][number];

interface Entry {
  readonly binding: MeshRoleBinding;
  readonly through: string;
}

/** Bindings by what they name, so that asking costs what somebody holds, not how many bindings there are. */
interface Index {
  readonly book: RoleBook;
  readonly exact: ReadonlyMap<string, readonly Entry[]>;
  /** By provider. */
  readonly claims: ReadonlyMap<string, readonly (Entry & { readonly claim: string })[]>;
  readonly groups: ReadonlyMap<string, readonly Entry[]>;
}

export interface RoleFinder {
  /** Every role that the holder has in a state, and why. */
  rolesOf(holder: RoleHolder, book: RoleBook): HeldRoles;
}

/** One that keeps what it made of the last state, and compiled expressions. */
export function createRoleFinder(): RoleFinder {
  const cel = createClaimCompiler();
  let index: Index | undefined;
  let denied: { readonly policies: RoleBook["policies"]; readonly roles: ReadonlySet<string> } | undefined;
  return {
    rolesOf(holder, book) {
      if (index === undefined || !sameBook(index.book, book)) index = indexOf(book);
      const found = held(holder, index, cel);
      if (found.unknown.length === 0) return found;
      if (denied?.policies !== book.policies)
        denied = { policies: book.policies, roles: deniedRoles(book.policies) };
      const { roles } = denied;
      const doubts = found.unknown.filter((role) => roles.has(role)).map(doubtLabel);
      return { ...found, roles: [...found.roles, ...doubts].sort() };
    },
  };
}

const sameBook = (a: RoleBook, b: RoleBook): boolean =>
  a.bindings === b.bindings && a.roles === b.roles && a.identityProviders === b.identityProviders;

/** Roles that some Deny names. */
function deniedRoles(policies: RoleBook["policies"]): ReadonlySet<string> {
  const out = new Set<string>();
  for (const { action, rules } of policies.values())
    if (action === "Deny")
      for (const { from = [] } of rules)
        for (const { user } of from) for (const role of user?.roles ?? []) out.add(role);
  return out;
}

const keyOf = (...parts: readonly string[]): string => parts.join("\0");

function push<V>(map: Map<string, V[]>, key: string, value: V): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}

function indexOf(book: RoleBook): Index {
  const exact = new Map<string, Entry[]>();
  const claims = new Map<string, (Entry & { claim: string })[]>();
  const groups = new Map<string, Entry[]>();
  for (const binding of book.bindings.values())
    for (const subject of binding.subjects) {
      const entry = { binding, through: subjectText(subject) };
      const { idp = "", group, groupId, claim } = subject;
      const named = group ?? groupId;
      if (claim !== undefined) push(claims, idp, { ...entry, claim });
      else if (named !== undefined) {
        push(exact, keyOf("group", idp, named), entry);
        push(groups, idp, entry);
      } else for (const key of keysOf(subject, book)) push(exact, key, entry);
    }
  return { book, exact, claims, groups };
}

function keysOf({ idp, user, servicePrincipal, serviceAccount }: Subject, book: RoleBook): readonly string[] {
  if (serviceAccount !== undefined) return [keyOf("account", serviceAccount)];
  if (user !== undefined) return [keyOf("user", idp === undefined ? user : ofProvider(idp, user))];
  if (servicePrincipal === undefined) return [];
  const provider = providerOfPrincipal(idp, servicePrincipal, book);
  return provider === undefined ? [] : [keyOf("principal", provider)];
}

const ofProvider = (idp: string, name: string): string =>
  name.startsWith(`${idp}|`) ? name : `${idp}|${name}`;

/**
 * `idp|principal` of a subject. Without a provider the name counts where there is one provider alone: a name that several
 * can give out belongs to nobody.
 */
function providerOfPrincipal(
  idp: string | undefined,
  principal: string,
  { identityProviders }: RoleBook,
): string | undefined {
  if (idp !== undefined) return ofProvider(idp, principal);
  const [only, ...others] = identityProviders.keys();
  const [before = ""] = principal.split("|", 1);
  if (principal.includes("|") && identityProviders.has(before)) return principal;
  return only === undefined || others.length > 0 ? undefined : `${only}|${principal}`;
}

function subjectText({
  idp,
  group,
  groupId,
  claim,
  user,
  servicePrincipal,
  serviceAccount,
}: Subject): string {
  if (group !== undefined) return `group \`${group}\` of ${idp}`;
  if (groupId !== undefined) return `group \`${groupId}\` of ${idp}`;
  if (claim !== undefined) return `claim \`${claim}\` of ${idp}`;
  if (user !== undefined) return `user \`${user}\``;
  if (servicePrincipal !== undefined) return `service principal \`${servicePrincipal}\``;
  return `service account \`${serviceAccount ?? ""}\``;
}

function held(holder: RoleHolder, index: Index, cel: CelCompiler): HeldRoles {
  const { book, exact } = index;
  const { idp, userId, type, groups, serviceAccount } = holder;
  const found: Entry[] = [];
  const take = (key: string): void => {
    found.push(...(exact.get(key) ?? []));
  };
  if (userId !== undefined) take(keyOf(type === "servicePrincipal" ? "principal" : "user", userId));
  // A principal may be bound as a user, too; a person is never a principal.
  if (userId !== undefined && type === "servicePrincipal") take(keyOf("user", userId));
  if (serviceAccount !== undefined) take(keyOf("account", serviceAccount));
  if (idp !== undefined) {
    if (groups !== "unknown") for (const group of new Set(groups)) take(keyOf("group", idp, group));
    for (const entry of index.claims.get(idp) ?? [])
      if (holds(entry.claim, holder.claims, cel)) found.push(entry);
  }
  const paths = found.flatMap(({ binding, through }) =>
    binding.roles.map((role) => ({
      role,
      binding: binding.name,
      through,
      namespaces: binding.namespaces,
    })),
  );
  const roles = new Set(paths.map(({ role }) => role));
  for (const { role, binding } of paths)
    if ((book.roles.get(role)?.rules.length ?? 0) > 0) roles.add(bindingLabel(binding));
  const maybe = idp === undefined || groups !== "unknown" ? [] : (index.groups.get(idp) ?? []);
  const unknown = new Set(maybe.flatMap(({ binding }) => binding.roles));
  return {
    roles: [...roles].sort(),
    paths: paths.sort((a, b) => compare(a.role, b.role) || compare(a.binding, b.binding)),
    unknown: [...unknown].filter((role) => !roles.has(role)).sort(),
  };
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** A claim that is missing or of another type gives nobody a role. */
function holds(source: string, claims: RoleHolder["claims"], cel: CelCompiler): boolean {
  const compiled = cel.compile(source);
  if (!compiled.ok) return false;
  try {
    return compiled.value({ claims }) === true;
  } catch {
    return false;
  }
}
