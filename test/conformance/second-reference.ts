// A second naive evaluator, written from the text of the policy semantics alone and apart from the engine and from
// reference.ts: no index, no early exit, no shared code. Slow on purpose; where it differs, one of the three is wrong.
import type { Call, Hop, Operation, Resource, User } from "../../sidecar/core/policy/call.ts";
import type { Reason } from "../../sidecar/core/policy/reason.ts";
import type {
  AuditSetting,
  FromClause,
  HopMatch,
  OperationClause,
  PolicyRule,
  ProgramPolicy,
  Schedule,
  UserMatch,
  ViaMatch,
  When,
  WorkloadMatch,
  WorkloadProgram,
} from "../../sidecar/core/policy/rule.ts";

/** Kleene's three values. */
export type Tri = "true" | "false" | "error";

/** How an expression of `when.cel` comes out: the random worlds know their expressions, so no CEL engine is needed. */
export type CelOracle = (source: string, asked: CelQuestion) => Tri;

export interface CelQuestion {
  readonly call: Call;
  readonly view: View;
  /** Of the token and of grants. */
  readonly roles: readonly string[];
  readonly program: WorkloadProgram;
}

export interface SecondVerdict {
  readonly allowed: boolean;
  readonly reason: Reason;
  readonly policy: string | undefined;
  readonly rule: string | undefined;
  /** `policy/rule` of the reported winner and of every other winner that demands something. */
  readonly winners: readonly string[];
  readonly audit: AuditSetting | undefined;
  readonly identityHeaders: readonly string[];
  readonly would:
    | {
        readonly allowed: boolean;
        readonly reason: Reason;
        readonly policy: string | undefined;
        readonly rule: string | undefined;
      }
    | undefined;
}

/** What of a call a rule looks at: Deny rules see the folded views too. */
interface View {
  readonly operation: Operation;
  readonly resource: Resource;
  readonly path: string;
}

type Side = "allow" | "deny" | "audit" | "unless";

export interface Subject {
  readonly call: Call;
  readonly roles: readonly string[];
  readonly program: WorkloadProgram;
  readonly cel: CelOracle;
}

const tri = (value: boolean): Tri => (value ? "true" : "false");

function all(values: readonly Tri[]): Tri {
  if (values.includes("false")) return "false";
  return values.includes("error") ? "error" : "true";
}

function some(values: readonly Tri[]): Tri {
  if (values.includes("true")) return "true";
  return values.includes("error") ? "error" : "false";
}

function glob(pattern: string, text: string): boolean {
  if (!pattern.endsWith("*")) return pattern === text;
  const stem = pattern.slice(0, -1);
  return text.slice(0, stem.length) === stem;
}

const listed = (list: readonly string[] | undefined, text: string): boolean =>
  list === undefined || list.includes(text);
const listedGlob = (list: readonly string[] | undefined, text: string): boolean =>
  list === undefined || list.some((pattern) => glob(pattern, text));

function accountListed(list: readonly string[] | undefined, namespace: string, account: string): boolean {
  return list === undefined || list.some((entry) => entry === account || entry === `${namespace}/${account}`);
}

function workloadMatches(match: WorkloadMatch, call: Call): boolean {
  const { caller } = call;
  return (
    listed(match.kinds, caller.kind) &&
    listedGlob(match.names, caller.name) &&
    listedGlob(match.namespaces, caller.namespace) &&
    accountListed(match.serviceAccounts, caller.namespace, caller.serviceAccount) &&
    listed(match.trustDomains, caller.trustDomain) &&
    listed(match.spiffeIds, caller.spiffeId)
  );
}

function userMatches(match: UserMatch, user: User | undefined, roles: readonly string[]): boolean {
  if (match.presence === "Required" && user === undefined) return false;
  if (match.presence === "Forbidden" && user !== undefined) return false;
  if (match.ids !== undefined && (user === undefined || !match.ids.includes(user.id))) return false;
  if (match.idps !== undefined && (user === undefined || !match.idps.includes(user.idp))) return false;
  if (match.types !== undefined && (user === undefined || !match.types.includes(user.type))) return false;
  if (match.roles !== undefined) {
    const wanted = match.roles;
    if (user === undefined || !roles.some((role) => wanted.includes(role))) return false;
  }
  return true;
}

interface Step {
  readonly kind: string;
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
}

function stepMatches(match: HopMatch, step: Step): boolean {
  return (
    listed(match.kinds, step.kind) &&
    listedGlob(match.names, step.name) &&
    listedGlob(match.namespaces, step.namespace) &&
    accountListed(match.serviceAccounts, step.namespace, step.serviceAccount)
  );
}

