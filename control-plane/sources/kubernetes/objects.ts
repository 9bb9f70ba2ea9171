// The objects of our kinds as an API server stores them: checked once more, because a webhook may have been away, and
// what is refused keeps nobody safe: a refused policy is left out, a refused Deny stays as it was accepted last (DOMAIN 3.6).
import type { Admission, Admitter } from "../../policy/admit.ts";
import type { ObjectParser } from "../../policy/typed-object.ts";
import { closedDeny } from "../closed-deny.ts";
import type { FieldProblem, StandIn } from "../field-problem.ts";
import { type Accepted, catalogsOf } from "../reconcile.ts";
import { API_VERSION, type Kind, type SchemaSet } from "../schema.ts";
import type { OperationCatalog } from "../store.ts";

/** An object as it is stored. */
export interface StoredObject {
  readonly kind: Kind;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly generation: number;
  /** Of its creation, Unix milliseconds. */
  readonly createdAtMs: number;
  readonly labels: unknown;
  readonly spec: unknown;
  readonly status: unknown;
}

export interface ObjectDeps {
  readonly schemas: SchemaSet;
  readonly parse: ObjectParser;
  readonly admitter: Admitter;
}

/** What one object came to. */
interface Entry {
  readonly stored: StoredObject;
  readonly accepted: Accepted | undefined;
  /** Why the stored version is not in force; empty when it is. */
  readonly problems: readonly FieldProblem[];
}

export class KubernetesObjects {
  readonly #deps: ObjectDeps;
  readonly #entries = new Map<string, Entry>();
  readonly #generations = new Map<string, number>();
  readonly #pending = new Map<string, StoredObject | undefined>();
  #catalogs: readonly OperationCatalog[] = [];
  /** false until the first `settle` is over: then an object that is new to us may be an old one. */
  #started = false;

  constructor(deps: ObjectDeps) {
    this.#deps = deps;
  }

  /** @param stored undefined: it is gone. */
  put(key: string, stored: StoredObject | undefined): void {
    this.#pending.set(key, stored);
  }

  get hasPending(): boolean {
    return this.#pending.size > 0;
  }

