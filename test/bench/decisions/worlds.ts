// The same policies and calls for every engine: workload w{i} may do operation n{i % 100} on its target.

import type { Call } from "../../../sidecar/core/policy/call.ts";
import { createCaller } from "../../../sidecar/core/policy/caller.ts";
import { type CompiledProgram, createProgram } from "../../../sidecar/core/policy/decide.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";

const OPERATIONS = 100;

/** `one`: all policies select one target. `spread`: a hundred policies each. */
export type Layout = "one target" | "spread";

export interface PolicyFacts {
  readonly caller: string;
  readonly namespace: string;
  readonly operation: string;
  readonly target: string;
}

export function policiesOf(count: number, layout: Layout): PolicyFacts[] {
  return Array.from({ length: count }, (_, index) => ({
    caller: `w${index}`,
    namespace: `ns${index % 50}`,
    operation: `bench.op.n${index % OPERATIONS}`,
    target: layout === "one target" ? "t0" : `t${Math.floor(index / 100)}`,
  }));
}

/** A small generator with a fixed seed, so that every engine gets the same calls in every run. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export interface CallFacts extends PolicyFacts {
  readonly allowed: boolean;
}

/** Random calls, half of them allowed. */
export function callsOf(policies: readonly PolicyFacts[], count: number): CallFacts[] {
  const random = generator(7);
  return Array.from({ length: count }, () => {
    const index = Math.floor(random() * policies.length);
    const policy = policies[index];
    if (policy === undefined) throw new Error("no policies");
    if (random() < 0.5) return { ...policy, allowed: true };
    return {
      ...policy,
      operation: `bench.op.n${(index + 1 + Math.floor(random() * (OPERATIONS - 2))) % OPERATIONS}`,
      allowed: false,
    };
  });
}

/** Our engine: a compiled program per target. */
export function ownPrograms(policies: readonly PolicyFacts[]): Map<string, CompiledProgram> {
  const byTarget = Map.groupBy(policies, (policy) => policy.target);
  const programs = new Map<string, CompiledProgram>();
  for (const [target, selected] of byTarget) {
    const program = createProgram({
      id: `ml/${target}`,
      spiffeId: `spiffe://mesh.local/ns/ml/sa/${target}/serving/${target}`,
      kind: "serving",
      name: target,
      namespace: "ml",
      labels: new Map(),
      ports: [{ port: 8080, protocol: "http", packs: ["bench"] }],
      defaultAction: "Deny",
      maxHops: 5,
      trustDomain: "mesh.local",
      features: [],
      policies: selected.map(
        (policy): ProgramPolicy => ({
          id: `ml/p-${policy.caller}`,
          name: `p-${policy.caller}`,
          cluster: false,
          source: "policy",
          action: "Allow",
          enforcement: "Enforce",
          rules: [
            {
              name: "r",
              from: [
                { workload: { kinds: ["job"], names: [policy.caller], namespaces: [policy.namespace] } },
              ],
              operations: [{ op: policy.operation }],
            },
          ],
        }),
      ),
    });
    if (!program.ok) throw new Error(program.error);
    programs.set(target, program.value);
  }
  return programs;
}

export function ownCalls(calls: readonly CallFacts[]): { readonly target: string; readonly call: Call }[] {
  const callers = new Map<string, ReturnType<typeof createCaller>>();
  return calls.map(({ caller, namespace, operation, target }) => {
    const from =
      callers.get(caller) ??
      createCaller({
        spiffeId: `spiffe://mesh.local/ns/${namespace}/sa/default/job/${caller}`,
        trustDomain: "mesh.local",
        local: true,
        namespace,
        serviceAccount: "default",
        kind: "job",
        name: caller,
        labels: new Map(),
        owner: undefined,
        env: undefined,
      });
    callers.set(caller, from);
    return {
      target,
      call: {
        caller: from,
        user: undefined,
        via: [],
        port: 8080,
        request: { method: "GET", path: "/v1", host: target, grpc: undefined, mcp: undefined },
        operation: { kind: "known", name: operation, access: "read", template: "/v1" },
        resource: { kind: "none" },
        folded: [],
        sourceIp: undefined,
        scope: undefined,
        nowMs: 1_790_000_000_000,
      },
    };
  });
}
