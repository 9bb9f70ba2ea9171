// PURE. What `countersign login` and the gateway agree on: a program on a person's computer gets a short token by the code
// flow for native applications (RFC 8252) with PKCE (RFC 7636).
import { hash } from "node:crypto";

export const CLIENT_ID = "countersign-cli";

/** Below `/.countersign/` of every host of a gateway. */
export const CLIENT_PATHS = {
  /** A page that asks the person; answers at the program's own address with a code. */
  authorize: "/.countersign/authorize",
  /** RFC 6749 section 3.2: codes for tokens; RFC 8693: tokens and sessions for tokens for one endpoint. */
  token: "/.countersign/token",
  /** RFC 7009. */
  revoke: "/.countersign/revoke",
  whoami: "/.countersign/whoami",
} as const;

/** RFC 8693: at `token`, a person's token or session for one that counts at one endpoint alone. */
export const TOKEN_EXCHANGE = {
  grantType: "urn:ietf:params:oauth:grant-type:token-exchange",
  accessToken: "urn:ietf:params:oauth:token-type:access_token",
} as const;

/** A token lives so long at most, and no longer than the session that it comes from. */
export const CLIENT_TOKEN_SECONDS = 3_600;

/** Begins every token, so that scanners of source code and logs can tell one. */
export const CLIENT_TOKEN_PREFIX = "countersign_";
const CLIENT_TOKEN = /^countersign_[A-Za-z0-9_-]{43}$/;

export function isClientToken(token: string): boolean {
  return CLIENT_TOKEN.test(token);
}

const CALLBACK = /^http:\/\/127\.0\.0\.1:([1-9]\d{3,4})\/callback$/;

/** Where a program listens for its code (RFC 8252 section 7.3): on the loopback address, not by a name. */
export function callbackOf(port: number): string {
  return `http://127.0.0.1:${port}/callback`;
}

/** The port of such an address; undefined: it is none. */
export function callbackPort(redirectUri: string): number | undefined {
  const port = Number(CALLBACK.exec(redirectUri)?.[1] ?? Number.NaN);
  return port >= 1_024 && port <= 65_535 ? port : undefined;
}

/** S256 (RFC 7636 section 4.2). */
export function challengeOf(verifier: string): string {
  return hash("sha256", verifier, "base64url");
}

/** Letters and digits that are not taken for each other. */
const ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ";

/**
 * Eight characters that the program and the page both show, for the person to compare: a page that somebody else's
 * program sent them to shows others. 40 bits of a digest of the challenge.
 */
export function checkOf(challenge: string): string {
  const digest = hash("sha256", `countersign login ${challenge}`, "buffer");
  let text = "";
  for (let i = 0; i < 8; i++) text += `${i === 4 ? "-" : ""}${ALPHABET[(digest[i] ?? 0) & 31]}`;
  return text;
}
