// The same policies and calls for every engine: workload w{i} may do operation n{i % 100} on its target.

import type { Call, Operation } from "../../../sidecar/core/policy/call.ts";
import { createCaller } from "../../../sidecar/core/policy/caller.ts";
import { type CompiledProgram, createProgram } from "../../../sidecar/core/policy/decide.ts";
import type { ProgramPolicy, WorkloadProgram } from "../../../sidecar/core/policy/rule.ts";

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

/** The policies as a sidecar gets them: one form per target. */
export function ownForms(policies: readonly PolicyFacts[]): Map<string, WorkloadProgram> {
  const forms = new Map<string, WorkloadProgram>();
  for (const [target, selected] of Map.groupBy(policies, (policy) => policy.target)) {
    forms.set(target, {
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
  }
  return forms;
}

/** Our engine: a compiled program per target. */
export function ownPrograms(forms: ReadonlyMap<string, WorkloadProgram>): Map<string, CompiledProgram> {
  const programs = new Map<string, CompiledProgram>();
  for (const [target, form] of forms) {
    const program = createProgram(form);
    if (!program.ok) throw new Error(program.error);
    programs.set(target, program.value);
  }
  return programs;
}

/** A string object of its own, as one that was read from a certificate is. */
const fresh = (text: string): string => Buffer.from(text).toString("latin1");

/**
 * Every call has a caller of its own with strings of its own, as 20 000 connections have, at every number of policies:
 * what differs between the sizes is then the policies alone. Operations are the objects of their pack, as they are in
 * a sidecar.
 */
export function ownCalls(calls: readonly CallFacts[]): { readonly target: string; readonly call: Call }[] {
  const operations = new Map<string, Operation>();
  return calls.map(({ caller, namespace, operation: name, target }) => {
    const operation = operations.get(name) ?? { kind: "known", name, access: "read", template: "/v1" };
    operations.set(name, operation);
    return {
      target,
      call: {
        caller: createCaller({
          spiffeId: fresh(`spiffe://mesh.local/ns/${namespace}/sa/default/job/${caller}`),
          trustDomain: fresh("mesh.local"),
          local: true,
          namespace: fresh(namespace),
          serviceAccount: fresh("default"),
          kind: fresh("job"),
          name: fresh(caller),
          labels: new Map(),
          owner: undefined,
          env: undefined,
        }),
        user: undefined,
        via: [],
        port: 8080,
        request: { method: "GET", path: "/v1", host: target, grpc: undefined, mcp: undefined },
        operation,
        resource: { kind: "none" },
        folded: [],
        sourceIp: undefined,
        scope: undefined,
        nowMs: 1_790_000_000_000,
      },
    };
  });
}
