// Reads the top-level members of a JSON object without building the object: linear, bounded in depth, strict (RFC 8259),
// and intolerant of keys that two parsers could resolve differently. An attacker writes what is read here.
import { isUtf8 } from "node:buffer";
import { foldCase } from "../http/path.ts";

/** Where a member's value stands and, for texts and numbers, what it is. */
export type JsonMember =
  | { readonly kind: "string"; readonly text: string }
  /** `literal`: the characters as sent. */
  | { readonly kind: "number"; readonly literal: string }
  | { readonly kind: "object" | "array"; readonly start: number; readonly end: number }
  | { readonly kind: "true" | "false" | "null" };

export type JsonScan =
  | { readonly kind: "object"; readonly members: ReadonlyMap<string, JsonMember> }
  /** Valid JSON, but not an object. */
  | { readonly kind: "array" | "other" }
  /** A top-level key twice, exactly or after case folding; reported even if the rest is not valid. */
  | { readonly kind: "duplicate"; readonly key: string }
  | { readonly kind: "invalid" };

/** Deepest nesting that is read; deeper is `invalid`. */
export const MAX_JSON_DEPTH = 128;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

const isDigit = (code: number | undefined): boolean => code !== undefined && code >= 0x30 && code <= 0x39;

class Scanner {
  readonly #bytes: Buffer;
  readonly #end: number;
  #at: number;

  constructor(bytes: Buffer, start: number, end: number) {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
  }

