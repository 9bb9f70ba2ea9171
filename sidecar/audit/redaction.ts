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

/** A quoted name, a colon, a quoted value that may be cut off by the end of what was kept. Linear: no part can match two ways. */
const JSON_ENTRY = /"((?:[^"\\]|\\.)*)"([ \t\r\n]*:[ \t\r\n]*)"((?:[^"\\]|\\.)*)("|\\?$)/gs;

/** JSON text with the string values of secret entries replaced, also when it is cut off. */
export function redactedJson(text: string, more: SecretNames): string {
  return text.replace(JSON_ENTRY, (whole, name: string, colon: string) =>
    isSecretEntry(unescaped(name), more) ? `"${name}"${colon}"${REDACTED}"` : whole,
  );
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
