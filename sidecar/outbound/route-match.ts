// Whether a request is meant by a rule of a route. PURE. What the own workload decides alone (kind, name) is decided once
// per table; what is left is looked at per request, without making an object.
import { joinedField } from "../core/http/headers.ts";
import type { TxnClaims } from "../core/identity/txn.ts";
import type { Classified } from "../core/policy/classified.ts";
import { queryValue } from "../core/policy/query-key.ts";
import type { FieldMatch, RouteMatch } from "../core/traffic/route.ts";
import type { Field } from "../wire/field.ts";

/** The caller, as far as rules ask. */
export interface RouteCaller {
  readonly kind: string;
  readonly name: string;
}

/** A request, as far as rules ask. */
export interface RoutedCall {
  readonly method: string;
  readonly fields: readonly Field[];
  readonly classified: Classified;
  /** Of the person on whose behalf; undefined: nobody's. Verified when the token came. */
  readonly claims: TxnClaims | undefined;
}

/** What is left of the `matches` of a rule for one caller. `always`: whatever is called; `never`: nothing. */
export type CompiledMatches = "always" | "never" | readonly RouteMatch[];

const namesCaller = (patterns: readonly string[], name: string): boolean =>
  patterns.some((pattern) =>
    pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : pattern === name,
  );

function couldMatch(match: RouteMatch, caller: RouteCaller): boolean {
  if (match.callerKinds !== undefined && !match.callerKinds.some((kind) => kind === caller.kind))
    return false;
  return match.callerNames === undefined || namesCaller(match.callerNames, caller.name);
}

const asksNothing = ({ path, methods, headers, query, grpc, roles, operations }: RouteMatch): boolean =>
  path === undefined &&
  roles === undefined &&
  methods === undefined &&
  headers.length === 0 &&
  query.length === 0 &&
  grpc === undefined &&
  operations === undefined;

export function compileMatches(matches: readonly RouteMatch[], caller: RouteCaller): CompiledMatches {
  if (matches.length === 0) return "always";
  const left = matches.filter((match) => couldMatch(match, caller));
  if (left.length === 0) return "never";
  return left.some(asksNothing) ? "always" : left;
}

export function matchesCall(matches: CompiledMatches, call: RoutedCall): boolean {
  if (matches === "always") return true;
  if (matches === "never") return false;
  for (const match of matches) if (matchesOne(match, call)) return true;
  return false;
}

function matchesOne(match: RouteMatch, { method, fields, classified, claims }: RoutedCall): boolean {
  const { path, methods, headers, query, grpc, roles, operations } = match;
  const { request } = classified;
  if (methods !== undefined && !methods.includes(method)) return false;
  if (path !== undefined) {
    if (path.kind === "exact" ? request.path !== path.value : !isBelow(request.path, path.value))
      return false;
  }
  if (grpc !== undefined) {
    const called = request.grpc;
    if (called === undefined) return false;
    if (grpc.service !== "" && grpc.service !== called.service) return false;
    if (grpc.method !== "" && grpc.method !== called.method) return false;
  }
  // A role that nobody has proved must not choose.
  if (roles !== undefined && claims?.tctx.roles.some((role) => roles.includes(role)) !== true) return false;
  if (operations !== undefined && !isOperation(operations, classified)) return false;
  for (const header of headers) if (!matchesField(header, joinedField(fields, header.name))) return false;
  for (const one of query) if (!hasParameter(classified.query, one)) return false;
  return true;
}

/** Whole segments: `/v2` is `/v2` and what is below it, not `/v20`. */
function isBelow(path: string, prefix: string): boolean {
  const length = prefix.endsWith("/") ? prefix.length - 1 : prefix.length;
  if (length === 0) return true;
  if (path.length < length || !path.startsWith(length === prefix.length ? prefix : prefix.slice(0, length)))
    return false;
  return path.length === length || path.charCodeAt(length) === 0x2f;
}

function isOperation(operations: readonly string[], { operation }: Classified): boolean {
  if (operation.kind !== "known") return false;
  const { name } = operation;
  return operations.some((one) => name === one || (name.startsWith(one) && name.charAt(one.length) === "."));
}

/** A parameter that is there twice, or that cannot be read in one way only, does not match. */
function hasParameter(query: string | undefined, { name, value }: FieldMatch): boolean {
  const found = queryValue(query, name);
  return found.ok && found.value.kind === "value" && found.value.text === value;
}

function matchesField({ kind, value }: FieldMatch, found: string | undefined): boolean {
  if (found === undefined) return false;
  if (kind === "present") return true;
  return kind === "exact" ? found === value : found.startsWith(value);
}