/** An earlier hop of another trust domain cannot be named, so it widens nothing: it counts on Deny and Audit only. */
function viaMatches(match: ViaMatch, side: Side, { call, program }: Subject): boolean {
  const hopMatches = (wanted: HopMatch, hop: Hop): boolean => {
    const foreign = /^spiffe:\/\/([^/]*)\//.exec(hop.spiffeId)?.[1] !== program.trustDomain;
    return !(foreign && (side === "allow" || side === "unless")) && stepMatches(wanted, hop);
  };
  const { origin, through } = match;
  const [first] = call.via;
  if (
    origin !== undefined &&
    !(first === undefined ? stepMatches(origin, call.caller) : hopMatches(origin, first))
  )
    return false;
  if (through !== undefined && !call.via.some((hop) => hopMatches(through, hop))) return false;
  return match.maxHops === undefined || call.via.length + 1 <= match.maxHops;
}

/** A stated `from` never matches a plaintext caller; what widens access matches foreigners only when it names them. */
function fromMatches(clauses: readonly FromClause[] | undefined, side: Side, subject: Subject): boolean {
  if (clauses === undefined) return true;
  const { call, roles } = subject;
  if (!call.caller.authenticated) return false;
  return clauses.some((clause) => {
    if ((side === "allow" || side === "unless") && !call.caller.local) {
      const named = clause.workload?.trustDomains !== undefined || clause.workload?.spiffeIds !== undefined;
      if (!named) return false;
    }
    if (clause.workload !== undefined && !workloadMatches(clause.workload, call)) return false;
    if (clause.user !== undefined && !userMatches(clause.user, call.user, roles)) return false;
    return clause.via === undefined || viaMatches(clause.via, side, subject);
  });
}

function operationUnder(pattern: string, name: string): boolean {
  return name === pattern || name.startsWith(`${pattern}.`);
}

function pathMatches(pattern: string, path: string): boolean {
  return pattern.endsWith("/**") ? path.startsWith(pattern.slice(0, -2)) : path === pattern;
}

/** Case folding without context: the sigma at the end of a word is the one in the middle. */
export const secondFold = (text: string): string => text.toUpperCase().toLowerCase().replaceAll("ς", "σ");

/** The folded form of a pattern for a path: case folded and, where it is exact, one trailing slash removed. */
const foldedPattern = (pattern: string): string =>
  secondFold(/[^/]\/$/.test(pattern) ? pattern.slice(0, -1) : pattern);

/** Methods of MCP that name what they are about; without a name the others simply have none. */
const NAMING = ["tools/call", "resources/read", "prompts/get"];

/** `lax`: on Deny, where a pattern also matches in its folded form, so that its spelling opens no door. */
function clauseMatches(clause: OperationClause, call: Call, view: View, lax: boolean): Tri {
  if (clause.any === true) return "true";
  const { operation, resource } = view;
  const parts: Tri[] = [];
  const onName = (test: (name: string) => boolean): Tri => {
    if (operation.kind === "undetermined") return "error";
    return tri(operation.kind === "known" && test(operation.name));
  };
  if (clause.op !== undefined) {
    const wanted = clause.op;
    parts.push(onName((name) => operationUnder(wanted, name)));
  }
  if (clause.access !== undefined) {
    const wanted = clause.access;
    parts.push(onName(() => operation.kind === "known" && wanted.includes(operation.access)));
  }
  if (clause.resources !== undefined) {
    const wanted = clause.resources;
    if (operation.kind === "undetermined" || resource.kind === "unknown") parts.push("error");
    else if (resource.kind === "none") parts.push("false");
    else
      parts.push(
        tri(
          wanted.some(
            (pattern) =>
              glob(pattern, resource.value) || (lax && glob(secondFold(pattern), secondFold(resource.value))),
          ),
        ),
      );
  }
  if (clause.http !== undefined) {
    parts.push(tri(listed(clause.http.methods, call.request.method)));
    const { paths } = clause.http;
    if (paths !== undefined)
      parts.push(
        tri(
          paths.some(
            (pattern) =>
              pathMatches(pattern, view.path) || (lax && pathMatches(foldedPattern(pattern), view.path)),
          ),
        ),
      );
  }
  if (clause.grpc !== undefined) {
    const { grpc } = call.request;
    parts.push(
      tri(
        grpc !== undefined &&
          (clause.grpc.service === undefined || clause.grpc.service === grpc.service) &&
          listed(clause.grpc.methods, grpc.method),
      ),
    );
  }
  if (clause.mcp !== undefined) {
    const { mcp } = call.request;
    if (operation.kind === "undetermined") parts.push("error");
    else if (mcp === undefined) parts.push("false");
    else if (mcp.method === undefined) parts.push("error");
    else {
      parts.push(tri(listed(clause.mcp.methods, mcp.method)));
      if (clause.mcp.names !== undefined && mcp.name === undefined)
        parts.push(NAMING.includes(mcp.method) ? "error" : "false");
      else parts.push(tri(listedGlob(clause.mcp.names, mcp.name ?? "")));
    }
  }
  return all(parts);
}

