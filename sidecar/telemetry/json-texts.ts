// PURE. JSON text of strings that come again and again (user agents, templates, paths): a look-up instead of escaping.

const MAX_TEXTS = 2_048;
const MAX_TEXT_CHARS = 512;

/** A bounded cache, forgotten whole when it is full. */
export class JsonTexts {
  readonly #texts = new Map<string, string>();

  /** JSON text of a string, or `null`. */
  of(text: string | undefined): string {
    if (text === undefined) return "null";
    const known = this.#texts.get(text);
    if (known !== undefined) return known;
    const json = JSON.stringify(text);
    if (text.length > MAX_TEXT_CHARS || !text.isWellFormed()) return json;
    if (this.#texts.size >= MAX_TEXTS) this.#texts.clear();
    // As keys, slices would keep the strings alive that they were cut from.
    this.#texts.set(flatCopy(text), json);
    return json;
  }
}

/** The same well-formed text as one piece of memory: V8 keeps what a text was cut from or put together of. */
export function flatCopy(text: string): string {
  return Buffer.from(text).toString();
}
