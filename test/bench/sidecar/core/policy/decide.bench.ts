// Cost of one decision at 10 to 10 000 policies on one target, without any verdict cache: median of batches of random
// calls. Run it with `node test/bench/sidecar/core/policy/decide.bench.ts`; one JSON line per row.

import type { Call } from "../../../../../sidecar/core/policy/call.ts";
import { createCaller } from "../../../../../sidecar/core/policy/caller.ts";
import { createProgram, decide } from "../../../../../sidecar/core/policy/decide.ts";
import type { PolicyRule, ProgramPolicy, WorkloadProgram } from "../../../../../sidecar/core/policy/rule.ts";

const OPERATIONS = [
  "serving.invoke.chat",
  "serving.invoke.predict",
  "serving.metadata",
  "mlflow.read",
  "mlflow.log",
  "jobs.runNow",
];
const KINDS = ["notebook", "job", "agent", "service"] as const;

/** A deterministic generator (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Every tenth policy is a Deny with an exception, every fifth grants to a role, the rest to one workload. */
function policyOf(i: number): ProgramPolicy {
  const op = OPERATIONS[i % OPERATIONS.length] ?? "jobs";
  const kind = KINDS[i % KINDS.length] ?? "job";
  const workload = { kinds: [kind], names: [`w-${i}`], namespaces: [`ns-${i % 100}`] };
  let rule: PolicyRule = { name: "r", from: [{ workload }], operations: [{ op }] };
  if (i % 10 === 3)
    rule = {
      name: "r",
      from: [{ workload: { ...workload, names: [`w-${i + 1}`] } }],
      operations: [{ op: "serving.admin" }],
      unless: [{ user: { presence: "Required", roles: [`role-${i}`] } }],
    };
  else if (i % 5 === 2)
    rule = {
      name: "r",
      from: [{ user: { presence: "Required", roles: [`role-${i}`] } }],
      operations: [{ op }, { op: "mlflow.run" }],
    };
  else if (i % 5 === 4)
    rule = { ...rule, with: { rateLimit: { key: ["workload"], requests: 10, perMs: 1000, burst: 10 } } };
  return {
    id: `ns/p-${String(i).padStart(5, "0")}`,
    name: `p-${i}`,
    cluster: false,
    source: "policy",
    action: i % 10 === 3 ? "Deny" : "Allow",
    enforcement: "Enforce",
    rules: [rule],
  };
}

export function benchProgram(count: number): WorkloadProgram {
  const policies = Array.from({ length: count }, (_, i) => policyOf(i));
  return {
    id: "ns/t",
    spiffeId: "spiffe://t/ns/ns/sa/t/serving/t",
    kind: "serving",
    name: "t",
    namespace: "ns",
    labels: new Map(),
    ports: [{ port: 8080, protocol: "http", packs: [] }],
    defaultAction: "Deny",
    maxHops: 5,
    trustDomain: "t",
    policies,
    features: [],
  };
}

export function benchCalls(count: number, policies: number, seed: number): Call[] {
  const random = randomOf(seed);
  const pick = (n: number): number => Math.floor(random() * n);
  const callers = Array.from({ length: Math.min(policies, 4096) }, () => {
    const i = pick(policies);
    const kind = KINDS[i % KINDS.length] ?? "job";
    const namespace = `ns-${i % 100}`;
    return {
      i,
      caller: createCaller({
        spiffeId: `spiffe://t/ns/${namespace}/sa/x/${kind}/w-${i}`,
        trustDomain: "t",
        local: true,
        namespace,
        serviceAccount: "x",
        kind,
        name: `w-${i}`,
        labels: new Map(),
        owner: undefined,
        env: undefined,
      }),
    };
  });
  return Array.from({ length: count }, () => {
    const { i, caller } = callers[pick(callers.length)] ?? callers[0]!;
    const name = OPERATIONS[random() < 0.7 ? i % OPERATIONS.length : pick(OPERATIONS.length)] ?? "jobs";
    const user =
      random() < 0.5
        ? {
            id: `u-${pick(1000)}`,
            roles: [`role-${pick(policies)}`, "other"],
            idp: "i",
            type: "person" as const,
            amr: ["mfa"],
            acr: undefined,
            authTimeMs: 0,
          }
        : undefined;
    return {
      caller,
      user,
      via: [],
      port: 8080,
      request: { method: "POST", path: "/x", host: "t", grpc: undefined, mcp: undefined },
      operation: { kind: "known" as const, name, access: "execute" as const, template: "t" },
      resource: { kind: "none" as const },
      folded: [],
      sourceIp: "10.0.0.1",
      scope: undefined,
      nowMs: 1e12,
    };
  });
}

/** Median nanoseconds per decision. */
export function measure(count: number, batches = 300): number {
  const program = createProgram(benchProgram(count));
  if (!program.ok) throw new Error(program.error);
  const calls = benchCalls(8192, count, 7);
  const times: number[] = [];
  for (let batch = 0; batch < batches; batch++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < 1024; i++)
      decide(program.value, calls[(batch * 1024 + i) % calls.length] ?? calls[0]!);
    times.push(Number(process.hrtime.bigint() - start) / 1024);
  }
  return times.sort((a, b) => a - b)[times.length >> 1] ?? 0;
}

if (process.argv[1]?.endsWith("decide.bench.ts")) {
  for (const count of [10, 100, 1000, 10_000]) {
    measure(count, 100);
    console.log(
      JSON.stringify({
        bench: "decide",
        row: `${count} policies on one target`,
        ours: Math.round(measure(count)),
        unit: "ns",
      }),
    );
  }
}
