import { describe, expect, test } from "@jest/globals";
import { parse, stringify } from "yaml";
import { type AccessPolicy, parseAccessPolicy } from "../../control-plane/policy/access-policy.ts";
import { compile } from "../../control-plane/policy/compile.ts";
import { loadBuiltInPacks } from "../../control-plane/policy/packs.ts";
import { loadSchemas } from "../../control-plane/sources/schema.ts";
import type { ClusterState, MeshConfig, Workload } from "../../control-plane/sources/store.ts";
import type {
  FromClause,
  Obligations,
  PolicyRule,
  ProgramPolicy,
  When,
  WorkloadProgram,
} from "../../sidecar/core/policy/rule.ts";
import { Dice } from "./random-world.ts";
import { differences } from "./second-agreement.ts";
import { secondCall, secondProgram } from "./second-world.ts";

const schemas = loadSchemas();
const packs = loadBuiltInPacks();

const fromYaml = ({ any, workload, user, via }: FromClause): object => {
  const { spiffeIds, ...rest } = workload ?? {};
  return { any, workload: workload && { ...rest, spiffeIDs: spiffeIds }, user, via };
};

function whenYaml(when: When): object {
  const { notBeforeMs, notAfterMs, sourceCidrs, authn, ...rest } = when;
  const time = (ms: number | undefined) => (ms === undefined ? undefined : new Date(ms).toISOString());
  const { maxAgeMs, ...strength } = authn ?? {};
  const maxAge = maxAgeMs === undefined ? undefined : `${maxAgeMs / 1000}s`;
  return {
    ...rest,
    notBefore: time(notBeforeMs),
    notAfter: time(notAfterMs),
    sourceCIDRs: sourceCidrs,
    authn: authn && { ...strength, maxAge },
  };
}

function withYaml({ rateLimit, audit, headers, identity }: Obligations): object {
  return {
    rateLimit: rateLimit && { key: "user", requests: rateLimit.requests, per: "1s", burst: rateLimit.burst },
    audit,
    headers: headers && { set: Object.fromEntries(headers.set), remove: headers.remove },
    identity: identity && { forward: [...new Set(identity.forward)] },
  };
}

/** Lists of a policy are sets; the worlds do not mind repeating a value. */
const withoutRepeats = (_key: unknown, value: unknown): unknown =>
  Array.isArray(value) ? [...new Set(value)] : value;

/** The YAML text by which somebody would have written a policy of a program. */
function yamlOf(policy: ProgramPolicy): string {
  const rules = policy.rules.map((rule: PolicyRule) => ({
    name: rule.name,
    from: rule.from?.map(fromYaml),
    unless: rule.unless?.map(fromYaml),
    operations: rule.operations,
    when: rule.when && whenYaml(rule.when),
    with: rule.with && withYaml(rule.with),
  }));
  const { cluster, name, action, enforcement, ports } = policy;
  const document = {
    apiVersion: "countersign.dev/v1alpha1",
    kind: cluster ? "ClusterAccessPolicy" : "AccessPolicy",
    metadata: cluster ? { name } : { name, namespace: "ml" },
    spec: { action, enforcement, targets: [{ kinds: ["serving"], names: ["t"], ports }], rules },
  };
  return stringify(document, withoutRepeats, { keepUndefined: false, aliasDuplicateObjects: false });
}

/** The policy, when schema and parser take it; random rules may well be refused (a clause given twice). */
function admitted(policy: ProgramPolicy): AccessPolicy | undefined {
  const valid = schemas.validate(parse(yamlOf(policy)));
  if (!valid.ok) return undefined;
  const parsed = parseAccessPolicy(valid.value);
  return parsed.ok ? parsed.value : undefined;
}

function stateOf(program: WorkloadProgram, policies: readonly AccessPolicy[]): ClusterState {
  const config: MeshConfig = {
    trustDomain: program.trustDomain,
    defaultAction: program.defaultAction,
    mtls: "Strict",
    outbound: "Deny",
    proofs: "Optional",
    maxHops: program.maxHops,
    svidTtlMs: 1,
    txnTtlMs: 1,
    trustedSpawners: [],
    protectedLabels: [],
    gateways: [],
    explainDenials: false,
    namespaces: [],
  };
  const port = { protocol: "http", packs: ["openai"] } as const;
  const workload: Workload = {
    name: "t",
    namespace: "ml",
    kind: "serving",
    serviceAccount: "t",
    labels: program.labels,
    addresses: [],
    meshPort: 1,
    service: undefined,
    ports: [
      { port: 80, ...port },
      { port: 90, ...port },
    ],
    propagation: [],
    owner: undefined,
    env: undefined,
    runAs: undefined,
    generation: 1,
  };
  const keyOf = ({ kind, namespace, name }: AccessPolicy) =>
    [kind, ...(namespace === undefined ? [] : [namespace]), name].join("/");
  return {
    revision: 1,
    config,
    policies: new Map(policies.map((policy) => [keyOf(policy), policy])),
    workloads: new Map([["ml/t", workload]]),
    roles: new Map(["ds", "admin", "glass"].map((name) => [name, { name, rules: [] }])),
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
  };
}

describe("policies written as YAML, compiled and sent", () => {
  test("decide as the second reference does on the rules themselves", () => {
    let compared = 0;
    for (let seed = 0; seed < 80; seed++) {
      const dice = new Dice(seed);
      const world = secondProgram(dice);
      const calls = Array.from({ length: 8 }, () => secondCall(dice));
      // The tolerated problems of a policy (it can never match) are warnings; with an error it is left out on both sides.
      const taken = new Map(
        world.policies.flatMap((policy) => {
          const parsed = policy.source === "policy" ? admitted(policy) : undefined;
          const known = policy.rules.every(
            (rule) => rule.operations?.every(({ op }) => op !== "serving.inv") !== false,
          );
          return parsed === undefined || !known ? [] : [[policy, parsed] as const];
        }),
      );
      const compiled = compile(stateOf(world, [...taken.values()]), packs, { supportAll: true });
      const problems = [...compiled.policies.values()].flatMap((report) => report.problems);
      expect(problems.filter((problem) => problem.severity === "error")).toEqual([]);
      const program = compiled.programs.get("ml/t");
      if (program === undefined) throw new Error(`seed ${seed}: no program`);
      compared += taken.size;
      const wanted = { ...world, policies: [...taken.keys()] };
      expect(differences(wanted, program, calls)).toEqual([]);
    }
    expect(compared).toBeGreaterThan(60);
  });
});
