// Which header fields do not cross which edge. Names are compared after folding `_` and `.` to `-`, because servers that
// read headers through CGI names cannot tell them apart.

/** Fields that only a verified proof may set; stripped from every request that arrives, and rewritten from verified data. */
export const IDENTITY_FIELDS: ReadonlySet<string> = new Set([
  "workload-identity-token",
  "workload-proof-token",
  "txn-token",
  "countersign-port",
  "countersign-protocol",
  "countersign-sni",
  "countersign-mirror",
  "countersign-status",
  "x-forwarded-user",
  "x-forwarded-email",
  "x-forwarded-preferred-username",
  "x-forwarded-access-token",
  "x-forwarded-client-cert",
  "x-mesh-caller",
  "x-mesh-roles",
]);

/** Fields of one connection (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2); never forwarded as they are. */
export const HOP_BY_HOP_FIELDS: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "proxy-authenticate",
  "proxy-authorization",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "http2-settings",
]);

/** Fields by which an application would take another method or path than the one decided on (DOMAIN M8). */
export const METHOD_OVERRIDE_FIELDS: ReadonlySet<string> = new Set([
  "x-http-method-override",
  "x-http-method",
  "x-method-override",
  "x-original-url",
  "x-rewrite-url",
]);

/** Identity fields that stay on the mesh hop: the callee's sidecar reads them. */
export const MESH_HOP_FIELDS: ReadonlySet<string> = new Set([
  "workload-identity-token",
  "workload-proof-token",
  "txn-token",
  "countersign-port",
  "countersign-protocol",
  "countersign-sni",
  "countersign-mirror",
]);

/**
 * The edges of the mesh a request crosses: `from-application` into the caller's sidecar, `from-mesh` into the callee's,
 * and `response` on the way back through either.
 */
export type Edge = "from-application" | "from-mesh" | "response";

/** A field name in the form that the sets hold. @param name lower case. */
export function foldFieldName(name: string): string {
  return name.includes("_") || name.includes(".") ? name.replace(/[_.]/g, "-") : name;
}

/**
 * True when a field must not be passed on as it arrived at this edge.
 *
 * `from-application`: hop-by-hop and identity fields, except `txn-token`, which the possession rule judges (DOMAIN 2.6).
 * `from-mesh`: those, method overrides, and every identity field (the tokens are read before and not passed on).
 * `response`: hop-by-hop and identity fields, since no application may speak for the mesh.
 *
 * @param name lower case.
 */
export function isStripped(name: string, edge: Edge): boolean {
  if (HOP_BY_HOP_FIELDS.has(name)) return true;
  const folded = foldFieldName(name);
  if (IDENTITY_FIELDS.has(folded)) return !(edge === "from-application" && name === "txn-token");
  return edge === "from-mesh" && METHOD_OVERRIDE_FIELDS.has(folded);
}

/**
 * Names listed in a Connection header (RFC 9110 section 7.6.1), lower case: they belong to one hop too. Fields that must
 * survive cannot be listed away: `host` and the like are left to the framing rules, so naming them is refused.
 *
 * @returns undefined when an entry is not a token, or names a field that a hop may not drop.
 */
export function connectionOptions(value: string): readonly string[] | undefined {
  const names = value
    .toLowerCase()
    .split(",")
    .map((each) => each.trim())
    .filter((each) => each !== "");
  const legal = names.every(
    (each) => /^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(each) && !UNDROPPABLE.has(foldFieldName(each)),
  );
  return legal ? names : undefined;
}

const UNDROPPABLE: ReadonlySet<string> = new Set([
  ...IDENTITY_FIELDS,
  "host",
  "content-length",
  "content-type",
  "authorization",
  "cookie",
]);

const NOT_FOR_POLICIES: ReadonlySet<string> = new Set([
  ...UNDROPPABLE,
  ...HOP_BY_HOP_FIELDS,
  ...METHOD_OVERRIDE_FIELDS,
  "expect",
  "forwarded",
  "traceparent",
  "tracestate",
  "x-forwarded-for",
]);
const NOT_FOR_POLICIES_PREFIX = /^(?:content|mcp|proxy|x-mesh|countersign)-/;

/**
 * Whether a policy may set or remove a request field: not what frames the request, names hops, carries identity, or was
 * classified on, so that what was decided on is what is forwarded.
 *
 * @param name lower case; anything that is no field name must not.
 */
export function isPolicyField(name: string): boolean {
  const folded = foldFieldName(name);
  return (
    /^[a-z0-9!#$%&'*+.^_`|~-]{1,64}$/.test(name) &&
    !NOT_FOR_POLICIES.has(folded) &&
    !NOT_FOR_POLICIES_PREFIX.test(folded)
  );
}

/** What is read of a field here; wire fields are such. */
interface NamedValue {
  readonly name: string;
  readonly value: string;
}

/**
 * All that was sent under a name: undefined, the value, or every value in order when the field came more than once. This
 * is what the classifier must see: taking the first of two would let the application take the second. A name that only
 * folding tells apart (`content_type`) counts, as servers that read headers through CGI names take it for the same.
 *
 * @param name lower case.
 */
export function lookupField(
  fields: readonly NamedValue[],
  name: string,
): string | readonly string[] | undefined {
  let found: string | string[] | undefined;
  for (const field of fields) {
    if (field.name !== name && !foldsTo(field.name, name)) continue;
    if (found === undefined) found = field.value;
    else if (typeof found === "string") found = [found, field.value];
    else found.push(field.value);
  }
  return found;
}

/** Most names differ in length, so this costs a comparison of numbers. */
function foldsTo(name: string, wanted: string): boolean {
  return name.length === wanted.length && foldFieldName(name) === foldFieldName(wanted);
}

/** The values under a name joined by `, ` (RFC 9110 section 5.3): two content types make none that is known. */
export function joinedField(fields: readonly NamedValue[], name: string): string | undefined {
  const found = lookupField(fields, name);
  return found === undefined || typeof found === "string" ? found : found.join(", ");
}
