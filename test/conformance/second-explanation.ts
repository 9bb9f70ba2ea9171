// Holds the explanation of a call against the second reference: outcome of every rule, and that the condition named as
// the first that failed really has the value that decided.
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import { createProgram } from "../../sidecar/core/policy/decide.ts";
import { explain, type RuleExplanation } from "../../sidecar/core/policy/explain.ts";
import type {
  FromClause,
  OperationClause,
  PolicyRule,
  ProgramPolicy,
  When,
} from "../../sidecar/core/policy/rule.ts";
import { Dice } from "./random-world.ts";
import { type Subject, secondReference, secondRule, secondSubject } from "./second-reference.ts";
import { secondCall, secondCel, secondProgram } from "./second-world.ts";

const cel = createCelCompiler();
const SIDES = { Allow: "allow", Deny: "deny", Audit: "audit" } as const;

/** The condition that an explanation names, as a rule of its own; undefined: not one that stands alone. */
function namedPart(rule: PolicyRule, why: string): PolicyRule | undefined {
  const [, section = "", position = "", rest = ""] =
    /^(from|operations|when)(?:\[(\d+)\])?\.?([\w.]*)/.exec(why) ?? [];
  const head = { name: rule.name };
  if (section === "from") return fromPart(head, rule.from?.[Number(position)], rest);
  if (section === "operations") return operationPart(head, rule.operations?.[Number(position)], rest);
  const key = { notBefore: "notBeforeMs", notAfter: "notAfterMs", sourceCIDRs: "sourceCidrs" }[rest] ?? rest;
  const when: When = Object.fromEntries(Object.entries(rule.when ?? {}).filter(([name]) => name === key));
  return section === "when" && Object.keys(when).length === 1 ? { ...head, when } : undefined;
}

function fromPart(
  head: { name: string },
  clause: FromClause | undefined,
  field: string,
): PolicyRule | undefined {
  if (clause === undefined) return undefined;
  const [of] = field.split(".");
  const named = { trustDomains: clause.workload?.trustDomains, spiffeIds: clause.workload?.spiffeIds };
  if (of === "workload") return { ...head, from: [{ workload: clause.workload }] };
  if (of === "user") return { ...head, from: [{ workload: named, user: clause.user }] };
  return of === "via"
    ? { ...head, from: [{ workload: named, via: clause.via }] }
    : { ...head, from: [clause] };
}

function operationPart(
  head: { name: string },
  clause: OperationClause | undefined,
  field: string,
): PolicyRule | undefined {
  if (clause === undefined) return undefined;
  const { op, access, http, grpc, resources, mcp } = clause;
  const alone: Record<string, OperationClause> = {
    op: { op },
    access: { access },
    "http.methods": { http: { methods: http?.methods } },
    "http.paths": { http: { paths: http?.paths } },
    grpc: { grpc },
    resources: { resources },
    mcp: { mcp },
  };
  const part = alone[field];
  return part && { ...head, operations: [part] };
}

function ruleProblem(
  policy: ProgramPolicy,
  rule: PolicyRule,
  said: RuleExplanation,
  subject: Subject,
): string | undefined {
  if (said.outcome === "skipped") return undefined;
  const { match, unless } = secondRule(rule, SIDES[policy.action], subject);
  const exempt = policy.action === "Deny" && match !== "false" && unless;
  const wanted = exempt ? "exempt" : { true: "matched", false: "failed", error: "error" }[match];
  if (said.outcome !== wanted) return `is ${wanted}, explained as ${said.outcome}`;
  if (said.outcome === "matched" || said.outcome === "exempt") return undefined;
  if (said.why === undefined) return "has no explanation";
  const part = namedPart(rule, said.why);
  if (part === undefined) return `explains itself by \`${said.why}\`, which is no condition of it`;
  // A folded view may have decided, so a condition counts with its value on any view; on the exact one it is at most that.
  const value = secondRule(part, SIDES[policy.action], subject).match;
  const fits = value === match || (policy.action === "Deny" && subject.call.folded.length > 0);
  return fits ? undefined : `is ${match} because of \`${said.why}\`, which is ${value}`;
}

/** @returns the first wrong explanation in words; undefined when all are right. */
export function wrongExplanation(seed: number, count: number): string | undefined {
  const dice = new Dice(seed);
  const source = secondProgram(dice);
  const program = createProgram(source, { cel });
  if (!program.ok) return program.error;
  for (let i = 0; i < count; i++) {
    const call = secondCall(dice);
    const explanation = explain(program.value, call, { cel });
    const wanted = secondReference(source, call, secondCel);
    const where = `seed ${seed}, call ${i}`;
    if (explanation.allowed !== wanted.allowed || explanation.reason !== wanted.reason)
      return `${where}: explained as ${explanation.reason}, decided ${wanted.reason}`;
    const subject = secondSubject(source, call, secondCel);
    const bare = { ...subject, roles: call.user?.roles ?? [] };
    for (const [j, policy] of source.policies.entries()) {
      for (const [k, rule] of policy.rules.entries()) {
        const said = explanation.policies[j]?.rules[k];
        if (said === undefined) return `${where}: policy \`${policy.id}\` is not explained`;
        const problem = ruleProblem(policy, rule, said, policy.roles === undefined ? subject : bare);
        if (problem !== undefined) return `${where}: rule \`${policy.id}/${rule.name}\` ${problem}`;
      }
    }
  }
  return undefined;
}
