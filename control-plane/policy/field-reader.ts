// Reads the fields of a validated object one by one into typed form and reports what does not fit; PURE. The schema has
// seen the object before: this second, independent check makes sure that nothing is dropped or misread on the way.
import type { FieldProblem } from "../sources/field-problem.ts";

const DURATION = /^(?:(\d{1,7})h)?(?:(\d{1,7})m)?(?:(\d{1,7})s)?$/;

/** Milliseconds of `1m`, `8h`, `300s`, `1h30m`; undefined for anything else and for zero. */
export function parseDurationMs(text: string): number | undefined {
  const match = DURATION.exec(text);
  if (match === null) return undefined;
  const [hours, minutes, seconds] = match.slice(1).map((part) => Number(part ?? 0));
  const ms = ((hours ?? 0) * 3600 + (minutes ?? 0) * 60 + (seconds ?? 0)) * 1000;
  return ms > 0 ? ms : undefined;
}

const FINE_DURATION = /^(?:(\d{1,7})h)?(?:(\d{1,7})m)?(?:(\d{1,7})s)?(?:(\d{1,7})ms)?$/;
/** Longest time of a timeout: 30 days, which milliseconds in 32 bits hold. */
const MAX_FINE_MS = 30 * 24 * 3_600_000;

/** Milliseconds of `250ms`, `2s`, `1m30s`; undefined for anything else, for zero, and for more than 30 days. */
export function parseFineDurationMs(text: string): number | undefined {
  const match = FINE_DURATION.exec(text);
  if (match === null) return undefined;
  const [hours = 0, minutes = 0, seconds = 0, rest = 0] = match.slice(1).map((part) => Number(part ?? 0));
  const ms = (hours * 3600 + minutes * 60 + seconds) * 1000 + rest;
  return ms > 0 && ms <= MAX_FINE_MS ? ms : undefined;
}

type Fields = Readonly<Record<string, unknown>>;

export class FieldReader {
  readonly path: string;
  readonly #fields: Fields;
  readonly #seen = new Set<string>();
  readonly #problems: FieldProblem[];

  /** @param problems where problems are appended; the typed result is not to be used when there are any. */
  constructor(value: unknown, path: string, problems: FieldProblem[]) {
    this.path = path;
    this.#problems = problems;
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    if (!isObject) problems.push({ path, message: "must be an object with fields" });
    // Holds because of the check above; the values stay unknown.
    this.#fields = isObject ? (value as Fields) : {};
  }

  at(name: string): string {
    return this.path === "" ? name : `${this.path}.${name}`;
  }

