// A second, naive evaluator, written from the specification's text and sharing no code with the engine: no index, no
// compiled form, three-valued logic spelled out. The engine must agree with it on random worlds.
import type { Call, Hop, Operation, Resource } from "../../sidecar/core/policy/call.ts";
import type {
  FromClause,
  HopMatch,
  OperationClause,
  PolicyRule,
  ProgramPolicy,
  When,
  WorkloadProgram,
} from "../../sidecar/core/policy/rule.ts";

type Truth = "true" | "false" | "error";

const all = (values: readonly Truth[]): Truth =>
  values.includes("false") ? "false" : values.includes("error") ? "error" : "true";
const some = (values: readonly Truth[]): Truth =>
  values.includes("true") ? "true" : values.includes("error") ? "error" : "false";
const truth = (value: boolean): Truth => (value ? "true" : "false");

const like = (pattern: string, value: string): boolean =>
  pattern.endsWith("*") ? value.startsWith(pattern.slice(0, -1)) : pattern === value;
const listed = (patterns: readonly string[] | undefined, value: string): boolean =>
  patterns === undefined || patterns.some((pattern) => like(pattern, value));
const oneOf = (values: readonly string[] | undefined, value: string): boolean =>
  values === undefined || values.includes(value);

/** Conditions that random worlds use, with their meaning written out. */
export const REFERENCE_CEL: Readonly<Record<string, (call: Call, operation: Operation) => Truth>> = {
  "user.id == caller.owner": (call) => {
    const owner = call.caller.authenticated ? call.caller.owner : undefined;
    return call.user === undefined || owner === undefined ? "error" : truth(call.user.id === owner);
  },
  "has(user.id) && now - user.authTime > duration('1h')": (call) => {
    if (call.user === undefined) return "false";
    return call.user.authTimeMs === undefined
      ? "error"
      : truth(call.nowMs - call.user.authTimeMs > 3_600_000);
  },
  "caller.kind == 'job' || caller.env == 'prod'": (call) => {
    const { authenticated, kind, env } = call.caller;
    if (!authenticated) return "error";
    return some([truth(kind === "job"), env === undefined ? "error" : truth(env === "prod")]);
  },
  "op == 'serving.invoke'": (_call, operation) =>
    operation.kind === "undetermined"
      ? "error"
      : truth(operation.kind === "known" && operation.name === "serving.invoke"),
  "size(chain) > 1": (call) => truth(call.via.length + (call.caller.authenticated ? 1 : 0) > 1),
};

interface Side {
  readonly program: WorkloadProgram;
  /** Allow rules and exceptions of a Deny: what is foreign must be named. */
  readonly strict: boolean;
}

interface Asked {
  readonly operation: Operation;
  readonly resource: Resource;
  readonly path: string;
  readonly folded: boolean;
}

function placeMatches(
  match: HopMatch,
  place: { kind: string; name: string; namespace: string; serviceAccount: string },
): boolean {
  return (
    oneOf(match.kinds, place.kind) &&
    listed(match.names, place.name) &&
    listed(match.namespaces, place.namespace) &&
    (oneOf(match.serviceAccounts, place.serviceAccount) ||
      oneOf(match.serviceAccounts, `${place.namespace}/${place.serviceAccount}`))
  );
}

function hopMatches(match: HopMatch, hop: Hop, side: Side): boolean {
  const domain = hop.spiffeId.split("/")[2];
  return (!side.strict || domain === side.program.trustDomain) && placeMatches(match, hop);
}

