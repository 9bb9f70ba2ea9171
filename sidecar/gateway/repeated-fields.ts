// PURE. Fields of one name that requests get from us, found by their value: that is the same string from request to request,
// whose hash is known, where the cache of all fields hashes name and value anew, 1 µs for a cookie of 1 KB.
import { GenerationCache } from "../core/identity/generation-cache.ts";
import { createField, type Field } from "../wire/field.ts";
import { ownCopy } from "../wire/field-cache.ts";

const MAX_KEPT_CHARS = 2_048;

export class RepeatedFields {
  readonly #name: string;
  readonly #known: GenerationCache<Field>;

  /** @param name lower case. @param limits weight in characters of values. */
  constructor(name: string, limits: { readonly maxEntries: number; readonly maxWeight: number }) {
    this.#name = name;
    this.#known = new GenerationCache(limits);
  }

  /** @param value valid as a field's value. */
  get(value: string): Field {
    const known = this.#known.get(value);
    if (known !== undefined) return known;
    if (value.length > MAX_KEPT_CHARS) return createField(this.#name, value);
    // What is kept must not be a slice of a whole head, which it would keep alive.
    const own = ownCopy(value);
    const field = createField(this.#name, own);
    this.#known.set(own, field, own.length);
    return field;
  }
}
