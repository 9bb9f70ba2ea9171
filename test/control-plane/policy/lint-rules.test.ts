// Rules that never match: a table of what an author sees, and that no random call ever contradicts a "never".
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { AccessPolicy } from "../../../control-plane/policy/access-policy.ts";
import type { PolicyProblem } from "../../../control-plane/policy/conditions.ts";
import { templatesOf } from "../../../control-plane/policy/lint-operations.ts";
import { lintRules } from "../../../control-plane/policy/lint-rules.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { createObjectParser } from "../../../control-plane/policy/typed-object.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";
import type { Call } from "../../../sidecar/core/policy/call.ts";
import type {
  FromClause,
  OperationClause,
  PolicyRule,
  ProgramPolicy,
} from "../../../sidecar/core/policy/rule.ts";
import { Dice } from "../../conformance/random-world.ts";
import { type Subject, secondRule, secondSubject } from "../../conformance/second-reference.ts";
import { secondCall, secondCel, secondProgram } from "../../conformance/second-world.ts";

const schemas = loadSchemas();
const parse = createObjectParser();
const context = {
  trustDomain: "home",
  templates: [...templatesOf(loadBuiltInPacks()).values()].flat(),
};

function lint(spec: object): string[] {
  const checked = schemas.validate({
    apiVersion: "countersign.dev/v1alpha1",
    kind: "AccessPolicy",
    metadata: { name: "p", namespace: "lab" },
    spec,
  });
  if (!checked.ok) throw new Error(JSON.stringify(checked.error));
  const typed = parse(checked.value, 0);
  if (!typed.ok || typed.value.kind !== "AccessPolicy") throw new Error(JSON.stringify(typed));
  return lintRules(typed.value.value, context).map(
    ({ reason, path, message }) => `${reason} ${path.replace("spec.", "")}: ${message}`,
  );
}

const any = [{ any: true }];
const allow = (...rules: object[]): object => ({
  action: "Allow",
  rules: rules.map((rule, i) => ({ name: `r${i}`, from: any, operations: any, ...rule })),
});
const deny = (...rules: object[]): object => ({
  action: "Deny",
  rules: rules.map((rule, i) => ({ name: `r${i}`, ...rule })),
});
const jobs = { workload: { kinds: ["job"], namespaces: ["ml"] } };
const nightly = { timeZone: "Europe/Berlin", from: "01:00", to: "05:00" };

