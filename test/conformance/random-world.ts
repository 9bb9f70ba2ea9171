// Random programs and calls over small vocabularies, so that rules and calls meet often and at every edge.

import type { Call, Hop, Operation, Resource } from "../../sidecar/core/policy/call.ts";
import { createCaller, plaintextCaller } from "../../sidecar/core/policy/caller.ts";
import type {
  FromClause,
  Obligations,
  OperationClause,
  PolicyRule,
  ProgramPolicy,
  When,
  WorkloadProgram,
} from "../../sidecar/core/policy/rule.ts";
import { REFERENCE_CEL } from "./reference.ts";

/** A deterministic source of choices (mulberry32). */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  chance(p: number): boolean {
    return this.next() < p;
  }

  of<T>(values: readonly T[]): T {
    return values[this.below(values.length)] as T;
  }

  some<T>(values: readonly T[], most = 2): T[] {
    return Array.from({ length: 1 + this.below(most) }, () => this.of(values));
  }

  maybe<T>(p: number, make: () => T): T | undefined {
    return this.chance(p) ? make() : undefined;
  }
}

const KINDS = ["notebook", "job", "agent"] as const;
const NAMES = ["fraud", "fraud-1", "chat", "x"];
const NAME_PATTERNS = [...NAMES, "fraud*", "f*", "*"];
const SPACES = ["ml", "ml-dev", "ops"];
const SPACE_PATTERNS = [...SPACES, "ml*"];
const ACCOUNTS = ["a", "b"];
const ACCOUNT_PATTERNS = ["a", "b", "ml/a", "ops/b"];
const DOMAINS = ["home", "partner"];
const ROLES = ["ds", "admin", "glass"];
const IDS = ["u1", "u2"];
const OPS = ["serving.invoke", "serving.invoke.chat", "serving.admin", "mlflow.read"];
const OP_PATTERNS = [...OPS, "serving", "mlflow", "serving.inv"];
const ACCESS = ["read", "execute", "admin"] as const;
const RESOURCES = ["m1", "M1", "secret"];
const RESOURCE_PATTERNS = ["m1", "M*", "sec*", "secret", "*"];
const PATHS = ["/a", "/A/", "/a/b", "/docs/x"];
const PATH_PATTERNS = ["/a", "/A", "/a/", "/a/**", "/A/**", "/docs/x", "/**"];
const HOUR = 3_600_000;
const NOW = Date.parse("2026-10-23T20:00:00Z");

const place = (dice: Dice) => ({
  kinds: dice.maybe(0.4, () => dice.some(KINDS)),
  names: dice.maybe(0.4, () => dice.some(NAME_PATTERNS)),
  namespaces: dice.maybe(0.4, () => dice.some(SPACE_PATTERNS)),
  serviceAccounts: dice.maybe(0.2, () => dice.some(ACCOUNT_PATTERNS)),
});

function fromClause(dice: Dice): FromClause {
  if (dice.chance(0.15)) return { any: true };
  const domains = {
    trustDomains: dice.maybe(0.2, () => dice.some(DOMAINS)),
    spiffeIds: dice.maybe(0.1, () => [spiffeId(dice)]),
  };
  const roles = dice.maybe(0.4, () => dice.some(ROLES));
  const clause: FromClause = {
    workload: dice.maybe(0.6, () => ({ ...place(dice), ...domains })),
    user: dice.maybe(0.5, () => ({
      presence: dice.of(["Required", "Required", "Forbidden", "Any"] as const),
      roles,
      ids: dice.maybe(0.2, () => dice.some(IDS)),
      idps: dice.maybe(0.1, () => ["okta"]),
      types: dice.maybe(0.1, () => ["person" as const]),
    })),
    via: dice.maybe(0.25, () => ({
      origin: dice.maybe(0.4, () => place(dice)),
      through: dice.maybe(0.3, () => place(dice)),
      maxHops: dice.maybe(0.5, () => 1 + dice.below(3)),
    })),
  };
  return clause;
}

