// Where a person goes on after signing in: a path of the same host and nothing else, whatever was asked for. PURE.

import { CLIENT_PATHS } from "../../core/gateway/client-login.ts";

export const OWN_PATHS = "/.countersign/";
const MAX_CHARS = 2_048;
/** Own pages that a person may come back to: what they do needs another click, or what the browser has that began. */
const RETURN_PAGES: ReadonlySet<string> = new Set([CLIENT_PATHS.authorize, `${OWN_PATHS}hand-over`]);

/**
 * The path (with query) to return to; `/` where what was asked for could lead elsewhere (RFC 9700 section 4.11): another
 * host, a scheme, a spelling that browsers read as one, or most of our own pages.
 */
export function returnPath(asked: string | null | undefined): string {
  if (asked === null || asked === undefined || asked.length > MAX_CHARS) return "/";
  // One slash, then neither a second nor a backslash, which browsers take for one; visible ASCII alone, as a URL has it.
  if (!/^\/(?![/\\])[\x21-\x7e]*$/.test(asked) || asked.includes("\\")) return "/";
  const url = new URL(asked, "https://here.invalid");
  if (url.origin !== "https://here.invalid") return "/";
  const path = url.pathname + url.search;
  // Dots and escapes are resolved by now, as the browser will resolve them.
  if (RETURN_PAGES.has(url.pathname)) return path;
  if (path.startsWith("//") || decodes(url.pathname).startsWith(OWN_PATHS)) return "/";
  return path;
}

function decodes(path: string): string {
  try {
    return decodeURIComponent(path).toLowerCase();
  } catch {
    return OWN_PATHS;
  }
}