describe("lint of rules", () => {
  test.each<{ name: string; spec: object; says: RegExp[] }>([
    {
      name: "rules that differ",
      spec: allow({ from: [jobs] }, { from: [{ user: { roles: ["ds"] } }] }),
      says: [],
    },
    {
      name: "a narrower rule behind a wider one",
      spec: allow(
        { operations: [{ op: "serving" }] },
        { from: [jobs], operations: [{ op: "serving.invoke", resources: ["fraud*"] }] },
      ),
      says: [/^Shadowed rules\[1\]: never decides: `r0` before it matches every call that it matches$/],
    },
    {
      name: "a narrower rule ahead of a wider one",
      spec: allow({ from: [jobs] }, {}),
      says: [],
    },
    {
      name: "a rule that two earlier ones cover together",
      spec: allow(
        { from: [jobs] },
        { from: [{ user: { roles: ["ds", "admin"] } }] },
        { from: [jobs, { user: { roles: ["ds"], presence: "Required" } }], operations: [{ op: "serving" }] },
      ),
      says: [/^Shadowed rules\[2\]: never decides: `r0`, `r1` before it match every/],
    },
    {
      name: "a rule at other times",
      spec: allow({ when: { schedule: nightly } }, { from: [jobs] }),
      says: [],
    },
    {
      name: "a rule at a part of the same time",
      spec: allow(
        { when: { schedule: { timeZone: "Europe/Berlin", from: "22:00", to: "06:00" } } },
        { when: { schedule: { ...nightly, days: ["Tue"] } } },
      ),
      says: [/^Shadowed rules\[1\]/],
    },
    {
      name: "a Deny that another holds already",
      spec: deny(
        { operations: [{ op: "serving.admin" }] },
        { from: [jobs], operations: [{ op: "serving.admin" }] },
      ),
      says: [/^Shadowed rules\[1\]: denies nothing that `r0` before it does not deny$/],
    },
    {
      name: "a Deny whose exceptions are fewer",
      spec: deny({ unless: [jobs] }, { from: [jobs] }),
      says: [],
    },
    {
      name: "an Audit behind a wider one",
      spec: { ...deny({}, { operations: [{ op: "sql" }] }), action: "Audit" },
      says: [/^Shadowed rules\[1\]: records nothing that `r0` before it does not record$/],
    },
    {
      name: "exceptions for all, if one may come from elsewhere",
      spec: deny({ from: [jobs], unless: [{ workload: { kinds: ["job", "agent"] } }] }),
      says: [/^OnlyForeign rules\[0\]\.unless: exempts every caller of this mesh/],
    },
    {
      name: "exceptions for all",
      spec: deny({
        from: [{ workload: { trustDomains: ["home"], kinds: ["job"] } }],
        unless: [{ workload: { kinds: ["job"] } }],
      }),
      says: [/^NeverMatches rules\[0\]\.unless: exempts every caller that `from` names: nobody is denied$/],
    },
    {
      name: "exceptions by an origin, which may be of another trust domain",
      spec: deny({
        from: [{ workload: { trustDomains: ["home"] }, via: { origin: { kinds: ["job"] } } }],
        unless: [{ via: { origin: { kinds: ["job"] } } }],
      }),
      says: [],
    },
    {
      name: "a path that a Deny meets without its slash, too",
      spec: deny(
        { operations: [{ http: { paths: ["/a/**"] } }] },
        { operations: [{ http: { paths: ["/a/"] } }] },
      ),
      says: [],
    },
    {
      name: "the same path for an Allow",
      spec: allow(
        { operations: [{ http: { paths: ["/a/**"] } }] },
        { operations: [{ http: { paths: ["/a/", "/a/b"] } }] },
      ),
      says: [/^Shadowed rules\[1\]/],
    },
    {
      name: "an exception for some",
      spec: deny({ from: [jobs], unless: [{ workload: { kinds: ["job"], names: ["nightly"] } }] }),
      says: [],
    },
    {
      name: "service accounts of other namespaces",
      spec: allow({ from: [{ workload: { namespaces: ["ml*"], serviceAccounts: ["batch/trainer"] } }] }),
      says: [/^NeverMatches rules\[0\]\.from\[0\]\.workload\.serviceAccounts: /],
    },
    {
      name: "a chain of one that comes through somebody",
      spec: allow({ from: [{ via: { maxHops: 1, through: { kinds: ["gateway"] } } }] }),
      says: [/^NeverMatches rules\[0\]\.from\[0\]\.via\.through: /],
    },
    {
      name: "a chain of one with another origin",
      spec: allow({
        from: [{ workload: { kinds: ["agent"] }, via: { maxHops: 1, origin: { kinds: ["gateway"] } } }],
      }),
      says: [/^NeverMatches rules\[0\]\.from\[0\]\.via\.origin: /],
    },
    {
      name: "a sign-in of nobody",
      spec: allow({ from: [{ user: { presence: "Forbidden" } }], when: { authn: { amr: ["mfa"] } } }),
      says: [/^NeverMatches rules\[0\]\.when\.authn: /],
    },
    {
      name: "a weekend without its days",
      spec: allow({
        when: {
          notBefore: "2026-09-14T00:00:00Z",
          notAfter: "2026-09-18T00:00:00Z",
          schedule: { timeZone: "UTC", days: ["Sat", "Sun"] },
        },
      }),
      says: [/^NeverMatches rules\[0\]\.when\.schedule: is never open between/],
    },
    {
      name: "an hour that the clocks skip",
      spec: allow({
        when: {
          notBefore: "2026-03-29T00:00:00Z",
          notAfter: "2026-03-29T12:00:00Z",
          schedule: { timeZone: "Europe/Berlin", from: "02:10", to: "02:50" },
        },
      }),
      says: [/^NeverMatches rules\[0\]\.when\.schedule: /],
    },
    {
      name: "the hour after they skipped",
      spec: allow({
        when: {
          notBefore: "2026-03-29T00:00:00Z",
          notAfter: "2026-03-29T12:00:00Z",
          schedule: { timeZone: "Europe/Berlin", from: "02:10", to: "03:01" },
        },
      }),
      says: [],
    },
    {
      name: "an access class that the operation never has",
      spec: allow({ operations: [{ op: "serving.invoke", access: ["admin"] }] }),
      says: [
        /^NeverMatches rules\[0\]\.operations\[0\]\.access: `serving\.invoke` has no such class in any operation pack, but `execute`: nothing matches$/,
      ],
    },
    {
      name: "a method that the operation never has",
      spec: allow({ operations: [{ op: "mlflow.log", http: { methods: ["GET"] } }] }),
      says: [/^NeverMatches rules\[0\]\.operations\[0\]\.http\.methods: .*but by `POST`, `PUT`/],
    },
    {
      name: "a path that the operation never has",
      spec: allow({ operations: [{ op: "jobs.runNow", http: { paths: ["/api/2.1/jobs/run-later"] } }] }),
      says: [/^NeverMatches rules\[0\]\.operations\[0\]\.http\.paths: /],
    },
    {
      name: "paths that the operations have",
      spec: allow({
        operations: [
          { op: "jobs.runNow", http: { paths: ["/api/2.1/**"] } },
          { op: "serving.metadata", http: { methods: ["GET"], paths: ["/v2/models/fraud", "/nowhere"] } },
          { op: "notebook.kernel", http: { methods: ["GET"], paths: ["/user/alice/**"] } },
          { op: "notebook.read", http: { paths: ["/api/contents/a/b/c"] } },
          { op: "mcp.tool.call", http: { methods: ["POST"], paths: ["/mcp"] } },
        ],
      }),
      says: [],
    },
    {
      name: "a gRPC method that the operation never has",
      spec: allow({ operations: [{ op: "spark.execute", grpc: { methods: ["AnalyzePlan"] } }] }),
      says: [/^NeverMatches rules\[0\]\.operations\[0\]\.grpc: /],
    },
    {
      name: "an MCP method that the operation never has",
      spec: allow({ operations: [{ op: "mcp.tool.call", mcp: { methods: ["tools/list"] } }] }),
      says: [/^NeverMatches rules\[0\]\.operations\[0\]\.mcp: /],
    },
    {
      name: "gRPC by GET, and HEAD",
      spec: allow({
        operations: [
          { http: { methods: ["GET"] }, grpc: { service: "a.B" } },
          { http: { methods: ["HEAD"] } },
        ],
      }),
      says: [
        /operations\[0\]\.http\.methods: gRPC calls are POST/,
        /operations\[1\]\.http\.methods: HEAD is decided as GET/,
      ],
    },
  ])("$name", ({ spec, says }) => {
    const found = lint(spec);
    expect({ found, count: found.length }).toEqual({ found: expect.anything(), count: says.length });
    for (const [i, pattern] of says.entries()) expect(found[i]).toMatch(pattern);
  });

  test("says so where it gives up on a large policy", () => {
    const names = Array.from({ length: 32 }, (_, i) => `n${i}`);
    const rules = Array.from({ length: 32 }, () => ({ from: [{ workload: { names } }] }));
    expect(lint(allow(...rules))).toEqual([expect.stringMatching(/^TooLarge rules: /)]);
  });
});

