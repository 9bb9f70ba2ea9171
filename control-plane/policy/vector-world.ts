// The `world` of a decision table: workloads, users, grants and a clock, as the compiler and a call see them; PURE.
import type { Caller, User, WorkloadKind } from "../../sidecar/core/policy/call.ts";
import { WORKLOAD_KINDS } from "../../sidecar/core/policy/call.ts";
import { MeshError, type Result } from "../../sidecar/core/runtime/errors.ts";
import type { AccessGrant, ClusterState, ExternalService, MeshConfig, Workload } from "../sources/store.ts";
import type { AccessPolicy } from "./access-policy.ts";
import { parseDurationMs } from "./field-reader.ts";
import { spiffeIdOf } from "./select.ts";

export const VECTOR_TRUST_DOMAIN = "lake.acme.example";
const PORT = 8080;

export interface VectorWorld {
  /** The state of a cluster with these workloads and policies. */
  stateOf(policies: readonly AccessPolicy[]): ClusterState;
  callerOf(key: string): Omit<Caller, "authenticated">;
  userOf(name: string, nowMs: number, authAge: string | undefined): User;
  /** Program id of a row's target. */
  targetOf(row: { readonly from: string; readonly to?: string; readonly external?: string }): string;
  /** `HH:MM` on the world's date, an RFC 3339 time, or undefined for the world's `now`; Unix milliseconds. */
  timeOf(at: string | undefined): number;
}

interface WorldWorkload {
  readonly key: string;
  readonly workload: Workload;
  readonly trustDomain: string;
}

interface WorldUser {
  readonly roles: readonly string[];
  readonly type: User["type"];
  readonly amr: readonly string[];
  readonly acr: string | undefined;
  readonly idp: string;
  readonly authAge: string | undefined;
}

type Fields = Readonly<Record<string, unknown>>;

/** Collects problems, so that a table's author sees all at once. */
class WorldReader {
  readonly problems: string[] = [];

  fields(value: unknown, path: string, allowed: readonly string[] | undefined): Fields {
    if (value === undefined) return {};
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      this.problems.push(`${path} must be a mapping`);
      return {};
    }
    const fields = value as Fields; // a non-null object that is no list
    for (const key of Object.keys(fields))
      if (allowed?.includes(key) === false) this.problems.push(`${path}: unknown field \`${key}\``);
    return fields;
  }

  text(fields: Fields, key: string, path: string): string | undefined {
    const value = fields[key];
    if (value !== undefined && typeof value !== "string") this.problems.push(`${path}.${key} must be text`);
    return typeof value === "string" ? value : undefined;
  }

  texts(fields: Fields, key: string, path: string): readonly string[] | undefined {
    const value = fields[key];
    if (value === undefined) return undefined;
    if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value;
    this.problems.push(`${path}.${key} must be a list of texts`);
    return undefined;
  }

  oneOf<T extends string>(value: string | undefined, values: readonly T[], fallback: T, path: string): T {
    if (value === undefined) return fallback;
    const found = values.find((each) => each === value);
    if (found === undefined) this.problems.push(`${path} must be one of ${values.join(", ")}`);
    return found ?? fallback;
  }

  time(value: string | undefined, path: string): number {
    const time = value === undefined ? Number.NaN : Date.parse(value);
    if (Number.isNaN(time)) this.problems.push(`${path} must be an RFC 3339 time`);
    return time;
  }
}

const WORLD_FIELDS = [
  "now",
  "workloads",
  "external",
  "users",
  "grants",
  "namespaces",
  "defaultAction",
  "migrating",
  "maxHops",
];

export function parseWorld(value: unknown): Result<VectorWorld, readonly string[]> {
  const reader = new WorldReader();
  const fields = reader.fields(value, "world", WORLD_FIELDS);
  const now = reader.text(fields, "now", "world");
  reader.time(now, "world.now");
  const workloads = new Map(
    Object.entries(reader.fields(fields["workloads"], "world.workloads", undefined)).map(([key, raw]) => [
      key,
      readWorkload(reader, key, raw),
    ]),
  );
  const users = new Map(
    Object.entries(reader.fields(fields["users"], "world.users", undefined)).map(([key, raw]) => [
      key,
      readUser(reader, key, raw),
    ]),
  );
  const external = Object.entries(reader.fields(fields["external"], "world.external", undefined)).map(
    ([name, raw]) => {
      const path = `world.external.${name}`;
      const service = reader.fields(raw, path, ["packs", "ns"]);
      return {
        name,
        packs: reader.texts(service, "packs", path) ?? [],
        ns: reader.text(service, "ns", path),
      };
    },
  );
  const grants = (Array.isArray(fields["grants"]) ? fields["grants"] : []).map((raw, i) =>
    readGrant(reader, raw, `world.grants[${i}]`, workloads),
  );
  const config = configOf(reader, fields);
  if (reader.problems.length > 0 || now === undefined) return { ok: false, error: reader.problems };
  return { ok: true, value: new World(now, workloads, users, external, grants, config) };
}

