// The one place where a request path is read: percent-decoded exactly once, cut into segments, and refused when two
// servers could read it differently (DOMAIN M1, M2). What is forwarded is the raw target, never what is made here.
import { isUtf8 } from "node:buffer";
import type { Result } from "../runtime/errors.ts";

export interface NormalPath {
  /** Decoded path without query, with leading slash; `*` for the asterisk form. */
  readonly path: string;
  /** Decoded segments; a trailing slash gives an empty last one, `/` is `[""]`, `*` is `[]`. */
  readonly segments: readonly string[];
  /**
   * Index of the first segment with an escape that only a file-name tail may carry (`%25`, `%23`, `%3B`); -1: none.
   * Only ever set when the caller allowed such escapes.
   */
  readonly looseFrom: number;
}

/** Splits a request target in origin form at its first `?`; `query` is undefined when there is none. */
export function splitTarget(target: string): { path: string; query: string | undefined } {
  const mark = target.indexOf("?");
  return mark < 0
    ? { path: target, query: undefined }
    : { path: target.slice(0, mark), query: target.slice(mark + 1) };
}

// What a raw byte means in a path: 0 refused, 1 plain, 2 slash, 3 percent.
const RAW_CLASS = new Uint8Array(128).fill(1, 0x21, 0x7f);
RAW_CLASS[0x2f] = 2;
RAW_CLASS[0x25] = 3;
for (const refused of [0x5c, 0x3f, 0x23, 0x3b]) RAW_CLASS[refused] = 0;

const refuse = (error: string): Result<never, string> => ({ ok: false, error });
const ASTERISK: NormalPath = { path: "*", segments: [], looseFrom: -1 };
const DOUBLE_SLASH = "path has an empty segment (`//`); send one slash";
const DOT_SEGMENT = "path has a `.` or `..` segment; send the resolved path";

/**
 * Normalises a path (no query) once, or says why it is refused.
 *
 * Refused: bytes outside printable ASCII, `\`, `?`, `#`, `;` raw; escapes that are cut short, not hexadecimal, not UTF-8,
 * or decode to one of those, to `/`, `%` or a control character; `//`; `.` and `..` segments in any spelling.
 *
 * @param raw path as received, Latin-1 characters; `*` is accepted (whether the method allows it is the caller's matter).
 * @param allowLoose let `%25`, `%23` and `%3B` pass and report where they begin, for `{x***}` tails. Even there `%25` must
 *   not begin an escape of a separator or dot, which a server that decodes twice would turn into one.
 */
export function normalizePath(raw: string, allowLoose = false): Result<NormalPath, string> {
  if (raw === "*") return { ok: true, value: ASTERISK };
  if (raw.charCodeAt(0) !== 0x2f) return refuse("path does not begin with `/`");
  const segments: string[] = [];
  let looseFrom = -1;
  let escapes = false;
  let start = 1;
  for (let i = 1; i <= raw.length; i++) {
    const code = i === raw.length ? 0x2f : raw.charCodeAt(i);
    const kind = code < 128 ? RAW_CLASS[code] : 0;
    if (kind === 1) continue;
    if (kind === 0 || kind === undefined)
      return refuse(
        `path has the byte 0x${code.toString(16)}, which must be percent-encoded or is never legal`,
      );
    if (kind === 3) {
      escapes = true;
      continue;
    }
    let segment = raw.slice(start, i);
    if (escapes) {
      const decoded = decodeSegment(segment, allowLoose);
      if (!decoded.ok) return decoded;
      if (decoded.value.loose && looseFrom < 0) looseFrom = segments.length;
      segment = decoded.value.text;
      escapes = false;
    }
    if (segment.length === 0) {
      if (i < raw.length) return refuse(DOUBLE_SLASH);
    } else if (segment === "." || segment === "..") return refuse(DOT_SEGMENT);
    segments.push(segment);
    start = i + 1;
  }
  const path = raw.includes("%") ? `/${segments.join("/")}` : raw;
  return { ok: true, value: { path, segments, looseFrom } };
}

const hexDigit = (code: number): number => {
  if (code >= 0x30 && code <= 0x39) return code - 0x30;
  const lower = code | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
};

/** Bytes of a text in which `%XX` stands for a byte; undefined for an escape that is cut short or not hexadecimal. */
function unescapeBytes(text: string): Buffer | undefined {
  const bytes = Buffer.allocUnsafe(text.length);
  let length = 0;
  for (let i = 0; i < text.length; i++) {
    let code = text.charCodeAt(i);
    if (code === 0x25) {
      const high = i + 2 < text.length ? hexDigit(text.charCodeAt(i + 1)) : -1;
      const low = i + 2 < text.length ? hexDigit(text.charCodeAt(i + 2)) : -1;
      if (high < 0 || low < 0) return undefined;
      code = high * 16 + low;
      i += 2;
    }
    bytes[length++] = code;
  }
  return bytes.subarray(0, length);
}

/** Percent-decodes once and strictly; undefined for bad escapes and for what is not UTF-8. Latin-1 characters above 0x7F count as bytes. */
export function percentDecode(text: string): string | undefined {
  if (!text.includes("%") && isAscii(text)) return text;
  const bytes = unescapeBytes(text);
  return bytes !== undefined && isUtf8(bytes) ? bytes.toString("utf8") : undefined;
}

/** True for C0, DEL and C1 control characters anywhere in the text. */
export function hasControl(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x20 || (code >= 0x7f && code <= 0x9f)) return true;
  }
  return false;
}

const TWICE_ENCODED = /%(?:2[ef5]|5c|3[bf]|23|00)/i;

function decodeSegment(raw: string, allowLoose: boolean): Result<{ text: string; loose: boolean }, string> {
  const text = percentDecode(raw);
  if (text === undefined) return refuse("path has an escape that is not two hexadecimal digits or not UTF-8");
  if (hasControl(text)) return refuse("path has an escaped control character");
  let loose = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code >= 128 || RAW_CLASS[code] === 1 || code === 0x20) continue;
    const fileName = code === 0x25 || code === 0x23 || code === 0x3b;
    if (!(allowLoose && fileName))
      return refuse(`path has an escaped \`${String.fromCharCode(code)}\` inside a segment`);
    loose = true;
  }
  if (loose && TWICE_ENCODED.test(text)) return refuse("path is percent-encoded twice");
  return { ok: true, value: { text, loose } };
}

/**
 * Folds the case of a text for the folded views of Deny rules. Characters that become ASCII letters in either direction
 * (the Kelvin sign, the long s) fold too, as servers written in Go do.
 */
export function foldCase(text: string): string {
  if (isAscii(text)) return text.toLowerCase();
  // A sigma is lowered by its place in the word; folding must not depend on what follows, or prefixes would not match.
  return text.toUpperCase().toLowerCase().replaceAll("ς", "σ");
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) return false;
  return true;
}

/** Removes one trailing slash, except from `/` itself. */
export function withoutTrailingSlash(path: string): string {
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
}