function clauseMatches(clause: FromClause, call: Call, side: Side): boolean {
  const { caller, user, via } = call;
  if (!caller.authenticated) return false;
  const named = clause.workload?.trustDomains !== undefined || clause.workload?.spiffeIds !== undefined;
  if (side.strict && !caller.local && !named) return false;
  if (clause.any) return true;
  const checks: boolean[] = [];
  if (clause.workload) {
    checks.push(
      placeMatches(clause.workload, caller),
      oneOf(clause.workload.trustDomains, caller.trustDomain),
      oneOf(clause.workload.spiffeIds, caller.spiffeId),
    );
  }
  if (clause.user) {
    const { presence, ids, roles, idps, types } = clause.user;
    if (presence === "Required") checks.push(user !== undefined);
    if (presence === "Forbidden") checks.push(user === undefined);
    if (ids) checks.push(user !== undefined && ids.includes(user.id));
    if (roles) checks.push(user?.roles.some((role) => roles.includes(role)) === true);
    if (idps) checks.push(user !== undefined && idps.includes(user.idp));
    if (types) checks.push(user !== undefined && types.includes(user.type));
  }
  if (clause.via) {
    const { origin, through, maxHops } = clause.via;
    if (maxHops !== undefined) checks.push(via.length + 1 <= maxHops);
    if (origin)
      checks.push(via[0] === undefined ? placeMatches(origin, caller) : hopMatches(origin, via[0], side));
    if (through) checks.push(via.some((hop) => hopMatches(through, hop, side)));
  }
  return checks.every(Boolean);
}

const below = (op: string, name: string): boolean => name === op || name.startsWith(`${op}.`);
const pathMatches = (pattern: string, path: string): boolean =>
  pattern.endsWith("/**") ? path.startsWith(pattern.slice(0, -2)) : pattern === path;
const foldedPath = (path: string): string =>
  (path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path).toLowerCase();
const foldedPattern = (pattern: string): string =>
  pattern.endsWith("/**") ? pattern.toLowerCase() : foldedPath(pattern);

function operationMatches(clause: OperationClause, call: Call, asked: Asked, deny: boolean): Truth {
  if (clause.any) return "true";
  const { operation, resource, path } = asked;
  const lost = operation.kind === "undetermined";
  const checks: Truth[] = [];
  if (clause.op !== undefined)
    checks.push(lost ? "error" : truth(operation.kind === "known" && below(clause.op, operation.name)));
  if (clause.access)
    checks.push(
      lost ? "error" : truth(operation.kind === "known" && clause.access.includes(operation.access)),
    );
  if (clause.resources) {
    const { resources } = clause;
    if (lost || resource.kind === "unknown") checks.push("error");
    else if (resource.kind === "none") checks.push("false");
    else {
      const value = resource.value.toLowerCase();
      const alike = deny && resources.some((pattern) => like(pattern.toLowerCase(), value));
      checks.push(truth(alike || listed(resources, resource.value)));
    }
  }
  if (clause.http?.methods) checks.push(truth(clause.http.methods.includes(call.request.method)));
  if (clause.http?.paths) {
    checks.push(
      truth(
        clause.http.paths.some(
          (pattern) => pathMatches(pattern, path) || (deny && pathMatches(foldedPattern(pattern), path)),
        ),
      ),
    );
  }
  if (clause.grpc) {
    const { grpc } = call.request;
    checks.push(
      truth(
        grpc !== undefined &&
          oneOf(clause.grpc.methods, grpc.method) &&
          (clause.grpc.service === undefined || clause.grpc.service === grpc.service),
      ),
    );
  }
  if (clause.mcp) {
    const { mcp } = call.request;
    const { methods, names } = clause.mcp;
    if (lost) checks.push("error");
    else if (mcp === undefined) checks.push("false");
    else if (mcp.method === undefined) checks.push("error");
    else {
      checks.push(truth(oneOf(methods, mcp.method)));
      const named = ["tools/call", "resources/read", "prompts/get"].includes(mcp.method);
      if (names)
        checks.push(mcp.name === undefined ? (named ? "error" : "false") : truth(listed(names, mcp.name)));
    }
  }
  return all(checks);
}

const ipv4 = (text: string): number | undefined =>
  /^\d+\.\d+\.\d+\.\d+$/.test(text)
    ? text.split(".").reduce((sum, part) => sum * 256 + Number(part), 0)
    : undefined;

