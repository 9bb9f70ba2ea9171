// Policies that nobody wrote as such: role-carried rules and approved grants become ordinary sources of a program; PURE.
import type { FromClause, PolicyRule, ProgramPolicy } from "../../sidecar/core/policy/rule.ts";
import type { AccessGrant, ClusterState, MeshRole, MeshRoleBinding } from "../sources/store.ts";
import type { AccessPolicy, TargetMatch } from "./access-policy.ts";

/** One policy as the compiler takes it, wherever it came from. */
export interface PolicySource {
  /** Key in `ClusterState.policies`, or `role/…` or `grant/…` for a derived one. */
  readonly key: string;
  /** As reported in decisions. */
  readonly id: string;
  readonly source: ProgramPolicy["source"];
  readonly policy: AccessPolicy;
  /** A grant of roles: held by the matched user, allows nothing by itself. */
  readonly roles: readonly string[] | undefined;
}

export function sourceOfPolicy(key: string, policy: AccessPolicy): PolicySource {
  const id = policy.namespace === undefined ? policy.name : `${policy.namespace}/${policy.name}`;
  return { key, id, source: "policy", policy, roles: undefined };
}

/**
 * A grant in force or approved for later; undefined for one that is waiting, over or taken back: those never allow. The
 * times are in the rule, so a sidecar without a control plane ends it on time.
 */
export function sourceOfGrant(grant: AccessGrant): PolicySource | undefined {
  if (grant.phase !== "Approved" && grant.phase !== "Active") return undefined;
  if (grant.activeFromMs === undefined || grant.activeUntilMs === undefined) return undefined;
  const from = fromOfSubject(grant.subject);
  if (from === undefined || (grant.operations === undefined && grant.roles === undefined)) return undefined;
  const rule: PolicyRule = {
    name: grant.name,
    from: [from],
    operations: grant.roles !== undefined ? [{ any: true }] : grant.operations,
    when: { notBeforeMs: grant.activeFromMs, notAfterMs: grant.activeUntilMs },
  };
  const policy: AccessPolicy = {
    kind: "AccessPolicy",
    name: grant.name,
    namespace: grant.namespace,
    generation: 1,
    action: "Allow",
    enforcement: "Enforce",
    targets: grant.targets,
    rules: [rule],
  };
  return {
    key: `grant/${grant.namespace}/${grant.name}`,
    id: grant.name,
    source: "grant",
    policy,
    roles: grant.roles,
  };
}

/** `subject.workload` is a SPIFFE ID, `namespace/name` or `namespace/kind/name`. */
function fromOfSubject(subject: AccessGrant["subject"]): FromClause | undefined {
  if (subject.user !== undefined && subject.workload !== undefined) return undefined;
  if (subject.user !== undefined) return { user: { presence: "Required", ids: [subject.user] } };
  const workload = subject.workload;
  if (workload === undefined) return undefined;
  if (workload.startsWith("spiffe://")) return { workload: { spiffeIds: [workload] } };
  const parts = workload.split("/");
  const name = parts[parts.length - 1];
  const [namespace] = parts;
  if (parts.length < 2 || parts.length > 3 || !namespace || !name || workload.includes("*")) return undefined;
  if (parts.length === 2) return { workload: { namespaces: [namespace], names: [name] } };
  // The kind is compared as text where it is evaluated: an unknown one matches nothing.
  const kinds = [parts[1]] as NonNullable<FromClause["workload"]>["kinds"];
  return { workload: { namespaces: [namespace], kinds, names: [name] } };
}

/**
 * The Allow policies that roles carry. Holders are users with the role, in the namespaces that *every* binding of the
 * role to people permits (a token names the role, not the binding, so anything wider could leak from one binding to
 * another), and ServiceAccounts bound directly, each in the namespaces of its binding.
 */
export function sourcesOfRoles(state: Pick<ClusterState, "roles" | "bindings">): PolicySource[] {
  const out: PolicySource[] = [];
  for (const role of state.roles.values()) {
    if (role.rules.length === 0) continue;
    const bindings = [...state.bindings.values()].filter((binding) => binding.roles.includes(role.name));
    const forPeople = bindings.filter((binding) =>
      binding.subjects.some((subject) => subject.serviceAccount === undefined),
    );
    if (forPeople.length > 0) {
      const from: FromClause = { user: { presence: "Required", roles: [role.name] } };
      out.push(...sourcesOfRole(role, "people", from, commonNamespaces(forPeople)));
    }
    for (const binding of bindings) {
      const accounts = binding.subjects.flatMap(({ serviceAccount }) => serviceAccount ?? []);
      if (accounts.length === 0) continue;
      out.push(
        ...sourcesOfRole(role, binding.name, { workload: { serviceAccounts: accounts } }, binding.namespaces),
      );
    }
  }
  return out;
}

/** undefined: no binding limits it. */
function commonNamespaces(bindings: readonly MeshRoleBinding[]): readonly string[] | undefined {
  let common: readonly string[] | undefined;
  for (const { namespaces } of bindings) {
    if (namespaces === undefined) continue;
    common = common === undefined ? namespaces : common.filter((name) => namespaces.includes(name));
  }
  return common;
}

/** One policy per role rule, because each rule has targets of its own. */
function sourcesOfRole(
  role: MeshRole,
  holder: string,
  from: FromClause,
  namespaces: readonly string[] | undefined,
): PolicySource[] {
  if (namespaces?.length === 0) return [];
  return role.rules.map((rule, i) => {
    const name = `rule-${i}`;
    const targets = (rule.targets ?? [{}]).flatMap((target) => limited(target, namespaces));
    const policy: AccessPolicy = {
      kind: "ClusterAccessPolicy",
      name: role.name,
      namespace: undefined,
      generation: 1,
      action: "Allow",
      enforcement: "Enforce",
      targets,
      rules: [{ name, from: [from], operations: rule.operations }],
    };
    return {
      key: `role/${role.name}/${holder}/${i}`,
      id: role.name,
      source: "role",
      policy,
      roles: undefined,
    };
  });
}

/** The part of a target inside the binding's namespaces. */
function limited(target: TargetMatch, namespaces: readonly string[] | undefined): TargetMatch[] {
  if (namespaces === undefined) return [target];
  const wanted = target.namespaces;
  if (wanted === undefined) return [{ ...target, namespaces }];
  const both = namespaces.filter((name) =>
    wanted.some((pattern) =>
      pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : name === pattern,
    ),
  );
  return both.length === 0 ? [] : [{ ...target, namespaces: both }];
}