/** Some of the fields, at least one of them; fields of fields too, but `schedule` whole and `presence` always. */
function thinned<T extends object>(dice: Dice, value: T): T {
  const stated = Object.entries(value).filter(([, field]) => field !== undefined);
  const kept = stated.filter(([name]) => name === "presence" || dice.chance(0.45));
  return Object.fromEntries(
    (kept.length > 0 ? kept : stated.slice(0, 1)).map(([name, field]) => [
      name,
      typeof field === "object" && field !== null && !Array.isArray(field) && name !== "schedule"
        ? thinned(dice, field)
        : field,
    ]),
  ) as T;
}

/** A policy of rules that share some conditions of one rule: what one lacks and another has shows in calls. */
function thinnedPolicy(dice: Dice): ProgramPolicy {
  const policy = relatedPolicy(dice);
  const whole = dice.of(policy.rules);
  const rules = Array.from(
    { length: 5 },
    (_, i): PolicyRule => ({
      name: `r${i}`,
      from: dice.chance(0.4) ? [{ any: true }] : [thinned(dice, whole.from?.[0] ?? { any: true })],
      operations: dice.chance(0.4)
        ? [{ any: true }]
        : [thinned(dice, whole.operations?.[0] ?? { any: true })],
      when: whole.when === undefined || dice.chance(0.3) ? undefined : thinned(dice, whole.when),
      unless:
        policy.action === "Deny" && dice.chance(0.3)
          ? [thinned(dice, whole.unless?.[0] ?? whole.from?.[0] ?? { any: true })]
          : undefined,
      with: whole.with,
    }),
  );
  return { ...policy, rules };
}