function operationsMatch(
  clauses: readonly OperationClause[] | undefined,
  side: Side,
  call: Call,
  view: View,
): Tri {
  if (clauses === undefined) return "true";
  return some(clauses.map((clause) => clauseMatches(clause, call, view, side === "deny")));
}

/** A Deny looks at the call as it is and at each folded view, and holds when any of them matches. */
function viewsOf(side: Side, call: Call): readonly View[] {
  const exact: View = { operation: call.operation, resource: call.resource, path: call.request.path };
  return side === "deny" ? [exact, ...call.folded] : [exact];
}

const DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

const minutesOf = (text: string): number => Number(text.slice(0, 2)) * 60 + Number(text.slice(3, 5));

/** Whether `schedule` covers the moment; on wall-clock time of its zone, whatever the clocks did that day. */
export function secondSchedule(schedule: Schedule, nowMs: number): boolean {
  const parts = new Map(
    new Intl.DateTimeFormat("en-US", {
      timeZone: schedule.timeZone,
      weekday: "short",
      hour: "2-digit",
      minute: "2-digit",
      hourCycle: "h23",
    })
      .formatToParts(nowMs)
      .map((part) => [part.type as string, part.value]),
  );
  const today = DAYS.indexOf(parts.get("weekday") ?? "");
  const now = Number(parts.get("hour")) * 60 + Number(parts.get("minute"));
  const covers = (day: number): boolean =>
    schedule.days === undefined || listed(schedule.days, DAYS[(day + 7) % 7] ?? "");
  const from = schedule.from === undefined ? 0 : minutesOf(schedule.from);
  const to = schedule.to === undefined ? 24 * 60 : minutesOf(schedule.to);
  if (to < from) return (now >= from && covers(today)) || (now < to && covers(today - 1));
  return now >= from && now < to && covers(today);
}

/** The 128 bits of an address as text of 0 and 1, with IPv4 under `::ffff:0:0/96`; undefined when it is none. */
function bitsOf(address: string): string | undefined {
  const four = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;
  const groupsOf = (text: string): number[] | undefined => {
    if (text === "") return [];
    const groups: number[] = [];
    for (const part of text.split(":")) {
      const quad = four.exec(part);
      if (quad !== null) {
        const bytes = quad.slice(1).map(Number);
        if (bytes.some((byte) => byte > 255)) return undefined;
        groups.push((bytes[0] ?? 0) * 256 + (bytes[1] ?? 0), (bytes[2] ?? 0) * 256 + (bytes[3] ?? 0));
      } else if (/^[0-9a-fA-F]{1,4}$/.test(part)) groups.push(Number.parseInt(part, 16));
      else return undefined;
    }
    return groups;
  };
  if (four.test(address)) return bitsOf(`::ffff:${address}`);
  const halves = address.split("::");
  if (halves.length > 2) return undefined;
  const left = groupsOf(halves[0] ?? "");
  const right = halves.length === 2 ? groupsOf(halves[1] ?? "") : [];
  if (left === undefined || right === undefined) return undefined;
  const missing = 8 - left.length - right.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return undefined;
  return [...left, ...new Array<number>(missing).fill(0), ...right]
    .map((group) => group.toString(2).padStart(16, "0"))
    .join("");
}

const MAPPED = `${"0".repeat(80)}${"1".repeat(16)}`;

/**
 * Whether an address lies in a CIDR block; "error" when the address cannot be read. An IPv4-mapped address is an IPv4
 * address, and no block of the other family contains it, not even `::/0`.
 */
export function secondCidr(block: string, address: string | undefined): Tri {
  const bits = address === undefined ? undefined : bitsOf(address);
  if (bits === undefined) return "error";
  const [network = "", length = ""] = block.split("/");
  const prefix = Number(length) + (network.includes(":") ? 0 : 96);
  const isFour = prefix >= 96 && bitsOf(network)?.startsWith(MAPPED) === true;
  if (isFour !== bits.startsWith(MAPPED)) return "false";
  return tri(bitsOf(network)?.slice(0, prefix) === bits.slice(0, prefix));
}

