// The gateway's cookies: a session is an opaque random id in a `__Host-` cookie (RFC 6265bis section 4.1.3.2), which a
// sibling host or plain HTTP cannot set. What is ours is taken off a request before it goes on. PURE but for the random id.
import { randomBytes } from "node:crypto";

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

const NONE: CookieReading = { id: undefined, isOdd: false, own: new Map(), forwarded: undefined };

/** The cookies of one gateway: `NAME` holds the session, `NAME-…` what a sign-in under way needs. */
export class GatewayCookies {
  readonly #session: string;
  readonly #folded: string;

  /** @param name without `__Host-`, a token of RFC 6265 section 4.1.1. */
  constructor(name: string) {
    this.#session = `${HOST_PREFIX}${name}`;
    this.#folded = this.#session.toLowerCase();
  }

  /** @param field the value of `cookie`, several fields joined with `; ` (RFC 9113 section 8.2.3). */
  read(field: string | undefined): CookieReading {
    if (field === undefined) return NONE;
    const pairs = field.split(";", MAX_PAIRS + 1);
    const kept: string[] = [];
    const own = new Map<string, string>();
    let id: string | undefined;
    let isOdd = pairs.length > MAX_PAIRS;
    for (const pair of pairs.slice(0, MAX_PAIRS)) {
      const text = pair.trim();
      const equals = text.indexOf("=");
      const name = equals < 0 ? text : text.slice(0, equals).trimEnd();
      // Folded: an application that compares without case must not take one of ours for its own.
      if (!name.toLowerCase().startsWith(this.#folded)) {
        if (text !== "") kept.push(text);
        continue;
      }
      const value = equals < 0 ? "" : text.slice(equals + 1).trim();
      if (name === this.#session) {
        if (!ID.test(value) || (id !== undefined && id !== value)) isOdd = true;
        id = value;
      } else if (name.startsWith(`${this.#session}-`)) {
        const key = name.slice(this.#session.length + 1);
        if (own.has(key)) isOdd = true;
        own.set(key, value);
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
