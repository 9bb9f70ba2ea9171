// Whom each workload may call, as far as policy can tell without user and chain: what a sidecar is told of.
import type { WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import type { ClusterState } from "../sources/store.ts";
import type { Callers, Entry } from "./policy-entry.ts";

/** What an earlier compile found. */
interface EarlierCallees {
  readonly callees: ReadonlyMap<string, ReadonlySet<string>>;
  readonly callers: ReadonlyMap<string, Callers>;
}

/** @param entries in force on the target. */
export function callersOfTarget(program: WorkloadProgram | undefined, entries: readonly Entry[]): Callers {
  const out = new Set<string>();
  let allowPolicies = 0;
  for (const { source, callers } of entries) {
    if (callers === undefined) continue;
    if (source.source !== "grant") allowPolicies += 1;
    if (callers === "all") return "all";
    for (const caller of callers) out.add(caller);
  }
  return allowPolicies === 0 && program?.defaultAction === "Allow" ? "all" : out;
}

/** @param affected targets whose callers may differ from `previous`; undefined: all. */
export function calleesOf(
  state: ClusterState,
  callers: ReadonlyMap<string, Callers>,
  previous: EarlierCallees | undefined,
  affected: ReadonlySet<string> | undefined,
): ReadonlyMap<string, ReadonlySet<string>> {
  if (previous === undefined || affected === undefined) {
    const out = new Map<string, Set<string>>();
    for (const key of state.workloads.keys()) out.set(key, new Set());
    for (const [target, list] of callers)
      for (const caller of list === "all" ? out.keys() : list) out.get(caller)?.add(target);
    return out;
  }
  const out = new Map(previous.callees);
  const copied = new Set<string>();
  const editable = (caller: string): Set<string> => {
    const set = copied.has(caller) ? (out.get(caller) as Set<string>) : new Set(out.get(caller)); // a copy made below
    copied.add(caller);
    out.set(caller, set);
    return set;
  };
  for (const target of affected) {
    const now = callers.get(target);
    const before = previous.callers.get(target);
    if (now === undefined || now === before) continue;
    const contains = (set: Callers | undefined, caller: string): boolean =>
      set === "all" || set?.has(caller) === true;
    const touched =
      now === "all" || before === "all" ? state.workloads.keys() : new Set([...now, ...(before ?? [])]);
    for (const caller of touched) {
      const may = contains(now, caller);
      if (may === contains(before, caller)) continue;
      if (may) editable(caller).add(target);
      else editable(caller).delete(target);
    }
  }
  return copied.size === 0 ? previous.callees : out;
}
