// The strings that the rules of one program name, as small integers, and the facts of a call in the same integers: the
// index compares and looks up integers, which lie close together, instead of strings, which lie all over the heap.
import type { Call, Caller } from "./call.ts";
import { CallerKeys, scopedAccountOf } from "./caller.ts";
import type { View } from "./match.ts";

/** Ids from 1 in the order of first mention; 0 stands for every other string. */
export class Symbols {
  readonly #ids = new Map<string, number>();
  /** Marks callers whose ids are ours. An object of its own, so that a caller does not keep an old program alive. */
  readonly mark: object = {};
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

  /** Valid until the next call when the caller was not made with `createCaller`, or cannot be written to. */
  keysOf(caller: Caller): CallerKeys {
    if (caller instanceof CallerKeys) {
      if (caller.keysOf === this.mark) return caller;
      if (!Object.isFrozen(caller)) {
        this.#fill(caller, caller);
        return caller;
      }
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
    keys.keysOf = this.mark;
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
  keys: CallerKeys = new CallerKeys();
  /** The operation could not be told; it has no names then. */
  undetermined = false;
  /** The longest of the operation and its ancestors that rules name; 0: none. */
  op = 0;
  /** All that rules name where they are more than one; empty otherwise. */
  opChain: readonly number[] = NONE;
  readonly #mark: object;
  /** The only symbol of an operation (0: none), or `-1 - place` in `#chains`. */
  readonly #operations = new Map<string, number>();
  readonly #chains: (readonly number[])[] = [];
  readonly #symbols: Symbols;
  #rolesKnown = false;
  readonly #roles: number[] = [];

  constructor(symbols: Symbols) {
    this.#symbols = symbols;
    this.#mark = symbols.mark;
  }

  set(call: Call, view: View): void {
    const { caller } = call;
    this.keys =
      caller instanceof CallerKeys && caller.keysOf === this.#mark ? caller : this.#symbols.keysOf(caller);
    this.#rolesKnown = false;
    const { operation } = view;
    this.undetermined = operation.kind === "undetermined";
    const known = operation.kind === "known" ? this.#operationOf(operation.name) : 0;
    const chain = known >= 0 ? undefined : this.#chains[-1 - known];
    this.op = chain === undefined ? known : (chain[0] ?? 0);
    this.opChain = chain === undefined ? NONE : chain;
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
  #operationOf(name: string): number {
    const known = this.#operations.get(name);
    if (known !== undefined) return known;
    if (this.#operations.size >= 4096) {
      this.#operations.clear();
      this.#chains.length = 0;
    }
    const ids = ancestorsOf(name)
      .map((ancestor) => this.#symbols.idOf(ancestor))
      .filter((id) => id !== 0);
    const value = ids.length <= 1 ? (ids[0] ?? 0) : -this.#chains.push(ids);
    this.#operations.set(name, value);
    return value;
  }
}
