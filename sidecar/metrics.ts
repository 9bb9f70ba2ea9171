// The metrics of the sidecar: what is counted, under which names. Kept as typed arrays (telemetry/counters.ts); turned
// into text by `metrics-text.ts` when scraped.
import { Counters, type Gauge, Histograms } from "./telemetry/counters.ts";
import { ModelMetrics } from "./telemetry/model-metrics.ts";

/** Seconds; classic buckets of request durations. */
const DURATION_BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
const OVERHEAD_BOUNDS = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05];

const EDGE_LABELS = ["reporter", "caller_kind", "caller", "callee_kind", "callee", "op", "code"];

/** One end of a call as metrics name it. */
export interface Party {
  readonly kind: string;
  readonly name: string;
}

export const UNKNOWN_PARTY: Party = { kind: "unknown", name: "unknown" };
/** A caller without an identity, let in where a namespace is `Permissive`. */
export const PLAINTEXT_PARTY: Party = { kind: "plaintext", name: "plaintext" };

export class SidecarMetrics {
  readonly requests = new Counters("countersign_requests_total", "requests by caller, callee and operation", [
    ...EDGE_LABELS,
    "decision",
  ]);
  readonly grpc = new Counters("countersign_grpc_responses_total", "ends of gRPC calls by their status", [
    "reporter",
    "callee_kind",
    "callee",
    "op",
    "grpc_status",
  ]);
  readonly duration = new Histograms(
    "countersign_request_duration_seconds",
    "from the first byte of a request to the last of its answer",
    EDGE_LABELS,
    DURATION_BOUNDS,
  );
  readonly overhead = new Histograms(
    "countersign_proxy_overhead_seconds",
    "from a call's arrival until it is passed on: what this sidecar alone adds",
    ["direction"],
    OVERHEAD_BOUNDS,
  );
  readonly decisions = new Counters("countersign_decisions_total", "decisions on calls to this workload", [
    "callee",
    "op",
    "decision",
    "reason",
    "policy",
    "rule",
  ]);
  readonly dryRun = new Counters(
    "countersign_policy_dryrun_total",
    "calls that a policy in dry run would have decided otherwise",
    ["policy", "rule", "would"],
  );
  readonly authnFailures = new Counters(
    "countersign_authn_failures_total",
    "calls whose identity did not verify",
    ["callee", "reason"],
  );
  readonly limited = new Counters("countersign_limited_total", "calls refused by a limit", [
    "policy",
    "rule",
    "key_type",
  ]);
  readonly models = new ModelMetrics();
  readonly chainHops = new Histograms(
    "countersign_chain_hops",
    "length of the call chain, the caller counted",
    ["callee_kind"],
    [1, 2, 3, 4, 5, 6, 7, 8],
  );
  readonly proofSkew = new Counters(
    "countersign_proof_skew_total",
    "proofs made with another catalog than ours",
    [],
  );
  readonly propagationFallbacks = new Counters(
    "countersign_propagation_fallbacks_total",
    "calls that went on as the workload alone, because it could not be told on whose behalf",
    ["reason"],
  );
  readonly forwarded = new Counters(
    "countersign_forwarded_total",
    "requests written to the application (attempts) and the decisions behind them",
    ["kind"],
  );
  readonly connections = new Counters("countersign_connections_total", "connections opened and refused", [
    "side",
    "result",
  ]);
  readonly captured = new Counters(
    "countersign_captured_connections_total",
    "connections that iptables redirected here, by what became of them",
    ["direction", "result"],
  );
  readonly ejections = new Counters(
    "countersign_endpoint_ejections_total",
    "endpoints that were not used for a while",
    ["service", "reason"],
  );
  readonly retries = new Counters("countersign_retries_total", "requests sent again, by why and whether", [
    "service",
    "cause",
    "result",
  ]);
  readonly overflows = new Counters(
    "countersign_overflows_total",
    "calls refused because no endpoint had room for them",
    ["service"],
  );
  readonly healthChecks = new Counters("countersign_health_checks_total", "active checks of endpoints", [
    "service",
    "result",
  ]);
  readonly detected = new Counters(
    "countersign_detected_protocols_total",
    "connections to ports that declare no protocol, by what was found on them",
    ["protocol"],
  );
  readonly mirrored = new Counters(
    "countersign_mirrored_requests_total",
    "copies of requests that a route asks for",
    ["result"],
  );
  readonly problems = new Counters(
    "countersign_protocol_errors_total",
    "requests refused before a decision",
    ["side", "code"],
  );
  readonly rotations = new Counters(
    "countersign_identity_swaps_total",
    "certificates and tables swapped in",
    ["what", "result"],
  );

