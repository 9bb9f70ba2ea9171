// Checks objects with the CRDs' own schemas: structure by ajv, rules by CEL, so that what is accepted here is accepted
// by a Kubernetes API server too (which only prunes unknown fields, where this refuses them).
import { existsSync, readdirSync, readFileSync } from "node:fs";
import type { Environment } from "@marcbachmann/cel-js";
import { Ajv, type ValidateFunction } from "ajv";
import { parse as parseYaml } from "yaml";
import { MeshError, type Result } from "../../sidecar/core/runtime/errors.ts";
import { type CelRule, compileCelRule, createCelEnvironment } from "./cel-rules.ts";
import { closestName } from "./closest-name.ts";
import { type FieldProblem, MAX_PROBLEMS } from "./field-problem.ts";
import { checkMetadata } from "./metadata.ts";
import { describeErrors, quote } from "./schema-errors.ts";

export const API_VERSION = "countersign.dev/v1alpha1";

export const KINDS = [
  "AccessPolicy",
  "ClusterAccessPolicy",
  "AccessGrant",
  "MeshRole",
  "MeshRoleBinding",
  "Workload",
  "ExternalService",
  "OperationCatalog",
  "IdentityProvider",
  "MeshGateway",
  "RoutePolicy",
  "TrafficPolicy",
  "MeshConfig",
  "Namespace",
] as const;
export type Kind = (typeof KINDS)[number];

/** Kinds of the product that this build does not know yet. */
const LATER_KINDS = ["TrustDomainPeer", "AuditSink"];

/** An object that its schema accepts, with defaults filled in. */
export interface ValidObject {
  readonly kind: Kind;
  readonly name: string;
  /** undefined for a cluster-scoped kind. */
  readonly namespace: string | undefined;
  readonly labels: ReadonlyMap<string, string>;
  /** Grows with each change of `spec`; 1 for a new object. */
  readonly generation: number;
  readonly spec: unknown;
  readonly status: unknown;
}

export interface SchemaSet {
  /**
   * Validates one object.
   *
   * @param object what YAML or JSON gave; never changed.
   * @param old the accepted object it replaces: then rules on transitions (`oldSelf`) run too.
   * @returns the object with defaults, or every problem (at most 20).
   */
  validate(object: unknown, old?: ValidObject): Result<ValidObject, readonly FieldProblem[]>;
}

/** A node of a structural schema, as far as this file looks at it. */
interface SchemaNode {
  readonly type?: string;
  readonly format?: string;
  readonly description?: string;
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly items?: SchemaNode;
  readonly additionalProperties?: SchemaNode;
  readonly "x-kubernetes-validations"?: readonly { readonly rule: string; readonly message: string }[];
}

/** The part of a schema that has CEL rules, with how to convert values for them. */
interface RuleNode {
  readonly rules: readonly CelRule[];
  readonly properties: readonly (readonly [string, RuleNode])[];
  readonly items: RuleNode | undefined;
}

interface KindSchema {
  readonly kind: Kind;
  readonly namespaced: boolean;
  readonly schema: SchemaNode;
  readonly check: ValidateFunction;
  readonly rules: RuleNode | undefined;
}

const MAX_DEPTH = 32;

type Plain = Record<string, unknown>;
const isPlain = (value: unknown): value is Plain =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Copies and drops `null` of properties, as an API server does; a `null` in a list stays and fails. */
function copyWithoutNulls(value: unknown, depth: number): unknown {
  if (depth > MAX_DEPTH) throw new MeshError("bad_object", `objects are at most ${MAX_DEPTH} levels deep`);
  if (Array.isArray(value)) return value.map((item) => copyWithoutNulls(item, depth + 1));
  if (!isPlain(value)) return value;
  const copy: Plain = {};
  for (const [key, item] of Object.entries(value)) {
    if (item === null) continue;
    // Assigning `__proto__` would set the prototype; as an own property it is an unknown field like any other.
    if (key === "__proto__") Object.defineProperty(copy, key, { value: item, enumerable: true });
    else copy[key] = copyWithoutNulls(item, depth + 1);
  }
  return copy;
}

/** RFC 3339 date-time, as an API server takes it. */
export function isDateTime(text: string): boolean {
  const match =
    /^(\d{4})-(\d{2})-(\d{2})[Tt](\d{2}):(\d{2}):(\d{2})(?:\.\d{1,9})?(?:[Zz]|[+-](\d{2}):(\d{2}))$/.exec(
      text,
    );
  if (match === null) return false;
  const [year, month, day, hour, minute, second, zoneHour, zoneMinute] = match
    .slice(1)
    .map((part) => Number(part ?? 0));
  const days = new Date(Date.UTC(year ?? 0, month ?? 0, 0)).getUTCDate();
  return (
    (month ?? 0) >= 1 &&
    (month ?? 0) <= 12 &&
    (day ?? 0) >= 1 &&
    (day ?? 0) <= days &&
    (hour ?? 24) <= 23 &&
    (minute ?? 60) <= 59 &&
    (second ?? 60) <= 59 &&
    (zoneHour ?? 0) <= 23 &&
    (zoneMinute ?? 0) <= 59
  );
}