  report(message: string, name?: string, hint?: string): void {
    this.#problems.push({
      path: name === undefined ? this.path : this.at(name),
      message,
      ...(hint === undefined ? {} : { hint }),
    });
  }

  has(name: string): boolean {
    return Object.hasOwn(this.#fields, name) && this.#fields[name] !== undefined;
  }

  #take(name: string): unknown {
    this.#seen.add(name);
    return Object.hasOwn(this.#fields, name) ? this.#fields[name] : undefined;
  }

  require(...names: string[]): void {
    for (const name of names) if (!this.has(name)) this.report("is missing", name);
  }

  text(name: string): string | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (typeof value === "string" && value !== "") return value;
    this.report("must be a string that is not empty", name);
    return undefined;
  }

  oneOf<T extends string>(name: string, values: readonly T[]): T | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const found = values.find((value) => value === text);
    if (found === undefined) this.report(`must be one of \`${values.join("`, `")}\``, name);
    return found;
  }

  integer(name: string, minimum: number, maximum: number): number | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= minimum && value <= maximum)
      return value;
    this.report(`must be a whole number from ${minimum} to ${maximum}`, name);
    return undefined;
  }

  /** A number from 0 to 1. */
  share(name: string): number | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (typeof value === "number" && value >= 0 && value <= 1) return value;
    this.report("must be a number from 0 to 1", name);
    return undefined;
  }

  flag(name: string): boolean | undefined {
    const value = this.#take(name);
    if (value === undefined || typeof value === "boolean") return value;
    this.report("must be `true` or `false`", name);
    return undefined;
  }

  /** `any: true`, which is the only value it has. */
  onlyTrue(name: string): true | undefined {
    const value = this.flag(name);
    if (value === false) this.report("can only be `true`", name);
    return value === true ? true : undefined;
  }

  /** RFC 3339 to Unix milliseconds. */
  timeMs(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const ms = /^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}/.test(text)
      ? Date.parse(text.toUpperCase())
      : Number.NaN;
    if (!Number.isNaN(ms)) return ms;
    this.report("must be a time such as `2027-01-01T00:00:00Z`", name);
    return undefined;
  }

  durationMs(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const ms = parseDurationMs(text);
    if (ms === undefined) this.report("must be a duration such as `300s`, `1m` or `8h`", name);
    return ms;
  }

  /** A time that may be shorter than a second, such as a timeout; milliseconds. */
  fineDurationMs(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const ms = parseFineDurationMs(text);
    if (ms === undefined)
      this.report("must be a duration such as `250ms`, `2s` or `1m30s`, at most `720h`", name);
    return ms;
  }

  /** A list that is not empty, without entries given twice. */
  #list(name: string): readonly unknown[] | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (Array.isArray(value) && value.length > 0) return value;
    this.report("must be a list that is not empty", name);
    return undefined;
  }

  /** @param check says what is wrong with an entry. */
  texts(name: string, check?: (text: string) => string | undefined): readonly string[] | undefined {
    const list = this.#list(name);
    if (list === undefined) return undefined;
    const texts: string[] = [];
    for (const [index, item] of list.entries()) {
      const wrong =
        typeof item !== "string" || item === "" ? "must be a string that is not empty" : check?.(item);
      if (wrong !== undefined) this.report(wrong, `${name}[${index}]`);
      else texts.push(String(item));
    }
    if (new Set(texts).size !== texts.length) this.report("an entry is listed twice", name);
    return texts;
  }

  /** Names, or prefixes with a trailing `*`. */
  patterns(name: string): readonly string[] | undefined {
    return this.texts(name, (text) =>
      text.indexOf("*") < text.length - 1 && text.includes("*")
        ? "`*` is allowed at the end only"
        : undefined,
    );
  }

  choices<T extends string>(name: string, values: readonly T[]): readonly T[] | undefined {
    const texts = this.texts(name, (text) =>
      values.some((value) => value === text) ? undefined : `must be one of \`${values.join("`, `")}\``,
    );
    // Holds because the check above lets only members of `values` through.
    return texts as readonly T[] | undefined;
  }

  integers(name: string, minimum: number, maximum: number): readonly number[] | undefined {
    const list = this.#list(name);
    if (list === undefined) return undefined;
    const numbers = list.filter(
      (item): item is number =>
        typeof item === "number" && Number.isSafeInteger(item) && item >= minimum && item <= maximum,
    );
    if (numbers.length !== list.length)
      this.report(`must be whole numbers from ${minimum} to ${maximum}`, name);
    if (new Set(numbers).size !== numbers.length) this.report("an entry is listed twice", name);
    return numbers;
  }

  textMap(
    name: string,
    checkKey: (key: string) => string | undefined,
  ): ReadonlyMap<string, string> | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    const map = new Map<string, string>();
    if (
      typeof value !== "object" ||
      value === null ||
      Array.isArray(value) ||
      Object.keys(value).length === 0
    ) {
      this.report("must be an object of strings that is not empty", name);
      return map;
    }
    for (const [key, text] of Object.entries(value)) {
      const wrong = checkKey(key);
      if (wrong !== undefined) this.report(wrong, name);
      else if (typeof text !== "string") this.report(`the value of \`${key}\` must be a string`, name);
      else map.set(key, text);
    }
    return map;
  }

  /** Reads an object that must have at least one field, all of them read by `read`. */
  object<T>(name: string, read: (fields: FieldReader) => T): T | undefined {
    const value = this.#take(name);
    return value === undefined ? undefined : readObject(value, this.at(name), this.#problems, read);
  }

  objects<T>(name: string, read: (fields: FieldReader) => T): readonly T[] | undefined {
    const list = this.#list(name);
    return list?.map((item, index) => readObject(item, `${this.at(name)}[${index}]`, this.#problems, read));
  }

  /** Reports fields that nobody read, and an object without any when it must have one. */
  end(mayBeEmpty = false): void {
    for (const name of Object.keys(this.#fields))
      if (!this.#seen.has(name)) this.report(`unknown field \`${this.at(name)}\``, name);
    if (!mayBeEmpty && Object.keys(this.#fields).length === 0) this.report("is an empty object");
  }
}

function readObject<T>(
  value: unknown,
  path: string,
  problems: FieldProblem[],
  read: (fields: FieldReader) => T,
): T {
  const fields = new FieldReader(value, path, problems);
  const typed = read(fields);
  fields.end();
  return typed;
}
