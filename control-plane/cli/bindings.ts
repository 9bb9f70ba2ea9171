// What policy says of one workload: which policies bind it, whom they let in as far as they can tell, whom it may call.
// PURE.
import type { ProgramPolicy, WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import type { Compiled } from "../policy/compile.ts";
import { settingsName } from "../resources/build.ts";
import type { ClusterState, Workload } from "../sources/store.ts";

export interface Binding {
  /** `Kind namespace/name`, or `grant` and `role` with its name. */
  readonly policy: string;
  readonly action: string;
  /** `Enforce` or `DryRun`. */
  readonly mode: string;
  /** undefined: all. */
  readonly ports: readonly number[] | undefined;
  readonly rules: readonly string[];
}

export interface Bindings {
  /** Key in the state. */
  readonly key: string;
  readonly workload: string;
  readonly spiffeId: string;
  readonly policies: readonly Binding[];
  /** Policies that select it and are not in force, with why. */
  readonly excluded: readonly string[];
  readonly defaultAction: "Allow" | "Deny";
  /** Whether callers without mesh identity get as far as a decision. */
  readonly plaintext: "refused" | "decided";
  /** As far as policy can tell without user, chain, operation and time; `namespace: kind/name`, sorted. */
  readonly callers: readonly string[];
  readonly callees: readonly string[];
}

export function bindingsOf(compiled: Compiled, key: string, workload: Workload): Bindings {
  const { state, programs, callees } = compiled;
  const program = programs.get(key);
  const callers = [...callees].flatMap(([caller, targets]) => (targets.has(key) ? [caller] : []));
  return {
    key,
    workload: workloadText(workload),
    spiffeId: program?.spiffeId ?? "",
    policies: (program?.policies ?? []).map(bindingOf),
    excluded: excludedOn(compiled, key),
    defaultAction: program?.defaultAction ?? state.config.defaultAction,
    plaintext: settingsName(state, workload).startsWith("permissive") ? "decided" : "refused",
    callers: namesOf(state, callers),
    callees: namesOf(state, [...(callees.get(key) ?? [])]),
  };
}

/** `kind/name in namespace`. */
export function workloadText({ kind, name, namespace }: Workload): string {
  return `${kind}/${name} in ${namespace}`;
}

function bindingOf(policy: ProgramPolicy): Binding {
  const { source, id, action, enforcement, ports, rules, cluster } = policy;
  const kind = source === "policy" ? (cluster ? "ClusterAccessPolicy" : "AccessPolicy") : source;
  return { policy: `${kind} ${id}`, action, mode: enforcement, ports, rules: rules.map(({ name }) => name) };
}

/** A policy that a problem keeps out of force, where it selects the workload. */
function excludedOn(compiled: Compiled, key: string): string[] {
  return [...compiled.policies].flatMap(([policy, { targets, problems }]) => {
    const error = problems.find(({ severity }) => severity === "error");
    return error === undefined || !targets.includes(key)
      ? []
      : [`${policy.replace("/", " ")}: ${error.reason}: ${error.path}: ${error.message}`];
  });
}

/** Variants of one identity are one name. */
function namesOf(state: ClusterState, keys: readonly string[]): string[] {
  const names = keys.map((key) => {
    const workload = state.workloads.get(key);
    return workload === undefined ? key : workloadText(workload);
  });
  return [...new Set(names)].sort();
}

/** What a program serves, a line per port. */
export function portsText(program: Pick<WorkloadProgram, "ports">): string[] {
  return program.ports.map(
    ({ port, protocol, packs }) => `${port} ${protocol}${packs.length === 0 ? "" : ` (${packs.join(", ")})`}`,
  );
}
