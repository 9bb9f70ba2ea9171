// What makes a header list malformed (RFC 9113 sections 8.1 to 8.3, 8.5), beyond the characters that HPACK decoding
// checks. Nothing is repaired: a malformed message ends its stream.
import { type Field, FieldFlag } from "../field.ts";
import { isToken } from "../field-syntax.ts";

/** Forbidden in HTTP/2 (RFC 9113 section 8.2.2). */
const CONNECTION_SPECIFIC = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "transfer-encoding",
  "upgrade",
]);
/** Visible ASCII without `#`: a fragment never travels. */
const PATH = /^\/[!"$-~]*$/;
/** Host and port: visible ASCII without userinfo, path, query, fragment or backslash. */
const AUTHORITY = /^[!$-.0-;=A-Z[\]_a-z~]+$/;
const SCHEME = /^[A-Za-z][A-Za-z0-9+.-]*$/;
const LENGTH = /^[0-9]{1,15}$/;
const STATUS = /^[1-5][0-9][0-9]$/;

const METHOD = 1;
const SCHEME_BIT = 2;
const PATH_BIT = 4;
const AUTHORITY_BIT = 8;
const PROTOCOL = 16;

/** Checks header lists; facts of the last one stay readable until the next. */
export class HeaderRules {
  /** content-length of the last list; -1: none. */
  contentLength = -1;
  /** :status of the last response. */
  status = 0;

  /**
   * A request (section 8.3.1).
   *
   * @returns "connect" for a well-formed CONNECT, plain (section 8.5) or extended (RFC 8441).
   */
  request(fields: readonly Field[]): "ok" | "malformed" | "connect" {
    this.contentLength = -1;
    let seen = 0;
    let method = "";
    let path = "";
    let regular = false;
    for (const field of fields) {
      if ((field.flags & FieldFlag.pseudo) === 0) {
        regular = true;
        if (!this.#regular(field)) return "malformed";
        continue;
      }
      const bit = requestPseudo(field);
      if (regular || bit === 0 || (seen & bit) !== 0) return "malformed";
      seen |= bit;
      if (bit === METHOD) method = field.value;
      else if (bit === PATH_BIT) path = field.value;
    }
    // A tunnel has no content (RFC 9110 section 9.3.6), so nothing may announce its length.
    if (method === "CONNECT") return isConnect(seen) && this.contentLength < 0 ? "connect" : "malformed";
    if ((seen & ~AUTHORITY_BIT) !== (METHOD | SCHEME_BIT | PATH_BIT)) return "malformed";
    return path !== "*" || method === "OPTIONS" ? "ok" : "malformed";
  }

  /** A final or informational response (section 8.3.2); `status` says which. 101 does not exist in HTTP/2. */
  response(fields: readonly Field[]): boolean {
    this.contentLength = -1;
    this.status = 0;
    let regular = false;
    for (const field of fields) {
      if ((field.flags & FieldFlag.pseudo) === 0) {
        regular = true;
        if (!this.#regular(field)) return false;
        continue;
      }
      if (regular || this.status !== 0 || field.name !== ":status" || !STATUS.test(field.value)) return false;
      this.status = Number(field.value);
    }
    return this.status !== 0 && this.status !== 101;
  }

  /** Trailers: no pseudo-headers (section 8.1), and nothing that frames or routes (RFC 9110 section 6.5.1). */
  trailers(fields: readonly Field[]): boolean {
    this.contentLength = -1;
    for (const field of fields) {
      if ((field.flags & FieldFlag.pseudo) !== 0 || field.name === "host") return false;
      if (!this.#regular(field) || this.contentLength >= 0) return false;
    }
    return true;
  }

  #regular(field: Field): boolean {
    if ((field.flags & (FieldFlag.hopByHop | FieldFlag.framing)) === 0) return true;
    if (CONNECTION_SPECIFIC.has(field.name)) return false;
    if (field.name === "te") return field.value === "trailers";
    if (field.name !== "content-length") return true;
    if (this.contentLength >= 0 || !LENGTH.test(field.value)) return false;
    this.contentLength = Number(field.value);
    return true;
  }
}

/** The bit of a request's pseudo-header; 0 when it is unknown or its value is invalid. */
function requestPseudo(field: Field): number {
  const value = field.value;
  switch (field.name) {
    case ":method":
      return isToken(value) ? METHOD : 0;
    case ":path":
      return PATH.test(value) || value === "*" ? PATH_BIT : 0;
    case ":scheme":
      return SCHEME.test(value) ? SCHEME_BIT : 0;
    case ":authority":
      return AUTHORITY.test(value) ? AUTHORITY_BIT : 0;
    case ":protocol":
      return isProtocol(value) ? PROTOCOL : 0;
    default:
      return 0;
  }
}

/** A value of the registry of upgrade tokens (RFC 8441 section 4), which may have a version (RFC 9110 section 7.8). */
function isProtocol(value: string): boolean {
  const slash = value.indexOf("/");
  return slash < 0 ? isToken(value) : isToken(value.slice(0, slash)) && isToken(value.slice(slash + 1));
}

function isConnect(seen: number): boolean {
  const plain = METHOD | AUTHORITY_BIT;
  return seen === plain || seen === (plain | SCHEME_BIT | PATH_BIT | PROTOCOL);
}
