// RoutePolicy: where the calls to a service go, typed; PURE.
import { isPolicyField } from "../../sidecar/core/http/headers.ts";
import { WORKLOAD_KINDS } from "../../sidecar/core/policy/call.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type {
  FieldMatch,
  HeaderChange,
  RouteBackend,
  RouteMatch,
  RouteMirror,
  RouteRule,
  StickyKey,
} from "../../sidecar/core/traffic/route.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { RoutePolicy } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] as const;
const TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$/;
const LOWER_TOKEN = /^[a-z0-9!#$%&'*+.^_`|~-]{1,64}$/;
const PATH = /^\/[!"$&-:<->@-[\]-~]{0,1023}$/;
const HEADER_VALUE = /^[!-~](?:[ -~]*[!-~])?$/;

/** Whether a rule can ask for a path: as it is after decoding, without what no decoded path has. */
export function isRoutePath(path: string): boolean {
  return PATH.test(path);
}

/** A match without any condition, to be filled in. */
export const NO_MATCH: RouteMatch = {
  path: undefined,
  methods: undefined,
  headers: [],
  query: [],
  grpc: undefined,
  roles: undefined,
  callerKinds: undefined,
  callerNames: undefined,
  operations: undefined,
};

/**
 * Reads `user`, `workload`, `sourceIp`, `header:name` or `cookie:name`; undefined for anything else.
 *
 * @param text at most 128 characters.
 */
export function parseStickyKey(text: string): StickyKey | undefined {
  if (text === "user" || text === "workload" || text === "sourceIp") return { by: text };
  const colon = text.indexOf(":");
  const by = text.slice(0, colon);
  const name = text.slice(colon + 1);
  if (by === "header" && LOWER_TOKEN.test(name)) return { by, name };
  return by === "cookie" && TOKEN.test(name) ? { by, name } : undefined;
}

function readPath(fields: FieldReader): RouteMatch["path"] {
  const exact = fields.text("exact");
  const prefix = fields.text("prefix");
  const value = exact ?? prefix ?? "/";
  if ((exact === undefined) === (prefix === undefined)) fields.report("state either `exact` or `prefix`");
  if (!isRoutePath(value)) fields.report("must begin with `/` and have no query, escape, space or fragment");
  return { kind: exact === undefined ? "prefix" : "exact", value };
}

function readHeaderMatch(fields: FieldReader): FieldMatch {
  fields.require("name");
  const name = fields.text("name") ?? "";
  if (!LOWER_TOKEN.test(name)) fields.report("must be a header name in lower case", "name");
  const exact = fields.text("exact");
  const prefix = fields.text("prefix");
  const present = fields.onlyTrue("present");
  if ([exact, prefix, present].filter((one) => one !== undefined).length !== 1)
    fields.report("state one of `exact`, `prefix` and `present`");
  if (exact !== undefined) return { name, kind: "exact", value: exact };
  return prefix === undefined
    ? { name, kind: "present", value: "" }
    : { name, kind: "prefix", value: prefix };
}

function readMatch(fields: FieldReader): RouteMatch {
  const headers = fields.objects("headers", readHeaderMatch) ?? [];
  if (new Set(headers.map(({ name }) => name)).size !== headers.length)
    fields.report("two entries have the same `name`", "headers");
  const caller = fields.object("caller", (one) => ({
    kinds: one.choices("kinds", WORKLOAD_KINDS),
    names: one.patterns("names"),
  }));
  return {
    ...NO_MATCH,
    path: fields.object("path", readPath),
    methods: fields.choices("methods", METHODS),
    headers,
    roles: fields.object("user", (user) => {
      user.require("roles");
      return user.texts("roles");
    }),
    callerKinds: caller?.kinds,
    callerNames: caller?.names,
    operations: fields.texts("operations", (operation) =>
      operation.includes("*")
        ? "takes no wildcard: an operation covers everything below it at a dot"
        : undefined,
    ),
  };
}

function readBackend(fields: FieldReader, namespace: string): RouteBackend {
  fields.require("service");
  return {
    service: `${namespace}/${fields.text("service") ?? ""}`,
    port: fields.integer("port", 1, 65535),
    weight: fields.integer("weight", 0, 1_000_000) ?? 1,
  };
}

function readMirror(fields: FieldReader, namespace: string): RouteMirror {
  fields.require("service");
  return {
    service: `${namespace}/${fields.text("service") ?? ""}`,
    port: fields.integer("port", 1, 65535),
    share: (fields.integer("percent", 1, 100) ?? 100) / 100,
    allMethods: fields.flag("allMethods") ?? false,
  };
}

const checkName = (name: string): string | undefined =>
  isPolicyField(name) ? undefined : `\`${name.slice(0, 64)}\` is not for routes to change`;

function readChanges(fields: FieldReader): HeaderChange[] {
  const changes: HeaderChange[] = [];
  for (const action of ["set", "add"] as const)
    for (const [name, value] of fields.textMap(action, checkName) ?? []) {
      if (value !== "" && !HEADER_VALUE.test(value))
        fields.report(`the value of \`${name}\` is not visible text`, action);
      changes.push({ action, name, value });
    }
  for (const name of fields.texts("remove", checkName) ?? [])
    changes.push({ action: "remove", name, value: "" });
  if (new Set(changes.map(({ name }) => name)).size !== changes.length)
    fields.report("a header is changed in two ways");
  return changes;
}

function readSticky(fields: FieldReader): StickyKey | undefined {
  const text = fields.text("stickyBy");
  if (text === undefined) return undefined;
  const key = parseStickyKey(text);
  if (key === undefined || key.by === "sourceIp")
    fields.report("must be `user`, `workload`, `header:name` or `cookie:name`", "stickyBy");
  return key;
}

function readRule(fields: FieldReader, name: string, namespace: string): RouteRule {
  const match = fields.object("match", readMatch);
  const backends = fields.objects("backends", (one) => readBackend(one, namespace)) ?? [];
  if (backends.length > 0 && !backends.some(({ weight }) => weight > 0))
    fields.report("one backend must have a weight above 0", "backends");
  const mirror = fields.object("mirror", (one) => readMirror(one, namespace));
  const stickyBy = readSticky(fields);
  if (stickyBy !== undefined && backends.length === 0)
    fields.report("`stickyBy` needs `backends` to choose from", "stickyBy");
  const timeouts = fields.object("timeouts", (one) => ({
    request: one.fineDurationMs("request"),
    perTry: one.fineDurationMs("perTry"),
  }));
  const headers = fields.object("headers", (one) => ({
    request: one.object("request", readChanges),
    response: one.object("response", readChanges),
  }));
  return {
    name,
    matches: match === undefined ? [] : [match],
    ports: undefined,
    backends,
    mirrors: mirror === undefined ? [] : [mirror],
    stickyBy,
    requestTimeoutMs: timeouts?.request,
    tryTimeoutMs: timeouts?.perTry,
    requestHeaders: headers?.request ?? [],
    responseHeaders: headers?.response ?? [],
  };
}

/** The typed form of a policy; whether its services exist is for the compiler to tell. */
export function parseRoutePolicy(object: ValidObject): Result<RoutePolicy, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  const namespace = object.namespace ?? "";
  fields.require("service", "rules");
  const ports = fields.integers("ports", 1, 65535);
  let index = 0;
  const policy: RoutePolicy = {
    kind: "RoutePolicy",
    name: object.name,
    namespace,
    generation: object.generation,
    service: `${namespace}/${fields.text("service") ?? ""}`,
    rules: (
      fields.objects("rules", (rule) =>
        readRule(rule, `RoutePolicy ${namespace}/${object.name} rules[${index++}]`, namespace),
      ) ?? []
    ).map((rule) => ({ ...rule, ports })),
  };
  fields.end();
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: policy };
}
