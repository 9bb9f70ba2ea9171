// Every path from a user to what policies let or forbid that user: asked of the compiled programs, which are what sidecars
// decide by. What depends on the call (caller, chain, time, sign-in) is told as a condition, not evaluated. PURE.
import type { User } from "../../sidecar/core/policy/call.ts";
import { matchesUser } from "../../sidecar/core/policy/match.ts";
import { isBindingLabel } from "../../sidecar/core/policy/role-label.ts";
import type {
  FromClause,
  OperationClause,
  PolicyRule,
  ProgramPolicy,
  UserMatch,
} from "../../sidecar/core/policy/rule.ts";
import type { Compiled } from "./compile.ts";

export interface Permission {
  readonly action: ProgramPolicy["action"];
  readonly enforcement: ProgramPolicy["enforcement"];
  /** Where it is written: `policy ml/callers`, `role querier`, `grant inc-42`. */
  readonly policy: string;
  readonly rule: string;
  /** The user by name, a role (as held), a provider or type; `any user` or `everybody` for a rule that names none. */
  readonly because: string;
  /** Keys of workloads and external services, sorted. */
  readonly targets: readonly string[];
  readonly operations: readonly string[];
  /** What the call must have besides: from where, when, how signed in. */
  readonly conditions: readonly string[];
}

/** @returns by action (Deny first), policy and rule; rules that no call of this user can match are left out. */
export function permissionsOf(user: User, compiled: Compiled): readonly Permission[] {
  const found = new Map<string, { permission: Permission; targets: Set<string> }>();
  for (const [target, program] of [...compiled.programs, ...compiled.externals]) {
    const here = withGranted(user, program.policies);
    for (const policy of program.policies)
      for (const rule of policy.rules)
        for (const permission of permissionsIn(policy, rule, here)) {
          const { targets: _, ...rest } = permission;
          const key = JSON.stringify(rest);
          const known = found.get(key);
          if (known === undefined) found.set(key, { permission, targets: new Set([target]) });
          else known.targets.add(target);
        }
  }
  return [...found.values()]
    .map(({ permission, targets }) => ({ ...permission, targets: [...targets].sort() }))
    .sort((a, b) => compare(rank(a), rank(b)));
}

const rank = ({ action, policy, rule, because }: Permission): string =>
  [action === "Deny" ? 0 : action === "Allow" ? 1 : 2, policy, rule, because].join("\0");
const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** The user with the roles of grants on this workload. */
function withGranted(user: User, policies: readonly ProgramPolicy[]): User {
  const granted = policies.flatMap((policy) =>
    policy.roles !== undefined &&
    policy.rules.some(({ from }) =>
      from?.some((clause) => clause.user !== undefined && matchesUser(clause.user, user)),
    )
      ? policy.roles
      : [],
  );
  return granted.length === 0 ? user : { ...user, roles: [...user.roles, ...granted] };
}

function permissionsIn(policy: ProgramPolicy, rule: PolicyRule, user: User): readonly Permission[] {
  const clauses: readonly FromClause[] = rule.from ?? [{}];
  return clauses.flatMap((clause) => {
    const because = reasonOf(clause.user, user);
    if (because === undefined) return [];
    return [
      {
        action: policy.action,
        enforcement: policy.enforcement,
        policy: `${policy.source} ${policy.id}`,
        rule: rule.name,
        because,
        targets: [],
        operations:
          policy.roles === undefined ? operationTexts(rule.operations) : [`roles ${policy.roles.join(", ")}`],
        conditions: conditionsOf(clause, rule, policy.ports),
      },
    ];
  });
}

/** Why a clause means the user; undefined: it does not. */
function reasonOf(match: UserMatch | undefined, user: User): string | undefined {
  if (match === undefined) return "everybody";
  if (!matchesUser(match, user)) return undefined;
  const parts: string[] = [];
  if (match.ids !== undefined) parts.push(`user ${user.id}`);
  const roles = match.roles?.filter((role) => user.roles.includes(role)) ?? [];
  for (const role of roles) parts.push(bindingOfLabel(role) ?? `role ${role}`);
  if (match.idps !== undefined) parts.push(`provider ${user.idp}`);
  if (match.types !== undefined) parts.push(`type ${user.type}`);
  return parts.length > 0 ? parts.join(" and ") : match.presence === "Required" ? "any user" : "everybody";
}

function bindingOfLabel(role: string): string | undefined {
  if (role.startsWith("?")) return `role ${role.slice(1)}, as far as is known`;
  if (!isBindingLabel(role)) return undefined;
  return role.startsWith("@grant/") ? role.slice(1) : `binding ${role.slice(1)}`;
}

function operationTexts(operations: readonly OperationClause[] | undefined): readonly string[] {
  return (operations ?? [{ any: true }]).map((clause) => {
    if (clause.any) return "any operation";
    const { op, access, resources, http, grpc, mcp } = clause;
    return [
      op,
      access?.join("|"),
      http && `${http.methods?.join("|") ?? "any method"} ${http.paths?.join("|") ?? ""}`.trim(),
      grpc && `gRPC ${grpc.service ?? "*"}/${grpc.methods?.join("|") ?? "*"}`,
      mcp && `MCP ${mcp.methods?.join("|") ?? "any method"} ${mcp.names?.join("|") ?? ""}`.trim(),
      resources && `on ${resources.join("|")}`,
    ]
      .filter((part) => part !== undefined)
      .join(" ");
  });
}

const listText = (fields: object): string =>
  Object.entries(fields)
    .filter((entry) => entry[1] !== undefined)
    .map(([name, value]) => `${name} ${Array.isArray(value) ? value.join("|") : String(value)}`)
    .join(", ");

function conditionsOf(
  { workload, via }: FromClause,
  { unless, when }: PolicyRule,
  ports: readonly number[] | undefined,
): readonly string[] {
  const out: string[] = [];
  if (ports !== undefined) out.push(`to port ${ports.join("|")}`);
  if (workload !== undefined) out.push(`from ${listText(workload)}`);
  if (via !== undefined) out.push(`via ${JSON.stringify(via)}`);
  if (unless !== undefined) out.push("unless an exception holds");
  if (when === undefined) return out;
  const { notBeforeMs, notAfterMs, cel, authn, schedule, environments, sourceCidrs } = when;
  if (notBeforeMs !== undefined) out.push(`from ${new Date(notBeforeMs).toISOString()}`);
  if (notAfterMs !== undefined) out.push(`until ${new Date(notAfterMs).toISOString()}`);
  if (schedule !== undefined) out.push(`at times ${JSON.stringify(schedule)}`);
  if (environments !== undefined) out.push(`in ${environments.join("|")}`);
  if (sourceCidrs !== undefined) out.push(`from networks ${sourceCidrs.join("|")}`);
  if (authn !== undefined) {
    const { maxAgeMs, amr, acr } = authn;
    const age = maxAgeMs === undefined ? undefined : `${Math.round(maxAgeMs / 60_000)}m`;
    out.push(`signed in with ${listText({ maxAge: age, amr, acr })}`);
  }
  if (cel !== undefined) out.push(`if ${cel}`);
  return out;
}