function configOf(reader: WorldReader, fields: Fields): MeshConfig {
  const maxHops = fields["maxHops"];
  return {
    trustDomain: VECTOR_TRUST_DOMAIN,
    defaultAction: reader.oneOf(
      reader.text(fields, "defaultAction", "world"),
      ["Deny", "Allow"],
      "Deny",
      "world.defaultAction",
    ),
    mtls: "Strict",
    outbound: "Deny",
    proofs: "Optional",
    maxHops: typeof maxHops === "number" ? maxHops : 5,
    svidTtlMs: 21_600_000,
    txnTtlMs: 300_000,
    trustedSpawners: [],
    protectedLabels: [],
    gateways: [],
    explainDenials: false,
    namespaces: (reader.texts(fields, "migrating", "world") ?? []).map((name) => ({
      selector: {},
      names: [name],
      mtls: "Permissive",
      defaultAction: "Allow",
    })),
  };
}

function readWorkload(reader: WorldReader, key: string, raw: unknown): WorldWorkload {
  const path = `world.workloads.${key}`;
  const fields = reader.fields(raw, path, ["ns", "sa", "td", "kind", "owner", "env", "packs", "labels"]);
  const [prefix = "", name = ""] = key.split("/");
  const kind: WorkloadKind = reader.oneOf(
    reader.text(fields, "kind", path) ?? prefix,
    WORKLOAD_KINDS,
    "service",
    `${path}.kind`,
  );
  const labels = Object.entries(reader.fields(fields["labels"], `${path}.labels`, undefined)).map(
    ([label, text]) => [label, String(text)] as const,
  );
  const workload: Workload = {
    name,
    namespace: reader.text(fields, "ns", path) ?? "default",
    kind,
    serviceAccount: reader.text(fields, "sa", path) ?? "default",
    labels: new Map(labels),
    addresses: ["127.0.0.1"],
    meshPort: 16008,
    service: name,
    ports: [{ port: PORT, protocol: "http", packs: reader.texts(fields, "packs", path) ?? [] }],
    propagation: ["trace"],
    owner: reader.text(fields, "owner", path),
    env: reader.text(fields, "env", path),
    runAs: undefined,
    generation: 1,
  };
  return { key, workload, trustDomain: reader.text(fields, "td", path) ?? VECTOR_TRUST_DOMAIN };
}

function readUser(reader: WorldReader, key: string, raw: unknown): WorldUser {
  const path = `world.users.${key}`;
  const fields = reader.fields(raw, path, ["roles", "type", "amr", "acr", "idp", "authAge"]);
  return {
    roles: reader.texts(fields, "roles", path) ?? [],
    type: reader.oneOf(
      reader.text(fields, "type", path),
      ["person", "servicePrincipal"],
      "person",
      `${path}.type`,
    ),
    amr: reader.texts(fields, "amr", path) ?? [],
    acr: reader.text(fields, "acr", path),
    idp: reader.text(fields, "idp", path) ?? "okta-main",
    authAge: reader.text(fields, "authAge", path),
  };
}

const PHASES = ["Pending", "Approved", "Active", "Expired", "Revoked", "Rejected"] as const;

function readGrant(
  reader: WorldReader,
  raw: unknown,
  path: string,
  workloads: ReadonlyMap<string, WorldWorkload>,
): AccessGrant {
  const fields = reader.fields(raw, path, [
    "name",
    "user",
    "workload",
    "target",
    "operations",
    "roles",
    "from",
    "to",
    "phase",
  ]);
  const target = workloads.get(reader.text(fields, "target", path) ?? "");
  if (target === undefined) reader.problems.push(`${path}.target is not among the world's workloads`);
  return {
    name: reader.text(fields, "name", path) ?? "",
    namespace: target?.workload.namespace ?? "",
    subject: { user: reader.text(fields, "user", path), workload: reader.text(fields, "workload", path) },
    operations: reader.texts(fields, "operations", path)?.map((op) => ({ op })),
    roles: reader.texts(fields, "roles", path),
    targets: target && [{ kinds: [target.workload.kind], names: [target.workload.name] }],
    durationMs: 0,
    reason: "",
    phase: reader.oneOf(reader.text(fields, "phase", path), PHASES, "Active", `${path}.phase`),
    activeFromMs: reader.time(reader.text(fields, "from", path), `${path}.from`),
    activeUntilMs: reader.time(reader.text(fields, "to", path), `${path}.to`),
  };
}

