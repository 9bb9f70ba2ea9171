import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { AccessPolicy } from "../../../control-plane/policy/access-policy.ts";
import { type Compiled, compile, recompile } from "../../../control-plane/policy/compile.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import type {
  AccessGrant,
  ClusterState,
  MeshConfig,
  Workload,
} from "../../../control-plane/sources/store.ts";
import type { PolicyRule } from "../../../sidecar/core/policy/rule.ts";
import { Dice } from "../../conformance/random-world.ts";

const packs = loadBuiltInPacks();

const config: MeshConfig = {
  trustDomain: "home",
  defaultAction: "Deny",
  mtls: "Strict",
  outbound: "Deny",
  proofs: "Optional",
  maxHops: 5,
  svidTtlMs: 1,
  txnTtlMs: 1,
  trustedSpawners: [],
  protectedLabels: [],
  gateways: [],
  explainDenials: false,
  namespaces: [],
};

function workload(namespace: string, name: string, change: Partial<Workload> = {}): Workload {
  return {
    name,
    namespace,
    kind: "serving",
    serviceAccount: "sa",
    labels: new Map(),
    addresses: [],
    meshPort: 1,
    service: name,
    ports: [],
    propagation: [],
    owner: undefined,
    env: undefined,
    runAs: undefined,
    generation: 1,
    ...change,
  };
}

function policy(name: string, change: Partial<AccessPolicy> = {}): AccessPolicy {
  const rules: PolicyRule[] = [{ name: "r", from: [{ any: true }], operations: [{ op: "serving.invoke" }] }];
  return {
    kind: "AccessPolicy",
    name,
    namespace: "ml",
    generation: 1,
    action: "Allow",
    enforcement: "Enforce",
    targets: undefined,
    rules,
    ...change,
  };
}

const keyOf = (each: AccessPolicy): string =>
  [each.kind, ...(each.namespace === undefined ? [] : [each.namespace]), each.name].join("/");

function stateOf(
  policies: readonly AccessPolicy[],
  workloads: readonly Workload[],
  change: Partial<ClusterState> = {},
): ClusterState {
  return {
    revision: 1,
    config,
    policies: new Map(policies.map((each) => [keyOf(each), each])),
    workloads: new Map(workloads.map((each) => [`${each.namespace}/${each.name}`, each])),
    roles: new Map(),
    bindings: new Map(),
    grants: new Map(),
    externalServices: new Map(),
    catalogs: new Map(),
    identityProviders: new Map(),
    meshGateways: new Map(),
    routePolicies: new Map(),
    trafficPolicies: new Map(),
    gatewayRoutes: new Map(),
    namespaces: new Map(),
    services: new Map(),
    pods: new Map(),
    ...change,
  };
}

/** Everything that a compile says, in a form that compares. */
function plain(compiled: Compiled): unknown {
  const sorted = (map: ReadonlyMap<string, unknown>) => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
  const sets = [...compiled.callees].map(([key, set]) => [key, [...set].sort()] as [string, unknown]);
  const text = JSON.stringify(
    [sorted(compiled.programs), sorted(compiled.externals), sorted(new Map(sets)), sorted(compiled.policies)],
    (_key, part: unknown) => (part instanceof Map ? [...part] : part),
  );
  return JSON.parse(text);
}

const SPACES = ["ml", "ops"];
const NAMES = ["a", "b", "c", "ab"];

function randomPolicy(dice: Dice, name: string): AccessPolicy {
  const cluster = dice.chance(0.3);
  const action = dice.of(["Allow", "Allow", "Deny", "Audit"] as const);
  const from =
    action !== "Allow" && dice.chance(0.5)
      ? undefined
      : [
          dice.of([
            { any: true as const },
            {
              workload: {
                namespaces: dice.some(SPACES),
                names: dice.maybe(0.5, () => dice.some([...NAMES, "a*"])),
              },
            },
            { user: { presence: "Required" as const } },
          ]),
        ];
  const operations =
    action !== "Allow" && dice.chance(0.5)
      ? undefined
      : [{ op: dice.of(["serving.invoke", "serving", "no.such"]) }];
  const when = dice.maybe(0.2, () => ({ cel: dice.of(["user.id == caller.owner", "nonsense("]) }));
  const targets = dice.maybe(0.7, () =>
    dice.some([0, 0]).map(() => ({
      names: dice.maybe(0.6, () => dice.some([...NAMES, "a*"])),
      ports: dice.maybe(0.2, () => [80]),
      ...(cluster ? { namespaces: dice.maybe(0.4, () => dice.some(SPACES)) } : {}),
    })),
  );
  return policy(name, {
    kind: cluster ? "ClusterAccessPolicy" : "AccessPolicy",
    namespace: cluster ? undefined : dice.of(SPACES),
    action,
    enforcement: dice.chance(0.2) ? "DryRun" : "Enforce",
    targets,
    rules: [{ name: "r", from, operations, when }],
  });
}

