// HTTPRoute and GRPCRoute of the Gateway API (v1) with Services as parents (GAMMA), typed; PURE. The API server has checked
// their shape; what this build does not do is refused as `UnsupportedValue`, whole routes at a time.
import { isPolicyField } from "../../sidecar/core/http/headers.ts";
import type {
  FieldMatch,
  HeaderChange,
  RouteBackend,
  RouteMatch,
  RouteMirror,
  RouteRule,
} from "../../sidecar/core/traffic/route.ts";
import type { GatewayRoute } from "../sources/store.ts";
import { parseFineDurationMs } from "./field-reader.ts";
import { isRoutePath, NO_MATCH } from "./route-policy.ts";

export interface GatewayProblem {
  /** Of the Gateway API: `UnsupportedValue`, `InvalidKind`, `RefNotPermitted`, … */
  readonly reason: string;
  readonly message: string;
}

/** A parent that is a Service: what the route says, and what is wrong with that. */
export interface GatewayParent {
  /** As it stands in `spec.parentRefs`. */
  readonly ref: Readonly<Record<string, unknown>>;
  /** `namespace/name`. */
  readonly service: string;
  readonly refused: GatewayProblem | undefined;
}

export interface ReadRoute {
  /** undefined: nothing of it is in force. */
  readonly route: GatewayRoute | undefined;
  /** Empty: the route is not for a mesh. */
  readonly parents: readonly GatewayParent[];
  /** Why no rule of it is in force. */
  readonly refused: GatewayProblem | undefined;
  /** The first backend that cannot be meant. */
  readonly refs: GatewayProblem | undefined;
}

/** An object as the API server has it. */
export interface StoredRoute {
  readonly kind: "HTTPRoute" | "GRPCRoute";
  readonly name: string;
  readonly namespace: string;
  readonly generation: number;
  readonly createdAtMs: number;
  readonly spec: unknown;
}

type Fields = Readonly<Record<string, unknown>>;
const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const fieldsOf = (value: unknown): Fields => (isFields(value) ? value : {});
const listOf = (value: unknown): readonly Fields[] => (Array.isArray(value) ? value.filter(isFields) : []);
const textOf = (value: unknown): string => (typeof value === "string" ? value : "");
const numberOf = (value: unknown): number | undefined => (typeof value === "number" ? value : undefined);

