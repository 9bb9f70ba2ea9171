// PURE. Request targets and authorities (RFC 9112 section 3.2, RFC 3986 section 3.2), checked and never repaired.
import type { Http1ProblemCode } from "./problem.ts";

/** What a request target says. */
export interface Target {
  /** Origin-form, `*`, or the authority of CONNECT. */
  readonly target: string;
  /** Authority of absolute-form or CONNECT; undefined when only the Host field tells it. */
  readonly authority: string | undefined;
  readonly absolute: boolean;
}

const ASTERISK: Target = { target: "*", authority: undefined, absolute: false };

/**
 * Whether the text can stand as a request target: visible ASCII without `#`. Characters that RFC 3986 forbids but that
 * cannot end the target (`"<>\^{|}` and the backtick) pass, since clients send them in queries; the path rules refuse what is dangerous.
 */
export function isTarget(text: string): boolean {
  const length = text.length;
  for (let i = 0; i < length; i++) {
    const c = text.charCodeAt(i);
    if (c <= 32 || c >= 127 || c === 35) return false;
  }
  return length > 0;
}

/** Reads a target in the forms that its method allows. */
export function parseTarget(method: string, text: string): Target | Http1ProblemCode {
  if (!isTarget(text)) return "bad_target";
  if (method === "CONNECT") {
    const problem = authorityProblem(text);
    if (problem !== undefined) return problem;
    return hasPort(text) ? { target: text, authority: text, absolute: false } : "bad_target";
  }
  if (text.charCodeAt(0) === 47) return { target: text, authority: undefined, absolute: false };
  if (text === "*") return method === "OPTIONS" ? ASTERISK : "bad_target";
  return parseAbsolute(method, text);
}

/** Absolute-form: `http` only, because nothing behind this parser speaks for the `https` origin of a cleartext request. */
function parseAbsolute(method: string, text: string): Target | Http1ProblemCode {
  if (text.slice(0, 7).toLowerCase() !== "http://") return "bad_target";
  let end = 7;
  while (end < text.length && text.charCodeAt(end) !== 47 && text.charCodeAt(end) !== 63) end++;
  const authority = text.slice(7, end);
  const problem = authorityProblem(authority);
  if (problem !== undefined) return problem;
  const rest = text.slice(end);
  // An empty path is sent as `/`, and as `*` for OPTIONS (RFC 9112 sections 3.2.1 and 3.2.4).
  if (rest === "") return { target: method === "OPTIONS" ? "*" : "/", authority, absolute: true };
  return { target: rest.charCodeAt(0) === 63 ? `/${rest}` : rest, authority, absolute: true };
}

/**
 * Checks `host` or `host:port`: a name of letters, digits, `-`, `_` and `.`, an IPv4 address, or an IPv6 address in brackets;
 * a port from 1 to 65535 without leading zeros. Percent-encoding, zone identifiers and empty ports are refused.
 */
export function authorityProblem(text: string): Http1ProblemCode | undefined {
  if (text.includes("@")) return "userinfo";
  if (text.length === 0 || text.length > 261) return "bad_authority";
  const isV6 = text.charCodeAt(0) === 91;
  const hostEnd = isV6 ? ipv6End(text) : nameEnd(text);
  if (hostEnd <= 0) return "bad_authority";
  if (hostEnd === text.length) return undefined;
  return text.charCodeAt(hostEnd) === 58 && isPort(text, hostEnd + 1) ? undefined : "bad_authority";
}

/** Whether two valid authorities name the same place for `http`: case folded, port 80 being the default. */
export function sameAuthority(a: string, b: string): boolean {
  if (a === b) return true;
  return withoutDefaultPort(a) === withoutDefaultPort(b);
}

function withoutDefaultPort(authority: string): string {
  const folded = authority.toLowerCase();
  return folded.endsWith(":80") && hasPort(folded) ? folded.slice(0, -3) : folded;
}

/** Whether a valid authority carries a port. */
export function hasPort(authority: string): boolean {
  return authority.lastIndexOf(":") > authority.lastIndexOf("]");
}

/** Index behind the host name (at the colon or the end), or -1. Labels are not empty, but for one final dot. */
function nameEnd(text: string): number {
  let labelStart = 0;
  let i = 0;
  for (; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 58) break;
    if (c === 46) {
      if (i === labelStart) return -1;
      labelStart = i + 1;
    } else if (!isHostCharacter(c)) return -1;
  }
  return i > 255 ? -1 : i;
}

function isHostCharacter(c: number): boolean {
  return (c >= 97 && c <= 122) || (c >= 48 && c <= 57) || (c >= 65 && c <= 90) || c === 45 || c === 95;
}

/** Index behind the closing bracket, or -1 (RFC 3986 IP-literal, IPv6 only). */
function ipv6End(text: string): number {
  const close = text.indexOf("]");
  if (close < 0) return -1;
  const address = text.slice(1, close);
  const gap = address.indexOf("::");
  if (gap !== address.lastIndexOf("::")) return -1;
  const groups =
    gap < 0 ? address.split(":") : [...halves(address.slice(0, gap)), ...halves(address.slice(gap + 2))];
  let count = 0;
  for (const [i, group] of groups.entries()) {
    if (i === groups.length - 1 && group.includes(".")) {
      if (!isIpv4(group)) return -1;
      count += 2;
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return -1;
      count++;
    }
  }
  return (gap < 0 ? count === 8 : count <= 7) ? close + 1 : -1;
}

function halves(part: string): string[] {
  return part === "" ? [] : part.split(":");
}

function isIpv4(text: string): boolean {
  const parts = text.split(".");
  return parts.length === 4 && parts.every((p) => /^(0|[1-9][0-9]{0,2})$/.test(p) && Number(p) <= 255);
}

function isPort(text: string, start: number): boolean {
  const digits = text.length - start;
  if (digits < 1 || digits > 5) return false;
  let value = 0;
  for (let i = start; i < text.length; i++) {
    const c = text.charCodeAt(i) - 48;
    if (c < 0 || c > 9) return false;
    value = value * 10 + c;
  }
  return value > 0 && value < 65_536 && text.charCodeAt(start) !== 48;
}
