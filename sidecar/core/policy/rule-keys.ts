// What a rule asks of each attribute of a call, as the index (rule-index.ts) wants it: symbols and prefixes. INVARIANT: a
// key leaves out only calls for which the field is *false*, never those for which it could be an error.
import { foldCase } from "../http/path.ts";
import { foldPath } from "./match.ts";
import type { FromClause, OperationClause, PolicyRule } from "./rule.ts";
import type { Symbols } from "./symbols.ts";

export const OP = 0;
export const NAME = 1;
export const NAMESPACE = 2;
export const ACCOUNT = 3;
export const SPIFFE_ID = 4;
export const USER_ID = 5;
export const ROLE = 6;
export const RESOURCE = 7;
export const PATH = 8;
export const KIND = 9;
export const TRUST_DOMAIN = 10;
export const ATTRIBUTES = 11;

/** Values that a rule can match an attribute with: one symbol, which is the usual case, or several of both kinds. */
export type Keys = number | SeveralKeys;

interface SeveralKeys {
  /** Symbols. */
  readonly exact: readonly number[];
  readonly prefixes: readonly string[];
}

export interface IndexEntry {
  /** Position of the rule in its program; smaller is reported first. */
  readonly rule: number;
  /** Bits of the attributes it has keys of. */
  readonly asks: number;
  /** By attribute; undefined: every value. */
  readonly keys: readonly (Keys | undefined)[];
}

interface Texts {
  readonly exact: readonly string[];
  readonly prefixes: readonly string[];
}

/** More values than this in one field are not worth a copy of the rule each. */
const MAX_KEYS = 64;

const NO_TEXTS: readonly string[] = [];
const isPrefix = (pattern: string): boolean => pattern.endsWith("*");
const exactTexts = (values: readonly string[] | undefined): Texts | undefined =>
  values && { exact: values, prefixes: NO_TEXTS };

function patternTexts(values: readonly string[] | undefined): Texts | undefined {
  if (values === undefined || !values.some(isPrefix)) return exactTexts(values);
  return {
    exact: values.filter((value) => !isPrefix(value)),
    prefixes: values.filter(isPrefix).map((value) => value.slice(0, -1)),
  };
}

const pathTexts = (values: readonly string[] | undefined): Texts | undefined =>
  values && {
    exact: values.filter((value) => !value.endsWith("/**")),
    prefixes: values.filter((value) => value.endsWith("/**")).map((value) => value.slice(0, -2)),
  };

/** Values of all alternatives together; undefined as soon as one of them takes every value. */
function union(
  clauses: readonly OperationClause[] | undefined,
  of: (clause: OperationClause) => Texts | undefined,
): Texts | undefined {
  if (clauses === undefined) return undefined;
  const [only] = clauses;
  if (clauses.length === 1 && only !== undefined) return only.any === true ? undefined : of(only);
  const exact: string[] = [];
  const prefixes: string[] = [];
  for (const clause of clauses) {
    const texts = clause.any === true ? undefined : of(clause);
    if (texts === undefined) return undefined;
    exact.push(...texts.exact);
    prefixes.push(...texts.prefixes);
  }
  return { exact, prefixes };
}

function fold(texts: Texts | undefined, exact: (text: string) => string): Texts | undefined {
  if (texts === undefined) return undefined;
  return { exact: texts.exact.map(exact), prefixes: texts.prefixes.map(foldCase) };
}

const opTexts = (clause: OperationClause): Texts | undefined =>
  exactTexts((clause.op && [clause.op]) || undefined);
const resourceTexts = (clause: OperationClause): Texts | undefined => patternTexts(clause.resources);
const clausePathTexts = (clause: OperationClause): Texts | undefined => pathTexts(clause.http?.paths);

function keysOf(texts: Texts | undefined, symbols: Symbols): Keys | undefined {
  if (texts === undefined || texts.exact.length + texts.prefixes.length > MAX_KEYS) return undefined;
  const { exact, prefixes } = texts;
  if (prefixes.includes("")) return undefined;
  const ids = new Set(exact.map((text) => symbols.intern(text)));
  return { exact: [...ids], prefixes: [...new Set(prefixes)] };
}

function exactKeys(values: readonly string[] | undefined, symbols: Symbols): Keys | undefined {
  const only = values?.[0];
  if (only === undefined) return undefined;
  return values?.length === 1 ? symbols.intern(only) : keysOf(exactTexts(values), symbols);
}

function patternKeys(values: readonly string[] | undefined, symbols: Symbols): Keys | undefined {
  const only = values?.[0];
  if (only === undefined) return undefined;
  return values?.length === 1 && !isPrefix(only)
    ? symbols.intern(only)
    : keysOf(patternTexts(values), symbols);
}

function opKeys(clauses: readonly OperationClause[] | undefined, symbols: Symbols): Keys | undefined {
  const only = clauses?.[0];
  if (clauses?.length === 1 && only?.op !== undefined && only.any !== true) return symbols.intern(only.op);
  return keysOf(union(clauses, opTexts), symbols);
}

const NO_FROM: readonly (FromClause | undefined)[] = [undefined];

/** Appends the index entries of one rule: one per clause of `from`, so that each keeps its own constraints. */
export function entriesOf(
  rule: PolicyRule,
  index: number,
  folded: boolean,
  symbols: Symbols,
  out: IndexEntry[],
): void {
  const resources = union(rule.operations, resourceTexts);
  const paths = union(rule.operations, clausePathTexts);
  const op = opKeys(rule.operations, symbols);
  const resource = keysOf(folded ? fold(resources, foldCase) : resources, symbols);
  const path = keysOf(folded ? fold(paths, foldPath) : paths, symbols);
  for (const clause of rule.from ?? NO_FROM) {
    const workload = clause?.workload;
    const user = clause?.user;
    // In the order of the attribute numbers.
    const keys = [
      op,
      patternKeys(workload?.names, symbols),
      patternKeys(workload?.namespaces, symbols),
      exactKeys(workload?.serviceAccounts, symbols),
      exactKeys(workload?.spiffeIds, symbols),
      exactKeys(user?.ids, symbols),
      exactKeys(user?.roles, symbols),
      resource,
      path,
      exactKeys(workload?.kinds, symbols),
      exactKeys(workload?.trustDomains, symbols),
    ];
    let asks = 0;
    for (let attribute = 0; attribute < ATTRIBUTES; attribute++)
      if (keys[attribute] !== undefined) asks |= 1 << attribute;
    out.push({ rule: index, asks, keys });
  }
}
