// From a table to what decides on calls: compiled program, classifiers per port, and the counters and audit parts that
// are the same for every call of one edge. Immutable but for those caches; a new table makes a new one.
import type { AuditEdge } from "../audit/record.ts";
import type { AuditTrail } from "../audit/trail.ts";
import type { Caller, Hop } from "../core/policy/call.ts";
import { type Pack, packsDigest, parsePack } from "../core/policy/catalog.ts";
import type { Classified } from "../core/policy/classified.ts";
import type { CelCompiler } from "../core/policy/condition.ts";
import { type CompiledProgram, createProgram, type Decision } from "../core/policy/decide.ts";
import { type Classifier, createClassifier } from "../core/policy/operations.ts";
import { plaintextProgram } from "../core/policy/plaintext.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { PortProtocol, WorkloadProgram } from "../core/policy/rule.ts";
import { dependsOnTime } from "../core/policy/timed.ts";
import type { Result } from "../core/runtime/errors.ts";
import type { SidecarTable } from "../discovery/table.ts";
import { EdgeCounters, type Party, PLAINTEXT_PARTY, type SidecarMetrics, UNKNOWN_PARTY } from "../metrics.ts";
import { headerChangesProblem } from "./header-changes.ts";

/** One application port that calls may name. */
export interface EnforcedPort {
  readonly port: number;
  readonly protocol: PortProtocol;
  readonly packsDigest: string;
  readonly classifier: Classifier;
}

/** Everything about calls of one caller (and chain) to one operation that does not change from call to call. */
export interface InboundEdge {
  readonly operation: string;
  readonly counters: EdgeCounters;
  readonly audit: AuditEdge;
  readonly outcomes: Map<number, EdgeOutcome>;
  readonly chainSeries: number;
}

export interface EdgeOutcome {
  readonly auditDecision: string;
  readonly series: number;
}

/** Operation as proofs, metrics and audit name it. On a port with pack `mcp` both sides put `mcp` into the proof (V6). */
export function operationLabel(classified: Classified): string {
  if (classified.operation.kind === "known") return classified.operation.name;
  return classified.operation.kind === "unknown" ? "unknown" : "undetermined";
}

/** Operation as it stands in a proof. */
export function proofOperation(classified: Classified): string {
  return classified.pending?.kind === "mcp" ? "mcp" : operationLabel(classified);
}

/** Parses the packs of a table once; a broken one refuses the table. */
export function parsePacks(table: SidecarTable): Result<ReadonlyMap<string, Pack>, string> {
  const packs = new Map<string, Pack>();
  for (const [name, { text }] of table.packs) {
    const parsed = parsePack(name, text);
    if (!parsed.ok) return { ok: false, error: `operation pack \`${name}\`: ${parsed.error}` };
    packs.set(name, parsed.value);
  }
  return { ok: true, value: packs };
}

/** The packs of a port in their order, with the digest of their texts. */
export function packsOf(
  names: readonly string[],
  table: SidecarTable,
  packs: ReadonlyMap<string, Pack>,
): Result<{ readonly packs: readonly Pack[]; readonly digest: string }, string> {
  const list: Pack[] = [];
  const texts: string[] = [];
  for (const name of names) {
    const pack = packs.get(name);
    const text = table.packs.get(name)?.text;
    if (pack === undefined || text === undefined)
      return { ok: false, error: `operation pack \`${name}\` is not in the table` };
    list.push(pack);
    texts.push(text);
  }
  return { ok: true, value: { packs: list, digest: packsDigest(texts) } };
}

interface EnforcementDeps {
  readonly metrics: SidecarMetrics;
  readonly trail: AuditTrail;
}

const REASON_STRIDE = 64;
/** Series of decisions beyond which allowed ones no longer name their policy. */
const MAX_POLICY_SERIES = 500;

