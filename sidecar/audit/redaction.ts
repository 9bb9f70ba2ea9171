// PURE. What audit events must not hold: values of fields and of JSON or form entries whose names say that they are
// secret. Names stay, so that it can be seen that something was there.

const SECRET_FIELD =
  /(?:^|[-_.])(?:authorization|cookies?|tokens?|jwt|secrets?|passwords?|passwd|keys?|apikey|credentials?|sessions?|signatures?)(?:$|[-_.])/;
const SECRET_ENTRY =
  /authorization|cookie|(?:^|[a-z_-])token$|secret|passw(?:or)?d|api_?-?key|private_?-?key|access_?-?key|credential|session_?-?id/i;
export const REDACTED = "[redacted]";

/** Fields whose values are addresses: what follows a `?` in them may be secret. */
const ADDRESS_FIELDS: ReadonlySet<string> = new Set([
  "referer",
  "location",
  "content-location",
  "link",
  "refresh",
]);

/** More names whose values are secret, from the settings; lower case. */
export type SecretNames = ReadonlySet<string>;

/** The value of a header field as an audit event may hold it. @param name lower case. */
export function redactedField(name: string, value: string, more: SecretNames): string {
  if (more.has(name) || SECRET_FIELD.test(name)) return REDACTED;
  const query = ADDRESS_FIELDS.has(name) ? value.indexOf("?") : -1;
  return query < 0 ? value : `${value.slice(0, query)}?${REDACTED}`;
}

/**
 * JSON text with the string values of secret entries replaced, also those in a list, and also when the text is cut off.
 * One pass over the strings of the text; what is no JSON comes out as something that is none either.
 */
export function redactedJson(text: string, more: SecretNames): string {
  let out = "";
  let copied = 0;
  let isSecret = false;
  for (let start = text.indexOf('"'); start >= 0; ) {
    const end = endOfString(text, start + 1);
    const name = text.slice(start + 1, end);
    const colon = afterSpace(text, end + 1);
    if (text[colon] === ":") {
      const value = afterSpace(text, colon + 1);
      isSecret = (text[value] === '"' || text[value] === "[") && isSecretEntry(unescaped(name), more);
    } else if (isSecret) {
      out += `${text.slice(copied, start)}"${REDACTED}"`;
      copied = end + 1;
      // Inside a list the next string is a value too.
      isSecret = text[colon] === ",";
    }
    start = text.indexOf('"', end + 1);
  }
  return out + text.slice(copied);
}

/** Position of the quote that ends a string, or the end of the text. */
function endOfString(text: string, from: number): number {
  let at = from;
  while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return Math.min(at, text.length);
}

function afterSpace(text: string, from: number): number {
  let at = from;
  while (text[at] === " " || text[at] === "\n" || text[at] === "\t" || text[at] === "\r") at++;
  return at;
}

/** A form body (`application/x-www-form-urlencoded`) with the values of secret entries replaced. */
export function redactedForm(text: string, more: SecretNames): string {
  return text
    .split("&")
    .map((entry) => {
      const equals = entry.indexOf("=");
      const name = equals < 0 ? entry : entry.slice(0, equals);
      return equals >= 0 && isSecretEntry(formName(name), more) ? `${name}=${REDACTED}` : entry;
    })
    .join("&");
}

function isSecretEntry(name: string, more: SecretNames): boolean {
  return SECRET_ENTRY.test(name) || more.has(name.toLowerCase());
}

/** A name may be written with escapes that the application undoes. */
function unescaped(name: string): string {
  if (!name.includes("\\")) return name;
  try {
    const value: unknown = JSON.parse(`"${name}"`);
    return typeof value === "string" ? value : name;
  } catch {
    return name; // no JSON, so nobody reads it as a name
  }
}

function formName(name: string): string {
  try {
    return decodeURIComponent(name.replaceAll("+", " "));
  } catch {
    return name; // as it stands: what cannot be decoded is what the application sees too
  }
}