function grant(dice: Dice): AccessGrant {
  return {
    name: dice.of(["g1", "g2"]),
    namespace: dice.of(SPACES),
    subject: { user: "u" },
    operations: [{ op: "serving" }],
    roles: dice.maybe(0.5, () => [dice.of(["glass", "r1"])]),
    targets: undefined,
    durationMs: 1,
    reason: "",
    phase: dice.of(["Pending", "Active", "Approved"] as const),
    activeFromMs: 0,
    activeUntilMs: 10,
  };
}

/** One edit: mostly of policies, at times of anything else. */
function edited(state: ClusterState, dice: Dice): ClusterState {
  const what = dice.below(12);
  const next = { ...state, revision: state.revision + 1 };
  if (what < 7) {
    const policies = new Map(state.policies);
    const old = dice.of([...policies.keys(), ""]);
    if (dice.chance(0.5)) policies.delete(old);
    const created = randomPolicy(dice, dice.of(["p1", "p2", "p3", "p4"]));
    if (dice.chance(0.7)) policies.set(keyOf(created), created);
    return { ...next, policies };
  }
  if (what < 9) {
    const grants = new Map(state.grants);
    const created = grant(dice);
    if (dice.chance(0.3)) grants.clear();
    else grants.set(`${created.namespace}/${created.name}`, created);
    return { ...next, grants };
  }
  if (what < 10) {
    const workloads = new Map(state.workloads);
    const created = workload(dice.of(SPACES), dice.of(NAMES), { kind: dice.of(["job", "serving"] as const) });
    const key = `${created.namespace}/${created.name}`;
    if (!workloads.delete(key)) workloads.set(key, created);
    return { ...next, workloads };
  }
  if (what < 11) {
    const roles = new Map([
      [
        "r1",
        {
          name: "r1",
          rules: dice.chance(0.3)
            ? []
            : [
                {
                  operations: [{ op: "serving" }],
                  targets: dice.maybe(0.5, () => [
                    { selector: { matchLabels: new Map([["tier", dice.of(["x", "y"])]]) } },
                  ]),
                },
              ],
        },
      ],
    ]);
    const bindings = new Map([
      [
        "b",
        {
          name: "b",
          roles: ["r1"],
          namespaces: dice.maybe(0.5, () => ["ml"]),
          subjects: dice.some([{ user: "u" }, { serviceAccount: "ml/sa" }]),
        },
      ],
      ["c", { name: "c", roles: ["r1"], namespaces: ["ops"], subjects: [{ idp: "i", group: "g" }] }],
    ]);
    return { ...next, roles, bindings };
  }
  return { ...next, config: { ...config, defaultAction: dice.of(["Allow", "Deny"] as const) } };
}

describe("recompile", () => {
  test("equals a full compile after any sequence of edits", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 - 1 }), (seed) => {
        const dice = new Dice(seed);
        let state = stateOf(
          [],
          [workload("ml", "a"), workload("ml", "b", { kind: "job" }), workload("ops", "ab")],
        );
        let compiled = compile(state, packs);
        for (let i = 0; i < 8; i++) {
          state = edited(state, dice);
          compiled = recompile(compiled, state);
          expect(plain(compiled)).toEqual(plain(compile(state, packs)));
        }
      }),
      { numRuns: 25 },
    );
  });

  test("keeps the programs that a change does not affect as the same objects", () => {
    const target = (name: string) => policy(name, { targets: [{ names: [name] }] });
    const state = stateOf([target("a"), target("b")], [workload("ml", "a"), workload("ml", "b")]);
    const before = compile(state, packs);
    const changed = policy("a", {
      targets: [{ names: ["a"] }],
      rules: [{ name: "x", from: [{ any: true }], operations: [{ any: true }] }],
    });
    const after = recompile(before, {
      ...state,
      policies: new Map(state.policies).set(keyOf(changed), changed),
    });
    expect(after.programs.get("ml/a")).not.toBe(before.programs.get("ml/a"));
    expect(after.programs.get("ml/b")).toBe(before.programs.get("ml/b"));
    const grown = recompile(after, {
      ...after.state,
      workloads: new Map(state.workloads).set("ml/c", workload("ml", "c")),
    });
    expect(grown.programs.get("ml/b")).toBe(before.programs.get("ml/b"));
  });
});

