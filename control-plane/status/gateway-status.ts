// What `status.parents` of a Gateway API route says for us. PURE.
import type { GatewayProblem, ReadRoute, StoredRoute } from "../policy/gateway-route.ts";
import type { PolicyReport } from "../policy/policy-report.ts";
import { fieldsOf } from "./api-status.ts";

/** Whose entries in `status.parents` are ours. */
export const CONTROLLER_NAME = "countersign.dev/mesh";

export interface ParentStatus {
  readonly parentRef: Readonly<Record<string, unknown>>;
  readonly controllerName: string;
  readonly conditions: readonly {
    readonly type: "Accepted" | "ResolvedRefs";
    readonly status: "True" | "False";
    readonly observedGeneration: number;
    readonly reason: string;
    readonly message: string;
    readonly lastTransitionTime: string;
  }[];
}

const MAX_MESSAGE = 2_048;
const MAX_REASON = /^[A-Za-z](?:[A-Za-z0-9_,:]*[A-Za-z0-9_])?$/;

/** What a report says of one kind of condition, about one Service where it names one. */
function problemOf(
  report: PolicyReport | undefined,
  type: "Accepted" | "ResolvedRefs",
): GatewayProblem | undefined {
  const found = report?.problems.find((problem) => problem.type === type && problem.severity === "error");
  return found && { reason: found.reason, message: `${found.path}: ${found.message}` };
}

/** Of our own words only those of the Gateway API mean something to its tools. */
const REASONS: ReadonlyMap<string, string> = new Map([
  ["ServiceNotFound", "NoMatchingParent"],
  ["BackendNotFound", "BackendNotFound"],
  ["Overridden", "Overridden"],
]);

/** Entries for each parent that is a Service; times are those of `before` while a condition's status stays. */
export function parentStatuses(
  { generation }: StoredRoute,
  { parents, refused, refs }: ReadRoute,
  report: PolicyReport | undefined,
  before: readonly unknown[],
  nowMs: number,
): readonly ParentStatus[] {
  const now = new Date(nowMs).toISOString().replace(/\.\d+Z$/, "Z");
  const resolved = problemOf(report, "ResolvedRefs");
  const isParent = resolved?.message.startsWith("spec.parentRefs") === true;
  const overridden = problemOf(report, "Accepted");
  return parents.map(({ ref, service, refused: own }) => {
    const missing = isParent && resolved?.message.includes(`\`${service}\``) === true ? resolved : undefined;
    const notHere = overridden?.message.includes(`\`${service}\``) === true ? overridden : undefined;
    const accepted = own ?? refused ?? missing ?? notHere;
    const refsProblem = refs ?? (isParent ? undefined : resolved);
    const earlier = before.map(fieldsOf).find((one) => sameJson(one["parentRef"], ref));
    const condition = (
      type: "Accepted" | "ResolvedRefs",
      problem: GatewayProblem | undefined,
    ): ParentStatus["conditions"][number] => {
      const status = problem === undefined ? "True" : "False";
      const conditions: readonly unknown[] = Array.isArray(earlier?.["conditions"])
        ? earlier["conditions"]
        : [];
      const stays = conditions.map(fieldsOf).find((one) => one["type"] === type && one["status"] === status);
      const reason = problem === undefined ? type : (REASONS.get(problem.reason) ?? problem.reason);
      return {
        type,
        status,
        observedGeneration: generation,
        reason: MAX_REASON.test(reason) ? reason : "Invalid",
        message: problem?.message.slice(0, MAX_MESSAGE) ?? "",
        lastTransitionTime: String(stays?.["lastTransitionTime"] ?? now),
      };
    };
    return {
      parentRef: ref,
      controllerName: CONTROLLER_NAME,
      conditions: [condition("Accepted", accepted), condition("ResolvedRefs", refsProblem)],
    };
  });
}

/** Whatever order the fields of an object came in. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, item]) => [name, sorted(item)]),
  );
}

const sameJson = (a: unknown, b: unknown): boolean => JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));

/** Whether the API server already has these parents. */
export function sameParents(wanted: readonly unknown[], stored: readonly unknown[]): boolean {
  return sameJson(wanted, stored);
}
