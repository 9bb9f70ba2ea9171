// PURE. Reads the field lines of a head or trailer section and finds what they say about framing, connection and host.
import { type Field, FieldFlag, fieldFlags } from "../field.ts";
import type { FieldCache, ParsedLine } from "../field-cache.ts";
import { isToken } from "../field-syntax.ts";
import type { Http1ProblemCode } from "./problem.ts";

const RECENT_PLACES = 32;
const RECENT_LENGTH = 2048;
/** Lines from here on are found again wherever they stand: hashing one of 1 KB takes 2 µs, comparing it a twentieth. */
const LONG_LENGTH = 256;
/** Credentials and cookies: more long lines than this a client rarely repeats. */
const LONG_PLACES = 2;
const NO_NAMES: readonly string[] = [];
/** Flags of the fields that `FieldReader` has to look at. */
const SPEAKS = FieldFlag.framing | FieldFlag.hopByHop;

/** Besides framing and identity: fields that a sender must not have removed on the way by naming them in Connection. */
const PROTECTED = new Set([
  "authorization",
  "cookie",
  "set-cookie",
  "content-type",
  "content-encoding",
  "content-range",
  "expect",
  "forwarded",
  "origin",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-proto",
  "via",
  "traceparent",
  "tracestate",
]);

/** Fields that steer framing, routing, authentication or the reading of the content (RFC 9110 section 6.5.1). */
const NEVER_TRAILERS = new Set([
  "authorization",
  "www-authenticate",
  "authentication-info",
  "cookie",
  "set-cookie",
  "content-encoding",
  "content-type",
  "content-range",
  "expect",
  "range",
  "max-forwards",
  "cache-control",
  "location",
  "forwarded",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-port",
  "x-forwarded-proto",
  "origin",
  "via",
]);
const TRAILER_REFUSED =
  FieldFlag.framing | FieldFlag.hopByHop | FieldFlag.identity | FieldFlag.methodOverride | FieldFlag.pseudo;

/** One reader per parser: what a head says, valid until the next `read`. */
export class FieldReader {
  readonly #cache: FieldCache;
  /** The line seen last at each place: a connection mostly repeats itself, and comparing costs half of a look-up. */
  readonly #recent: (ParsedLine | undefined)[] = [];
  /** The long lines that were looked up last: they stay the same when others come and go before them. */
  readonly #long: ParsedLine[] = [];
  #nextLong = 0;
  fields: Field[] = [];
  host: string | undefined;
  /** The last Host value that was found well-formed; kept from head to head by the request parser. */
  checkedHost: string | undefined;
  /** -1: none. */
  contentLength = -1;
  chunked = false;
  close = false;
  keepAlive = false;
  expectContinue = false;
  upgrade: string | undefined;
  connectionNames: readonly string[] = NO_NAMES;
  #upgradeNamed = false;
  #expectations = 0;
  /** The lines read last are those that came before at their places, so they are likely to come again. */
  repeated = false;

  constructor(cache: FieldCache) {
    this.#cache = cache;
  }

  /**
   * Reads the lines of `text` from `start` on; each ends in CRLF.
   *
   * @returns the first rule that is broken, or undefined.
   */
  read(text: string, start: number, maxFields: number): Http1ProblemCode | undefined {
    const before = this.fields;
    this.#reset();
    const fields = this.fields;
    const recent = this.#recent;
    let repeated = true;
    let at = start;
    while (at < text.length) {
      const index = fields.length;
      if (index === maxFields) return "too_many_fields";
      let parsed = recent[index];
      // INVARIANT: the remembered line was valid and ends in CRLF, so equal characters here are the same whole line.
      if (parsed !== undefined && text.substring(at, at + parsed.text.length) === parsed.text) {
        at += parsed.text.length;
      } else {
        const end = text.indexOf("\r\n", at);
        const line = text.slice(at, end);
        parsed =
          end - at < LONG_LENGTH
            ? this.#cache.parseLine(line)
            : this.#parseLong(line, text.slice(at, end + 2));
        if (parsed === undefined) return problemOfLine(line);
        if (parsed.field !== before[index]) repeated = false;
        if (index < RECENT_PLACES) this.#remember(index, parsed);
        at = end + 2;
      }
      const field = parsed.field;
      fields.push(field);
      if ((field.flags & SPEAKS) !== 0) {
        const problem = this.#note(field);
        if (problem !== undefined) return problem;
      } else if (field.name === "expect") this.#noteExpect(field.value);
    }
    if (!this.#upgradeNamed) this.upgrade = undefined;
    if (this.chunked && this.contentLength >= 0) return "both_length_and_chunked";
    this.repeated = repeated;
    return undefined;
  }

  /** Reads a trailer section; the rules of heads on framing do not apply, since no such field may be in it. */
  readTrailers(text: string, maxFields: number): Http1ProblemCode | undefined {
    this.#reset();
    let at = 0;
    while (at < text.length) {
      const end = text.indexOf("\r\n", at);
      const line = text.slice(at, end);
      const field = this.#cache.fromLine(line);
      if (field === undefined) return problemOfLine(line);
      if (this.fields.length === maxFields) return "trailers_too_large";
      if (!mayTrail(field)) return "forbidden_trailer";
      this.fields.push(field);
      at = end + 2;
    }
    return undefined;
  }

  #reset(): void {
    this.repeated = false;
    this.fields = [];
    this.host = undefined;
    this.contentLength = -1;
    this.chunked = false;
    this.close = false;
    this.keepAlive = false;
    this.expectContinue = false;
    this.upgrade = undefined;
    this.connectionNames = NO_NAMES;
    this.#upgradeNamed = false;
    this.#expectations = 0;
  }