export class Enforcement {
  /** Stands for this enforcement in caches that outlive it: proofs are kept for hours, tables must not be. */
  readonly token: object = {};
  readonly table: SidecarTable;
  readonly program: CompiledProgram;
  /** What decides on callers without an identity; undefined (Strict): they are refused. */
  readonly plaintext: CompiledProgram | undefined;
  readonly ports: ReadonlyMap<number, EnforcedPort>;
  /** Set when exactly one port is declared: what a call without `countersign-port` means. */
  readonly onlyPort: EnforcedPort | undefined;
  /** Whether a decision may be another one later, by the same table. */
  readonly dependsOnTime: boolean;
  /** Whether the application gets the transaction token, to pass it on by itself (propagation mode `forward`). */
  readonly passesTxn: boolean;
  readonly self: Party;
  /** `kind/name` of the workload. */
  readonly target: string;
  readonly #metrics: SidecarMetrics;
  readonly #trail: AuditTrail;
  readonly #edges = new Map<string, InboundEdge>();
  readonly #reasons = new Map<string, number>();
  readonly #blindDenies = new Map<number, string | undefined>();

  constructor(
    table: SidecarTable,
    programs: { readonly program: CompiledProgram; readonly plaintext: CompiledProgram | undefined },
    ports: ReadonlyMap<number, EnforcedPort>,
    { metrics, trail }: EnforcementDeps,
  ) {
    this.table = table;
    this.program = programs.program;
    this.plaintext = programs.plaintext;
    this.ports = ports;
    this.onlyPort = ports.size === 1 ? ports.values().next().value : undefined;
    this.dependsOnTime = dependsOnTime(table.program);
    this.passesTxn = table.settings.propagation.includes("forward");
    this.self = { kind: table.program.kind, name: table.program.name };
    this.target = `${table.program.kind}/${table.program.name}`;
    this.#metrics = metrics;
    this.#trail = trail;
  }

  /** The edge of a caller and operation; `edges` is the caller's own cache for this enforcement. */
  edge(caller: Caller | undefined, via: readonly Hop[], viaKey: string, operation: string): InboundEdge {
    const key =
      caller === undefined
        ? `\n${operation}`
        : `${caller.spiffeId}\n${caller.runAs ?? ""}\n${viaKey}\n${operation}`;
    let edge = this.#edges.get(key);
    if (edge === undefined) {
      // Bounded: chains are asserted by callers, so their number is not ours to choose.
      if (this.#edges.size >= 10_000) this.#edges.clear();
      edge = this.#createEdge(caller, via, operation);
      this.#edges.set(key, edge);
    }
    return edge;
  }

  /** Audit text and counter of a decision on an edge; `cacheable` decisions are prepared once. */
  outcome(edge: InboundEdge, decision: Decision): EdgeOutcome {
    if (decision.would !== undefined) return this.#createOutcome(edge, decision);
    let reason = this.#reasons.get(decision.reason);
    if (reason === undefined) {
      reason = this.#reasons.size;
      this.#reasons.set(decision.reason, reason);
    }
    const key = (decision.ruleIndex + 1) * REASON_STRIDE + reason;
    let outcome = edge.outcomes.get(key);
    if (outcome === undefined) {
      outcome = this.#createOutcome(edge, decision);
      edge.outcomes.set(key, outcome);
    }
    return outcome;
  }

  /**
   * The first enforced Deny rule of a port that looks at more than who calls, when and from where: it cannot be held
   * against bytes. `policy/rule`; undefined: there is none.
   */
  blindDeny(port: number): string | undefined {
    if (!this.#blindDenies.has(port)) this.#blindDenies.set(port, findBlindDeny(this.table.program, port));
    return this.#blindDenies.get(port);
  }

  /** The outcome of a call that was refused without a decision. */
  refusal(edge: InboundEdge, reason: Reason): EdgeOutcome {
    return this.outcome(edge, refusalDecision(reason));
  }

  #createEdge(caller: Caller | undefined, via: readonly Hop[], operation: string): InboundEdge {
    const party = partyOf(caller);
    const { program, settings } = this.table;
    return {
      operation,
      counters: new EdgeCounters(this.#metrics, "destination", party, this.self, operation),
      audit: this.#trail.edge({
        source: { spiffeId: program.spiffeId, cluster: settings.cluster },
        target: this.target,
        targetNamespace: program.namespace,
        targetKind: program.kind,
        operation,
        caller: caller === undefined ? undefined : nameOf(caller),
        callerSpiffeId: caller?.authenticated ? caller.spiffeId : undefined,
        runAs: caller?.runAs,
        via,
      }),
      outcomes: new Map(),
      chainSeries: this.#metrics.chainHops.series(program.kind),
    };
  }

