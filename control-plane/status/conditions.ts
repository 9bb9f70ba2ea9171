// The status of one policy in the shape that Kubernetes would show (DOMAIN 3.6). PURE.
import type { ProxyStatus } from "../discovery/server.ts";
import type { PolicyReport } from "../policy/policy-report.ts";
import type { StatusSubject } from "./subjects.ts";

export interface Condition {
  readonly type: "Accepted" | "ResolvedRefs" | "Programmed";
  readonly status: "True" | "False";
  readonly observedGeneration: number;
  readonly reason: string;
  readonly message?: string;
  readonly lastTransitionTime: string;
}

export interface PolicyStatus {
  readonly observedGeneration: number;
  readonly conditions: readonly Condition[];
  readonly targets: {
    readonly workloads: number;
    /** Pods with a sidecar, or that should have one; absent outside Kubernetes. */
    readonly pods?: number;
    readonly externals: number;
  };
  readonly proxies: {
    readonly total: number;
    readonly programmed: number;
    readonly nacked: number;
    readonly revision: number;
    /** At most 10: `namespace/name` of pods, else the keys of workloads with the node where it is known. */
    readonly lagging: readonly string[];
    /** At most 10 refusals in the sidecars' words. */
    readonly nacks?: readonly string[];
  };
  /**
   * Of a refused Deny in a cluster: JSON of generation and spec that stay in force, for a restart, or `NOTHING_KEPT`.
   * INVARIANT: a refused Deny that is in force always has it; one without counts as never in force after a restart.
   */
  readonly lastAccepted?: string;
}

/** No JSON: whoever reads it knows that there was a version in force, not which, and denies all to the targets. */
export const NOTHING_KEPT = "not kept";

/** Why the present version of an object is not in force. */
export interface Refusal {
  /** Of DOMAIN 3.6, such as `UnknownOperation`. */
  readonly reason: string;
  readonly message: string;
}

export interface StatusInput {
  readonly generation: number;
  /** undefined: the object was never in force. */
  readonly policy: StatusSubject | undefined;
  readonly report: PolicyReport | undefined;
  /** Problems that the source found in the present version of the object; the last accepted one stays in force. */
  readonly refusals: readonly Refusal[];
  /** Connected sidecars of the targets. */
  readonly proxies: readonly ProxyStatus[];
  /** Pods of the targets; undefined outside Kubernetes. */
  readonly pods?: number | undefined;
  /** How a sidecar is called in lists; by default by its workload. */
  readonly nameOf?: ((proxy: ProxyStatus) => string) | undefined;
  readonly lastAccepted?: string | undefined;
  readonly revision: number;
  /** Revision from which this version of the policy is in force. */
  readonly since: number;
  readonly nowMs: number;
  readonly previous: PolicyStatus | undefined;
}

const LISTED = 10;
const LISTED_REFUSALS = 3;

function firstProblem(
  report: PolicyReport | undefined,
  type: "Accepted" | "ResolvedRefs",
): { reason: string; message: string; isError: boolean } | undefined {
  const problems = report?.problems.filter((problem) => problem.type === type) ?? [];
  const problem = problems.find(({ severity }) => severity === "error") ?? problems[0];
  if (!problem) return undefined;
  const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : "";
  const where = problem.path === "" ? "" : `${problem.path}: `;
  return {
    reason: problem.reason,
    message: `${where}${problem.message}${more}`,
    isError: problem.severity === "error",
  };
}

/** Whether a sidecar has a policy that is as it is since a revision, whatever else it may lack or have refused. */
export function isProgrammedOn(proxy: ProxyStatus, since: number): boolean {
  return proxy.state === "synced" || proxy.syncedRevision >= since;
}

/** How a sidecar is called where its pod is not known. */
export function proxyName({ workload, node }: ProxyStatus): string {
  return node === "" ? workload : `${workload}@${node}`;
}

/** Makes the status; `lastTransitionTime` is kept from `previous` while a condition's status stays. */
export function buildStatus(input: StatusInput): PolicyStatus {
  const { generation, report, refusals, proxies, previous, nowMs, revision } = input;
  const condition = (
    type: Condition["type"],
    isTrue: boolean,
    reason: string,
    message: string,
  ): Condition => {
    const status = isTrue ? "True" : "False";
    const before = previous?.conditions.find((one) => one.type === type && one.status === status);
    return {
      type,
      status,
      observedGeneration: generation,
      reason,
      ...(message === "" ? {} : { message }),
      lastTransitionTime: before?.lastTransitionTime ?? new Date(nowMs).toISOString(),
    };
  };
  const accepted = firstProblem(report, "Accepted");
  const refs = firstProblem(report, "ResolvedRefs");
  const kept = input.policy ? "the last accepted version stays in force" : "no version of it is in force";
  const isAccepted = refusals.length === 0 && accepted?.isError !== true;
  const acceptedReason = refusals[0]?.reason ?? accepted?.reason ?? "Accepted";
  const acceptedMessage =
    refusals.length > 0
      ? [...refusals.slice(0, LISTED_REFUSALS).map(({ message }) => message), kept].join("; ")
      : (accepted?.message ?? "");
  const waiting = proxies.filter((proxy) => !isProgrammedOn(proxy, input.since));
  const nacked = waiting.filter((proxy) => proxy.nack !== undefined);
  const programmedCount = proxies.length - waiting.length;
  const nameOf = input.nameOf ?? proxyName;
  const isProgrammed = input.policy !== undefined && isAccepted && waiting.length === 0;
  const programmedReason = isProgrammed
    ? "Programmed"
    : !isAccepted
      ? "NotAccepted"
      : nacked.length > 0
        ? "Refused"
        : "Propagating";
  const workloads = report?.targets.filter((target) => !target.startsWith("external:")).length ?? 0;
  const nacks = nacked.slice(0, LISTED).map((proxy) => `${nameOf(proxy)}: ${proxy.nack ?? ""}`);
  return {
    observedGeneration: generation,
    conditions: [
      condition("Accepted", isAccepted, acceptedReason, acceptedMessage),
      condition("ResolvedRefs", refs?.isError !== true, refs?.reason ?? "ResolvedRefs", refs?.message ?? ""),
      condition("Programmed", isProgrammed, programmedReason, `${programmedCount}/${proxies.length} proxies`),
    ],
    targets: {
      workloads,
      ...(input.pods === undefined ? {} : { pods: input.pods }),
      externals: (report?.targets.length ?? 0) - workloads,
    },
    proxies: {
      total: proxies.length,
      programmed: programmedCount,
      nacked: nacked.length,
      revision,
      lagging: waiting.slice(0, LISTED).map(nameOf),
      ...(nacks.length > 0 ? { nacks } : {}),
    },
    ...(input.lastAccepted === undefined ? {} : { lastAccepted: input.lastAccepted }),
  };
}
