// PURE. The server name in the first message of a TLS client (RFC 8446 section 4.1.2, RFC 6066 section 3), read strictly and
// never changed: what TLS says inside is between the two applications. With ECH it is the outer name, and said to be.

/** Most bytes of a ClientHello with its record headers; more is refused. */
export const MAX_HELLO_BYTES = 16_384;

const HANDSHAKE_RECORD = 22;
const CLIENT_HELLO = 1;
const SERVER_NAME = 0;
const ENCRYPTED_CLIENT_HELLO = 0xfe0d;
const HOST_NAME = 0;
const MAX_RECORD_BYTES = 16_384;
/** Labels of letters, digits, `-` and `_`; no IP address needs a server name, so dots alone do not matter. */
const NAME = /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$/;

export type ClientHello =
  /** More bytes are needed. */
  | { readonly kind: "partial" }
  /**
   * @param serverName lower case; undefined: the client named none.
   * @param hidesName it has the extension of Encrypted Client Hello, or a stand-in for it: the true name may be another one.
   */
  | { readonly kind: "hello"; readonly serverName: string | undefined; readonly hidesName: boolean }
  | { readonly kind: "malformed" };

const PARTIAL: ClientHello = { kind: "partial" };
const MALFORMED: ClientHello = { kind: "malformed" };

/** Whether a text can be a server name: lower case, 1 to 253 characters. */
export function isServerName(text: string): boolean {
  return NAME.test(text);
}

/**
 * Reads the ClientHello at the beginning of a connection, also one that is spread over several records.
 *
 * @param bytes everything that came so far.
 */
export function readClientHello(bytes: Buffer): ClientHello {
  let message: Buffer | undefined;
  for (let at = 0; ; ) {
    if (at > MAX_HELLO_BYTES) return MALFORMED;
    const here = bytes.length - at;
    if (here > 0 && bytes[at] !== HANDSHAKE_RECORD) return MALFORMED;
    // Version 3.x, whatever x: TLS 1.3 writes 3.1 or 3.3 (RFC 8446 section 5.1).
    if (here > 1 && bytes[at + 1] !== 3) return MALFORMED;
    if (here < 5) return PARTIAL;
    const length = bytes.readUInt16BE(at + 3);
    if (length === 0 || length > MAX_RECORD_BYTES) return MALFORMED;
    const end = at + 5 + length;
    const part = bytes.subarray(at + 5, Math.min(end, bytes.length));
    message = message === undefined ? part : Buffer.concat([message, part]);
    if (message.length > 0 && message[0] !== CLIENT_HELLO) return MALFORMED;
    if (message.length >= 4) {
      const size = message.readUIntBE(1, 3);
      if (size + 4 > MAX_HELLO_BYTES) return MALFORMED;
      if (message.length >= size + 4) return readBody(message.subarray(4, size + 4));
    }
    if (end > bytes.length) return PARTIAL;
    at = end;
  }
}

/** A cursor that notes reading beyond the end instead of throwing. */
class Reader {
  readonly #bytes: Buffer;
  #at = 0;
  failed = false;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  number(bytes: 1 | 2): number {
    const part = this.take(bytes);
    return part.length < bytes ? 0 : part.readUIntBE(0, bytes);
  }

  take(bytes: number): Buffer {
    if (bytes > this.left) {
      this.failed = true;
      this.#at = this.#bytes.length;
      return Buffer.alloc(0);
    }
    this.#at += bytes;
    return this.#bytes.subarray(this.#at - bytes, this.#at);
  }

  /** A vector with its length in front. */
  vector(lengthBytes: 1 | 2): Buffer {
    return this.take(this.number(lengthBytes));
  }
}

function readBody(body: Buffer): ClientHello {
  const reader = new Reader(body);
  const version = reader.number(2);
  reader.take(32);
  const session = reader.vector(1);
  const suites = reader.vector(2);
  const compressions = reader.vector(1);
  if (
    reader.failed ||
    version < 0x0301 ||
    version > 0x0303 ||
    session.length > 32 ||
    suites.length < 2 ||
    suites.length % 2 !== 0 ||
    compressions.length === 0
  )
    return MALFORMED;
  // Without extensions (TLS 1.2 and before) there is no name.
  if (reader.left === 0) return { kind: "hello", serverName: undefined, hidesName: false };
  const extensions = new Reader(reader.vector(2));
  if (reader.failed || reader.left !== 0) return MALFORMED;
  const seen = new Set<number>();
  let serverName: string | undefined;
  while (extensions.left > 0) {
    const type = extensions.number(2);
    const value = extensions.vector(2);
    // At most one of each type (RFC 8446 section 4.2): two names would let the server take the other one.
    if (extensions.failed || seen.has(type)) return MALFORMED;
    seen.add(type);
    if (type !== SERVER_NAME) continue;
    serverName = readServerName(value);
    if (serverName === undefined) return MALFORMED;
  }
  return { kind: "hello", serverName, hidesName: seen.has(ENCRYPTED_CLIENT_HELLO) };
}

/** Exactly one host name (RFC 6066 section 3); nobody sends another list. */
function readServerName(value: Buffer): string | undefined {
  const outer = new Reader(value);
  const list = new Reader(outer.vector(2));
  if (outer.failed || outer.left !== 0) return undefined;
  const type = list.number(1);
  const name = list.vector(2).toString("latin1").toLowerCase();
  return !list.failed && list.left === 0 && type === HOST_NAME && isServerName(name) ? name : undefined;
}
