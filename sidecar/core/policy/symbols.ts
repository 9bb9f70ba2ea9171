// The strings that the rules of one program name, as small integers, and the facts of a call in the same integers: the
// index compares and looks up integers, which lie close together, instead of strings, which lie all over the heap.
import type { Call, Caller } from "./call.ts";
import { CallerKeys, scopedAccountOf } from "./caller.ts";
import type { View } from "./match.ts";

/** Ids from 1 in the order of first mention; 0 stands for every other string. */
export class Symbols {
  readonly #ids = new Map<string, number>();
  /** Marks callers whose ids are ours. An object of its own, so that a caller does not keep an old program alive. */
  readonly #mark = {};
  /** For callers that were not made with `createCaller`. */
  readonly #scratch = new CallerKeys();

  /** Number of ids, 0 included. */
  get size(): number {
    return this.#ids.size + 1;
  }

  intern(text: string): number {
    const known = this.#ids.get(text);
    if (known !== undefined) return known;
    const id = this.#ids.size + 1;
    this.#ids.set(text, id);
    return id;
  }

  idOf(text: string): number {
    return this.#ids.get(text) ?? 0;
  }

  /** Valid until the next call when the caller was not made with `createCaller`. */
  keysOf(caller: Caller): CallerKeys {
    if (caller instanceof CallerKeys) {
      if (caller.keysOf !== this.#mark) this.#fill(caller, caller);
      return caller;
    }
    this.#fill(this.#scratch, caller);
    return this.#scratch;
  }

  #fill(keys: CallerKeys, caller: Caller): void {
    keys.standing = caller.authenticated ? (caller.local ? 2 : 1) : 0;
    keys.nameId = this.idOf(caller.name);
    keys.namespaceId = this.idOf(caller.namespace);
    keys.kindId = this.idOf(caller.kind);
    keys.accountId = this.idOf(caller.serviceAccount);
    keys.scopedAccountId = this.idOf(scopedAccountOf(caller));
    keys.spiffeIdId = this.idOf(caller.spiffeId);
    keys.trustDomainId = this.idOf(caller.trustDomain);
    keys.keysOf = this.#mark;
  }
}

/** An operation name and its ancestors at dots, from the longest. */
export function ancestorsOf(name: string): readonly string[] {
  const out = [name];
  for (let dot = name.lastIndexOf("."); dot > 0; dot = name.lastIndexOf(".", dot - 1))
    out.push(name.slice(0, dot));
  return out;
}

const NONE: readonly number[] = [];

/** One call and view in the ids of a program. One per engine, set for each look-up, so that it makes no garbage. */
export class Probe {
  readonly #symbols: Symbols;
  readonly #operations = new Map<string, readonly number[]>();
  readonly #roles: number[] = [];
  #rolesKnown = false;
  keys: CallerKeys = new CallerKeys();
  /** The operation and its ancestors as far as rules name them; undefined: undetermined. */
  operations: readonly number[] | undefined = NONE;

  constructor(symbols: Symbols) {
    this.#symbols = symbols;
  }

  set(call: Call, view: View): void {
    this.keys = this.#symbols.keysOf(call.caller);
    this.#rolesKnown = false;
    const { operation } = view;
    if (operation.kind === "known") this.operations = this.#operationsOf(operation.name);
    else this.operations = operation.kind === "undetermined" ? undefined : NONE;
  }

  idOf(text: string): number {
    return this.#symbols.idOf(text);
  }

  /** Roles of the user as far as rules name them. Valid until the next call. */
  roles(call: Call): readonly number[] {
    if (!this.#rolesKnown) {
      this.#roles.length = 0;
      if (call.user !== undefined) {
        for (const role of call.user.roles) {
          const id = this.#symbols.idOf(role);
          if (id !== 0) this.#roles.push(id);
        }
      }
      this.#rolesKnown = true;
    }
    return this.#roles;
  }

  /** Operation names come from packs, a bounded set; the cap is for packs that were exchanged many times. */
  #operationsOf(name: string): readonly number[] {
    let ids = this.#operations.get(name);
    if (ids === undefined) {
      if (this.#operations.size >= 4096) this.#operations.clear();
      ids = ancestorsOf(name)
        .map((ancestor) => this.#symbols.idOf(ancestor))
        .filter((id) => id !== 0);
      this.#operations.set(name, ids);
    }
    return ids;
  }
}
