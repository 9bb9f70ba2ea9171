// Policies that nobody wrote as such: role-carried rules and approved grants become ordinary sources of a program; PURE.
import { bindingLabel } from "../../sidecar/core/policy/role-label.ts";
import type { FromClause, PolicyRule, ProgramPolicy } from "../../sidecar/core/policy/rule.ts";
import type { AccessGrant, ClusterState, MeshRole } from "../sources/store.ts";
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
 * What a grant in force or approved for later makes; nothing for one that is waiting, over or taken back. The times are in
 * the rule, so a sidecar without a control plane ends it on time. Granted roles bring the rules that they have themselves:
 * where the grant holds it gives a label of its own, which those rules ask for.
 */
export function sourcesOfGrant(grant: AccessGrant, roles: ClusterState["roles"]): readonly PolicySource[] {
  if (grant.phase !== "Approved" && grant.phase !== "Active") return [];
  if (grant.activeFromMs === undefined || grant.activeUntilMs === undefined) return [];
  const from = fromOfSubject(grant.subject);
  if (from === undefined || (grant.operations === undefined && grant.roles === undefined)) return [];
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
  const carrying = (grant.roles ?? []).flatMap((name) => roles.get(name) ?? []).filter(carriesRules);
  const key = `grant/${grant.namespace}/${grant.name}`;
  const label = bindingLabel(key);
  const holder: FromClause = { user: { presence: "Required", roles: [label] } };
  return [
    {
      key,
      id: grant.name,
      source: "grant",
      policy,
      roles: carrying.length === 0 ? grant.roles : [...(grant.roles ?? []), label],
    },
    ...carrying.flatMap((role) => sourcesOfRole(role, key, holder, [grant.namespace])),
  ];
}

const carriesRules = ({ rules }: MeshRole): boolean => rules.length > 0;

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
 * The Allow policies that roles carry, for each binding in its own namespaces: people and service principals are known by
 * the label of the binding, ServiceAccounts by name.
 */
export function sourcesOfRoles(state: Pick<ClusterState, "roles" | "bindings">): PolicySource[] {
  const out: PolicySource[] = [];
  for (const binding of state.bindings.values())
    for (const name of binding.roles) {
      const role = state.roles.get(name);
      if (role === undefined || !carriesRules(role)) continue;
      const accounts = binding.subjects.flatMap(({ serviceAccount }) => serviceAccount ?? []);
      const from: FromClause[] = [];
      if (accounts.length < binding.subjects.length)
        from.push({ user: { presence: "Required", roles: [bindingLabel(binding.name)] } });
      if (accounts.length > 0) from.push({ workload: { serviceAccounts: accounts } });
      for (const clause of from)
        out.push(
          ...sourcesOfRole(
            role,
            `${binding.name}/${clause.user === undefined ? "workloads" : "people"}`,
            clause,
            binding.namespaces,
          ),
        );
    }
  return out;
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