function whenMatches(when: When | undefined, subject: Subject, view: View): Tri {
  if (when === undefined) return "true";
  const { call } = subject;
  const parts: Tri[] = [];
  if (when.notBeforeMs !== undefined) parts.push(tri(call.nowMs >= when.notBeforeMs));
  if (when.notAfterMs !== undefined) parts.push(tri(call.nowMs < when.notAfterMs));
  if (when.schedule !== undefined) parts.push(tri(secondSchedule(when.schedule, call.nowMs)));
  if (when.environments !== undefined)
    parts.push(call.caller.env === undefined ? "error" : tri(when.environments.includes(call.caller.env)));
  if (when.sourceCidrs !== undefined)
    parts.push(some(when.sourceCidrs.map((block) => secondCidr(block, call.sourceIp))));
  if (when.authn !== undefined) parts.push(authnMatches(when.authn, call));
  if (when.cel !== undefined)
    parts.push(subject.cel(when.cel, { call, view, roles: subject.roles, program: subject.program }));
  return all(parts);
}

/** A session-bound token has no `auth_time` and no `amr`: what a token lacks is false, not an error (DOMAIN 2.6). */
function authnMatches(authn: NonNullable<When["authn"]>, call: Call): Tri {
  const { user } = call;
  if (user === undefined) return "false";
  const fresh =
    authn.maxAgeMs === undefined ||
    (user.authTimeMs !== undefined && call.nowMs - user.authTimeMs <= authn.maxAgeMs);
  const strong = authn.amr === undefined || user.amr.some((method) => listed(authn.amr, method));
  const classed = authn.acr === undefined || (user.acr !== undefined && authn.acr.includes(user.acr));
  return tri(fresh && strong && classed);
}

/** The value of one rule without its `unless`, and that of `unless` (false where there is none). */
export function secondRule(
  rule: PolicyRule,
  side: Exclude<Side, "unless">,
  subject: Subject,
): { readonly match: Tri; readonly unless: boolean } {
  const views = viewsOf(side, subject.call).map((view) =>
    all([
      tri(fromMatches(rule.from, side, subject)),
      operationsMatch(rule.operations, side, subject.call, view),
      whenMatches(rule.when, subject, view),
    ]),
  );
  return {
    match: some(views),
    unless: rule.unless !== undefined && fromMatches(rule.unless, "unless", subject),
  };
}

interface Hit {
  readonly policy: ProgramPolicy;
  readonly rule: PolicyRule;
}

/** First rule of an Allow policy that is true; an error before it ends the policy without a hit. */
function firstMatch(policy: ProgramPolicy, subject: Subject): Hit | undefined {
  for (const rule of policy.rules) {
    const { match } = secondRule(rule, "allow", subject);
    if (match === "error") return undefined;
    if (match === "true") return { policy, rule };
  }
  return undefined;
}

function inReportedOrder(policies: readonly ProgramPolicy[]): ProgramPolicy[] {
  const rank = (policy: ProgramPolicy): string => `${policy.cluster ? 0 : 1} ${policy.name}`;
  return [...policies].sort((a, b) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0));
}

interface Answer {
  readonly allowed: boolean;
  readonly reason: Reason;
  readonly hit: Hit | undefined;
  readonly winners: readonly Hit[];
}

const fixed = (allowed: boolean, reason: Reason): Answer => ({
  allowed,
  reason,
  hit: undefined,
  winners: [],
});

function admit(program: WorkloadProgram, call: Call): Answer | undefined {
  const chain = [...call.via.map((hop) => hop.spiffeId), call.caller.spiffeId];
  if (chain.length > program.maxHops) return fixed(false, "CHAIN_TOO_DEEP");
  if (chain.some((id) => chain.filter((other) => other === id).length > 2)) return fixed(false, "CHAIN_LOOP");
  if (call.scope === undefined) return undefined;
  const { operation } = call;
  const inside =
    operation.kind === "known" && call.scope.some((entry) => operationUnder(entry, operation.name));
  return inside ? undefined : fixed(false, "SCOPE_EXCEEDED");
}

