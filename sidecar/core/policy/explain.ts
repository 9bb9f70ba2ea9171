// Why a call is decided as it is: for every policy and rule, that it matched or the first condition that did not, in
// words. Slow and complete, for people; `decide` itself stays the only source of the answer.
import type { Call } from "./call.ts";
import { type CelCompiler, celVariables } from "./condition.ts";
import { type CompiledProgram, type Decision, decide } from "./decide.ts";
import { firstFailure } from "./first-failure.ts";
import {
  compileRule,
  ERROR,
  FALSE,
  isExempt,
  type MatchContext,
  matchRule,
  TRUE,
  type Tri,
  type View,
} from "./match.ts";
import type { PolicyRule, ProgramPolicy } from "./rule.ts";

export interface RuleExplanation {
  readonly rule: string;
  /** `matched`, `failed`, `error` (could not be told: Deny holds, Allow stops), `exempt` (Deny with `unless`), `skipped`. */
  readonly outcome: "matched" | "failed" | "error" | "exempt" | "skipped";
  /** For all but `matched`: the first condition that decided so, with its path in the rule. */
  readonly why: string | undefined;
}

export interface PolicyExplanation {
  readonly policy: string;
  readonly action: ProgramPolicy["action"];
  readonly enforcement: ProgramPolicy["enforcement"];
  readonly source: ProgramPolicy["source"];
  readonly rules: readonly RuleExplanation[];
}

export interface Explanation {
  readonly allowed: boolean;
  readonly reason: Decision["reason"];
  readonly policy: string | undefined;
  readonly rule: string | undefined;
  readonly would: Decision["would"];
  readonly policies: readonly PolicyExplanation[];
}

/**
 * Explains one decision.
 *
 * @param deps the CEL compiler, when the program has CEL conditions.
 */
export function explain(
  program: CompiledProgram,
  call: Call,
  deps: { readonly cel?: CelCompiler | undefined } = {},
): Explanation {
  const { allowed, reason, policy, rule, would } = decide(program, call);
  const context: MatchContext = { zones: new Map(), trustDomain: program.program.trustDomain, cel: deps.cel };
  const asked: Asked = { program, call, context };
  const effective: Asked = { ...asked, call: withGrantedRoles(asked) };
  const policies = program.program.policies.map((each) =>
    explainPolicy(each, each.roles === undefined ? effective : asked),
  );
  return { allowed, reason, policy, rule, would, policies };
}

interface Asked {
  readonly program: CompiledProgram;
  readonly call: Call;
  readonly context: MatchContext;
}

/** The call as rules see it: with the roles that grants of roles add. */
function withGrantedRoles(asked: Asked): Call {
  const { program, call } = asked;
  if (call.user === undefined) return call;
  const roles = new Set(call.user.roles);
  for (const policy of program.program.policies) {
    if (policy.roles === undefined) continue;
    if (!explainPolicy(policy, asked).rules.some((rule) => rule.outcome === "matched")) continue;
    for (const role of policy.roles) roles.add(role);
  }
  return { ...call, user: { ...call.user, roles: [...roles] } };
}

function explainPolicy(policy: ProgramPolicy, asked: Asked): PolicyExplanation {
  const { id, action, enforcement, source } = policy;
  const head = { policy: id, action, enforcement, source };
  const { port } = asked.call;
  if (policy.ports !== undefined && !policy.ports.includes(port)) {
    const why = `ports: call is to ${port}, policy covers ${policy.ports.join(", ")}`;
    return { ...head, rules: policy.rules.map((rule) => ({ rule: rule.name, outcome: "skipped", why })) };
  }
  let stopped = false;
  const rules = policy.rules.map((rule): RuleExplanation => {
    if (stopped)
      return { rule: rule.name, outcome: "skipped", why: "an earlier rule of this policy decided" };
    const explained = explainRule(policy, rule, asked);
    if (explained.outcome === "matched") stopped = action !== "Deny";
    if (explained.outcome === "error") stopped = action === "Allow";
    return explained;
  });
  return { ...head, rules };
}

function viewsOf(policy: ProgramPolicy, call: Call): View[] {
  const exact: View = {
    operation: call.operation,
    resource: call.resource,
    path: call.request.path,
    folded: false,
  };
  return policy.action === "Deny"
    ? [exact, ...call.folded.map((view) => ({ ...view, folded: true }))]
    : [exact];
}

function explainRule(policy: ProgramPolicy, rule: PolicyRule, asked: Asked): RuleExplanation {
  const { program, call, context } = asked;
  const compiled = compileRule(rule, policy.action, context);
  if (!compiled.ok) return { rule: rule.name, outcome: "error", why: compiled.error };
  const variables = (of: Call, at: View) => celVariables(program.program, of, at);
  const evaluate = (part: PolicyRule, view: View): Tri => {
    const one = compileRule(part, policy.action, context);
    return one.ok ? matchRule(one.value, call, view, variables) : ERROR;
  };
  let best: { view: View; value: Tri } | undefined;
  for (const view of viewsOf(policy, call)) {
    const value = matchRule(compiled.value, call, view, variables);
    if (best === undefined || value > best.value) best = { view, value };
  }
  if (best === undefined) return { rule: rule.name, outcome: "failed", why: undefined };
  const { view, value } = best;
  if (value !== FALSE && isExempt(compiled.value, call))
    return { rule: rule.name, outcome: "exempt", why: "unless: an exception applies to this call" };
  if (value === TRUE) return { rule: rule.name, outcome: "matched", why: undefined };
  const holds = (part: Partial<PolicyRule>): Tri => evaluate({ name: rule.name, ...part }, view);
  const why = firstFailure({ rule, strict: policy.action === "Allow", call, view, value, holds });
  return { rule: rule.name, outcome: value === ERROR ? "error" : "failed", why };
}