  #peek(): number {
    return this.#at < this.#end ? (this.#bytes[this.#at] ?? -1) : -1;
  }

  #space(): void {
    for (;;) {
      const code = this.#peek();
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.#at++;
    }
  }

  #take(code: number): boolean {
    if (this.#peek() !== code) return false;
    this.#at++;
    return true;
  }

  /** Skips a string whose opening quote is next; false when it is not valid. */
  #skipString(): boolean {
    if (!this.#take(QUOTE)) return false;
    while (this.#at < this.#end) {
      const code = this.#bytes[this.#at++] ?? -1;
      if (code === QUOTE) return true;
      if (code < 0x20) return false;
      if (code === BACKSLASH && !this.#skipEscape()) return false;
    }
    return false;
  }

  #skipEscape(): boolean {
    const code = this.#peek();
    this.#at++;
    if (code !== 0x75) return code >= 0 && '"\\/bfnrt'.includes(String.fromCharCode(code));
    for (let i = 0; i < 4; i++) {
      const hex = this.#peek();
      if (!(isDigit(hex) || ((hex | 0x20) >= 0x61 && (hex | 0x20) <= 0x66 && hex > 0))) return false;
      this.#at++;
    }
    return true;
  }

  /** The decoded string whose opening quote is next; undefined when it is not valid. */
  #string(): string | undefined {
    const start = this.#at;
    if (!this.#skipString()) return undefined;
    const raw = this.#bytes.toString("utf8", start, this.#at);
    if (!raw.includes("\\")) return raw.slice(1, -1);
    // One string literal that was just validated, so this neither throws nor yields anything but a string.
    const parsed: unknown = JSON.parse(raw);
    return typeof parsed === "string" ? parsed : undefined;
  }

  #number(): string | undefined {
    const start = this.#at;
    this.#take(0x2d);
    if (!this.#take(0x30) && !this.#digits()) return undefined;
    if (this.#take(0x2e) && !this.#digits()) return undefined;
    if ((this.#peek() | 0x20) === 0x65) {
      this.#at++;
      if (!this.#take(0x2b)) this.#take(0x2d);
      if (!this.#digits()) return undefined;
    }
    return this.#bytes.toString("latin1", start, this.#at);
  }

  #digits(): boolean {
    const start = this.#at;
    while (isDigit(this.#peek())) this.#at++;
    return this.#at > start;
  }

  #word(): "true" | "false" | "null" | undefined {
    for (const word of ["true", "false", "null"] as const) {
      if (
        this.#at + word.length <= this.#end &&
        this.#bytes.toString("latin1", this.#at, this.#at + word.length) === word
      ) {
        this.#at += word.length;
        return word;
      }
    }
    return undefined;
  }

  /** Skips one value of any kind without recursion. */
  #skipContainer(): boolean {
    const closers = new Uint8Array(MAX_JSON_DEPTH);
    let depth = 0;
    do {
      this.#space();
      const code = this.#peek();
      if (code === 0x7b || code === 0x5b) {
        // The member object that we are in counts as one level.
        if (depth >= MAX_JSON_DEPTH - 1) return false;
        this.#at++;
        const closer = code === 0x7b ? 0x7d : 0x5d;
        this.#space();
        if (!this.#take(closer)) {
          closers[depth++] = closer;
          if (closer === 0x7d && !this.#key()) return false;
          continue;
        }
      } else if (code === QUOTE) {
        if (!this.#skipString()) return false;
      } else if (code === 0x2d || isDigit(code)) {
        if (this.#number() === undefined) return false;
      } else if (this.#word() === undefined) return false;
      // A value has ended: close what ends here, or go on behind a comma.
      for (;;) {
        if (depth === 0) return true;
        this.#space();
        const closer = closers[depth - 1] ?? 0;
        if (this.#take(closer)) {
          depth--;
          continue;
        }
        if (!this.#take(0x2c)) return false;
        this.#space();
        if (closer === 0x7d && !this.#key()) return false;
        break;
      }
    } while (this.#at < this.#end);
    return false;
  }

  #key(): boolean {
    if (!this.#skipString()) return false;
    this.#space();
    return this.#take(0x3a);
  }

  #member(): JsonMember | undefined {
    const code = this.#peek();
    if (code === QUOTE) {
      const text = this.#string();
      return text === undefined ? undefined : { kind: "string", text };
    }
    if (code === 0x7b || code === 0x5b) {
      const start = this.#at;
      if (!this.#skipContainer()) return undefined;
      return { kind: code === 0x7b ? "object" : "array", start, end: this.#at };
    }
    if (code === 0x2d || isDigit(code)) {
      const literal = this.#number();
      return literal === undefined ? undefined : { kind: "number", literal };
    }
    const kind = this.#word();
    return kind === undefined ? undefined : { kind };
  }

  #atEnd(): boolean {
    this.#space();
    return this.#at === this.#end;
  }

  scan(): JsonScan {
    this.#space();
    if (this.#peek() !== 0x7b) {
      const array = this.#peek() === 0x5b;
      if (!this.#skipContainer() || !this.#atEnd()) return { kind: "invalid" };
      return { kind: array ? "array" : "other" };
    }
    this.#at++;
    const members = new Map<string, JsonMember>();
    const folded = new Set<string>();
    this.#space();
    if (!this.#take(0x7d)) {
      do {
        this.#space();
        const key = this.#string();
        if (key === undefined) return { kind: "invalid" };
        const fold = foldCase(key);
        if (folded.has(fold)) return { kind: "duplicate", key };
        folded.add(fold);
        this.#space();
        if (!this.#take(0x3a)) return { kind: "invalid" };
        this.#space();
        const member = this.#member();
        if (member === undefined) return { kind: "invalid" };
        members.set(key, member);
        this.#space();
      } while (this.#take(0x2c));
      if (!this.#take(0x7d)) return { kind: "invalid" };
    }
    return this.#atEnd() ? { kind: "object", members } : { kind: "invalid" };
  }
}

/**
 * Scans a JSON text (RFC 8259; UTF-8 without byte-order mark).
 *
 * @param bytes the caller bounds its length (64 KiB for resources).
 * @param start first byte, @param end behind the last: for the range of a member found before.
 */
export function scanJsonObject(bytes: Buffer, start = 0, end = bytes.length): JsonScan {
  if (!isUtf8(bytes.subarray(start, end))) return { kind: "invalid" };
  return new Scanner(bytes, start, end).scan();
}

const PLAIN_NUMBER = /^(?:0|[1-9][0-9]*)$/;

/** The text that a member counts as when it names a resource (M4): strings, and numbers written `0` or `[1-9][0-9]*`. */
export function resourceText(member: JsonMember | undefined): string | undefined {
  if (member?.kind === "string") return member.text;
  return member?.kind === "number" && PLAIN_NUMBER.test(member.literal) ? member.literal : undefined;
}

/** True for `application/json`, parameters allowed, but no character set other than UTF-8. */
export function isJson(contentType: string | undefined): boolean {
  if (contentType === undefined) return false;
  const [type = "", ...parameters] = contentType.toLowerCase().split(";");
  if (type.trim() !== "application/json") return false;
  return parameters.every((each) => {
    const [name = "", value = ""] = each.split("=");
    return name.trim() !== "charset" || ["utf-8", '"utf-8"', "utf8"].includes(value.trim());
  });
}

/** True when the body is sent as it is: no Content-Encoding, or only `identity`. */
export function isIdentityEncoding(contentEncoding: string | undefined): boolean {
  return (
    contentEncoding === undefined || contentEncoding === "" || contentEncoding.toLowerCase() === "identity"
  );
}
