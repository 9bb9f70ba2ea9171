// The first condition of a rule that did not hold for a call, in words. For people; it decides nothing.
import type { Call, Caller, Hop } from "./call.ts";
import { ERROR, type Tri, type View } from "./match.ts";
import { withoutDoubts } from "./role-label.ts";
import type { FromClause, OperationClause, PolicyRule, When } from "./rule.ts";
import { quoted, whenFailure } from "./when-failure.ts";

/** One rule on one view of a call. */
export interface Looked {
  readonly rule: PolicyRule;
  readonly strict: boolean;
  readonly call: Call;
  readonly view: View;
  /** What the whole rule came out as: the condition that decided so has the same value. */
  readonly value: Tri;
  /** Value of a part of the rule on the same call and view. */
  readonly holds: (part: Partial<PolicyRule>) => Tri;
}

/** The first condition that has the value of the rule: false, or an error that nothing false overrules. */
export function firstFailure(looked: Looked): string | undefined {
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
        roles && withoutDoubts(roles),
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