  #note(field: Field): Http1ProblemCode | undefined {
    switch (field.name) {
      case "host":
        if (this.host !== undefined) return "several_hosts";
        this.host = field.value;
        return undefined;
      case "connection":
        return this.#noteConnection(field.value);
      case "content-length":
        if (this.contentLength >= 0) return "several_content_lengths";
        this.contentLength = parseContentLength(field.value);
        return this.contentLength < 0 ? "bad_content_length" : undefined;
      case "transfer-encoding":
        // A second field would mean "chunked, chunked"; any other coding is one that we cannot take off.
        if (this.chunked || field.value.toLowerCase() !== "chunked") return "bad_transfer_encoding";
        this.chunked = true;
        return undefined;
      case "upgrade":
        this.upgrade = this.upgrade === undefined ? field.value : `${this.upgrade}, ${field.value}`;
        return undefined;
      default:
        return undefined;
    }
  }

  /** Keeps at most `RECENT_PLACES` lines of `RECENT_LENGTH`, so a connection cannot hold more than 64 KiB of text here. */
  #remember(index: number, parsed: ParsedLine): void {
    const keep = parsed.lasting && parsed.text.length <= RECENT_LENGTH ? parsed : this.#recent[index];
    if (index === this.#recent.length) this.#recent.push(keep);
    else this.#recent[index] = keep;
  }

  /** @param text the line with its CRLF. */
  #parseLong(line: string, text: string): ParsedLine | undefined {
    for (const known of this.#long) if (known.text === text) return known;
    const parsed = this.#cache.parseLine(line);
    if (parsed?.lasting === true) {
      this.#long[this.#nextLong] = parsed;
      this.#nextLong = (this.#nextLong + 1) % LONG_PLACES;
    }
    return parsed;
  }

  #noteExpect(value: string): void {
    this.#expectations++;
    this.expectContinue = this.#expectations === 1 && value.toLowerCase() === "100-continue";
  }

  #noteConnection(value: string): Http1ProblemCode | undefined {
    const folded = value.toLowerCase();
    if (folded === "keep-alive") {
      this.keepAlive = true;
      return undefined;
    }
    if (folded === "close") {
      this.close = true;
      return undefined;
    }
    const names = [...this.connectionNames];
    for (const part of folded.split(",")) {
      const name = part.replace(/^[ \t]+|[ \t]+$/g, "");
      if (name === "") continue;
      if (!isToken(name)) return "bad_connection";
      if (isProtected(name)) return "protected_connection_name";
      if (name === "close") this.close = true;
      else if (name === "keep-alive") this.keepAlive = true;
      else {
        if (name === "upgrade") this.#upgradeNamed = true;
        names.push(name);
      }
    }
    this.connectionNames = names;
    return undefined;
  }
}

/** Whether a field may stand in a trailer section; HTTP/2 peers send what they like. */
export function mayTrail(field: Field): boolean {
  return (field.flags & TRAILER_REFUSED) === 0 && !NEVER_TRAILERS.has(field.name.replace(/[_.]/g, "-"));
}

function isProtected(name: string): boolean {
  return (fieldFlags(name) & (FieldFlag.framing | FieldFlag.identity)) !== 0 || PROTECTED.has(name);
}

/** Decimal digits without sign, list or leading zeros, up to 2^53 - 1; else -1 (RFC 9110 section 8.6). */
function parseContentLength(value: string): number {
  if (value.length === 0 || value.length > 16) return -1;
  if (value.length > 1 && value.charCodeAt(0) === 48) return -1;
  let length = 0;
  for (let i = 0; i < value.length; i++) {
    const digit = value.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return -1;
    length = length * 10 + digit;
  }
  return length <= Number.MAX_SAFE_INTEGER ? length : -1;
}

/** What is wrong with a field line that `FieldCache.fromLine` refused. */
function problemOfLine(line: string): Http1ProblemCode {
  const control = controlProblem(line);
  if (control !== undefined) return control;
  const first = line.charCodeAt(0);
  if (first === 32 || first === 9) return "obs_fold";
  const before = line.charCodeAt(line.indexOf(":") - 1);
  return before === 32 || before === 9 ? "space_before_colon" : "bad_field";
}

/** The control character in a line, if there is one. */
export function controlProblem(line: string): Http1ProblemCode | undefined {
  for (let i = 0; i < line.length; i++) {
    const c = line.charCodeAt(i);
    if (c === 10) return "bare_lf";
    if (c === 13) return "bare_cr";
    if ((c < 32 && c !== 9) || c === 127) return "control_character";
  }
  return undefined;
}
