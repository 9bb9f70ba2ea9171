// Why a call is decided as it is: for every policy and rule, that it matched or the first condition that did not, in
// words. Slow and complete, for people; `decide` itself stays the only source of the answer.
import type { Call, Caller, Hop } from "./call.ts";
import { type CelCompiler, celVariables } from "./condition.ts";
import { type CompiledProgram, type Decision, decide } from "./decide.ts";
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
import type { FromClause, OperationClause, PolicyRule, ProgramPolicy, When } from "./rule.ts";

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
  const policies = program.program.policies.map((each) => explainPolicy(program, each, call, context));
  return { allowed, reason, policy, rule, would, policies };
}

function explainPolicy(
  program: CompiledProgram,
  policy: ProgramPolicy,
  call: Call,
  context: MatchContext,
): PolicyExplanation {
  const { id, action, enforcement, source } = policy;
  const head = { policy: id, action, enforcement, source };
  if (policy.ports !== undefined && !policy.ports.includes(call.port)) {
    const why = `ports: call is to ${call.port}, policy covers ${policy.ports.join(", ")}`;
    return { ...head, rules: policy.rules.map((rule) => ({ rule: rule.name, outcome: "skipped", why })) };
  }
  let stopped = false;
  const rules = policy.rules.map((rule): RuleExplanation => {
    if (stopped)
      return { rule: rule.name, outcome: "skipped", why: "an earlier rule of this policy decided" };
    const explained = explainRule(program, policy, rule, call, context);
    stopped = action === "Allow" && (explained.outcome === "matched" || explained.outcome === "error");
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

function explainRule(
  program: CompiledProgram,
  policy: ProgramPolicy,
  rule: PolicyRule,
  call: Call,
  context: MatchContext,
): RuleExplanation {
  const compiled = compileRule(rule, policy.action, context);
  if (!compiled.ok) return { rule: rule.name, outcome: "error", why: compiled.error };
  const variables = (of: Call, view: View) => celVariables(program.program, of, view);
  let best: Tri = FALSE;
  for (const view of viewsOf(policy, call)) {
    const value = matchRule(compiled.value, call, view, variables);
    if (value > best) best = value;
  }
  if (best !== FALSE && isExempt(compiled.value, call))
    return { rule: rule.name, outcome: "exempt", why: "unless: an exception applies to this call" };
  if (best === TRUE) return { rule: rule.name, outcome: "matched", why: undefined };
  const why = firstFailure(rule, policy, call, context, program) ?? "its conditions do not hold together";
  return { rule: rule.name, outcome: best === ERROR ? "error" : "failed", why };
}

function firstFailure(
  rule: PolicyRule,
  policy: ProgramPolicy,
  call: Call,
  context: MatchContext,
  program: CompiledProgram,
): string | undefined {
  const holds = (part: Partial<PolicyRule>): Tri => {
    const compiled = compileRule({ name: rule.name, ...part }, policy.action, context);
    if (!compiled.ok) return ERROR;
    let best: Tri = FALSE;
    for (const view of viewsOf(policy, call)) {
      const value = matchRule(compiled.value, call, view, (of, at) => celVariables(program.program, of, at));
      if (value > best) best = value;
    }
    return best;
  };
  if (rule.from !== undefined && holds({ from: rule.from }) !== TRUE) {
    return closest(
      rule.from.map((clause, i) => fromFailure(clause, `from[${i}]`, call, policy.action === "Allow")),
    );
  }
  if (rule.operations !== undefined && holds({ operations: rule.operations }) !== TRUE) {
    return closest(rule.operations.map((clause, i) => operationFailure(clause, `operations[${i}]`, call)));
  }
  if (rule.when !== undefined) {
    for (const [key, value] of Object.entries(rule.when)) {
      const part: When = { [key]: value };
      const result = value === undefined ? TRUE : holds({ when: part });
      if (result !== TRUE) return whenFailure(key, value, call, result === ERROR);
    }
  }
  return undefined;
}

/** Of several alternatives the one that got furthest says most; failures carry how far that is. */
interface Failure {
  readonly passed: number;
  readonly text: string;
}

const closest = (failures: readonly (Failure | undefined)[]): string | undefined => {
  let best: Failure | undefined;
  for (const failure of failures)
    if (failure !== undefined && (best === undefined || failure.passed > best.passed)) best = failure;
  return best?.text;
};

const quoted = (values: readonly (string | number)[]): string =>
  values.map((value) => `\`${value}\``).join(", ");
const covers = (patterns: readonly string[], value: string): boolean =>
  patterns.some((pattern) =>
    pattern.endsWith("*") ? value.startsWith(pattern.slice(0, -1)) : value === pattern,
  );

type Test = readonly [field: string, wanted: readonly string[] | undefined, ok: boolean, have: string];

function firstOf(tests: readonly Test[], path: string, who: string, start: number): Failure | undefined {
  let passed = start;
  for (const [field, wanted, ok, have] of tests) {
    if (wanted === undefined) continue;
    if (!ok) return { passed, text: `${path}.${field}: ${who} ${have}, rule wants ${quoted(wanted)}` };
    passed += 1;
  }
  return undefined;
}

const placeTests = (
  match: Pick<NonNullable<FromClause["workload"]>, "kinds" | "names" | "namespaces" | "serviceAccounts">,
  place: Caller | Hop,
): Test[] => {
  const scoped = `${place.namespace}/${place.serviceAccount}`;
  const accounts = match.serviceAccounts;
  return [
    [
      "kinds",
      match.kinds,
      match.kinds?.some((kind) => kind === place.kind) === true,
      `is a \`${place.kind}\``,
    ],
    ["names", match.names, covers(match.names ?? [], place.name), `is named \`${place.name}\``],
    [
      "namespaces",
      match.namespaces,
      covers(match.namespaces ?? [], place.namespace),
      `is in \`${place.namespace}\``,
    ],
    [
      "serviceAccounts",
      accounts,
      accounts?.includes(place.serviceAccount) === true || accounts?.includes(scoped) === true,
      `runs as \`${scoped}\``,
    ],
  ];
};

function fromFailure(clause: FromClause, path: string, call: Call, strict: boolean): Failure | undefined {
  const { caller } = call;
  const { workload } = clause;
  if (!caller.authenticated) return { passed: 0, text: `${path}: caller has no mesh identity` };
  if (!caller.local && strict && workload?.trustDomains === undefined && workload?.spiffeIds === undefined) {
    return {
      passed: 0,
      text: `${path}: caller is of the trust domain \`${caller.trustDomain}\`, which the rule does not name`,
    };
  }
  const failure =
    workload &&
    firstOf(
      [
        ...placeTests(workload, caller),
        [
          "trustDomains",
          workload.trustDomains,
          workload.trustDomains?.includes(caller.trustDomain) === true,
          `is of \`${caller.trustDomain}\``,
        ],
        [
          "spiffeIDs",
          workload.spiffeIds,
          workload.spiffeIds?.includes(caller.spiffeId) === true,
          `is \`${caller.spiffeId}\``,
        ],
      ],
      `${path}.workload`,
      "caller",
      1,
    );
  return failure ?? userFailure(clause, `${path}.user`, call) ?? viaFailure(clause, `${path}.via`, call);
}

function userFailure(clause: FromClause, path: string, call: Call): Failure | undefined {
  const match = clause.user;
  const { user } = call;
  if (match === undefined) return undefined;
  if (match.presence === "Forbidden" && user !== undefined)
    return { passed: 7, text: `${path}.presence: call is on behalf of a user, rule forbids one` };
  const wantsUser =
    match.presence === "Required" ||
    match.ids !== undefined ||
    match.roles !== undefined ||
    match.idps !== undefined ||
    match.types !== undefined;
  if (user === undefined)
    return wantsUser ? { passed: 7, text: `${path}: call has no user, rule needs one` } : undefined;
  const { roles } = match;
  return firstOf(
    [
      ["ids", match.ids, match.ids?.includes(user.id) === true, `is \`${user.id}\``],
      [
        "roles",
        roles,
        roles?.some((role) => user.roles.includes(role)) === true,
        user.roles.length === 0 ? "has no roles" : `has ${quoted(user.roles)}`,
      ],
      ["idps", match.idps, match.idps?.includes(user.idp) === true, `came through \`${user.idp}\``],
      ["types", match.types, match.types?.includes(user.type) === true, `is a \`${user.type}\``],
    ],
    path,
    "user",
    8,
  );
}

function viaFailure(clause: FromClause, path: string, call: Call): Failure | undefined {
  const { via } = clause;
  if (via === undefined) return undefined;
  const hops = call.via.length + 1;
  if (via.maxHops !== undefined && hops > via.maxHops)
    return { passed: 12, text: `${path}.maxHops: call has ${hops} hops, rule permits ${via.maxHops}` };
  if (via.origin !== undefined) {
    const failure = firstOf(
      placeTests(via.origin, call.via[0] ?? call.caller),
      `${path}.origin`,
      "origin",
      13,
    );
    if (failure !== undefined) return failure;
  }
  return via.through === undefined
    ? { passed: 14, text: `${path}.origin: origin is of another trust domain` }
    : { passed: 14, text: `${path}.through: no earlier hop matches` };
}

function operationFailure(clause: OperationClause, path: string, call: Call): Failure | undefined {
  const { operation, resource, request } = call;
  if (operation.kind === "undetermined")
    return { passed: 9, text: `${path}: the operation could not be determined` };
  const name = operation.kind === "known" ? `\`${operation.name}\`` : "no known operation";
  if (clause.op !== undefined) {
    const covered =
      operation.kind === "known" &&
      (operation.name === clause.op || operation.name.startsWith(`${clause.op}.`));
    if (!covered) return { passed: 0, text: `${path}.op: call is ${name}, rule wants \`${clause.op}\`` };
  }
  if (
    clause.access !== undefined &&
    !(operation.kind === "known" && clause.access.includes(operation.access))
  ) {
    return {
      passed: 1,
      text: `${path}.access: call is ${operation.kind === "known" ? `\`${operation.access}\`` : name}, rule wants ${quoted(clause.access)}`,
    };
  }
  if (clause.http?.methods?.includes(request.method) === false) {
    return {
      passed: 2,
      text: `${path}.http.methods: call is \`${request.method}\`, rule wants ${quoted(clause.http.methods)}`,
    };
  }
  if (clause.resources !== undefined) {
    if (resource.kind === "unknown")
      return { passed: 4, text: `${path}.resources: the resource could not be determined` };
    if (resource.kind === "none")
      return {
        passed: 3,
        text: `${path}.resources: the operation has no resource, rule wants ${quoted(clause.resources)}`,
      };
    if (!covers(clause.resources, resource.value))
      return {
        passed: 4,
        text: `${path}.resources: call is to \`${resource.value}\`, rule wants ${quoted(clause.resources)}`,
      };
  }
  if (clause.http?.paths !== undefined)
    return { passed: 3, text: `${path}.http.paths: path is not among ${quoted(clause.http.paths)}` };
  if (clause.grpc !== undefined)
    return { passed: 3, text: `${path}.grpc: call is not to that gRPC service and method` };
  return clause.mcp === undefined
    ? undefined
    : { passed: 3, text: `${path}.mcp: call is not that MCP method and name` };
}

function whenFailure(key: string, wanted: unknown, call: Call, error: boolean): string {
  const at = new Date(call.nowMs).toISOString();
  switch (key) {
    case "notBeforeMs":
      return `when.notBefore: it is ${at}, too early`;
    case "notAfterMs":
      return `when.notAfter: it is ${at}, too late`;
    case "schedule":
      return `when.schedule: closed at ${at}`;
    case "environments":
      return error
        ? "when.environments: the caller's environment is not set"
        : `when.environments: caller is in \`${call.caller.env ?? ""}\`, rule wants ${quoted(Array.isArray(wanted) ? wanted : [])}`;
    case "sourceCidrs":
      return error
        ? "when.sourceCIDRs: the source address is not known"
        : `when.sourceCIDRs: source is \`${call.sourceIp ?? ""}\``;
    case "authn":
      return call.user === undefined
        ? "when.authn: call has no user"
        : "when.authn: the user's sign-in is too old or too weak";
    default:
      return error ? "when.cel: the condition could not be evaluated" : "when.cel: the condition is false";
  }
}