describe("compile", () => {
  const one = [workload("ml", "a")];
  const reasons = (policies: readonly AccessPolicy[], workloads = one, change: Partial<ClusterState> = {}) =>
    [...compile(stateOf(policies, workloads, change), packs).policies.values()].map((report) =>
      report.problems.map(({ severity, reason, path }) => `${severity} ${reason} ${path}`),
    );
  const rule = (change: Partial<PolicyRule>): Partial<AccessPolicy> => ({
    rules: [{ name: "r", from: [{ any: true }], operations: [{ op: "serving.invoke" }], ...change }],
  });

  test.each([
    {
      name: "an operation that no pack has",
      change: rule({ operations: [{ op: "serving.invok" }] }),
      want: "error UnknownOperation spec.rules[0].operations[0].op",
    },
    {
      name: "a role that nothing names",
      change: rule({ from: [{ user: { presence: "Required", roles: ["ds"] } }] }),
      want: "warning UnknownRole spec.rules[0].from[0].user.roles[0]",
    },
    {
      name: "a target that does not exist",
      change: { targets: [{ names: ["zz"] }] },
      want: "warning TargetNotFound spec.targets",
    },
    {
      name: "a condition that does not compile",
      change: rule({ when: { cel: "user.nope == 1" } }),
      want: "error InvalidCEL spec.rules[0].when.cel",
    },
    {
      name: "a condition on what nothing carries",
      change: rule({ when: { cel: "caller.labels.a == 'b'" } }),
      want: "error Unsupported spec.rules[0].when.cel",
    },
    {
      name: "a time window of nothing",
      change: rule({ when: { notBeforeMs: 5, notAfterMs: 5 } }),
      want: "warning NeverMatches spec.rules[0].when.notAfter",
    },
    {
      name: "a schedule of nothing",
      change: rule({ when: { schedule: { timeZone: "UTC", from: "05:00", to: "05:00" } } }),
      want: "warning NeverMatches spec.rules[0].when.schedule",
    },
    {
      name: "a resource of an operation without one",
      change: rule({ operations: [{ op: "health.probe", resources: ["x"] }] }),
      want: "warning NeverMatches spec.rules[0].operations[0].resources",
    },
    {
      name: "no user with facts",
      change: rule({ from: [{ user: { presence: "Forbidden", idps: ["x"] } }] }),
      want: "warning NeverMatches spec.rules[0].from[0].user",
    },
    {
      name: "no hops at all",
      change: rule({ from: [{ via: { maxHops: 0 } }] }),
      want: "warning NeverMatches spec.rules[0].from[0].via.maxHops",
    },
    {
      name: "kinds without a namespace",
      change: rule({ from: [{ workload: { kinds: ["job"] } }] }),
      want: "warning Unscoped spec.rules[0].from[0].workload",
    },
  ])("reports $name", ({ change, want }) => {
    expect(reasons([policy("p", change)])).toEqual([[want]]);
  });

  test("suggests the closest operation", () => {
    const report = compile(
      stateOf([policy("p", rule({ operations: [{ op: "serving.invoke.caht" }] }))], one),
      packs,
    ).policies.get("AccessPolicy/ml/p");
    expect(report?.problems[0]?.message).toContain("did you mean `serving.invoke.chat`");
  });

  test("says that an Allow under an unconditional Deny never allows", () => {
    const deny = policy("closed", { action: "Deny", rules: [{ name: "all" }] });
    expect(reasons([policy("p"), deny])).toEqual([["warning NeverMatches spec"], []]);
  });

  test("leaves a refused Allow out and turns a refused Deny into one that denies everything", () => {
    const bad = rule({ operations: [{ op: "no.such" }] });
    const compiled = compile(
      stateOf([policy("allow", bad), policy("deny", { ...bad, action: "Deny" })], one),
      packs,
    );
    expect(compiled.programs.get("ml/a")?.policies).toMatchObject([
      { name: "deny", action: "Deny", rules: [{ name: "not-accepted" }] },
    ]);
  });

  test("puts cluster policies first, then goes by name", () => {
    const cluster = policy("z", { kind: "ClusterAccessPolicy", namespace: undefined });
    const compiled = compile(stateOf([policy("b"), cluster, policy("a")], one), packs);
    expect(compiled.programs.get("ml/a")?.policies.map(({ id }) => id)).toEqual(["z", "ml/a", "ml/b"]);
  });

  test("tells whom a workload may call", () => {
    const callers = [workload("ml", "a"), workload("ml", "b"), workload("ops", "c", { kind: "job" })];
    const only = policy("p", {
      targets: [{ names: ["a"] }],
      rules: [{ name: "r", from: [{ workload: { kinds: ["job"] } }], operations: [{ any: true }] }],
    });
    const { callees } = compile(stateOf([only], callers), packs);
    expect([...callees].map(([caller, targets]) => [caller, ...targets])).toEqual([
      ["ml/a"],
      ["ml/b"],
      ["ops/c", "ml/a"],
    ]);
  });

  test("lets a grant in only while it is approved, with its times", () => {
    const base: AccessGrant = {
      name: "g",
      namespace: "ml",
      subject: { user: "u" },
      operations: [{ op: "serving" }],
      roles: undefined,
      targets: undefined,
      durationMs: 1,
      reason: "",
      phase: "Active",
      activeFromMs: 5,
      activeUntilMs: 9,
    };
    const policies = (each: AccessGrant) =>
      compile(stateOf([], one, { grants: new Map([["ml/g", each]]) }), packs).programs.get("ml/a")?.policies;
    expect(policies(base)).toMatchObject([
      {
        source: "grant",
        id: "g",
        rules: [{ from: [{ user: { ids: ["u"] } }], when: { notBeforeMs: 5, notAfterMs: 9 } }],
      },
    ]);
    for (const phase of ["Pending", "Expired", "Revoked", "Rejected"] as const)
      expect(policies({ ...base, phase })).toEqual([]);
    expect(policies({ ...base, activeUntilMs: undefined })).toEqual([]);
  });

  test("gives rules that a role carries to the holders by each binding, in its namespaces", () => {
    const roles = new Map([
      ["q", { name: "q", rules: [{ operations: [{ op: "serving" }], targets: undefined }] }],
    ]);
    const binding = (name: string, namespaces: string[] | undefined) => ({
      name,
      roles: ["q"],
      namespaces,
      subjects: [{ user: "u" }],
    });
    const both = [workload("ml", "a"), workload("ops", "b")];
    const holders = (bindings: ReturnType<typeof binding>[]) => {
      const { programs } = compile(
        stateOf([], both, { roles, bindings: new Map(bindings.map((each) => [each.name, each])) }),
        packs,
      );
      return [...programs.values()].map(({ policies }) =>
        policies.flatMap((each) =>
          each.rules.flatMap((rule) => rule.from?.flatMap((from) => from.user?.roles ?? []) ?? []),
        ),
      );
    };
    expect(holders([])).toEqual([[], []]);
    expect(holders([binding("x", undefined)])).toEqual([["@x"], ["@x"]]);
    expect(holders([binding("x", ["ml"]), binding("y", undefined)])).toEqual([["@x", "@y"], ["@y"]]);
    expect(holders([binding("x", ["ml"]), binding("y", ["ops"])])).toEqual([["@x"], ["@y"]]);
  });

  test("lets a grant of a role bring the rules that the role carries, where and while it holds", () => {
    const roles = new Map([
      ["q", { name: "q", rules: [{ operations: [{ op: "serving" }], targets: undefined }] }],
    ]);
    const granted: AccessGrant = {
      name: "g",
      namespace: "ml",
      subject: { user: "i|u" },
      operations: undefined,
      roles: ["q"],
      targets: [{ names: ["a"] }],
      durationMs: 1,
      reason: "",
      phase: "Active",
      activeFromMs: 5,
      activeUntilMs: 9,
    };
    const state = stateOf([], [workload("ml", "a"), workload("ml", "b"), workload("ops", "c")], {
      roles,
      grants: new Map([["ml/g", granted]]),
    });
    const { programs } = compile(state, packs);
    expect(programs.get("ml/a")?.policies).toMatchObject([
      { source: "role", id: "q", rules: [{ from: [{ user: { roles: ["@grant/ml/g"] } }] }] },
      { source: "grant", roles: ["q", "@grant/ml/g"], rules: [{ when: { notBeforeMs: 5, notAfterMs: 9 } }] },
    ]);
    // Without the grant's label there is nobody with the rule.
    expect(programs.get("ml/b")?.policies.map(({ source }) => source)).toEqual(["role"]);
    expect(programs.get("ops/c")?.policies).toEqual([]);
  });

  test("compiles a changed binding for the workloads that its rules reach alone", () => {
    const roles = new Map([
      ["q", { name: "q", rules: [{ operations: [{ op: "serving" }], targets: [{ names: ["a"] }] }] }],
      ["label", { name: "label", rules: [] }],
    ]);
    const bound = (subjects: { user: string }[], role = "q") =>
      new Map([["x", { name: "x", roles: [role], namespaces: undefined, subjects }]]);
    const state = stateOf([], [workload("ml", "a"), workload("ops", "b")], {
      roles,
      bindings: bound([{ user: "i|u" }]),
    });
    const before = compile(state, packs);
    const after = recompile(before, { ...state, bindings: bound([{ user: "i|u" }, { user: "i|v" }]) });
    // Who holds it is the token's to say.
    expect(after.programs.get("ml/a")).toBe(before.programs.get("ml/a"));
    const without = recompile(after, { ...state, bindings: bound([{ user: "i|u" }], "label") });
    expect(without.programs.get("ml/a")?.policies).toEqual([]);
    expect(without.programs.get("ops/b")).toBe(before.programs.get("ops/b"));
  });
});
