// Large programs, in which the trees are deep and their nodes of every form; small ones are in decide.test.ts.
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { Call, Operation } from "../../../../sidecar/core/policy/call.ts";
import { createCaller } from "../../../../sidecar/core/policy/caller.ts";
import { createProgram, decide } from "../../../../sidecar/core/policy/decide.ts";
import type {
  FromClause,
  OperationClause,
  PolicyRule,
  ProgramPolicy,
  WorkloadMatch,
  WorkloadProgram,
} from "../../../../sidecar/core/policy/rule.ts";
import { Dice } from "../../../conformance/random-world.ts";
import { referenceDecide } from "../../../conformance/reference.ts";

const KINDS = ["job", "notebook", "agent"] as const;

/** A world with room: `names` different names, so that programs of hundreds of policies still tell callers apart. */
class World {
  readonly dice: Dice;
  readonly #names: number;

  constructor(seed: number, names: number) {
    this.dice = new Dice(seed);
    this.#names = names;
  }

  name = (): string => `w${this.dice.below(this.#names)}`;
  space = (): string => `ns${this.dice.below(7)}`;
  account = (): string => `sa${this.dice.below(5)}`;
  role = (): string => `role${this.dice.below(this.#names)}`;
  id = (): string => `u${this.dice.below(9)}`;
  resource = (): string => this.dice.of(["Model", "model", "model-2", "other"]);
  path = (): string => this.dice.of(["/a", "/a/", "/a/b", "/b/c/d"]);
  op = (): string => this.dice.of(["serving", "serving.invoke", "serving.invoke.chat", "jobs.run", "jobs"]);
  spiffeId = (): string => `spiffe://home/ns/${this.space()}/sa/${this.account()}/job/${this.name()}`;

  workload(): WorkloadMatch {
    const { dice } = this;
    return {
      names: dice.maybe(0.7, () => (dice.chance(0.9) ? [this.name()] : [`${this.name()}*`, this.name()])),
      namespaces: dice.maybe(0.5, () => [this.space()]),
      kinds: dice.maybe(0.5, () => [dice.of(KINDS)]),
      serviceAccounts: dice.maybe(0.2, () => [
        dice.chance(0.5) ? this.account() : `${this.space()}/${this.account()}`,
      ]),
      spiffeIds: dice.maybe(0.1, () => [this.spiffeId()]),
      trustDomains: dice.maybe(0.05, () => ["home"]),
    };
  }

  from(): FromClause {
    const user = this.dice.maybe(0.3, () => ({
      presence: "Required" as const,
      roles: this.dice.maybe(0.8, () => [this.role()]),
      ids: this.dice.maybe(0.2, () => [this.id()]),
    }));
    return { workload: this.dice.maybe(0.8, () => this.workload()), user };
  }

  operation(): OperationClause {
    const { dice } = this;
    if (dice.chance(0.1)) return { http: { paths: [dice.chance(0.5) ? this.path() : "/a/**"] } };
    return {
      op: this.op(),
      resources: dice.maybe(0.15, () => [dice.chance(0.5) ? this.resource() : "model*"]),
    };
  }

  rule(name: string, deny: boolean): PolicyRule {
    const { dice } = this;
    return {
      name,
      from: Array.from({ length: dice.chance(0.85) ? 1 : 3 }, () => this.from()),
      unless: deny ? dice.maybe(0.2, () => [this.from()]) : undefined,
      operations: Array.from({ length: dice.chance(0.85) ? 1 : 2 }, () => this.operation()),
      with: deny
        ? undefined
        : dice.maybe(0.1, () => ({ audit: { level: "Metadata", sample: 1, mode: "BestEffort" } as const })),
    };
  }

