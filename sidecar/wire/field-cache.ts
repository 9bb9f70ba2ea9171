// PURE. Gives the same `Field` for the same bytes, whichever codec read them: HTTP/1.1 asks by raw line, HPACK by name and
// value. A line is validated when it is first seen; a hit costs a look-up, so validation is paid once per distinct line.
import { createField, type Field } from "./field.ts";
import { isFieldValue, isToken } from "./field-syntax.ts";
import { type CacheLimits, GenerationCache } from "./generation-cache.ts";

/** Longer lines are parsed each time: they would push out many short ones. */
const MAX_CACHED_LENGTH = 4096;
/** What a cached field costs besides its characters: object, map entry, string headers (estimate). */
const ENTRY_BYTES = 240;
const DEFAULT_LIMITS: CacheLimits = { maxEntries: 4096, maxBytes: 4 * 1024 * 1024 };

/** Fields whose value differs on almost every request; keeping them would only turn the generations over. */
const ALWAYS_DIFFERENT = new Set([
  "traceparent",
  "tracestate",
  "baggage",
  "x-request-id",
  "x-correlation-id",
  "x-b3-traceid",
  "x-b3-spanid",
  "x-amzn-trace-id",
  "idempotency-key",
  "grpc-timeout",
  "set-cookie",
]);

/** A field line as it was received, with what it means. */
export interface ParsedLine {
  /** With its CRLF, as a string of its own; empty unless `lasting`. */
  readonly text: string;
  readonly field: Field;
  /** The cache keeps it, so it is likely to come again and may be remembered elsewhere. */
  readonly lasting: boolean;
}

/** Copies of the characters: name and value, the line of the field, and the key of both. */
function costOf(field: Field): number {
  return ENTRY_BYTES + 3 * field.line.length;
}

function costOfLine(parsed: ParsedLine): number {
  return ENTRY_BYTES + 3 * parsed.text.length;
}

/** A string of its own (Latin-1): V8 keeps a whole head alive for a slice of it, up to 16 KiB per cached line. */
export function ownCopy(text: string): string {
  return Buffer.from(text, "latin1").toString("latin1");
}

/** A bounded cache of immutable fields, shared by all connections of a process. */
export class FieldCache {
  readonly #byLine: GenerationCache<ParsedLine>;
  readonly #byPair: GenerationCache<Field>;

  /** @param limits bounds of the whole cache; the default is 4096 entries and 4 MiB. */
  constructor(limits: CacheLimits = DEFAULT_LIMITS) {
    const half = { maxEntries: limits.maxEntries / 2, maxBytes: limits.maxBytes / 2 };
    this.#byLine = new GenerationCache(half);
    this.#byPair = new GenerationCache(half);
  }

  get entries(): number {
    return this.#byLine.entries + this.#byPair.entries;
  }

  get bytes(): number {
    return this.#byLine.bytes + this.#byPair.bytes;
  }

  /**
   * Parses one field line (RFC 9112 section 5): a token, a colon right behind it, optional white space, the value.
   *
   * @param line without its CRLF, as Latin-1 characters.
   * @returns `undefined` when the line breaks the syntax; `problemOfLine` says how.
   */
  fromLine(line: string): Field | undefined {
    return this.parseLine(line)?.field;
  }

  /** As `fromLine`, for a caller that compares the next line with the text of this one before it asks again. */
  parseLine(line: string): ParsedLine | undefined {
    const hit = this.#byLine.get(line, costOfLine);
    if (hit !== undefined) return hit;
    const colon = line.indexOf(":");
    if (colon <= 0) return undefined;
    const folded = line.slice(0, colon).toLowerCase();
    if (!isToken(folded)) return undefined;
    if (line.length > MAX_CACHED_LENGTH || ALWAYS_DIFFERENT.has(folded)) {
      const value = trimSpaces(line, colon + 1);
      return isFieldValue(value)
        ? { text: "", field: createField(folded, value), lasting: false }
        : undefined;
    }
    const name = ownCopy(folded);
    const value = ownCopy(trimSpaces(line, colon + 1));
    if (!isFieldValue(value)) return undefined;
    const parsed = { text: ownCopy(`${line}\r\n`), field: this.get(name, value), lasting: true };
    this.#byLine.set(ownCopy(line), parsed, costOfLine(parsed));
    return parsed;
  }

  /**
   * The field of a name and a value.
   *
   * @param name lower case; pseudo-headers included. Not validated here: whoever decodes it checks the returned field.
   */
  get(name: string, value: string): Field {
    if (name.length + value.length > MAX_CACHED_LENGTH || ALWAYS_DIFFERENT.has(name))
      return createField(name, value);
    // INVARIANT: neither a valid name nor a valid value contains NUL, so two different valid pairs never share a key.
    const key = `${name}\0${value}`;
    const hit = this.#byPair.get(key, costOf);
    if (hit !== undefined) return hit;
    const field = createField(name, value);
    this.#byPair.set(key, field, costOf(field));
    return field;
  }
}

/** The text from `start` without spaces and tabs at either end. */
function trimSpaces(text: string, start: number): string {
  let from = start;
  let to = text.length;
  while (from < to && isSpace(text.charCodeAt(from))) from++;
  while (to > from && isSpace(text.charCodeAt(to - 1))) to--;
  return text.slice(from, to);
}

function isSpace(code: number): boolean {
  return code === 32 || code === 9;
}
