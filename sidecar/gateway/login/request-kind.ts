// Who waits for an answer: a person in front of a page, or a program. PURE.
import type { EdgeRequest } from "../people.ts";

type Asked = Pick<EdgeRequest, "method" | "isUpgrade" | "field">;

/**
 * Whether a redirect to a page makes sense: a browser navigates there (Fetch Metadata), or, of clients that do not say,
 * a GET that prefers HTML. Scripts, API clients and WebSockets cannot follow a sign-in, and get 401.
 */
export function isNavigation(request: Asked): boolean {
  if (request.isUpgrade || (request.method !== "GET" && request.method !== "HEAD")) return false;
  const mode = request.field("sec-fetch-mode");
  if (mode !== undefined) {
    const dest = request.field("sec-fetch-dest");
    return mode === "navigate" && (dest === undefined || dest === "document" || dest === "iframe");
  }
  if (request.field("x-requested-with") !== undefined) return false;
  return /(?:^|,)\s*text\/html\b/i.test(request.field("accept") ?? "");
}

const SAFE: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "TRACE"]);

/**
 * Whether a request that a cookie vouches for was made by a page of the host itself, or one that the route permits: others
 * can make a browser send our cookie, too. Asked of WebSockets, which CORS does not cover, and of methods that change
 * something. Where neither `Origin` nor Fetch Metadata tell, the answer is no.
 *
 * @param permitted origins of the route's CORS, `https://host[:port]`.
 */
export function isSameSite(
  request: Asked & Pick<EdgeRequest, "host">,
  permitted: readonly string[],
): boolean {
  if (!request.isUpgrade && SAFE.has(request.method)) return true;
  const origin = request.field("origin");
  // Forms of pages that tell nobody where they are (`no-referrer`), as our own, send `null`; Fetch Metadata know better.
  if (origin !== undefined && !(origin === "null" && request.field("sec-fetch-site") === "same-origin")) {
    const own = `https://${request.host.toLowerCase().replace(/:443$/, "")}`;
    return origin.toLowerCase() === own || permitted.includes(origin);
  }
  const site = request.field("sec-fetch-site");
  return site === "same-origin" || site === "none";
}