  program(policies: number): WorkloadProgram {
    const { dice } = this;
    return {
      id: "ml/t",
      spiffeId: "spiffe://home/ns/ml/sa/t/serving/t",
      kind: "serving",
      name: "t",
      namespace: "ml",
      labels: new Map(),
      ports: [],
      defaultAction: "Deny",
      maxHops: 3,
      trustDomain: "home",
      features: [],
      policies: Array.from({ length: policies }, (_, i): ProgramPolicy => {
        const deny = dice.chance(0.1);
        return {
          id: `ns/p${i}`,
          name: `p${i}`,
          cluster: false,
          source: dice.chance(0.05) && !deny ? "grant" : "policy",
          action: deny ? "Deny" : "Allow",
          enforcement: "Enforce",
          ports: dice.maybe(0.05, () => [80]),
          rules: Array.from({ length: dice.chance(0.9) ? 1 : 2 }, (__, j) => this.rule(`r${j}`, deny)),
        };
      }),
    };
  }

  call(): Call {
    const { dice } = this;
    const namespace = this.space();
    const serviceAccount = this.account();
    const name = this.name();
    const operation: Operation = dice.chance(0.05)
      ? { kind: dice.of(["unknown", "undetermined"] as const) }
      : { kind: "known", name: this.op(), access: "read", template: "t" };
    const path = this.path();
    const value = this.resource();
    const resource = dice.chance(0.4)
      ? ({ kind: "none" } as const)
      : dice.chance(0.1)
        ? ({ kind: "unknown", type: "m" } as const)
        : ({ kind: "known", type: "m", value } as const);
    const lowered = resource.kind === "known" ? { ...resource, value: value.toLowerCase() } : resource;
    return {
      caller: createCaller({
        spiffeId: `spiffe://home/ns/${namespace}/sa/${serviceAccount}/job/${name}`,
        trustDomain: "home",
        local: dice.chance(0.9),
        namespace,
        serviceAccount,
        kind: dice.of(KINDS),
        name,
        labels: new Map(),
        owner: undefined,
        env: undefined,
      }),
      user: dice.maybe(0.6, () => ({
        id: this.id(),
        roles: [this.role(), this.role()],
        idp: "i",
        type: "person" as const,
        amr: [],
        acr: undefined,
        authTimeMs: 0,
      })),
      via: [],
      port: dice.of([80, 90]),
      request: { method: "GET", path, host: "t", grpc: undefined, mcp: undefined },
      operation,
      resource,
      folded: path.endsWith("/") ? [{ operation, resource: lowered, path: path.slice(0, -1) }] : [],
      sourceIp: undefined,
      scope: undefined,
      nowMs: 0,
    };
  }
}

describe("the index of a large program", () => {
  test.each([
    { policies: 60, names: 6 },
    { policies: 300, names: 40 },
    { policies: 300, names: 5000 },
  ])("finds what the reference evaluator finds: $policies policies, $names names", ({ policies, names }) => {
    const reasons = new Set<string>();
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 - 1 }), (seed) => {
        const world = new World(seed, names);
        const source = world.program(policies);
        const program = createProgram(source);
        if (!program.ok) throw new Error(program.error);
        for (let i = 0; i < 20; i++) {
          const call = world.call();
          const { reason, policy, rule } = decide(program.value, call);
          const wanted = referenceDecide(source, call);
          expect({ reason, policy, rule }).toEqual({
            reason: wanted.reason,
            policy: wanted.policy,
            rule: wanted.rule,
          });
          reasons.add(reason);
        }
      }),
      // Seeded: which reasons occur must not depend on luck. The fuzz targets vary it.
      { numRuns: 20, seed: policies + names },
    );
    expect([...reasons]).toEqual(expect.arrayContaining(["ALLOWED", "NO_MATCHING_ALLOW"]));
  });

  test("an operation that cannot be told reaches every rule that asks for one", () => {
    const world = new World(1, 10);
    const program = world.program(0);
    const deny = (op: string, i: number): ProgramPolicy => ({
      id: `ns/d${i}`,
      name: `d${i}`,
      cluster: false,
      source: "policy",
      action: "Deny",
      enforcement: "Enforce",
      rules: [{ name: "r", operations: [{ op }] }],
    });
    const created = createProgram({
      ...program,
      policies: ["a", "b.c", "d", "e.f", "g", "h", "i"].map(deny),
    });
    if (!created.ok) throw new Error(created.error);
    const call: Call = { ...world.call(), operation: { kind: "undetermined" }, folded: [] };
    expect(decide(created.value, call)).toMatchObject({ reason: "DENIED_BY_POLICY", policy: "ns/d0" });
  });
});