const METHOD = /^[A-Z]{1,16}$/;
const TOKEN = /^[a-z0-9!#$%&'*+.^_`|~-]{1,64}$/;
const VALUE = /^[!-~](?:[ -~]*[!-~])?$/;
const MAX_VALUE = 1_024;
const MAX_RULES = 16;

/** Thrown inside this file alone: the first thing that is not supported ends the reading of a route. */
class Unsupported extends Error {}

function refuse(path: string, message: string): never {
  throw new Unsupported(`${path}: ${message}`);
}

/** Fields that only exist where they mean something that this build would have to do. */
function onlyKnown(fields: Fields, known: readonly string[], path: string): void {
  for (const name of Object.keys(fields))
    if (!known.includes(name) && fields[name] !== undefined && fields[name] !== null)
      refuse(`${path}.${name}`, "is not supported by this mesh");
}

function readName(fields: Fields, path: string): string {
  const name = textOf(fields["name"]).toLowerCase();
  if (!TOKEN.test(name)) refuse(path, "the name is not one of a header that can be looked at");
  return name;
}

function exactOnly(fields: Fields, path: string): string {
  const type = textOf(fields["type"]) || "Exact";
  if (type !== "Exact") refuse(`${path}.type`, `\`${type}\` is not supported, use \`Exact\``);
  return textOf(fields["value"]);
}

function readHeaders(value: unknown, path: string): FieldMatch[] {
  const found = new Map<string, FieldMatch>();
  for (const [i, fields] of listOf(value).entries()) {
    const at = `${path}[${i}]`;
    const name = readName(fields, at);
    // Of several with one name the first counts (Gateway API).
    if (!found.has(name)) found.set(name, { name, kind: "exact", value: exactOnly(fields, at) });
  }
  return [...found.values()];
}

function readQuery(value: unknown, path: string): FieldMatch[] {
  const found = new Map<string, FieldMatch>();
  for (const [i, fields] of listOf(value).entries()) {
    const name = textOf(fields["name"]);
    if (!found.has(name)) found.set(name, { name, kind: "exact", value: exactOnly(fields, `${path}[${i}]`) });
  }
  return [...found.values()];
}

function readHttpMatch(match: Fields, path: string): RouteMatch {
  onlyKnown(match, ["path", "headers", "queryParams", "method"], path);
  const { type = "PathPrefix", value = "/" } = fieldsOf(match["path"]);
  const method = textOf(match["method"]);
  if (type !== "Exact" && type !== "PathPrefix")
    refuse(`${path}.path.type`, `\`${textOf(type)}\` is not supported, use \`Exact\` or \`PathPrefix\``);
  const text = textOf(value);
  if (!isRoutePath(text)) refuse(`${path}.path.value`, "a path with escapes or separators is not supported");
  if (method !== "" && !METHOD.test(method)) refuse(`${path}.method`, "is no method that is known");
  const isEverything = type === "PathPrefix" && text === "/";
  return {
    ...NO_MATCH,
    path: isEverything ? undefined : { kind: type === "Exact" ? "exact" : "prefix", value: text },
    methods: method === "" ? undefined : [method],
    headers: readHeaders(match["headers"], `${path}.headers`),
    query: readQuery(match["queryParams"], `${path}.queryParams`),
  };
}

function readGrpcMatch(match: Fields, path: string): RouteMatch {
  onlyKnown(match, ["method", "headers"], path);
  const method = fieldsOf(match["method"]);
  const type = textOf(method["type"]) || "Exact";
  if (type !== "Exact") refuse(`${path}.method.type`, `\`${type}\` is not supported, use \`Exact\``);
  const grpc = { service: textOf(method["service"]), method: textOf(method["method"]) };
  return {
    ...NO_MATCH,
    grpc: grpc.service === "" && grpc.method === "" ? undefined : grpc,
    headers: readHeaders(match["headers"], `${path}.headers`),
  };
}

const asksNothing = ({ path, methods, grpc, headers, query }: RouteMatch): boolean =>
  path === undefined && methods === undefined && grpc === undefined && headers.length + query.length === 0;

function readChanges(value: unknown, path: string): HeaderChange[] {
  const fields = fieldsOf(value);
  const changes: HeaderChange[] = [];
  const take = (action: HeaderChange["action"], name: string, text: string): void => {
    const lower = name.toLowerCase();
    if (!isPolicyField(lower)) refuse(path, `\`${name.slice(0, 64)}\` is not for routes to change`);
    if (text !== "" && (text.length > MAX_VALUE || !VALUE.test(text)))
      refuse(path, `the value of \`${lower}\` is not visible text of at most ${MAX_VALUE} characters`);
    changes.push({ action, name: lower, value: text });
  };
  for (const action of ["set", "add"] as const)
    for (const { name, value: text } of listOf(fields[action])) take(action, textOf(name), textOf(text));
  const removed = Array.isArray(fields["remove"]) ? fields["remove"] : [];
  for (const name of removed) take("remove", textOf(name), "");
  return changes;
}

interface RefContext {
  readonly namespace: string;
  /** Told of the reference that cannot be meant. */
  readonly problem: (problem: GatewayProblem) => void;
}

/** The service of a reference to a backend; undefined when it cannot be meant. */
function readBackendRef(ref: Fields, path: string, { namespace, problem }: RefContext): string | undefined {
  const { group = "", kind = "Service", namespace: other = namespace } = ref;
  if (group !== "" || kind !== "Service") {
    problem({ reason: "InvalidKind", message: `${path}: only Services can be backends` });
    return undefined;
  }
  if (other !== namespace) {
    problem({
      reason: "RefNotPermitted",
      message: `${path}: backends are Services of the route's own namespace`,
    });
    return undefined;
  }
  return `${namespace}/${textOf(ref["name"])}`;
}

function readMirror(value: unknown, path: string, context: RefContext): RouteMirror | undefined {
  const fields = fieldsOf(value);
  onlyKnown(fields, ["backendRef", "percent", "fraction"], path);
  const ref = fieldsOf(fields["backendRef"]);
  const { numerator, denominator = 100 } = fieldsOf(fields["fraction"]);
  const percent = numberOf(fields["percent"]);
  const parts = numberOf(numerator);
  const share =
    parts === undefined ? (percent ?? 100) / 100 : parts / Math.max(1, numberOf(denominator) ?? 100);
  const service = readBackendRef(ref, `${path}.backendRef`, context);
  // A mirror of the Gateway API copies whatever comes.
  return service === undefined
    ? undefined
    : { service, port: numberOf(ref["port"]), share: Math.min(1, Math.max(0, share)), allMethods: true };
}

type Filters = Pick<RouteRule, "mirrors" | "requestHeaders" | "responseHeaders">;

function readFilters(value: unknown, path: string, context: RefContext): Filters {
  const mirrors: RouteMirror[] = [];
  let requestHeaders: HeaderChange[] = [];
  let responseHeaders: HeaderChange[] = [];
  for (const [i, filter] of listOf(value).entries()) {
    const at = `${path}[${i}]`;
    const type = textOf(filter["type"]);
    if (type === "RequestHeaderModifier")
      requestHeaders = readChanges(filter["requestHeaderModifier"], `${at}.requestHeaderModifier`);
    else if (type === "ResponseHeaderModifier")
      responseHeaders = readChanges(filter["responseHeaderModifier"], `${at}.responseHeaderModifier`);
    else if (type === "RequestMirror") {
      const mirror = readMirror(filter["requestMirror"], `${at}.requestMirror`, context);
      if (mirror !== undefined) mirrors.push(mirror);
    } else refuse(`${at}.type`, `filter \`${type}\` is not supported by this mesh`);
  }
  return { mirrors, requestHeaders, responseHeaders };
}

function readBackends(value: unknown, path: string, context: RefContext): RouteBackend[] {
  const backends = listOf(value).map((ref, i): RouteBackend => {
    const at = `${path}[${i}]`;
    if (listOf(ref["filters"]).length > 0)
      refuse(`${at}.filters`, "filters of one backend are not supported");
    return {
      service: readBackendRef(ref, at, context),
      port: numberOf(ref["port"]),
      weight: numberOf(ref["weight"]) ?? 1,
    };
  });
  // Nobody answers, as the Gateway API says of a rule without backends.
  return backends.some(({ weight }) => weight > 0)
    ? backends
    : [{ service: undefined, port: undefined, weight: 1 }];
}

/** GEP-2257; zero switches the limit off. */
function readTimeout(value: unknown, path: string): number | undefined {
  const text = textOf(value);
  if (text === "" || /^(?:0+(?:h|m|s|ms))+$/.test(text)) return undefined;
  return parseFineDurationMs(text) ?? refuse(path, `\`${text.slice(0, 32)}\` is no duration up to \`720h\``);
}

function readRules(stored: StoredRoute, context: RefContext): RouteRule[] {
  const rules = listOf(fieldsOf(stored.spec)["rules"]);
  if (rules.length > MAX_RULES) refuse("spec.rules", `more than ${MAX_RULES} rules are not supported`);
  return rules.flatMap((rule, i) => {
    const path = `spec.rules[${i}]`;
    onlyKnown(rule, ["name", "matches", "filters", "backendRefs", "timeouts"], path);
    const timeouts = fieldsOf(rule["timeouts"]);
    const made: Omit<RouteRule, "matches"> = {
      name: `${stored.kind} ${stored.namespace}/${stored.name} rules[${i}]`,
      ports: undefined,
      backends: readBackends(rule["backendRefs"], `${path}.backendRefs`, context),
      ...readFilters(rule["filters"], `${path}.filters`, context),
      stickyBy: undefined,
      requestTimeoutMs: readTimeout(timeouts["request"], `${path}.timeouts.request`),
      tryTimeoutMs: readTimeout(timeouts["backendRequest"], `${path}.timeouts.backendRequest`),
    };
    const matches = listOf(rule["matches"]).map((match, j) =>
      stored.kind === "HTTPRoute"
        ? readHttpMatch(match, `${path}.matches[${j}]`)
        : readGrpcMatch(match, `${path}.matches[${j}]`),
    );
    const all = matches.length === 0 ? [NO_MATCH] : matches;
    return all.map((match): RouteRule => ({ ...made, matches: asksNothing(match) ? [] : [match] }));
  });
}

function readParents({ spec, namespace }: StoredRoute): GatewayParent[] {
  return listOf(fieldsOf(spec)["parentRefs"]).flatMap((ref): GatewayParent[] => {
    if (textOf(ref["kind"]) !== "Service" || ref["group"] !== "") return [];
    const other = textOf(ref["namespace"]) || namespace;
    const service = `${other}/${textOf(ref["name"])}`;
    const refused =
      other !== namespace
        ? { reason: "UnsupportedValue", message: "routes are for Services of their own namespace" }
        : ref["sectionName"] !== undefined
          ? { reason: "UnsupportedValue", message: "`sectionName` is not supported, use `port`" }
          : undefined;
    return [{ ref, service, refused }];
  });
}

/** Reads one route. Host names are not looked at: the Service decides what is meant (GAMMA). */
export function readGatewayRoute(stored: StoredRoute): ReadRoute {
  const parents = readParents(stored);
  if (parents.length === 0) return { route: undefined, parents, refused: undefined, refs: undefined };
  let refs: GatewayProblem | undefined;
  const context = { namespace: stored.namespace, problem: (one: GatewayProblem) => (refs ??= one) };
  let rules: readonly RouteRule[];
  try {
    rules = readRules(stored, context);
  } catch (error) {
    if (!(error instanceof Unsupported)) throw error;
    const refused = { reason: "UnsupportedValue", message: error.message };
    return { route: undefined, parents, refused, refs };
  }
  const { kind, name, namespace, generation, createdAtMs } = stored;
  const usable = parents
    .filter(({ refused }) => refused === undefined)
    .map(({ service, ref }) => ({ service, port: numberOf(ref["port"]) }));
  return {
    route:
      usable.length === 0
        ? undefined
        : { kind, name, namespace, generation, createdAtMs, parents: usable, rules },
    parents,
    refused: undefined,
    refs,
  };
}
