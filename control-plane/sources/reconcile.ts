// From what the files say now and what was accepted before to what is in force: the rules of DOMAIN 3.6. PURE.
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { Admission, Admitter } from "../policy/admit.ts";
import type { ObjectParser, TypedObject } from "../policy/typed-object.ts";
import type { FieldProblem } from "./field-problem.ts";
import type { SchemaSet, ValidObject } from "./schema.ts";
import type { OperationCatalog } from "./store.ts";

/** A Deny that vanished is dropped when a reading this much later does not find it either. */
export const DENY_CONFIRM_MS = 500;

/** One object of a document, checked on its own. */
export interface Candidate {
  readonly raw: unknown;
  /** `Kind/namespace/name` or `Kind/name`; undefined when it cannot be told what object this is meant to be. */
  readonly key: string | undefined;
  /** `Kind namespace/name` for messages. */
  readonly title: string;
  readonly checked: Result<
    { readonly valid: ValidObject; readonly typed: TypedObject },
    readonly FieldProblem[]
  >;
  /** Line of a field of this object within its document. */
  readonly lineOf: (path: string) => number;
}

export interface DocumentReading {
  /** Digest of the document's text. */
  readonly digest: string;
  /** Line of the document's first line in the file, minus one. */
  readonly lineOffset: number;
  readonly candidates: readonly Candidate[];
}

export interface FileReading {
  readonly file: string;
  /** true: the file is empty, unreadable or not YAML, so it says nothing and changes nothing. */
  readonly broken: boolean;
  readonly documents: readonly DocumentReading[];
  readonly problems: readonly FieldProblem[];
}

/** An object in force. */
export interface Accepted {
  readonly key: string;
  readonly file: string;
  readonly digest: string;
  readonly raw: unknown;
  readonly valid: ValidObject;
  readonly typed: TypedObject;
  /** When the object was first accepted, Unix milliseconds. */
  readonly acceptedAtMs: number;
  /** false: an earlier version, because the present one was refused or is gone for now. */
  readonly current: boolean;
  /** true: a Deny that this build cannot read stands here as one that denies everything (see `closedDeny`). */
  readonly closed?: true;
}

export interface ReconcileInput {
  readonly accepted: ReadonlyMap<string, Accepted>;
  readonly files: readonly FileReading[];
  /** Paths that could not be read: nothing at or below them has vanished. */
  readonly unreadable: readonly string[];
  /** Denies that an earlier reading missed, with when (monotonic milliseconds). */
  readonly missingSince: ReadonlyMap<string, number>;
  readonly nowMs: number;
  readonly monotonicMs: number;
  readonly schemas: SchemaSet;
  readonly parse: ObjectParser;
  readonly admitter: Admitter;
}

export interface Reconciled {
  readonly accepted: ReadonlyMap<string, Accepted>;
  readonly missingSince: ReadonlyMap<string, number>;
  readonly problems: readonly FieldProblem[];
}

interface Claim {
  readonly file: string;
  readonly digest: string;
  readonly lineOffset: number;
  /** undefined: the file is broken, so its accepted object stays as it is. */
  readonly candidate: Candidate | undefined;
}

function isDeny(object: TypedObject): boolean {
  return (
    (object.kind === "AccessPolicy" || object.kind === "ClusterAccessPolicy") &&
    object.value.action === "Deny"
  );
}

function place(claim: Claim, problem: FieldProblem, standing?: "earlier" | "none"): FieldProblem {
  const { candidate } = claim;
  const line = candidate === undefined ? {} : { line: claim.lineOffset + candidate.lineOf(problem.path) };
  const object = candidate === undefined ? {} : { object: candidate.title };
  return {
    file: claim.file,
    ...line,
    ...object,
    path: problem.path,
    message: problem.message,
    ...(problem.hint === undefined ? {} : { hint: problem.hint }),
    ...(problem.reason === undefined ? {} : { reason: problem.reason }),
    ...(standing === undefined ? {} : { standing }),
  };
}

const sameContent = (a: ValidObject, b: ValidObject): boolean => a === b || contentOf(a) === contentOf(b);
const contentOf = (object: ValidObject): string =>
  JSON.stringify([object.spec, object.status, [...object.labels]]);

