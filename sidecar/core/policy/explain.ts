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
import type { FromClause, OperationClause, PolicyRule, ProgramPolicy, Schedule, When } from "./rule.ts";

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

/** One rule on one view of a call. */
interface Looked {
  readonly rule: PolicyRule;
  readonly strict: boolean;
  readonly call: Call;
  readonly view: View;
  /** What the whole rule came out as: the condition that decided so has the same value. */
  readonly value: Tri;
  /** Value of a part of the rule on the same call and view. */
  readonly holds: (part: Partial<PolicyRule>) => Tri;
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

/** The first condition that has the value of the rule: false, or an error that nothing false overrules. */
function firstFailure(looked: Looked): string | undefined {
  const { rule, strict, call, value, holds } = looked;
  if (rule.from !== undefined && holds({ from: rule.from }) === value)
    return closest(rule.from.map((clause, i) => fromFailure(clause, `from[${i}]`, call, strict)));
  if (rule.operations !== undefined && holds({ operations: rule.operations }) === value)
    return closest(rule.operations.map((clause, i) => operationFailure(clause, `operations[${i}]`, looked)));
  for (const [key, wanted] of Object.entries(rule.when ?? {})) {
    const part: When = { [key]: wanted };
    if (wanted !== undefined && holds({ when: part }) === value)
      return whenFailure(part, call, value === ERROR);
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

/** The fields of a clause of `operations` in the order they are reported, each as a clause of its own. */
function fieldsOf(clause: OperationClause): [field: string, alone: OperationClause | undefined][] {
  const { op, access, http, grpc, resources, mcp } = clause;
  return [
    ["op", op === undefined ? undefined : { op }],
    ["access", access && { access }],
    ["http.methods", http?.methods && { http: { methods: http.methods } }],
    ["http.paths", http?.paths && { http: { paths: http.paths } }],
    ["grpc", grpc && { grpc }],
    ["resources", resources && { resources }],
    ["mcp", mcp && { mcp }],
  ];
}

function operationFailure(clause: OperationClause, path: string, looked: Looked): Failure | undefined {
  const { value, holds } = looked;
  if (holds({ operations: [clause] }) !== value) return undefined;
  let passed = 0;
  for (const [field, alone] of fieldsOf(clause)) {
    if (alone !== undefined && holds({ operations: [alone] }) === value) {
      const text =
        value === ERROR ? undeterminedText(field, looked.view) : operationText(field, clause, looked);
      return { passed, text: `${path}.${field}: ${text}` };
    }
    passed += 1;
  }
  return undefined;
}

function undeterminedText(field: string, view: View): string {
  if (view.operation.kind === "undetermined") return "the operation could not be determined";
  return field === "resources"
    ? "the resource could not be determined"
    : "the MCP method or name could not be determined";
}

function operationText(field: string, clause: OperationClause, { call, view }: Looked): string {
  const { operation, resource } = view;
  const known = operation.kind === "known" ? operation : undefined;
  switch (field) {
    case "op":
      return `call is ${known === undefined ? "no known operation" : `\`${known.name}\``}, rule wants \`${clause.op ?? ""}\``;
    case "access":
      return `call is ${known === undefined ? "no known operation" : `\`${known.access}\``}, rule wants ${quoted(clause.access ?? [])}`;
    case "http.methods":
      return `call is \`${call.request.method}\`, rule wants ${quoted(clause.http?.methods ?? [])}`;
    case "http.paths":
      return `path is not among ${quoted(clause.http?.paths ?? [])}`;
    case "grpc":
      return "call is not to that gRPC service and method";
    case "resources":
      return resource.kind === "known"
        ? `call is to \`${resource.value}\`, rule wants ${quoted(clause.resources ?? [])}`
        : `the operation has no resource, rule wants ${quoted(clause.resources ?? [])}`;
    default:
      return "call is not that MCP method and name";
  }
}

/** Wall-clock time in a zone, as a schedule is compared with it. */
function localTime(nowMs: number, timeZone: string): string {
  const format = new Intl.DateTimeFormat("en-CA", {
    timeZone,
    hourCycle: "h23",
    weekday: "short",
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
  });
  const parts = new Map(format.formatToParts(nowMs).map(({ type, value }) => [type as string, value]));
  const of = (type: string): string => parts.get(type) ?? "";
  return `${of("weekday").slice(0, 3)} ${of("year")}-${of("month")}-${of("day")} ${of("hour")}:${of("minute")}`;
}

function scheduleFailure({ timeZone, days, from, to }: Schedule, nowMs: number): string {
  const onDays = days === undefined ? "every day" : days.join(", ");
  const open = `${onDays} ${from ?? "00:00"} to ${to ?? "24:00"}`;
  return `when.schedule: closed at ${localTime(nowMs, timeZone)} in \`${timeZone}\`, rule is open ${open}`;
}

/** @param when with the one field that failed. */
function whenFailure(when: When, call: Call, error: boolean): string {
  const at = new Date(call.nowMs).toISOString();
  if (when.notBeforeMs !== undefined) return `when.notBefore: it is ${at}, too early`;
  if (when.notAfterMs !== undefined) return `when.notAfter: it is ${at}, too late`;
  if (when.schedule !== undefined) return scheduleFailure(when.schedule, call.nowMs);
  if (when.environments !== undefined) {
    return error
      ? "when.environments: the caller's environment is not set"
      : `when.environments: caller is in \`${call.caller.env ?? ""}\`, rule wants ${quoted(when.environments)}`;
  }
  if (when.sourceCidrs !== undefined) {
    return error
      ? "when.sourceCIDRs: the source address is not known"
      : `when.sourceCIDRs: source is \`${call.sourceIp ?? ""}\`, rule wants ${quoted(when.sourceCidrs)}`;
  }
  if (when.authn !== undefined) {
    return call.user === undefined
      ? "when.authn: call has no user"
      : "when.authn: the user's sign-in is too old or too weak";
  }
  return error ? "when.cel: the condition could not be evaluated" : "when.cel: the condition is false";
}
