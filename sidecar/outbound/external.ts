// Hosts outside the mesh that policy knows (ExternalService): found by name, decided on here, since nobody stands behind
// them who could. Made anew from each table.
import { X509Certificate } from "node:crypto";
import type { AuditEdge } from "../audit/record.ts";
import type { AuditTrail } from "../audit/trail.ts";
import { parseAuthority } from "../core/http/authority.ts";
import { parseClaimsJson, parseWitClaims, type WorkloadFacts } from "../core/identity/claims.ts";
import { workloadOf } from "../core/identity/spiffe-id.ts";
import { type PeerFacts, parseSvid } from "../core/identity/svid.ts";
import { splitToken } from "../core/identity/token.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import type { Caller, Hop } from "../core/policy/call.ts";
import { createCaller } from "../core/policy/caller.ts";
import type { Pack } from "../core/policy/catalog.ts";
import type { CelCompiler } from "../core/policy/condition.ts";
import { type CompiledProgram, createProgram, type Decision } from "../core/policy/decide.ts";
import { type Classifier, createClassifier } from "../core/policy/operations.ts";
import type { Obligations } from "../core/policy/rule.ts";
import { dependsOnTime } from "../core/policy/timed.ts";
import { unseenProgram } from "../core/policy/unseen-program.ts";
import type { Result } from "../core/runtime/errors.ts";
import type { ExternalHosts, SidecarTable } from "../discovery/table.ts";
import { EdgeCounters, type SidecarMetrics } from "../metrics.ts";
import type { HostAddress } from "./external-pool.ts";

const NO_PORT = 65_536;
const HTTP_PORT = 80;
const HTTPS_PORT = 443;
const MAX_EDGES = 1_000;

/** What is needed beside a table. */
export interface ExternalsDeps {
  readonly metrics: SidecarMetrics;
  readonly trail: AuditTrail;
  readonly cel: CelCompiler | undefined;
}

/** One ExternalService. */
export class ExternalDestination {
  readonly external: ExternalHosts;
  readonly port: number;
  readonly program: CompiledProgram;
  /** Decides on connections whose TLS is the application's own. */
  readonly unseen: CompiledProgram;
  readonly classifier: Classifier;
  /** Whether a decision may be another one later, by the same table. */
  readonly dependsOnTime: boolean;
  readonly #table: SidecarTable;
  readonly #deps: ExternalsDeps;
  readonly #counters = new Map<string, EdgeCounters>();
  readonly #edges = new Map<string, AuditEdge>();

  constructor(
    external: ExternalHosts,
    programs: { readonly seen: CompiledProgram; readonly unseen: CompiledProgram },
    packs: readonly Pack[],
    table: SidecarTable,
    deps: ExternalsDeps,
  ) {
    this.external = external;
    this.program = programs.seen;
    this.unseen = programs.unseen;
    this.port = external.program.ports[0]?.port ?? 443;
    this.classifier = createClassifier({ packs, selfName: external.program.name });
    this.dependsOnTime = dependsOnTime(external.program);
    this.#table = table;
    this.#deps = deps;
  }

  /** Host that a call goes to: the one it names, where it is one of ours, else the first. */
  hostOf(authority: string): string {
    const parsed = parseAuthority(authority, this.port);
    const { hosts } = this.external;
    const named = parsed.ok ? parsed.value.host : "";
    return hosts.includes(named) ? named : (hosts[0] ?? "");
  }

  /** Where that host is, and what it is expected to speak. */
  addressOf(authority: string): HostAddress {
    const protocol = this.external.plaintext ?? "tls";
    return { host: this.hostOf(authority), port: this.port, protocol };
  }

  /** What the host is called in requests. */
  authorityOf(authority: string): string {
    const host = this.hostOf(authority);
    const isDefault = this.port === (this.external.plaintext === undefined ? HTTPS_PORT : HTTP_PORT);
    return isDefault ? host : `${host}:${this.port}`;
  }

  counters(operation: string): EdgeCounters {
    let counters = this.#counters.get(operation);
    if (counters === undefined) {
      const { kind, name } = this.#table.program;
      const callee = { kind: "external", name: this.external.program.name };
      counters = new EdgeCounters(this.#deps.metrics, "source", { kind, name }, callee, operation);
      this.#counters.set(operation, counters);
    }
    return counters;
  }

  /** @param runAs whom the own workload acts for. */
  edge(operation: string, via: readonly Hop[], runAs: string | undefined): AuditEdge {
    const key = `${operation}\n${runAs ?? ""}\n${via.map((hop) => `${hop.spiffeId} ${hop.operation}`).join("\n")}`;
    let edge = this.#edges.get(key);
    if (edge === undefined) {
      // Chains are asserted by callers, so their number is not ours to choose.
      if (this.#edges.size >= MAX_EDGES) this.#edges.clear();
      const { program, settings } = this.#table;
      edge = this.#deps.trail.edge({
        source: { spiffeId: program.spiffeId, cluster: settings.cluster },
        target: `external/${this.external.program.name}`,
        targetNamespace: this.external.program.namespace,
        targetKind: "external",
        operation,
        caller: `${program.kind}/${program.name}`,
        callerSpiffeId: program.spiffeId,
        runAs,
        via,
      });
      this.#edges.set(key, edge);
    }
    return edge;
  }

  get revision(): number {
    return this.#table.revision;
  }
}

/** Demands of rules that are met for calls to the outside; the control plane refuses policies with others. */
const MET: ReadonlySet<string> = new Set<keyof Obligations>(["audit"]);

