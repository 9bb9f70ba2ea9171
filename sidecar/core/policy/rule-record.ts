// What most rules are, one caller or role and one operation, as a record of integers, side by side in one array: a
// decision at 10 000 policies then waits for one line of memory instead of a dozen objects.
import type { Call } from "./call.ts";
import { ERROR, FALSE, TRUE, type Tri } from "./match.ts";
import type { FromClause, PolicyRule, ProgramPolicy } from "./rule.ts";
import {
  ACCOUNT as BY_ACCOUNT,
  KIND as BY_KIND,
  NAME as BY_NAME,
  NAMESPACE as BY_NAMESPACE,
  OP as BY_OP,
  ROLE as BY_ROLE,
  SPIFFE_ID as BY_SPIFFE_ID,
  type IndexEntry,
  type Keys,
} from "./rule-keys.ts";
import type { Probe } from "./symbols.ts";

/** Flags of a record. QUICK: the record holds all of `from ∧ operations ∧ when`. */
export const QUICK = 1;
/** Foreign callers may match. */
const FOREIGN = 2;
export const HAS_PORTS = 4;
export const HAS_UNLESS = 8;
/** Its policy has no other rule. */
export const ALONE = 16;
/** The record names a SPIFFE ID or a service account. */
const NAMES_IDENTITY = 32;

/** Integers per record (flags first): 32 bytes. Fields are symbols; 0: not asked for. */
const WIDTH = 8;
const NAME = 1;
const NAMESPACE = 2;
const KIND = 3;
const ROLE = 4;
const OP = 5;
const SPIFFE_ID = 6;
const ACCOUNT = 7;

/** Flags of the rule at this position, from the array that begins with the records. */
export function flagsOf(cells: Int32Array, rule: number): number {
  return cells[rule * WIDTH] ?? 0;
}

/** `from ∧ operations ∧ when` of a rule with QUICK. */
export function matchRecord(cells: Int32Array, rule: number, call: Call, probe: Probe): Tri {
  const at = rule * WIDTH;
  const { keys } = probe;
  const flags = cells[at] ?? 0;
  if (keys.standing !== 2 && (keys.standing === 0 || (flags & FOREIGN) === 0)) return FALSE;
  const name = cells[at + NAME];
  if (name !== 0 && name !== keys.nameId) return FALSE;
  const namespace = cells[at + NAMESPACE];
  if (namespace !== 0 && namespace !== keys.namespaceId) return FALSE;
  const kind = cells[at + KIND];
  if (kind !== 0 && kind !== keys.kindId) return FALSE;
  if ((flags & NAMES_IDENTITY) !== 0) {
    const spiffeId = cells[at + SPIFFE_ID];
    if (spiffeId !== 0 && spiffeId !== keys.spiffeIdId) return FALSE;
    const account = cells[at + ACCOUNT];
    if (account !== 0 && account !== keys.accountId && account !== keys.scopedAccountId) return FALSE;
  }
  const role = cells[at + ROLE] ?? 0;
  if (role !== 0 && !probe.roles(call).includes(role)) return FALSE;
  if (probe.undetermined) return ERROR;
  const op = cells[at + OP] ?? 0;
  return op === probe.op || probe.opChain.includes(op) ? TRUE : FALSE;
}

/**
 * Appends the record of a rule; rules are appended in the order of their positions.
 *
 * @param keys of the rule's last index entry, which is its only one where that matters.
 */
export function pushRecord(
  records: number[],
  policy: ProgramPolicy,
  rule: PolicyRule,
  keys: IndexEntry["keys"] | undefined,
): void {
  let flags = 0;
  if (policy.ports !== undefined) flags |= HAS_PORTS;
  if (rule.unless !== undefined) flags |= HAS_UNLESS;
  if (policy.rules.length === 1) flags |= ALONE;
  const clause = rule.from?.length === 1 ? rule.from[0] : undefined;
  if (keys === undefined || clause === undefined || !isQuick(rule, clause, keys)) {
    records.push(flags, 0, 0, 0, 0, 0, 0, 0);
    return;
  }
  const spiffeId = symbolOf(keys[BY_SPIFFE_ID]);
  const account = symbolOf(keys[BY_ACCOUNT]);
  flags |= QUICK;
  // What names a SPIFFE ID may be foreign even where foreign callers have to be named.
  if (policy.action !== "Allow" || spiffeId !== 0) flags |= FOREIGN;
  if (spiffeId !== 0 || account !== 0) flags |= NAMES_IDENTITY;
  records.push(
    flags,
    symbolOf(keys[BY_NAME]),
    symbolOf(keys[BY_NAMESPACE]),
    symbolOf(keys[BY_KIND]),
    symbolOf(keys[BY_ROLE]),
    symbolOf(keys[BY_OP]),
    spiffeId,
    account,
  );
}

const symbolOf = (keys: Keys | undefined): number => (typeof keys === "number" ? keys : 0);

/** Whether a field is not asked for, or for one exact value. */
const isSingle = (values: readonly string[] | undefined, keys: Keys | undefined): boolean =>
  values === undefined || typeof keys === "number";

/** Whether the rule says no more about operations than one name. */
function namesOneOperation(rule: PolicyRule, keys: Keys | undefined): boolean {
  const clause = rule.operations?.[0];
  if (clause === undefined || rule.operations?.length !== 1 || typeof keys !== "number") return false;
  const { access, resources, http, grpc, mcp } = clause;
  return (access ?? resources ?? http ?? grpc ?? mcp) === undefined;
}

/** Whether `from ∧ operations ∧ when` is a conjunction of single values, which is what most rules are. */
function isQuick(rule: PolicyRule, clause: FromClause, keys: IndexEntry["keys"]): boolean {
  if (rule.when !== undefined || clause.any === true || clause.via !== undefined) return false;
  if (!namesOneOperation(rule, keys[BY_OP])) return false;
  const { workload, user } = clause;
  if ((workload?.trustDomains ?? user?.ids ?? user?.idps ?? user?.types) !== undefined) return false;
  if (user !== undefined && (user.presence !== "Required" || user.roles === undefined)) return false;
  return (
    isSingle(workload?.names, keys[BY_NAME]) &&
    isSingle(workload?.namespaces, keys[BY_NAMESPACE]) &&
    isSingle(workload?.kinds, keys[BY_KIND]) &&
    isSingle(workload?.spiffeIds, keys[BY_SPIFFE_ID]) &&
    isSingle(workload?.serviceAccounts, keys[BY_ACCOUNT]) &&
    isSingle(user?.roles, keys[BY_ROLE])
  );
}
