// A header field, the common currency of both codecs: the HTTP/1.1 parser and the HPACK decoder yield the same object
// for the same bytes, so what was learnt about a field (its verified token, its encoder index) hangs on the object.

/** Facts about a field's name that the hot path needs, as bits of `Field.flags`. */
export const FieldFlag = {
  /** Never enters an HPACK table (authorization, cookie, trace ids, anything secret or always different). */
  neverIndex: 1,
  /** Belongs to one hop (RFC 9110 section 7.6.1) and is never forwarded as it is. */
  hopByHop: 2,
  /** Written by us on each side from the framing in force: content-length, transfer-encoding, host, trailer. */
  framing: 4,
  /** An identity header of the mesh: stripped from everything that did not come from a verified proof. */
  identity: 8,
  /** A method-override header (DOMAIN M8): stripped inbound. */
  methodOverride: 16,
  /** Begins with a colon: an HTTP/2 pseudo-header. */
  pseudo: 32,
} as const;

export interface Field {
  /** Lower case. */
  readonly name: string;
  /** Latin-1 characters, no leading or trailing white space, no CR, LF or NUL. */
  readonly value: string;
  /** `name: value\r\n`, as HTTP/1.1 writes it. */
  readonly line: string;
  /** Bits of `FieldFlag`, decided by the name alone. */
  readonly flags: number;
  /** Size as HPACK counts it: name + value + 32 (RFC 7541 section 4.1). */
  readonly size: number;
  /** Whatever the data path learnt from exactly this name and value; set by its owner only. */
  attachment: unknown;
}

const HOP_BY_HOP = [
  "connection",
  "keep-alive",
  "proxy-connection",
  "proxy-authenticate",
  "proxy-authorization",
  "te",
  "upgrade",
  "http2-settings",
];
const FRAMING = ["content-length", "transfer-encoding", "host", "trailer"];
const METHOD_OVERRIDE = [
  "x-http-method-override",
  "x-http-method",
  "x-method-override",
  "x-original-url",
  "x-rewrite-url",
];
const NEVER_INDEX = [
  "authorization",
  "cookie",
  "set-cookie",
  "proxy-authorization",
  "traceparent",
  "tracestate",
  "x-request-id",
  "baggage",
  "grpc-timeout",
];
const IDENTITY = [
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
];

const FLAGS = new Map<string, number>();
for (const [names, flag] of [
  [HOP_BY_HOP, FieldFlag.hopByHop],
  [FRAMING, FieldFlag.framing],
  [METHOD_OVERRIDE, FieldFlag.methodOverride],
  [NEVER_INDEX, FieldFlag.neverIndex],
  [IDENTITY, FieldFlag.identity],
] as const) {
  for (const name of names) FLAGS.set(name, (FLAGS.get(name) ?? 0) | flag);
}

const LONGEST_NAME = Math.max(...[...FLAGS.keys()].map((name) => name.length));

/**
 * Flags of a field name. Names that fold to a header that is ours to write (`_` and `.` read as `-`, as some servers do)
 * count as one, so `X_Mesh_Caller` and `Transfer_Encoding` cannot slip past.
 *
 * @param name lower case.
 */
export function fieldFlags(name: string): number {
  if (name.charCodeAt(0) === 58) return FieldFlag.pseudo;
  // Folding a name of 40 KiB once is cheap; a header block of 48 KiB repeats it 16 000 times by reference (11 s of CPU).
  if (name.length > LONGEST_NAME) return 0;
  const known = FLAGS.get(name);
  if (known !== undefined) return known;
  if (name.includes("_") || name.includes(".")) {
    const folded = FLAGS.get(name.replace(/[_.]/g, "-")) ?? 0;
    return folded & (FieldFlag.identity | FieldFlag.methodOverride | FieldFlag.framing | FieldFlag.hopByHop);
  }
  return 0;
}

/** Makes a field from a name (lower case) and value that were validated before. */
export function createField(name: string, value: string): Field {
  return {
    name,
    value,
    line: `${name}: ${value}\r\n`,
    flags: fieldFlags(name),
    size: name.length + value.length + 32,
    attachment: undefined,
  };
}