function whenMatches(when: When, call: Call, asked: Asked): Truth {
  const checks: Truth[] = [];
  const { nowMs, user, caller } = call;
  if (when.notBeforeMs !== undefined) checks.push(truth(nowMs >= when.notBeforeMs));
  if (when.notAfterMs !== undefined) checks.push(truth(nowMs < when.notAfterMs));
  if (when.schedule) {
    const { timeZone, days, from = "00:00", to = "24:00" } = when.schedule;
    const local = (ms: number) =>
      new Date(ms).toLocaleString("en-GB", {
        timeZone,
        weekday: "short",
        hour: "2-digit",
        minute: "2-digit",
        hour12: false,
      });
    const [day = "", clock = ""] = local(nowMs).replace(",", "").split(" ");
    const order = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const yesterday = order[(order.indexOf(day) + 6) % 7] ?? "";
    const on = (name: string): boolean => days === undefined || (days as readonly string[]).includes(name);
    if (to < from) checks.push(truth((on(day) && clock >= from) || (on(yesterday) && clock < to)));
    else checks.push(truth(on(day) && clock >= from && clock < to));
  }
  if (when.environments)
    checks.push(caller.env === undefined ? "error" : truth(when.environments.includes(caller.env)));
  if (when.sourceCidrs) {
    const address = call.sourceIp === undefined ? undefined : ipv4(call.sourceIp);
    const inside = (cidr: string): boolean => {
      const [net = "", bits = ""] = cidr.split("/");
      const size = 2 ** (32 - Number(bits));
      return Math.floor((ipv4(net) ?? 0) / size) === Math.floor((address ?? 0) / size);
    };
    checks.push(address === undefined ? "error" : truth(when.sourceCidrs.some(inside)));
  }
  if (when.authn) {
    const { maxAgeMs, amr, acr } = when.authn;
    checks.push(truth(user !== undefined));
    if (maxAgeMs !== undefined)
      checks.push(truth(user?.authTimeMs !== undefined && nowMs - user.authTimeMs <= maxAgeMs));
    if (amr) checks.push(truth(user?.amr.some((value) => amr.includes(value)) === true));
    if (acr) checks.push(truth(user?.acr !== undefined && acr.includes(user.acr)));
  }
  if (when.cel !== undefined) checks.push(REFERENCE_CEL[when.cel]?.(call, asked.operation) ?? "error");
  return all(checks);
}

function ruleMatches(rule: PolicyRule, call: Call, asked: Asked, side: Side, deny: boolean): Truth {
  return all([
    truth(rule.from === undefined || rule.from.some((clause) => clauseMatches(clause, call, side))),
    rule.operations === undefined
      ? "true"
      : some(rule.operations.map((clause) => operationMatches(clause, call, asked, deny))),
    rule.when === undefined ? "true" : whenMatches(rule.when, call, asked),
  ]);
}

export interface ReferenceDecision {
  readonly allowed: boolean;
  readonly reason: string;
  readonly policy: string | undefined;
  readonly rule: string | undefined;
  /** Winning allow rules that demand something, as `policy/rule`. */
  readonly demanding: readonly string[];
  readonly auditLevel: string | undefined;
  readonly would: boolean | undefined;
}

interface Hit {
  readonly policy: ProgramPolicy;
  readonly rule: PolicyRule;
}

const LEVELS = ["None", "Metadata", "Headers", "Body"];