  /** Takes what came since the last time, in steps. @returns kinds of which something in force differs now. */
  *settle(): Generator<void, ReadonlySet<string>> {
    const changed = new Set<string>();
    const pending = [...this.#pending];
    this.#pending.clear();
    const isCatalog = ([key]: readonly [string, unknown]): boolean => key.startsWith("OperationCatalog/");
    // Catalogs first: what they define is what the others are held against.
    for (const [key, stored] of pending.filter(isCatalog)) this.#take(key, stored, changed);
    const again = changed.has("OperationCatalog") ? this.#refusedKeys() : [];
    this.#catalogs = catalogsOf(this.accepted());
    const waiting = new Set(pending.map(([key]) => key));
    for (const key of again) if (!waiting.has(key)) pending.push([key, this.#entries.get(key)?.stored]);
    for (const entry of pending) {
      if (isCatalog(entry)) continue;
      this.#take(entry[0], entry[1], changed);
      yield;
    }
    this.#started = true;
    return changed;
  }

  *accepted(): Generator<Accepted> {
    for (const { accepted } of this.#entries.values()) if (accepted) yield accepted;
  }

  problems(): readonly FieldProblem[] {
    return [...this.#entries.values()].flatMap((entry) => entry.problems);
  }

  /** By key, of every object that was looked at. */
  generations(): ReadonlyMap<string, number> {
    return this.#generations;
  }

  /** Denies that are refused as they are stored now and stay in force as they were. */
  standIns(): readonly StandIn[] {
    return [...this.#entries].flatMap(([key, { accepted, problems }]) =>
      accepted && problems.length > 0 && !accepted.closed && isDeny(accepted)
        ? [{ key, generation: accepted.valid.generation, spec: accepted.valid.spec }]
        : [],
    );
  }

  #refusedKeys(): string[] {
    return [...this.#entries].filter(([, { problems }]) => problems.length > 0).map(([key]) => key);
  }

  #take(key: string, stored: StoredObject | undefined, changed: Set<string>): void {
    const before = this.#entries.get(key);
    const kind = key.slice(0, key.indexOf("/"));
    if (stored === undefined) {
      if (before?.accepted) changed.add(kind);
      this.#entries.delete(key);
      this.#generations.delete(key);
      return;
    }
    const entry = this.#check(key, stored, before?.accepted);
    this.#generations.set(key, stored.generation);
    this.#entries.set(key, entry);
    if (entry.accepted?.typed !== before?.accepted?.typed) changed.add(kind);
  }

  #check(key: string, stored: StoredObject, before: Accepted | undefined): Entry {
    const read = this.#read(key, stored, this.#deps.admitter.against(this.#catalogs));
    if (read.ok) return { stored, accepted: read.accepted, problems: [] };
    const standing = this.#standing(key, stored, before);
    const title = key.replace("/", " ");
    return {
      stored,
      accepted: standing,
      problems: read.problems.map((problem) => ({
        ...problem,
        object: title,
        ...(standing?.closed ? {} : { standing: standing ? ("earlier" as const) : ("none" as const) }),
        ...(standing?.closed
          ? {
              hint: `${problem.hint ? `${problem.hint}; ` : ""}until then it denies all traffic to its targets`,
            }
          : {}),
      })),
    };
  }

  #read(
    key: string,
    stored: StoredObject,
    admission: Admission,
  ):
    | { readonly ok: true; readonly accepted: Accepted }
    | { readonly ok: false; readonly problems: readonly FieldProblem[] } {
    const raw = objectOf(stored);
    const checked = this.#deps.schemas.validate(raw);
    if (!checked.ok) return { ok: false, problems: checked.error };
    const valid = { ...checked.value, generation: stored.generation };
    const typed = this.#deps.parse(valid, stored.createdAtMs);
    if (!typed.ok) return { ok: false, problems: typed.error };
    const refused = admission(typed.value, valid);
    if (refused.length > 0) return { ok: false, problems: refused };
    return {
      ok: true,
      accepted: {
        key,
        file: "",
        digest: "",
        raw: undefined,
        valid,
        typed: typed.value,
        acceptedAtMs: stored.createdAtMs,
        current: true,
      },
    };
  }

  /** What is in force instead of an object that was refused. */
  #standing(key: string, stored: StoredObject, before: Accepted | undefined): Accepted | undefined {
    // The mesh's own settings and names of operations never fall back to nothing.
    if (stored.kind === "MeshConfig" || stored.kind === "OperationCatalog") return before && stale(before);
    if (stored.kind !== "AccessPolicy" && stored.kind !== "ClusterAccessPolicy") return undefined;
    if (before !== undefined) return isDeny(before) ? stale(before) : undefined;
    const kept = lastAcceptedOf(stored.status);
    if (kept) {
      const read = this.#read(key, { ...stored, ...kept }, () => []);
      if (read.ok) return stale(read.accepted);
    }
    // Seen from its creation on, or said so by whoever saw it: it was never in force, and refusing it changes nothing.
    if (this.#started || wasRefused(stored)) return undefined;
    const closed = closedDeny(
      { key, object: objectOf(stored), generation: stored.generation, acceptedAtMs: stored.createdAtMs },
      this.#deps.schemas,
      this.#deps.parse,
    );
    return (
      closed && {
        key,
        file: "",
        digest: "",
        raw: undefined,
        ...closed,
        acceptedAtMs: stored.createdAtMs,
        current: false,
        closed: true,
      }
    );
  }
}

const stale = (accepted: Accepted): Accepted =>
  accepted.current ? { ...accepted, current: false } : accepted;

function isDeny({ typed }: Accepted): boolean {
  return (
    (typed.kind === "AccessPolicy" || typed.kind === "ClusterAccessPolicy") && typed.value.action === "Deny"
  );
}

function objectOf({ kind, namespace, name, labels, spec, status }: StoredObject): unknown {
  return {
    apiVersion: API_VERSION,
    kind,
    metadata: {
      name,
      ...(namespace === undefined ? {} : { namespace }),
      ...(labels === undefined ? {} : { labels }),
    },
    spec,
    // Only a grant is decided by its status; the others' is ours and not for us to judge.
    ...(kind === "AccessGrant" && status !== undefined ? { status } : {}),
  };
}

type Fields = Readonly<Record<string, unknown>>;
const fieldsOf = (value: unknown): Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};

/** What an earlier control plane kept in `status.lastAccepted`: JSON of generation and spec. */
function lastAcceptedOf(status: unknown): Pick<StoredObject, "generation" | "spec"> | undefined {
  const text = fieldsOf(status)["lastAccepted"];
  if (typeof text !== "string") return undefined;
  try {
    const { generation, spec } = fieldsOf(JSON.parse(text));
    return typeof generation === "number" ? { generation, spec } : undefined;
  } catch {
    // Not ours, or cut: as if nothing had been kept, which closes a Deny.
    return undefined;
  }
}

/** `Accepted=False` of this very generation and nothing kept: it has never been in force. */
function wasRefused({ status, generation }: StoredObject): boolean {
  const { conditions, lastAccepted } = fieldsOf(status);
  return (
    lastAccepted === undefined &&
    Array.isArray(conditions) &&
    conditions
      .map(fieldsOf)
      .some(
        ({ type, status: value, observedGeneration }) =>
          type === "Accepted" && value === "False" && observedGeneration === generation,
      )
  );
}
