// The gateway's cookies: a session is an opaque random id in a `__Host-` cookie (RFC 6265bis section 4.1.3.2), which a
// sibling host or plain HTTP cannot set. What is ours is taken off a request before it goes on. PURE but for the random id.
import { randomBytes } from "node:crypto";
import type { Gateway } from "../../core/gateway/gateway.ts";
import { GenerationCache } from "../../core/identity/generation-cache.ts";

const ID_BYTES = 32;
const ID = /^[A-Za-z0-9_-]{43}$/;
const HOST_PREFIX = "__Host-";

/** Cookie pairs looked at; a header block holds 16 KiB, so more of them are somebody's experiment. */
const MAX_PAIRS = 200;

/** 256 bits from the system's generator, base64url. */
export function createSessionId(): string {
  return randomBytes(ID_BYTES).toString("base64url");
}

/** What one request's cookies are. */
export interface CookieReading {
  /** The session id; undefined: none, not one of ours, or two that differ. */
  readonly id: string | undefined;
  /** Our name came with a value that this gateway never gives, or with several: somebody put it there. */
  readonly isOdd: boolean;
  /** Values of our other cookies, by name without the prefix and the session cookie's name. */
  readonly own: ReadonlyMap<string, string>;
  /** The field to forward; undefined: nothing is left. */
  readonly forwarded: string | undefined;
}

/**
 * Without the spaces and tabs around it, and nothing else: `String.trim` also takes off U+00A0 and the like, which a
 * sibling host may put before `__Host-` where browsers do not see the prefix then.
 */
function trimmed(text: string): string {
  let [from, to] = [0, text.length];
  while (from < to && isBlank(text.charCodeAt(from))) from++;
  while (to > from && isBlank(text.charCodeAt(to - 1))) to--;
  return text.slice(from, to);
}

const isBlank = (code: number): boolean => code === 32 || code === 9;

/** Fields that were read: a browser sends the same one with each request. */
const KEPT = { maxEntries: 4_096, maxWeight: 1024 * 1024 };
/** Longer ones may be a part of a whole head, which a cache would keep alive. */
const MAX_KEPT_CHARS = 2_048;

const NONE: CookieReading = { id: undefined, isOdd: false, own: new Map(), forwarded: undefined };

/** The cookies of one gateway: `NAME` holds the session, `NAME-…` what a sign-in under way needs. */
export class GatewayCookies {
  readonly #session: string;
  readonly #folded: string;
  readonly #read = new GenerationCache<CookieReading>(KEPT);

  /** @param name without `__Host-`, a token of RFC 6265 section 4.1.1. */
  constructor(name: string) {
    this.#session = `${HOST_PREFIX}${name}`;
    this.#folded = this.#session.toLowerCase();
  }

  /** Those of a gateway, whose resource names the whole cookie, `__Host-…`. */
  static of({ session }: Pick<Gateway, "session">): GatewayCookies {
    return new GatewayCookies(session.cookieName.replace(/^__Host-/, ""));
  }

  /** Whether a `set-cookie` field would set one of ours: that is the gateway's alone, and no application's. */
  isOurs(setCookie: string): boolean {
    // A cookie without name is sent as its value, which may look like one with.
    const text = setCookie.replace(/^[=\s]+/, "");
    const { length } = this.#folded;
    return text.slice(0, length).toLowerCase() === this.#folded && /^[=\-;\s]?$/.test(text.charAt(length));
  }

  /** @param field the value of `cookie`, several fields joined with `; ` (RFC 9113 section 8.2.3). */
  read(field: string | undefined): CookieReading {
    if (field === undefined) return NONE;
    if (field.length > MAX_KEPT_CHARS) return this.#parse(field);
    const known = this.#read.get(field);
    if (known !== undefined) return known;
    const reading = this.#parse(field);
    // What has no session is answered here, or public.
    if (reading.id !== undefined) this.#read.set(field, reading, field.length);
    return reading;
  }

  #parse(field: string): CookieReading {
    const pairs = field.split(";", MAX_PAIRS + 1);
    const kept: string[] = [];
    const own = new Map<string, string>();
    let id: string | undefined;
    let isOdd = pairs.length > MAX_PAIRS;
    for (const pair of pairs.slice(0, MAX_PAIRS)) {
      const text = trimmed(pair);
      const equals = text.indexOf("=");
      const name = equals < 0 ? text : trimmed(text.slice(0, equals));
      // Folded: an application that compares without case must not take one of ours for its own.
      if (!name.toLowerCase().startsWith(this.#folded)) {
        if (text !== "") kept.push(text);
        continue;
      }
      const value = equals < 0 ? "" : trimmed(text.slice(equals + 1));
      if (name === this.#session) {
        if (!ID.test(value) || (id !== undefined && id !== value)) isOdd = true;
        id = value;
      } else if (name.startsWith(`${this.#session}-`)) {
        const key = name.slice(this.#session.length + 1);
        // Of two that differ neither counts: one of them was put there by somebody else.
        if (own.has(key)) isOdd = true;
        own.set(key, own.has(key) && own.get(key) !== value ? "" : value);
      } else if (name.toLowerCase() === this.#folded) isOdd = true;
      else kept.push(text);
    }
    return {
      id: isOdd ? undefined : id,
      isOdd,
      own,
      forwarded: kept.length === 0 ? undefined : kept.join("; "),
    };
  }

  /** The value of a `set-cookie` that lasts as long as the browser does; the server's record knows the limits. */
  setSession(id: string): string {
    return `${this.#session}=${id}; Path=/; Secure; HttpOnly; SameSite=Lax`;
  }

  clearSession(): string {
    return `${this.#session}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax`;
  }

  /** @param key letters, digits, `-`. @param value of a cookie's characters (RFC 6265 section 4.1.1). */
  set(key: string, value: string, maxAgeSeconds: number): string {
    return `${this.#session}-${key}=${value}; Path=/; Max-Age=${maxAgeSeconds}; Secure; HttpOnly; SameSite=Lax`;
  }

  clear(key: string): string {
    return this.set(key, "", 0);
  }
}