function createAjv(): Ajv {
  const ajv = new Ajv({
    strict: true,
    strictTypes: false,
    strictRequired: false,
    allowUnionTypes: true,
    useDefaults: true,
    coerceTypes: false,
    ownProperties: true,
    allErrors: true,
    verbose: true,
    logger: false,
  });
  ajv.addFormat("int64", { type: "number", validate: Number.isSafeInteger });
  ajv.addFormat("date-time", isDateTime);
  ajv.addKeyword("x-kubernetes-list-map-keys");
  ajv.addKeyword({
    keyword: "x-kubernetes-list-type",
    type: "array",
    compile(type: string, schema) {
      if (type === "atomic") return () => true;
      const keys: unknown = schema["x-kubernetes-list-map-keys"];
      const keyOf = (item: unknown): unknown =>
        type === "map" && isPlain(item) && Array.isArray(keys) ? keys.map((key: string) => item[key]) : item;
      return (list: readonly unknown[]) =>
        list.length < 2 || new Set(list.map((item) => JSON.stringify(keyOf(item)))).size === list.length;
    },
  });
  return ajv;
}

/** What ajv compiles: without CEL and texts, and closed against unknown fields. */
function forAjv(node: SchemaNode): Plain {
  const { "x-kubernetes-validations": _rules, properties, items, additionalProperties, ...rest } = node;
  const out: Plain = { ...rest };
  if (items) out["items"] = forAjv(items);
  if (additionalProperties) out["additionalProperties"] = forAjv(additionalProperties);
  if (properties) {
    out["properties"] = Object.fromEntries(
      Object.entries(properties).map(([name, child]) => [name, forAjv(child)]),
    );
    out["additionalProperties"] = false;
  }
  return out;
}

function compileRules(env: Environment, node: SchemaNode): RuleNode | undefined {
  const rules = (node["x-kubernetes-validations"] ?? []).map((entry) =>
    compileCelRule(env, entry.rule, entry.message),
  );
  const properties: [string, RuleNode][] = [];
  for (const [name, child] of Object.entries(node.properties ?? {})) {
    const compiled = compileRules(env, child);
    if (compiled) properties.push([name, compiled]);
  }
  const items = node.items && compileRules(env, node.items);
  return rules.length + properties.length > 0 || items ? { rules, properties, items } : undefined;
}

/** The CEL form of a value: integers as BigInt, times as Date; the types come from the schema. */
function toCelValue(value: unknown, schema: SchemaNode | undefined): unknown {
  if (typeof value === "number")
    return schema?.type === "number" || !Number.isInteger(value) ? value : BigInt(value);
  if (typeof value === "string") return schema?.format === "date-time" ? new Date(value) : value;
  if (Array.isArray(value)) return value.map((item) => toCelValue(item, schema?.items));
  if (!isPlain(value)) return value;
  const out: Plain = {};
  for (const [key, item] of Object.entries(value))
    out[key] = toCelValue(item, schema?.properties?.[key] ?? schema?.additionalProperties);
  return out;
}

function runRules(
  node: RuleNode,
  self: unknown,
  oldSelf: unknown,
  path: string,
  problems: FieldProblem[],
): void {
  for (const rule of node.rules) {
    if (rule.transition && oldSelf === undefined) continue;
    if (!rule.holds(self, oldSelf)) problems.push({ path, message: rule.message });
  }
  if (isPlain(self)) {
    const before = isPlain(oldSelf) ? oldSelf : undefined;
    for (const [name, child] of node.properties) {
      const value = self[name];
      if (value !== undefined)
        runRules(child, value, before?.[name], path === "" ? name : `${path}.${name}`, problems);
    }
  }
  if (node.items && Array.isArray(self)) {
    for (const [index, item] of self.entries())
      runRules(node.items, item, undefined, `${path}[${index}]`, problems);
  }
}

const NAMESPACE_SCHEMA: SchemaNode = {
  type: "object",
  properties: {
    apiVersion: { type: "string" },
    kind: { type: "string" },
    metadata: { type: "object" },
    spec: { type: "object" },
    status: { type: "object" },
  },
};

/** `crds/` lies beside `control-plane/`, or two levels up in the compiled package. */
function findCrds(): URL {
  for (const path of ["../../crds/", "../../../crds/"]) {
    const url = new URL(path, import.meta.url);
    if (existsSync(new URL("accesspolicies.yaml", url))) return url;
  }
  throw new MeshError("io_failed", "the folder `crds` is missing from this package; install it again");
}