function operationClause(dice: Dice): OperationClause {
  if (dice.chance(0.1)) return { any: true };
  return {
    op: dice.maybe(0.6, () => dice.of(OP_PATTERNS)),
    access: dice.maybe(0.2, () => dice.some(ACCESS)),
    resources: dice.maybe(0.3, () => dice.some(RESOURCE_PATTERNS)),
    http: dice.maybe(0.2, () => ({
      methods: dice.maybe(0.4, () => dice.some(["GET", "POST"])),
      paths: dice.maybe(0.8, () => dice.some(PATH_PATTERNS)),
    })),
    grpc: dice.maybe(0.05, () => ({
      service: dice.maybe(0.7, () => "s.S"),
      methods: dice.maybe(0.5, () => ["M"]),
    })),
    mcp: dice.maybe(0.1, () => ({
      methods: dice.maybe(0.6, () => ["tools/call"]),
      names: dice.maybe(0.6, () => ["get*"]),
    })),
  };
}

function when(dice: Dice): When {
  return {
    notBeforeMs: dice.maybe(0.2, () => NOW + (dice.below(5) - 3) * HOUR),
    notAfterMs: dice.maybe(0.2, () => NOW + (dice.below(5) - 1) * HOUR),
    schedule: dice.maybe(0.3, () => ({
      timeZone: dice.of(["Europe/Berlin", "America/New_York", "UTC"]),
      days: dice.maybe(0.5, () => dice.some(["Fri", "Sat", "Sun"] as const)),
      from: dice.maybe(0.7, () => dice.of(["08:00", "22:00"])),
      to: dice.maybe(0.7, () => dice.of(["06:00", "23:00"])),
    })),
    environments: dice.maybe(0.2, () => ["prod"]),
    sourceCidrs: dice.maybe(0.15, () => ["10.0.0.0/8"]),
    authn: dice.maybe(0.2, () => ({
      maxAgeMs: dice.maybe(0.5, () => HOUR),
      amr: dice.maybe(0.5, () => ["mfa"]),
      acr: dice.maybe(0.2, () => ["high"]),
    })),
    cel: dice.maybe(0.15, () => dice.of(Object.keys(REFERENCE_CEL))),
  };
}

function obligations(dice: Dice): Obligations {
  return {
    rateLimit: dice.maybe(0.5, () => ({ key: ["user"], requests: 5, perMs: 1000, burst: 5 })),
    audit: dice.maybe(0.5, () => ({
      level: dice.of(["None", "Metadata", "Headers"] as const),
      sample: 1,
      mode: "BestEffort" as const,
    })),
  };
}

function rule(dice: Dice, action: ProgramPolicy["action"], i: number): PolicyRule {
  const free = action !== "Allow";
  const from = free && dice.chance(0.4) ? undefined : dice.some([0, 0]).map(() => fromClause(dice));
  const operations =
    free && dice.chance(0.3) ? undefined : dice.some([0, 0]).map(() => operationClause(dice));
  return {
    name: `r${i}`,
    from,
    operations,
    unless: action === "Deny" ? dice.maybe(0.4, () => [fromClause(dice)]) : undefined,
    when: dice.maybe(0.3, () => when(dice)),
    with: action === "Deny" ? undefined : dice.maybe(action === "Audit" ? 1 : 0.3, () => obligations(dice)),
  };
}

function policy(dice: Dice, i: number): ProgramPolicy {
  const source = dice.of(["policy", "policy", "policy", "policy", "role", "grant"] as const);
  const action =
    source === "policy" ? dice.of(["Allow", "Allow", "Allow", "Deny", "Audit"] as const) : "Allow";
  const head = { id: `ns/p${i}`, name: `p${i}`, cluster: false, source, action } as const;
  const ports = dice.maybe(0.15, () => dice.some([80, 90]));
  const rules = Array.from({ length: 1 + dice.below(3) }, (_, j) => rule(dice, action, j));
  if (source === "grant") {
    const bare = rules.map((each) => ({ ...each, with: undefined }));
    return {
      ...head,
      enforcement: "Enforce",
      ports,
      roles: dice.maybe(0.3, () => dice.some(ROLES)),
      rules: bare,
    };
  }
  return { ...head, enforcement: dice.chance(0.2) ? "DryRun" : "Enforce", ports, rules };
}