  readonly gatewayRequests = new Counters(
    "countersign_gateway_requests_total",
    "requests from outside, by route and what became of them",
    ["route", "result"],
  );
  readonly headerAnomalies = new Counters(
    "countersign_gateway_header_anomalies_total",
    "requests from outside with fields that only we may write",
    ["kind"],
  );
  readonly logins = new Counters(
    "countersign_logins_total",
    "sign-ins at the gateway, by what became of them",
    ["idp", "result"],
  );

  readonly overheadInbound = this.overhead.series("inbound");
  readonly overheadOutbound = this.overhead.series("outbound");
  readonly skew = this.proofSkew.series();
  readonly allowedAndForwarded = this.forwarded.series("decision");
  readonly attempts = this.forwarded.series("attempt");

  readonly #gauges: Gauge[] = [];
  readonly #totals: Gauge[] = [];

  addGauge(gauge: Gauge): void {
    this.#gauges.push(gauge);
  }

  /** A counter that another part keeps; its values never fall. */
  addTotal(total: Gauge): void {
    this.#totals.push(total);
  }

  totals(): readonly Gauge[] {
    return this.#totals;
  }

  gauges(): readonly Gauge[] {
    return this.#gauges;
  }

  counters(): readonly Counters[] {
    return [
      this.requests,
      this.grpc,
      this.decisions,
      this.dryRun,
      this.authnFailures,
      this.limited,
      this.models.tokens,
      this.models.estimated,
      this.proofSkew,
      this.propagationFallbacks,
      this.forwarded,
      this.connections,
      this.captured,
      this.ejections,
      this.retries,
      this.healthChecks,
      this.overflows,
      this.detected,
      this.mirrored,
      this.problems,
      this.rotations,
      this.gatewayRequests,
      this.headerAnomalies,
      this.logins,
    ];
  }

  histograms(): readonly Histograms[] {
    return [this.duration, this.overhead, this.chainHops, this.models.timeToFirst, this.models.timePerToken];
  }
}

interface EdgeIndex {
  readonly requests: number;
  readonly duration: number;
}

/** Counts the calls of one (caller, callee, operation); indexes per status are kept after their first use. */
export class EdgeCounters {
  readonly #metrics: SidecarMetrics;
  readonly #labels: readonly string[];
  readonly #indexes = new Map<number, EdgeIndex>();
  readonly #grpc = new Map<number, number>();
  /** The one used last: nearly every call of an edge ends the same way. */
  #lastKey = Number.NaN;
  #last: EdgeIndex = { requests: 0, duration: 0 };

  constructor(
    metrics: SidecarMetrics,
    reporter: "source" | "destination",
    caller: Party,
    callee: Party,
    op: string,
  ) {
    this.#metrics = metrics;
    this.#labels = [reporter, caller.kind, caller.name, callee.kind, callee.name, op];
  }

  /**
   * @param status HTTP status; 0: no answer could be sent.
   * @param decision `allow` or `deny`; of the source: what it decided itself.
   */
  count(status: number, decision: "allow" | "deny", seconds: number): void {
    const key = decision === "allow" ? status : -status - 1;
    const index = key === this.#lastKey ? this.#last : this.#find(key, status, decision);
    this.#metrics.requests.add(index.requests);
    this.#metrics.duration.observe(index.duration, seconds);
  }

  /** @param status of a gRPC call, 0 to 16. */
  countGrpc(status: number): void {
    let index = this.#grpc.get(status);
    if (index === undefined) {
      const [reporter = "", , , kind = "", name = "", op = ""] = this.#labels;
      index = this.#metrics.grpc.series(reporter, kind, name, op, String(status));
      this.#grpc.set(status, index);
    }
    this.#metrics.grpc.add(index);
  }

  #find(key: number, status: number, decision: "allow" | "deny"): EdgeIndex {
    let index = this.#indexes.get(key);
    if (index === undefined) {
      const code = status === 0 ? "none" : String(status);
      index = {
        requests: this.#metrics.requests.series(...this.#labels, code, decision),
        duration: this.#metrics.duration.series(...this.#labels, code),
      };
      this.#indexes.set(key, index);
    }
    this.#lastKey = key;
    this.#last = index;
    return index;
  }
}
