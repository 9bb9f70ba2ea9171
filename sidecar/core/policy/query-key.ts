// Finds one key in a query string the way the servers behind us might, and refuses where they would not agree (M4).
import { percentDecode } from "../http/path.ts";
import type { Result } from "../runtime/errors.ts";

/** undefined: the key is not there. `ambiguous`: present in a spelling that only some servers would take for it. */
export type QueryValue =
  | { readonly kind: "absent" }
  | { readonly kind: "value"; readonly text: string }
  | { readonly kind: "ambiguous" };

const ABSENT: Result<QueryValue, string> = { ok: true, value: { kind: "absent" } };

const decode = (text: string): string | undefined => {
  if (!text.includes("+")) return percentDecode(text);
  return percentDecode(text.replaceAll("+", " "));
};

/**
 * The value of a key. `+` and percent-escapes are decoded once. Other keys are not looked at: their bad escapes do not
 * matter here, because no reading of them yields our key.
 *
 * @param query raw text after the `?`, Latin-1 characters, or undefined.
 * @returns the value, or why the request is malformed: the key twice, as `key[]` or `key[x]`, beside a `;` (a separator
 *   to some servers), in two spellings that differ in case, or with a value that cannot be decoded.
 */
export function queryValue(query: string | undefined, key: string): Result<QueryValue, string> {
  if (query === undefined || query === "") return ABSENT;
  const lowerKey = key.toLowerCase();
  const semicolons = query.includes(";");
  let exact: string | undefined;
  let folded = 0;
  let start = 0;
  for (let i = 0; i <= query.length; i++) {
    const code = i === query.length ? 0x26 : query.charCodeAt(i);
    if (code !== 0x26 && code !== 0x3b) continue;
    const piece = query.slice(start, i);
    const besideSemicolon =
      semicolons && (code === 0x3b || (start > 0 && query.charCodeAt(start - 1) === 0x3b));
    start = i + 1;
    const equals = piece.indexOf("=");
    const name = decode(equals < 0 ? piece : piece.slice(0, equals));
    if (name === undefined || name.length < key.length) continue;
    const bare = name.trim().toLowerCase();
    if (bare !== lowerKey && !bare.startsWith(`${lowerKey}[`)) continue;
    if (bare !== lowerKey) return { ok: false, error: `query has \`${key}\` as a list (\`${key}[]\`)` };
    if (besideSemicolon) return { ok: false, error: `query has \`${key}\` beside a \`;\`` };
    folded++;
    if (folded > 1) return { ok: false, error: `query has \`${key}\` twice` };
    if (name !== key) continue;
    exact = equals < 0 ? "" : decode(piece.slice(equals + 1));
    if (exact === undefined) return { ok: false, error: `query has a value of \`${key}\` with a bad escape` };
  }
  if (exact !== undefined) return { ok: true, value: { kind: "value", text: exact } };
  return folded > 0 ? { ok: true, value: { kind: "ambiguous" } } : ABSENT;
}