/** The decision by the text of the specification. */
export function referenceDecide(program: WorkloadProgram, original: Call): ReferenceDecision {
  const none = { policy: undefined, rule: undefined, demanding: [], auditLevel: undefined, would: undefined };
  const chain = [...original.via.map((hop) => hop.spiffeId), original.caller.spiffeId];
  if (chain.length > program.maxHops) return { allowed: false, reason: "CHAIN_TOO_DEEP", ...none };
  if (original.via.some((hop) => chain.filter((id) => id === hop.spiffeId).length > 2))
    return { allowed: false, reason: "CHAIN_LOOP", ...none };
  const { scope, operation } = original;
  if (scope !== undefined && !(operation.kind === "known" && scope.some((op) => below(op, operation.name))))
    return { allowed: false, reason: "SCOPE_EXCEEDED", ...none };

  const here = program.policies.filter(
    (policy) => policy.ports === undefined || policy.ports.includes(original.port),
  );
  const call = withGrantedRoles(program, here, original);
  const exact: Asked = {
    operation: call.operation,
    resource: call.resource,
    path: call.request.path,
    folded: false,
  };
  const views: Asked[] = [exact, ...call.folded.map((view) => ({ ...view, folded: true }))];
  const holds = (policy: ProgramPolicy, rule: PolicyRule): boolean => {
    const matched = some(
      views.map((asked) => ruleMatches(rule, call, asked, { program, strict: false }, true)),
    );
    const exempt =
      rule.unless?.some((clause) => clauseMatches(clause, call, { program, strict: true })) === true;
    return policy.action === "Deny" && matched !== "false" && !exempt;
  };
  const firstDeny = (policies: readonly ProgramPolicy[]): Hit | undefined =>
    policies.flatMap((policy) =>
      policy.rules.filter((rule) => holds(policy, rule)).map((rule) => ({ policy, rule })),
    )[0];
  const winnerOf = (policy: ProgramPolicy): Hit[] => {
    for (const rule of policy.rules) {
      const matched = ruleMatches(rule, call, exact, { program, strict: policy.action === "Allow" }, false);
      if (matched === "true") return [{ policy, rule }];
      if (matched === "error") return [];
    }
    return [];
  };
  const decideWith = (policies: readonly ProgramPolicy[]): ReferenceDecision => {
    const denied = firstDeny(policies);
    if (denied !== undefined)
      return {
        allowed: false,
        reason: "DENIED_BY_POLICY",
        ...none,
        policy: denied.policy.id,
        rule: denied.rule.name,
      };
    const allows = policies.filter((policy) => policy.action === "Allow" && policy.source !== "grant");
    const winners = allows.flatMap(winnerOf);
    const granted = policies
      .filter((policy) => policy.source === "grant" && policy.roles === undefined)
      .flatMap(winnerOf);
    const hit = winners[0] ?? granted[0];
    if (hit !== undefined) {
      const demanding = winners
        .filter(({ rule }) => rule.with !== undefined)
        .map(({ policy, rule }) => `${policy.id}/${rule.name}`);
      return {
        allowed: true,
        reason: winners.length > 0 ? "ALLOWED" : "GRANTED",
        ...none,
        policy: hit.policy.id,
        rule: hit.rule.name,
        demanding,
        auditLevel: highest(winners),
      };
    }
    if (allows.length > 0) return { allowed: false, reason: "NO_MATCHING_ALLOW", ...none };
    return program.defaultAction === "Allow"
      ? { allowed: true, reason: "DEFAULT_ALLOW", ...none }
      : { allowed: false, reason: "DEFAULT_DENY", ...none };
  };
  const enforced = decideWith(here.filter((policy) => policy.enforcement === "Enforce"));
  const tried = decideWith(here);
  // Rules that err are recorded, and those behind them too.
  const auditsOf = (policy: ProgramPolicy): Hit[] => {
    const hits: Hit[] = [];
    for (const rule of policy.rules) {
      const matched = ruleMatches(rule, call, exact, { program, strict: false }, false);
      if (matched !== "false") hits.push({ policy, rule });
      if (matched === "true") break;
    }
    return hits;
  };
  const audits = here
    .filter((policy) => policy.action === "Audit" && policy.enforcement === "Enforce")
    .flatMap(auditsOf);
  const levels = [enforced.auditLevel, highest(audits)].filter((level) => level !== undefined);
  const auditLevel = levels.sort((a, b) => LEVELS.indexOf(b) - LEVELS.indexOf(a))[0];
  return { ...enforced, auditLevel, would: tried.allowed === enforced.allowed ? undefined : tried.allowed };
}

function highest(hits: readonly Hit[]): string | undefined {
  const levels = hits.flatMap(({ rule }) => rule.with?.audit?.level ?? []);
  return levels.sort((a, b) => LEVELS.indexOf(b) - LEVELS.indexOf(a))[0];
}

function withGrantedRoles(program: WorkloadProgram, policies: readonly ProgramPolicy[], call: Call): Call {
  const { user } = call;
  if (user === undefined) return call;
  const asked: Asked = {
    operation: call.operation,
    resource: call.resource,
    path: call.request.path,
    folded: false,
  };
  // As everywhere, the first rule that is not false decides for its policy.
  const holds = (policy: ProgramPolicy): boolean =>
    policy.rules
      .map((rule) => ruleMatches(rule, call, asked, { program, strict: true }, false))
      .find((value) => value !== "false") === "true";
  const roles = policies
    .filter((policy) => policy.roles !== undefined && holds(policy))
    .flatMap((policy) => policy.roles ?? []);
  return roles.length === 0 ? call : { ...call, user: { ...user, roles: [...user.roles, ...roles] } };
}