/** A policy whose later rules are made of its earlier ones, so that they cover each other often. */
function relatedPolicy(dice: Dice): ProgramPolicy {
  const program = secondProgram(dice);
  const policies = program.policies.filter((one) => one.source === "policy");
  const policy = policies[0] ?? program.policies[0];
  if (policy === undefined) return relatedPolicy(dice);
  const pool = [policy, ...policies].flatMap((one) => one.rules);
  const stated = <T extends object>(one: T): T =>
    Object.fromEntries(Object.entries(one).filter(([, value]) => value !== undefined)) as T;
  const narrowed = (rule: PolicyRule): PolicyRule => {
    const other = dice.of(pool);
    const both = <T extends object>(a: readonly T[] | undefined, b: readonly T[] | undefined) =>
      dice.chance(0.3)
        ? (b ?? a)
        : a?.map((one) => (dice.chance(0.5) ? { ...dice.of(b ?? [one]), ...stated(one) } : one));
    return {
      ...rule,
      from: both<FromClause>(rule.from, other.from)?.map((one) => (one.any ? { any: true as const } : one)),
      operations: both<OperationClause>(rule.operations, other.operations)?.map((one) =>
        one.any ? { any: true as const } : one,
      ),
      unless:
        policy.action !== "Deny" ? undefined : dice.chance(0.3) ? rule.from : (rule.unless ?? other.unless),
      when: dice.chance(0.5) ? rule.when : { ...rule.when, ...other.when },
    };
  };
  const rules = [...policy.rules];
  while (rules.length < 5) rules.push(narrowed(dice.of(rules)));
  return { ...policy, rules: rules.map((rule, i) => ({ ...rule, name: `r${i}` })) };
}

/** What a call says against a problem; undefined: nothing. */
function contradiction(problem: PolicyProblem, policy: ProgramPolicy, subject: Subject): string | undefined {
  const [, number = "", rest = ""] = /^spec\.rules\[(\d+)\]\.?(.*)$/.exec(problem.path) ?? [];
  const index = Number(number);
  const side = ({ Allow: "allow", Deny: "deny", Audit: "audit" } as const)[policy.action];
  const rule = policy.rules[index];
  if (rule === undefined) return "no such rule";
  const results = policy.rules.map((one) => secondRule(one, side, subject));
  const own = results[index];
  const [, list, at] = /^(from|unless)\[(\d+)\]/.exec(rest) ?? [];
  if (list !== undefined) {
    const clause = (list === "from" ? rule.from : rule.unless)?.[Number(at)];
    if (clause === undefined) return "no such clause";
    const alone = secondRule({ name: "x", [list]: [clause] }, side, subject);
    return (list === "from" ? alone.match !== "false" : alone.unless) ? "somebody matches" : undefined;
  }
  const holds = own?.match !== "false" && own?.unless === false;
  if (problem.reason === "OnlyForeign")
    return holds && subject.call.caller.local ? "it denies a caller of this mesh" : undefined;
  if (rest === "unless") return holds ? "it denies" : undefined;
  if (problem.reason === "NeverMatches") return own?.match === "false" ? undefined : "it matches";
  const earlier = results.slice(0, index);
  if (policy.action === "Deny")
    return holds && !earlier.some((one) => one.match !== "false" && !one.unless)
      ? "it denies alone"
      : undefined;
  const first =
    policy.action === "Allow"
      ? earlier.some((one) => one.match !== "false")
      : earlier.some((one) => one.match === "true");
  return own?.match === "true" && !first ? "it decides" : undefined;
}

describe("never", () => {
  const seen = new Map<string, number>();

  test("is never contradicted by a call", () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const dice = new Dice(seed);
        const policy = dice.chance(0.5) ? relatedPolicy(dice) : thinnedPolicy(dice);
        const typed: AccessPolicy = {
          kind: "AccessPolicy",
          name: policy.name,
          namespace: "ml",
          generation: 1,
          action: policy.action,
          enforcement: policy.enforcement,
          targets: undefined,
          rules: policy.rules,
        };
        const program = { ...secondProgram(dice), policies: [policy] };
        // Random calls have operations of no pack; lint-operations.test.ts holds what is said about those.
        const problems = lintRules(typed, { trustDomain: program.trustDomain, templates: [] }).filter(
          ({ path }) => !path.includes(".operations"),
        );
        for (const { reason, path } of problems) {
          const key = `${policy.action} ${reason} ${path.replace(/\d+/g, "")}`;
          seen.set(key, (seen.get(key) ?? 0) + 1);
        }
        if (problems.length === 0) return;
        for (let i = 0; i < 40; i++) {
          const call: Call = secondCall(dice);
          const subject = secondSubject(program, call, secondCel);
          for (const problem of problems) {
            const wrong = contradiction(problem, policy, subject);
            if (wrong !== undefined)
              throw new Error(`${wrong}: ${JSON.stringify({ problem, rules: policy.rules, call })}`);
          }
        }
      }),
      { numRuns: 400 },
    );
  });

  test("is said often enough to mean something", () => {
    for (const action of ["Allow", "Deny", "Audit"])
      expect(seen.get(`${action} Shadowed spec.rules[]`) ?? 0).toBeGreaterThan(20);
    expect([...seen.keys()].join("\n")).toMatch(/Deny OnlyForeign/);
  });
});