/** What a winning rule demands that nobody here can meet; undefined: nothing. */
export function unmetDemand({ winners }: Decision): string | undefined {
  for (const winner of winners)
    for (const [name, demand] of Object.entries(winner.with ?? {}))
      if (demand !== undefined && !MET.has(name)) return name;
  return undefined;
}

/** Every ExternalService of a table. */
export class Externals {
  readonly #byHost = new Map<string, ExternalDestination[]>();
  readonly #byId = new Map<string, ExternalDestination>();
  #self: { readonly of: WorkloadIdentity; readonly self: Self } | undefined;

  private constructor(destinations: readonly ExternalDestination[]) {
    for (const destination of destinations) {
      this.#byId.set(destination.external.id, destination);
      for (const host of destination.external.hosts) {
        const others = this.#byHost.get(host);
        if (others === undefined) this.#byHost.set(host, [destination]);
        else others.push(destination);
      }
    }
  }

  /** @returns undefined: the table has none; or why one cannot be used. */
  static create(
    table: SidecarTable,
    packs: ReadonlyMap<string, Pack>,
    deps: ExternalsDeps,
  ): Result<Externals | undefined, string> {
    const destinations: ExternalDestination[] = [];
    for (const external of table.externals?.values() ?? []) {
      const seen = createProgram(external.program, { cel: deps.cel });
      if (!seen.ok) return seen;
      const unseen = createProgram(unseenProgram(external.program), { cel: deps.cel });
      if (!unseen.ok) return unseen;
      const list: Pack[] = [];
      for (const name of external.program.ports[0]?.packs ?? []) {
        const pack = packs.get(name);
        if (pack === undefined) return { ok: false, error: `operation pack \`${name}\` is not in the table` };
        list.push(pack);
      }
      destinations.push(
        new ExternalDestination(external, { seen: seen.value, unseen: unseen.value }, list, table, deps),
      );
    }
    return { ok: true, value: destinations.length === 0 ? undefined : new Externals(destinations) };
  }

  /** By the authority of a request; without a port the only one that is declared for the host. */
  find(authority: string): ExternalDestination | undefined {
    const parsed = parseAuthority(authority, NO_PORT);
    if (!parsed.ok) return undefined;
    const { host, port } = parsed.value;
    const found = this.#byHost.get(host);
    if (port === NO_PORT) return found?.length === 1 ? found[0] : undefined;
    return found?.find((destination) => destination.port === port);
  }

  /**
   * By the authority of a request that was sent in plaintext to an address outside the mesh. Port 80 stands for the only
   * port that is declared for the host: TLS begins here.
   */
  ofPlaintext(authority: string, port: number): ExternalDestination | undefined {
    const parsed = parseAuthority(authority, HTTP_PORT);
    if (!parsed.ok || parsed.value.port !== port) return undefined;
    const found = this.#byHost.get(parsed.value.host);
    const declared = found?.find((destination) => destination.port === port);
    return declared ?? (port === HTTP_PORT && found?.length === 1 ? found[0] : undefined);
  }

  /** By the server name of a TLS client and the port that it connected to. */
  ofServerName(name: string, port: number): ExternalDestination | undefined {
    return this.#byHost.get(name)?.find((destination) => destination.port === port);
  }

  /** Whether TLS to this port of an address outside the mesh may be for one of the hosts. */
  mayTakeTlsAt(port: number): boolean {
    for (const destination of this.#byId.values()) if (destination.port === port) return true;
    return false;
  }

  /** Whether plaintext to this port of an address outside the mesh may be for one of the hosts. */
  mayBeAt(port: number): boolean {
    return port === HTTP_PORT || this.mayTakeTlsAt(port);
  }

  /** @param id `namespace/name`. */
  ofId(id: string): ExternalDestination | undefined {
    return this.#byId.get(id);
  }

  /** The own workload as rules and revocations see it. */
  self(identity: WorkloadIdentity): Self {
    if (this.#self?.of !== identity) this.#self = { of: identity, self: selfOf(identity) };
    return this.#self.self;
  }
}

/** Who calls, when it is this workload. */
export interface Self {
  readonly caller: Caller;
  /** undefined: the own certificate cannot be read, so nobody can say that it is not revoked. */
  readonly issuedTo: PeerFacts | undefined;
}

const NO_LABELS: ReadonlyMap<string, string> = new Map();

function selfOf({ spiffeId, trustDomain, wit, certificateChainPem }: WorkloadIdentity): Self {
  const path = workloadOf(spiffeId);
  const leaf = parseSvid(new X509Certificate(certificateChainPem).raw);
  const workload = factsOf(wit);
  const caller = createCaller({
    spiffeId,
    trustDomain,
    local: true,
    namespace: path?.namespace ?? "",
    serviceAccount: path?.serviceAccount ?? "",
    kind: path?.kind ?? "",
    name: path?.name ?? "",
    // As callees see callers: labels do not travel.
    labels: NO_LABELS,
    owner: workload?.owner,
    runAs: workload?.runAs ?? workload?.owner,
    env: workload?.env,
  });
  return { caller, issuedTo: leaf.ok ? leaf.value : undefined };
}

/** What the control plane attested about this workload; the token was verified when it came. */
function factsOf(wit: string): WorkloadFacts | undefined {
  const parts = splitToken(wit);
  const json = parts.ok ? parseClaimsJson(Buffer.from(parts.value.payload, "base64url")) : undefined;
  const claims = json?.ok === true ? parseWitClaims(json.value) : undefined;
  return claims?.ok === true ? claims.value.workload : undefined;
}
