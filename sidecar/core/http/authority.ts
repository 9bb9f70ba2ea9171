// Reads the authority of a request (Host, `:authority`, absolute-form target) into one spelling, so that two of them can
// be compared and looked up (RFC 9110 section 7.2, RFC 3986 section 3.2).
import type { Result } from "../runtime/errors.ts";

export interface Authority {
  /** Lower case, without a trailing dot; an IPv6 address without brackets and zone, in the shortest form. */
  readonly host: string;
  readonly port: number;
}

const MAX_AUTHORITY_CHARS = 261;
const REG_NAME = /^(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*$/;
const LAST_LABEL_NUMERIC = /(?:^|\.)(?:0x[0-9a-f]*|[0-9]+)$/;

const refuse = (error: string): Result<never, string> => ({ ok: false, error });

/**
 * Parses `host`, `host:port` or `[ipv6]:port`.
 *
 * Refused: user information, empty host or port, ports beyond 1..65535 or with leading zeros, bytes that no host name
 * has (percent-escapes among them), IPv6 zones, and hosts that look like an IPv4 address to some readers only (`127.1`).
 */
export function parseAuthority(text: string, defaultPort: number): Result<Authority, string> {
  if (text === "" || text.length > MAX_AUTHORITY_CHARS) return refuse("authority is empty or too long");
  const bracket = text.startsWith("[") ? text.indexOf("]") : -1;
  if (text.startsWith("[") && bracket < 0) return refuse("authority has an unclosed `[`");
  const colon = text.indexOf(":", bracket + 1);
  const hostText = colon < 0 ? text : text.slice(0, colon);
  const portText = colon < 0 ? undefined : text.slice(colon + 1);
  const port = portText === undefined ? defaultPort : parsePort(portText);
  if (port === undefined) return refuse("authority has a port that is not 1 to 65535");
  const host = bracket >= 0 ? parseIpv6(hostText) : parseHost(hostText);
  return host === undefined
    ? refuse("authority has a host that is neither a name nor an address")
    : { ok: true, value: { host, port } };
}

function parsePort(text: string): number | undefined {
  if (!/^[1-9][0-9]{0,4}$/.test(text)) return undefined;
  const port = Number(text);
  return port <= 65_535 ? port : undefined;
}

function parseHost(text: string): string | undefined {
  const lower = text.toLowerCase();
  const host = lower.endsWith(".") ? lower.slice(0, -1) : lower;
  if (host.length > 253 || !REG_NAME.test(host)) return undefined;
  return LAST_LABEL_NUMERIC.test(host) && !isDottedQuad(host) ? undefined : host;
}

function isDottedQuad(text: string): boolean {
  const parts = text.split(".");
  return (
    parts.length === 4 && parts.every((part) => /^(?:0|[1-9][0-9]{0,2})$/.test(part) && Number(part) <= 255)
  );
}

/** Reads `[…]` and writes it in the shortest form; undefined when it is no address. */
function parseIpv6(text: string): string | undefined {
  if (!/^\[[0-9A-Fa-f:.]{2,45}\]$/.test(text)) return undefined;
  try {
    return new URL(`http://${text}/`).hostname.slice(1, -1);
  } catch {
    // The URL parser is the check: it throws for what is no address.
    return undefined;
  }
}

/** The usual spelling of an authority: the port left out when it is the default, IPv6 in brackets. */
export function formatAuthority(authority: Authority, defaultPort: number): string {
  const host = authority.host.includes(":") ? `[${authority.host}]` : authority.host;
  return authority.port === defaultPort ? host : `${host}:${authority.port}`;
}

/** True when both texts name the same host and port; false when either does not parse (fails closed). */
export function sameAuthority(a: string, b: string, defaultPort: number): boolean {
  const left = parseAuthority(a, defaultPort);
  const right = parseAuthority(b, defaultPort);
  return left.ok && right.ok && left.value.host === right.value.host && left.value.port === right.value.port;
}