/** Reads `crds/*.yaml` of this package. @throws MeshError `io_failed`, or `bad_object` for a CRD that is wrong itself. */
export function loadSchemas(): SchemaSet {
  const folder = findCrds();
  const ajv = createAjv();
  const env = createCelEnvironment();
  const kinds = new Map<string, KindSchema>();
  const add = (kind: Kind, namespaced: boolean, schema: SchemaNode): void => {
    // ajv compiles a kind when it is first seen: a start does not wait for kinds that nobody uses.
    let compiled: ValidateFunction | undefined;
    const check = ((data: unknown) => {
      compiled ??= ajv.compile(forAjv(schema));
      const valid = compiled(data);
      check.errors = compiled.errors ?? null;
      return valid;
      // Only called with data and read for `errors`, so the rest of ValidateFunction is not needed.
    }) as unknown as ValidateFunction;
    kinds.set(kind, { kind, namespaced, schema, check, rules: compileRules(env, schema) });
  };
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".yaml"))) {
    const crd: unknown = parseYaml(readFileSync(new URL(file, folder), "utf8"));
    const { kind, namespaced, schema } = readCrd(file, crd);
    add(kind, namespaced, schema);
  }
  add("Namespace", false, NAMESPACE_SCHEMA);
  return { validate: (object, old) => validateObject(kinds, object, old) };
}

function readCrd(file: string, crd: unknown): { kind: Kind; namespaced: boolean; schema: SchemaNode } {
  // A CRD is ours and covered by tests; a wrong one fails below, so the shape is asserted rather than parsed.
  const spec = (
    crd as {
      spec: {
        scope: string;
        names: { kind: string };
        versions: { schema: { openAPIV3Schema: SchemaNode } }[];
      };
    }
  ).spec;
  const kind = KINDS.find((known) => known === spec.names.kind);
  const schema = spec.versions[0]?.schema.openAPIV3Schema;
  if (kind === undefined || schema === undefined)
    throw new MeshError("bad_object", `\`${file}\` defines no kind that this build knows`);
  return { kind, namespaced: spec.scope === "Namespaced", schema };
}

function fail(...problems: FieldProblem[]): Result<never, readonly FieldProblem[]> {
  return { ok: false, error: problems.slice(0, MAX_PROBLEMS) };
}

function didYouMean(word: string, candidates: Iterable<string>): { hint?: string } {
  const closest = closestName(word, candidates);
  return closest === undefined ? {} : { hint: `did you mean \`${closest}\`?` };
}

function findKind(
  kinds: ReadonlyMap<string, KindSchema>,
  object: Plain,
): Result<KindSchema, readonly FieldProblem[]> {
  const { kind, apiVersion } = object;
  if (typeof kind !== "string")
    return fail({
      path: "kind",
      message: "is missing",
      ...(typeof object["Kind"] === "string" ? { hint: "did you mean `kind`?" } : {}),
    });
  const schema = kinds.get(kind);
  if (schema === undefined) {
    if (LATER_KINDS.includes(kind))
      return fail({
        path: "kind",
        message: `this build does not support ${quote(kind)} yet`,
        hint: "remove the object",
      });
    if (typeof apiVersion === "string" && !apiVersion.startsWith("countersign.dev/"))
      return fail({
        path: "kind",
        message: `${quote(kind)} of ${quote(apiVersion)} is not read from files`,
        hint: "keep objects that are not of countersign.dev in another directory",
      });
    return fail({ path: "kind", message: `unknown kind ${quote(kind)}`, ...didYouMean(kind, kinds.keys()) });
  }
  const expected = kind === "Namespace" ? "v1" : API_VERSION;
  if (apiVersion !== expected) {
    const message =
      apiVersion === undefined ? "is missing" : `${quote(apiVersion)} is not the version of \`${kind}\``;
    return fail({ path: "apiVersion", message, hint: `write \`${expected}\`` });
  }
  return { ok: true, value: schema };
}

function validateObject(
  kinds: ReadonlyMap<string, KindSchema>,
  object: unknown,
  old: ValidObject | undefined,
): Result<ValidObject, readonly FieldProblem[]> {
  if (!isPlain(object))
    return fail({
      path: "",
      message: "an object with `apiVersion`, `kind`, `metadata` and `spec` is expected",
    });
  const found = findKind(kinds, object);
  if (!found.ok) return found;
  const { schema, check, rules, kind, namespaced } = found.value;
  let copy: unknown;
  try {
    copy = copyWithoutNulls(object, 0);
  } catch {
    return fail({ path: "", message: `is nested too deeply: at most ${MAX_DEPTH} levels` });
  }
  const problems: FieldProblem[] = [];
  if (!check(copy)) problems.push(...describeErrors(check.errors ?? []));
  if (!isPlain(copy)) return fail({ path: "", message: "an object is expected" });
  const metadata = checkMetadata(copy["metadata"], kind, namespaced, problems);
  if (problems.length === 0 && rules) {
    const before =
      old &&
      toCelValue(
        {
          metadata: { name: old.name },
          spec: old.spec,
          ...(old.status === undefined ? {} : { status: old.status }),
        },
        schema,
      );
    runRules(rules, toCelValue({ ...copy, metadata: { name: metadata.name } }, schema), before, "", problems);
  }
  if (problems.length > 0) return fail(...problems);
  return {
    ok: true,
    value: {
      kind,
      ...metadata,
      generation: old?.generation ?? 1,
      spec: copy["spec"] ?? {},
      status: copy["status"],
    },
  };
}