function collectClaims(
  input: ReconcileInput,
  problems: FieldProblem[],
): { claims: Map<string, Claim[]>; vague: Set<string> } {
  const claims = new Map<string, Claim[]>();
  const vague = new Set<string>();
  const broken = new Set<string>();
  const claim = (key: string, entry: Claim): void => {
    const known = claims.get(key);
    if (known === undefined) claims.set(key, [entry]);
    else known.push(entry);
  };
  for (const file of input.files) {
    problems.push(...file.problems);
    if (file.broken) broken.add(file.file);
    for (const { digest, lineOffset, candidates } of file.documents) {
      for (const candidate of candidates) {
        // Without a digest an object is parsed again after a restart; only a document of its own can be skipped then.
        const entry = {
          file: file.file,
          digest: candidates.length === 1 ? digest : "",
          lineOffset,
          candidate,
        };
        if (candidate.key !== undefined) {
          claim(candidate.key, entry);
          continue;
        }
        vague.add(file.file);
        if (!candidate.checked.ok)
          problems.push(...candidate.checked.error.map((problem) => place(entry, problem)));
      }
    }
  }
  if (broken.size > 0) {
    for (const [key, accepted] of input.accepted) {
      if (broken.has(accepted.file))
        claim(key, { file: accepted.file, digest: accepted.digest, lineOffset: 0, candidate: undefined });
    }
  }
  return { claims, vague };
}

/** Which of several files that define one object counts: the accepted one; without one a valid Deny, a valid one, the first. */
function choose(claims: readonly Claim[], before: Accepted | undefined): Claim | undefined {
  if (claims.length === 1) return claims[0];
  if (before !== undefined) {
    const own = claims.filter((claim) => claim.file === before.file);
    const kept = own.find(
      (claim) =>
        claim.candidate === undefined ||
        (claim.candidate.checked.ok && sameContent(claim.candidate.checked.value.valid, before.valid)),
    );
    if (own.length > 0) return kept ?? own[0];
  }
  const valid = claims.filter((claim) => claim.candidate?.checked.ok === true);
  return (
    valid.find(
      (claim) => claim.candidate?.checked.ok === true && isDeny(claim.candidate.checked.value.typed),
    ) ??
    valid[0] ??
    claims[0]
  );
}

/** The accepted form of a chosen candidate, or why the one before stays. */
function accept(
  input: ReconcileInput,
  key: string,
  claim: Claim & { readonly candidate: Candidate },
  admission: Admission,
): Result<Accepted, readonly FieldProblem[]> {
  const { candidate } = claim;
  const before = input.accepted.get(key);
  if (!candidate.checked.ok) return candidate.checked;
  const { valid, typed } = candidate.checked.value;
  const at = { key, file: claim.file, digest: claim.digest, raw: candidate.raw, current: true };
  if (before !== undefined && (before.raw === candidate.raw || sameContent(before.valid, valid))) {
    const same = before.current && before.file === claim.file && before.digest === claim.digest;
    return { ok: true, value: same ? before : { ...before, ...at } };
  }
  // Only what is new is held against the rest: what was accepted and turned wrong since is the compiler's to close.
  const refused = admission(typed, valid);
  if (refused.length > 0) return { ok: false, error: refused };
  const acceptedAtMs = before?.acceptedAtMs ?? input.nowMs;
  if (before === undefined && valid.kind !== "AccessGrant")
    return { ok: true, value: { ...at, valid, typed, acceptedAtMs } };
  const update =
    before === undefined ? candidate.checked.value : input.schemas.validate(candidate.raw, before.valid);
  if ("ok" in update && !update.ok) return update;
  const checked = "ok" in update ? update.value : update.valid;
  const next: ValidObject = {
    ...checked,
    generation: before === undefined ? 1 : before.valid.generation + 1,
  };
  const parsed = input.parse(next, acceptedAtMs);
  return parsed.ok ? { ok: true, value: { ...at, valid: next, typed: parsed.value, acceptedAtMs } } : parsed;
}

