// Decides whether a resource value from a query, body, message or header may be matched by name. A value that the server
// could read as another one is left unknown, so that Allow rules do not match and Deny rules do.
import { hasControl } from "../http/path.ts";
import type { Resource } from "./call.ts";

/** Longest resource value that is matched, in UTF-16 units. */
export const MAX_RESOURCE_CHARS = 1024;

const SCHEME = /^[A-Za-z][A-Za-z0-9+.-]*:\/{0,3}/;

/**
 * The resource of a value; undefined, empty, overlong, ill-formed or ambiguous values are `unknown`. Ambiguous: control
 * characters, `.` and `..` segments and empty segments (`/Users/alice/../bob` begins like `/Users/alice`), in a value with
 * a URI scheme also percent-escapes of dots and separators.
 */
export function resourceOf(type: string, value: string | undefined): Resource {
  if (value === undefined || value === "" || value.length > MAX_RESOURCE_CHARS)
    return { kind: "unknown", type };
  if (hasControl(value) || !value.isWellFormed() || hasAmbiguousSegments(value))
    return { kind: "unknown", type };
  return { kind: "known", type, value };
}

function hasAmbiguousSegments(value: string): boolean {
  if (!value.includes("/") && !value.includes("\\")) {
    return value === "." || value === ".." || (value.includes("%") && SCHEME.test(value));
  }
  const scheme = SCHEME.exec(value)?.[0] ?? "";
  if (scheme !== "" && value.includes("%")) return true;
  const segments = value.slice(scheme === "" && value.startsWith("/") ? 1 : scheme.length).split(/[/\\]/);
  return segments.some(
    (each, at) => each === "." || each === ".." || (each === "" && at < segments.length - 1),
  );
}