function answerOf(policies: readonly ProgramPolicy[], subject: Subject): Answer {
  const { program } = subject;
  for (const policy of policies.filter((one) => one.action === "Deny"))
    for (const rule of policy.rules) {
      const { match, unless } = secondRule(rule, "deny", subject);
      if (match !== "false" && !unless)
        return { allowed: false, reason: "DENIED_BY_POLICY", hit: { policy, rule }, winners: [] };
    }
  const allows = policies.filter((one) => one.action === "Allow" && one.roles === undefined);
  const hits = allows.flatMap((policy) => firstMatch(policy, subject) ?? []);
  const ordinary = hits.filter((hit) => hit.policy.source !== "grant");
  const [first] = ordinary.length > 0 ? ordinary : hits;
  if (first !== undefined) {
    const winners = [first, ...hits.filter((hit) => hit !== first && hit.rule.with !== undefined)];
    return { allowed: true, reason: ordinary.length > 0 ? "ALLOWED" : "GRANTED", hit: first, winners };
  }
  if (allows.some((policy) => policy.source !== "grant")) return fixed(false, "NO_MATCHING_ALLOW");
  return program.defaultAction === "Allow" ? fixed(true, "DEFAULT_ALLOW") : fixed(false, "DEFAULT_DENY");
}

/** Roles of the user's token, and those that grants of roles add for this call. */
function rolesOf(policies: readonly ProgramPolicy[], subject: Subject): readonly string[] {
  if (subject.call.user === undefined) return [];
  const granted = policies
    .filter((policy) => policy.roles !== undefined && firstMatch(policy, subject) !== undefined)
    .flatMap((policy) => policy.roles ?? []);
  return [...subject.call.user.roles, ...granted];
}

const LEVELS = ["None", "Metadata", "Headers", "Body"];

function strongest(settings: readonly AuditSetting[]): AuditSetting | undefined {
  if (settings.length === 0) return undefined;
  const top = Math.max(...settings.map((setting) => LEVELS.indexOf(setting.level)));
  const atTop = settings.filter((setting) => LEVELS.indexOf(setting.level) === top);
  return {
    level: atTop[0]?.level ?? "None",
    sample: Math.max(...atTop.map((setting) => setting.sample)),
    mode: settings.some((setting) => setting.mode === "Required") ? "Required" : "BestEffort",
  };
}

function auditHits(policies: readonly ProgramPolicy[], subject: Subject): readonly AuditSetting[] {
  const settings: AuditSetting[] = [];
  for (const policy of policies.filter((one) => one.action === "Audit")) {
    for (const rule of policy.rules) {
      const { match } = secondRule(rule, "audit", subject);
      // What cannot be told is recorded rather than missed, and the rules behind it are asked too.
      if (match !== "false" && rule.with?.audit !== undefined) settings.push(rule.with.audit);
      if (match === "true") break;
    }
  }
  return settings;
}

/** The roles and context that rules see in this call. */
export function secondSubject(program: WorkloadProgram, call: Call, cel: CelOracle): Subject {
  const bare: Subject = { call, program, cel, roles: call.user?.roles ?? [] };
  const policies = program.policies.filter(
    (policy) => policy.ports === undefined || policy.ports.includes(call.port),
  );
  return { ...bare, roles: rolesOf(policies, bare) };
}

/** Decides a call by reading every rule. */
export function secondReference(program: WorkloadProgram, call: Call, cel: CelOracle): SecondVerdict {
  const subject = secondSubject(program, call, cel);
  const selected = inReportedOrder(
    program.policies.filter((policy) => policy.ports === undefined || policy.ports.includes(call.port)),
  );
  const enforced = selected.filter((policy) => policy.enforcement === "Enforce");
  const refused = admit(program, call);
  const answer = refused ?? answerOf(enforced, subject);
  const trial = refused ?? answerOf(selected, subject);
  const audits = [
    ...answer.winners.flatMap((hit) => hit.rule.with?.audit ?? []),
    ...(refused === undefined ? auditHits(enforced, subject) : []),
  ];
  return {
    allowed: answer.allowed,
    reason: answer.reason,
    policy: answer.hit?.policy.id,
    rule: answer.hit?.rule.name,
    winners: answer.winners.map((hit) => `${hit.policy.id}/${hit.rule.name}`),
    audit: strongest(audits),
    identityHeaders: [
      ...new Set(answer.winners.flatMap((hit) => hit.rule.with?.identity?.forward ?? [])),
    ].sort(),
    would:
      trial.allowed === answer.allowed
        ? undefined
        : {
            allowed: trial.allowed,
            reason: trial.reason,
            policy: trial.hit?.policy.id,
            rule: trial.hit?.rule.name,
          },
  };
}