/** What is in force after a reading. The same files twice give the same result. */
export function reconcile(input: ReconcileInput): Reconciled {
  const problems: FieldProblem[] = [];
  const { claims, vague } = collectClaims(input, problems);
  const accepted = new Map<string, Accepted>();
  const missingSince = keepVanished(input, vague, claims, accepted);
  // Catalogs first, those in force before new ones: what they define is what the others are held against.
  const isCatalog = (key: string): boolean => key.startsWith("OperationCatalog/");
  const catalogs = [...claims]
    .filter(([key]) => isCatalog(key))
    .sort(([a], [b]) => Number(input.accepted.has(b)) - Number(input.accepted.has(a)) || (a < b ? -1 : 1));
  for (const [key, entries] of catalogs)
    settle(
      input,
      { key, entries, accepted, problems },
      input.admitter.against(catalogsOf(accepted.values())),
    );
  const admission = input.admitter.against(catalogsOf(accepted.values()));
  for (const [key, entries] of claims)
    if (!isCatalog(key)) settle(input, { key, entries, accepted, problems }, admission);
  for (const { key, file, closed } of accepted.values()) if (closed) problems.push(closedProblem(key, file));
  return { accepted, missingSince, problems };
}

/** Catalogs in force. */
export function catalogsOf(accepted: Iterable<Accepted>): OperationCatalog[] {
  const out: OperationCatalog[] = [];
  for (const { typed } of accepted) if (typed.kind === "OperationCatalog") out.push(typed.value);
  return out;
}

function closedProblem(key: string, file: string): FieldProblem {
  return {
    file,
    object: key.replace("/", " "),
    reason: "Unsupported",
    path: "",
    message:
      "was accepted by another version and this build cannot read it, so it denies all traffic to its targets",
    hint: "correct the file for this version, delete it, or run the other version again",
  };
}

interface Settling {
  readonly key: string;
  readonly entries: readonly Claim[];
  readonly accepted: Map<string, Accepted>;
  readonly problems: FieldProblem[];
}

/** Decides what one key stands for after this reading. */
function settle(
  input: ReconcileInput,
  { key, entries, accepted, problems }: Settling,
  admission: Admission,
): void {
  const before = input.accepted.get(key);
  const chosen = choose(entries, before);
  if (chosen === undefined) return;
  for (const other of entries) {
    if (other === chosen || other.candidate === undefined) continue;
    const where =
      chosen.candidate === undefined
        ? chosen.file
        : `${chosen.file}:${chosen.lineOffset + chosen.candidate.lineOf("")}`;
    problems.push(
      place(other, {
        path: "",
        message: `is defined in \`${where}\` too`,
        hint: `the one in \`${chosen.file}\` counts; remove or rename the other`,
      }),
    );
  }
  const { candidate } = chosen;
  const result =
    candidate === undefined ? undefined : accept(input, key, { ...chosen, candidate }, admission);
  if (result?.ok) accepted.set(key, result.value);
  else if (before !== undefined) accepted.set(key, before.current ? { ...before, current: false } : before);
  if (!result || result.ok) return;
  const standing = before === undefined ? "none" : before.closed ? undefined : "earlier";
  problems.push(...result.error.map((problem) => place(chosen, problem, standing)));
}

function keepVanished(
  input: ReconcileInput,
  vague: ReadonlySet<string>,
  claims: ReadonlyMap<string, unknown>,
  accepted: Map<string, Accepted>,
): Map<string, number> {
  const missingSince = new Map<string, number>();
  for (const [key, before] of input.accepted) {
    if (claims.has(key)) continue;
    const hidden = input.unreadable.some(
      (path) => path === "" || before.file === path || before.file.startsWith(`${path}/`),
    );
    // A file with an object that cannot be told may hold this very one, misspelled.
    let keep = hidden || vague.has(before.file);
    if (!keep && isDeny(before.typed)) {
      const since = input.missingSince.get(key) ?? input.monotonicMs;
      keep = input.monotonicMs - since < DENY_CONFIRM_MS;
      if (keep) missingSince.set(key, since);
    }
    if (keep) accepted.set(key, before.current ? { ...before, current: false } : before);
  }
  return missingSince;
}
