// What a store in memory knows of its sessions without unpacking them: a row of numbers for each, in columns. PURE.
import { hash } from "node:crypto";
import type { Session, SessionsOf } from "./session.ts";
import type { Place } from "./slabs.ts";

const FIRST_CAPACITY = 256;

type Column = Float64Array | Uint32Array;

/** Names as numbers: of equal names equal ones; who finds one looks at the session itself. */
export interface NameHash {
  readonly of: "user" | "sid" | "idpSid";
  readonly hash: number;
}

export class SessionRows {
  /** Unix milliseconds; 0: the row is not in use. */
  endsMs = new Float64Array(FIRST_CAPACITY);
  /** Of its last use. */
  seenMs = new Float64Array(FIRST_CAPACITY);
  /** Of what is packed: never the same twice, and 0 when there is none. */
  versions = new Float64Array(FIRST_CAPACITY);
  #slab = new Uint32Array(FIRST_CAPACITY);
  #at = new Uint32Array(FIRST_CAPACITY);
  #length = new Uint32Array(FIRST_CAPACITY);
  readonly #names = {
    user: new Uint32Array(FIRST_CAPACITY),
    sid: new Uint32Array(FIRST_CAPACITY),
    idpSid: new Uint32Array(FIRST_CAPACITY),
  };
  #lastVersion = 0;

  /** @param row a new one is at most one behind those that there are. */
  set(row: number, session: Session, place: Place): void {
    if (row >= this.endsMs.length) this.#grow();
    this.endsMs[row] = session.endsMs;
    this.versions[row] = ++this.#lastVersion;
    this.move(row, place);
    this.#names.user[row] = numberOf(session.user.id);
    this.#names.sid[row] = numberOf(session.sid);
    this.#names.idpSid[row] = numberOf(`${session.idp} ${session.idpSid}`);
  }

  /** The same record lies elsewhere. */
  move(row: number, { slab, at, length }: Place): void {
    this.#slab[row] = slab;
    this.#at[row] = at;
    this.#length[row] = length;
  }

  clear(row: number): void {
    this.endsMs[row] = 0;
    this.versions[row] = 0;
  }

  isInUse(row: number): boolean {
    return this.versions[row] !== 0;
  }

  slabOf(row: number): number {
    return this.#slab[row] ?? 0;
  }

  placeOf(row: number): Place {
    return { slab: this.slabOf(row), at: this.#at[row] ?? 0, length: this.#length[row] ?? 0 };
  }

  /** Whether it may be one of those. */
  mayBe(row: number, { of, hash: wanted }: NameHash): boolean {
    return this.isInUse(row) && this.#names[of][row] === wanted;
  }

  #grow(): void {
    this.endsMs = twice(this.endsMs, new Float64Array(this.endsMs.length * 2));
    this.seenMs = twice(this.seenMs, new Float64Array(this.seenMs.length * 2));
    this.versions = twice(this.versions, new Float64Array(this.versions.length * 2));
    this.#slab = twice(this.#slab, new Uint32Array(this.#slab.length * 2));
    this.#at = twice(this.#at, new Uint32Array(this.#at.length * 2));
    this.#length = twice(this.#length, new Uint32Array(this.#length.length * 2));
    for (const name of ["user", "sid", "idpSid"] as const)
      this.#names[name] = twice(this.#names[name], new Uint32Array(this.#names[name].length * 2));
  }
}

function twice<C extends Column>(before: C, after: C): C {
  after.set(before);
  return after;
}

export function nameHash(of: SessionsOf): NameHash {
  if ("user" in of) return { of: "user", hash: numberOf(of.user) };
  if ("sid" in of) return { of: "sid", hash: numberOf(of.sid) };
  return { of: "idpSid", hash: numberOf(`${of.idp} ${of.idpSid}`) };
}

/** Who signs in chooses names in part: of a digest, so that nobody makes many alike. */
function numberOf(name: string): number {
  return hash("sha256", name, "buffer").readUInt32LE(0);
}