export function randomProgram(dice: Dice): WorkloadProgram {
  const count = dice.of([0, 1, 2, 3, 5, 8, 13, 30]);
  return {
    id: "ml/t",
    spiffeId: "spiffe://home/ns/ml/sa/t/serving/t",
    kind: "serving",
    name: "t",
    namespace: "ml",
    labels: new Map([["tier", "one"]]),
    ports: [{ port: 80, protocol: "http", packs: ["p"] }],
    defaultAction: dice.chance(0.2) ? "Allow" : "Deny",
    maxHops: 3,
    trustDomain: "home",
    policies: Array.from({ length: count }, (_, i) => policy(dice, i)),
    features: ["cel"],
  };
}

function spiffeId(dice: Dice): string {
  return `spiffe://${dice.of(DOMAINS)}/ns/${dice.of(SPACES)}/sa/${dice.of(ACCOUNTS)}/${dice.of(KINDS)}/${dice.of(NAMES)}`;
}

function partsOf(id: string): Hop & { trustDomain: string } {
  const parts = id.split("/");
  const at = (i: number): string => parts[i] ?? "";
  return {
    spiffeId: id,
    trustDomain: at(2),
    namespace: at(4),
    serviceAccount: at(6),
    kind: at(7),
    name: at(8),
    operation: "",
  };
}

function operation(dice: Dice): Operation {
  if (dice.chance(0.1)) return { kind: "unknown" };
  if (dice.chance(0.07)) return { kind: "undetermined" };
  return { kind: "known", name: dice.of(OPS), access: dice.of(ACCESS), template: "t" };
}

function resource(dice: Dice, of: Operation): Resource {
  if (of.kind === "unknown" || dice.chance(0.4)) return { kind: "none" };
  if (of.kind === "undetermined" || dice.chance(0.2)) return { kind: "unknown", type: "m" };
  return { kind: "known", type: "m", value: dice.of(RESOURCES) };
}

export function randomCall(dice: Dice): Call {
  const id = spiffeId(dice);
  const { trustDomain, namespace, serviceAccount, kind, name } = partsOf(id);
  const caller = dice.chance(0.05)
    ? plaintextCaller
    : createCaller({
        spiffeId: id,
        trustDomain,
        local: trustDomain === "home",
        namespace,
        serviceAccount,
        kind,
        name,
        labels: new Map(),
        owner: dice.maybe(0.5, () => dice.of(IDS)),
        env: dice.maybe(0.6, () => dice.of(["prod", "dev"])),
      });
  const exact = operation(dice);
  const path = dice.of(PATHS);
  const target = resource(dice, exact);
  const foldedPath = (path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path).toLowerCase();
  const lowered: Resource =
    target.kind === "known" ? { ...target, value: target.value.toLowerCase() } : target;
  const folded =
    foldedPath === path && !dice.chance(0.1)
      ? []
      : [{ operation: dice.chance(0.5) ? exact : operation(dice), resource: lowered, path: foldedPath }];
  const nowMs = NOW + dice.below(72) * HOUR + dice.below(60) * 60_000;
  const user = dice.maybe(0.6, () => ({
    id: dice.of(IDS),
    roles: dice.chance(0.2) ? [] : dice.some(ROLES),
    idp: dice.of(["okta", "entra"]),
    type: dice.of(["person", "servicePrincipal"] as const),
    amr: dice.of([[], ["mfa"]]),
    acr: dice.maybe(0.3, () => "high"),
    authTimeMs: dice.maybe(0.7, () => nowMs - dice.below(3) * HOUR),
  }));
  return {
    caller,
    user,
    via: Array.from({ length: dice.of([0, 0, 0, 1, 1, 2, 3]) }, () =>
      partsOf(dice.chance(0.2) ? id : spiffeId(dice)),
    ),
    port: dice.of([80, 90]),
    request: {
      method: dice.of(["GET", "POST"]),
      path,
      host: "t",
      grpc: dice.maybe(0.1, () => ({ service: dice.of(["s.S", "o.O"]), method: dice.of(["M", "N"]) })),
      mcp: dice.maybe(0.2, () => ({
        method: dice.maybe(0.8, () => dice.of(["tools/call", "tools/list"])),
        name: dice.maybe(0.7, () => dice.of(["get_x", "delete_x"])),
      })),
    },
    operation: exact,
    resource: target,
    folded,
    sourceIp: dice.maybe(0.8, () => dice.of(["10.1.1.1", "192.168.1.1"])),
    scope: dice.maybe(0.1, () => dice.some(["serving", "serving.invoke.chat", "mlflow"])),
    nowMs,
  };
}
