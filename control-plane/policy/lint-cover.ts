// Whether one condition of a rule matches whatever another matches: what lint concludes "never" from, so every yes is
// certain and every doubt is a no. PURE.
import { foldCase } from "../../sidecar/core/http/path.ts";
import { foldPath } from "../../sidecar/core/policy/match.ts";
import type {
  FromClause,
  HopMatch,
  OperationClause,
  UserMatch,
  ViaMatch,
} from "../../sidecar/core/policy/rule.ts";
import { coversOperation } from "../../sidecar/core/policy/scope.ts";

/** How a clause takes callers of other trust domains: `open` takes all (Deny, Audit), `named` those that it names. */
export type Reach = "open" | "named";

export interface Side {
  readonly clause: FromClause;
  readonly reach: Reach;
}

type Texts = readonly string[] | undefined;

/** Whether `wide` takes each of `narrow`; no list takes everything. */
export function includesAll(wide: Texts, narrow: Texts): boolean {
  return wide === undefined || (narrow?.every((text) => wide.includes(text)) ?? false);
}

/** A name or prefix against another one. */
function patternCovers(wide: string, narrow: string): boolean {
  return wide.endsWith("*") ? narrow.startsWith(wide.slice(0, -1)) : wide === narrow;
}

/** The same for lists of names and prefixes. */
export function patternsCover(wide: Texts, narrow: Texts): boolean {
  if (wide === undefined) return true;
  return narrow?.every((one) => wide.some((other) => patternCovers(other, one))) ?? false;
}

/** Namespaces that a match is limited to: stated, or those of its ServiceAccounts; undefined: any. */
export function namespacesOf({ namespaces, serviceAccounts }: HopMatch): Texts {
  if (namespaces !== undefined) return namespaces;
  return serviceAccounts?.every((account) => account.includes("/"))
    ? serviceAccounts.map((account) => account.slice(0, account.indexOf("/")))
    : undefined;
}

function accountsCover(wide: Texts, narrow: Texts): boolean {
  if (wide === undefined) return true;
  return (
    narrow?.every(
      (account) => wide.includes(account) || wide.includes(account.slice(account.indexOf("/") + 1)),
    ) ?? false
  );
}

function placeCovers(wide: HopMatch, narrow: HopMatch): boolean {
  return (
    includesAll(wide.kinds, narrow.kinds) &&
    patternsCover(wide.names, narrow.names) &&
    patternsCover(wide.namespaces, namespacesOf(narrow)) &&
    accountsCover(wide.serviceAccounts, narrow.serviceAccounts)
  );
}

export const hasUserFields = (user: UserMatch): boolean =>
  (user.ids ?? user.roles ?? user.idps ?? user.types) !== undefined;

function userCovers(wide: UserMatch | undefined, narrow: UserMatch | undefined): boolean {
  if (wide === undefined) return true;
  if (!hasUserFields(wide)) {
    if (wide.presence === "Any") return true;
    if (wide.presence === "Forbidden") return narrow?.presence === "Forbidden";
  }
  if (wide.presence === "Forbidden" || narrow === undefined) return false;
  return (
    (narrow.presence === "Required" || hasUserFields(narrow)) &&
    includesAll(wide.ids, narrow.ids) &&
    includesAll(wide.roles, narrow.roles) &&
    includesAll(wide.idps, narrow.idps) &&
    includesAll(wide.types, narrow.types)
  );
}

/** @param foreignHops whether hops of other trust domains may count for `narrow` and not for `wide`. */
function viaCovers(wide: ViaMatch | undefined, narrow: ViaMatch | undefined, foreignHops: boolean): boolean {
  if (wide === undefined) return true;
  const { maxHops, origin, through } = wide;
  if (maxHops !== undefined && (narrow?.maxHops === undefined || narrow.maxHops > maxHops)) return false;
  if (foreignHops && (origin ?? through) !== undefined) return false;
  if (origin !== undefined && (narrow?.origin === undefined || !placeCovers(origin, narrow.origin)))
    return false;
  return through === undefined || (narrow?.through !== undefined && placeCovers(through, narrow.through));
}

const domainOf = (spiffeId: string): string => spiffeId.split("/")[2] ?? "";

/** Trust domains that a clause is limited to; undefined: any. */
function domainsOf({ clause: { workload }, reach }: Side, home: string): Texts {
  if (workload?.trustDomains !== undefined) return workload.trustDomains;
  if (workload?.spiffeIds !== undefined) return workload.spiffeIds.map(domainOf);
  return reach === "named" ? [home] : undefined;
}

/** Whether a clause matches callers of this mesh alone. */
export const isLocal = (side: Side, home: string): boolean =>
  domainsOf(side, home)?.every((domain) => domain === home) === true;

/** Whether `wide` matches every caller, user and chain that `narrow` matches. @param home the mesh's trust domain. */
export function callersCover(wide: Side, narrow: Side, home: string): boolean {
  const { workload } = wide.clause;
  const named = (workload?.trustDomains ?? workload?.spiffeIds) !== undefined;
  if (wide.reach === "named" && !named && !isLocal(narrow, home)) return false;
  return (
    includesAll(workload?.trustDomains, domainsOf(narrow, home)) &&
    includesAll(workload?.spiffeIds, narrow.clause.workload?.spiffeIds) &&
    placeCovers(workload ?? {}, narrow.clause.workload ?? {}) &&
    userCovers(wide.clause.user, narrow.clause.user) &&
    viaCovers(wide.clause.via, narrow.clause.via, wide.reach === "named" && narrow.reach === "open")
  );
}

/** @param folded whether the rule meets folded views too (Deny): then the folded patterns have to cover as well. */
function pathCovers(wide: string, narrow: string, folded: boolean): boolean {
  if (!wide.endsWith("/**")) return wide === narrow;
  const stem = wide.slice(0, -2);
  if (narrow.endsWith("/**")) return narrow.slice(0, -2).startsWith(stem);
  return narrow.startsWith(stem) && (!folded || foldPath(narrow).startsWith(foldCase(stem)));
}

/** Whether `wide` is at least as true as `narrow` for every call: also where one of them cannot be told. */
export function operationCovers(wide: OperationClause, narrow: OperationClause, folded: boolean): boolean {
  const { op, access, resources, http, grpc, mcp } = wide;
  if (wide.any) return true;
  if (narrow.any) return false;
  if (op !== undefined && (narrow.op === undefined || !coversOperation(op, narrow.op))) return false;
  if (!includesAll(access, narrow.access) || !patternsCover(resources, narrow.resources)) return false;
  if (http !== undefined) {
    if (narrow.http === undefined || !includesAll(http.methods, narrow.http.methods)) return false;
    const { paths } = http;
    const covered = (path: string): boolean => paths?.some((one) => pathCovers(one, path, folded)) === true;
    if (paths !== undefined && narrow.http.paths?.every(covered) !== true) return false;
  }
  if (grpc !== undefined) {
    if (narrow.grpc === undefined || !includesAll(grpc.methods, narrow.grpc.methods)) return false;
    if (grpc.service !== undefined && grpc.service !== narrow.grpc.service) return false;
  }
  if (mcp === undefined) return true;
  return (
    narrow.mcp !== undefined &&
    includesAll(mcp.methods, narrow.mcp.methods) &&
    patternsCover(mcp.names, narrow.mcp.names)
  );
}