  #createOutcome(edge: InboundEdge, decision: Decision): EdgeOutcome {
    // Which policy allowed is in the audit event too; which one denied is what people look for here.
    const named = !decision.allowed || this.#metrics.decisions.size <= MAX_POLICY_SERIES;
    return {
      auditDecision: this.#trail.decisionText(decision, this.table.revision),
      series: this.#metrics.decisions.series(
        this.self.name,
        edge.operation,
        decision.allowed ? "allow" : "deny",
        decision.reason,
        named ? (decision.policy ?? "") : "",
        named ? (decision.rule ?? "") : "",
      ),
    };
  }
}

function findBlindDeny(program: WorkloadProgram, port: number): string | undefined {
  for (const { action, enforcement, ports, rules, id } of program.policies) {
    if (action !== "Deny" || enforcement !== "Enforce" || ports?.includes(port) === false) continue;
    const blind = rules.find(
      ({ operations, when }) =>
        when?.cel !== undefined || (operations !== undefined && !operations.some(({ any }) => any === true)),
    );
    if (blind !== undefined) return `${id}/${blind.name}`;
  }
  return undefined;
}

function partyOf(caller: Caller | undefined): Party {
  if (caller === undefined) return UNKNOWN_PARTY;
  return caller.authenticated ? { kind: caller.kind, name: caller.name } : PLAINTEXT_PARTY;
}

/** `kind/name` of a caller, or `plaintext`. */
export function nameOf(caller: Caller): string {
  return caller.authenticated ? `${caller.kind}/${caller.name}` : PLAINTEXT_PARTY.name;
}

/** A decision that no policy made: the call failed before or after the policies were asked. */
export function refusalDecision(reason: Reason, policy?: string, rule?: string): Decision {
  return {
    allowed: false,
    reason,
    policy,
    policyName: undefined,
    rule,
    ruleIndex: -1,
    winners: [],
    audit: undefined,
    identityHeaders: [],
    would: undefined,
  };
}

/** Compiles a table; any part that cannot be used refuses it whole, so that the last good one stays in force. */
export function createEnforcement(
  table: SidecarTable,
  packs: ReadonlyMap<string, Pack>,
  deps: EnforcementDeps,
  cel: CelCompiler | undefined,
): Result<Enforcement, string> {
  const program = createProgram(table.program, { cel });
  if (!program.ok) return program;
  const permissive = table.settings.mtls === "Permissive";
  const plaintext = permissive ? createProgram(plaintextProgram(table.program), { cel }) : undefined;
  if (plaintext?.ok === false) return plaintext;
  const unusable = headerChangesProblem(table.program);
  if (unusable !== undefined) return { ok: false, error: unusable };
  const ports = new Map<number, EnforcedPort>();
  for (const { port, protocol, packs: names } of table.program.ports) {
    const list = packsOf(names, table, packs);
    if (!list.ok) return list;
    const classifier = createClassifier({ packs: list.value.packs, selfName: table.program.name });
    ports.set(port, { port, protocol, packsDigest: list.value.digest, classifier });
  }
  const programs = { program: program.value, plaintext: plaintext?.value };
  return { ok: true, value: new Enforcement(table, programs, ports, deps) };
}