class World implements VectorWorld {
  readonly #now: string;
  readonly #workloads: ReadonlyMap<string, WorldWorkload>;
  readonly #users: ReadonlyMap<string, WorldUser>;
  readonly #external: readonly {
    readonly name: string;
    readonly packs: readonly string[];
    readonly ns: string | undefined;
  }[];
  readonly #grants: readonly AccessGrant[];
  readonly #config: MeshConfig;

  constructor(
    now: string,
    workloads: ReadonlyMap<string, WorldWorkload>,
    users: ReadonlyMap<string, WorldUser>,
    external: readonly {
      readonly name: string;
      readonly packs: readonly string[];
      readonly ns: string | undefined;
    }[],
    grants: readonly AccessGrant[],
    config: MeshConfig,
  ) {
    this.#now = now;
    this.#workloads = workloads;
    this.#users = users;
    this.#external = external;
    this.#grants = grants;
    this.#config = config;
  }

  stateOf(policies: readonly AccessPolicy[]): ClusterState {
    const workloads = new Map<string, Workload>();
    const namespaces = new Set<string>();
    for (const { workload, trustDomain } of this.#workloads.values()) {
      if (trustDomain === VECTOR_TRUST_DOMAIN)
        workloads.set(`${workload.namespace}/${workload.name}`, workload);
      namespaces.add(workload.namespace);
    }
    const externalServices = new Map<string, ExternalService>();
    for (const { name, packs, ns } of this.#external) {
      for (const namespace of ns === undefined ? namespaces : [ns]) {
        externalServices.set(`${namespace}/${name}`, {
          name,
          namespace,
          hosts: [`${name}.example`],
          port: 443,
          packs,
        });
      }
    }
    const roles = new Set([...this.#users.values()].flatMap((user) => user.roles));
    return {
      revision: 1,
      config: this.#config,
      policies: new Map(
        policies.map((policy) => [
          [policy.kind, ...(policy.namespace === undefined ? [] : [policy.namespace]), policy.name].join("/"),
          policy,
        ]),
      ),
      workloads,
      roles: new Map([...roles].map((name) => [name, { name, rules: [] }])),
      bindings: new Map(),
      grants: new Map(this.#grants.map((grant) => [`${grant.namespace}/${grant.name}`, grant])),
      externalServices,
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

  callerOf(key: string): Omit<Caller, "authenticated"> {
    const { workload, trustDomain } = this.#workload(key);
    const { namespace, serviceAccount, kind, name, labels, owner, env } = workload;
    const local = trustDomain === VECTOR_TRUST_DOMAIN;
    return {
      spiffeId: spiffeIdOf(trustDomain, workload),
      trustDomain,
      local,
      namespace,
      serviceAccount,
      kind,
      name,
      labels,
      owner,
      env,
    };
  }

  userOf(name: string, nowMs: number, authAge: string | undefined): User {
    const user = this.#users.get(name);
    if (user === undefined) throw new MeshError("not_found", `the world has no user \`${name}\``);
    const age = authAge ?? user.authAge;
    const ageMs = age === undefined ? undefined : parseDurationMs(age);
    if (age !== undefined && ageMs === undefined)
      throw new MeshError("bad_object", `\`${age}\` is no duration`);
    const { roles, type, amr, acr, idp } = user;
    return {
      id: name,
      roles,
      idp,
      type,
      amr,
      acr,
      authTimeMs: ageMs === undefined ? undefined : nowMs - ageMs,
    };
  }

  targetOf(row: { readonly from: string; readonly to?: string; readonly external?: string }): string {
    if (row.to !== undefined) {
      const { workload } = this.#workload(row.to);
      return `${workload.namespace}/${workload.name}`;
    }
    const service = this.#external.find(({ name }) => name === row.external);
    if (service === undefined)
      throw new MeshError("not_found", `the world has no external service \`${row.external ?? ""}\``);
    return `external:${service.ns ?? this.#workload(row.from).workload.namespace}/${service.name}`;
  }

  timeOf(at: string | undefined): number {
    if (at === undefined) return Date.parse(this.#now);
    const time = /^\d\d:\d\d$/.test(at)
      ? Date.parse(this.#now.replace(/T\d\d:\d\d:\d\d/, `T${at}:00`))
      : Date.parse(at);
    if (Number.isNaN(time))
      throw new MeshError("bad_object", `\`${at}\` is neither HH:MM nor an RFC 3339 time`);
    return time;
  }

  #workload(key: string): WorldWorkload {
    const found = this.#workloads.get(key);
    if (found === undefined) throw new MeshError("not_found", `the world has no workload \`${key}\``);
    return found;
  }
}
