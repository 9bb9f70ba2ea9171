// One request on the port without TLS: sent to the same address with it. Nothing else is served there, and nothing of what
// came is looked at but the host and the target.
import { parseAuthority } from "../core/http/authority.ts";
import type { AppExchange, AppSide, AppStream, OutboundHead } from "../outbound/app-side.ts";
import type { Front } from "./front.ts";

const NO_ERROR = 0x0;
const HTTP_PORT = 80;

/** Where a plain request belongs; undefined: nowhere here. */
function secureUrl(front: Front, { authority, target }: OutboundHead): string | undefined {
  const { rules } = front;
  const parsed = parseAuthority(authority, HTTP_PORT);
  if (rules === undefined || !parsed.ok || !target.startsWith("/")) return undefined;
  const entry = rules.routes.find(authority);
  if (entry === undefined) return undefined;
  const { host, port } = parsed.value;
  const { listeners, redirectPort } = rules.gateway;
  const listener = listeners.find(({ name }) => entry.listeners.has(name));
  // Whoever names our own port came straight to it; otherwise something in front maps the usual ports.
  const isDirect = port === redirectPort && listener !== undefined && listener.port !== 443;
  return `https://${host}${isDirect ? `:${listener.port}` : ""}${target}`;
}

export class RedirectExchange implements AppExchange {
  readonly head: OutboundHead;
  appSlot = -1;
  slot = -1;
  readonly deadlineMs = Number.POSITIVE_INFINITY;
  readonly #front: Front;
  readonly #app: AppSide;
  readonly #stream: AppStream;
  #over = false;

  constructor(front: Front, app: AppSide, stream: AppStream, head: OutboundHead) {
    this.#front = front;
    this.#app = app;
    this.#stream = stream;
    this.head = head;
  }

  start(_fixed: undefined, bodyless: boolean): void {
    const url = secureUrl(this.#front, this.head);
    this.#front.count(undefined, url === undefined ? "unknown_host" : "redirected");
    // 308 keeps method and body (RFC 9110 section 15.4.9).
    this.#answer(url === undefined ? 421 : 308, url, bodyless);
  }

  onRequestMalformed(): boolean {
    if (this.#over) return false;
    this.#front.count(undefined, "malformed");
    this.#answer(400, undefined, false);
    return true;
  }

  #answer(status: number, location: string | undefined, requestEnded: boolean): void {
    const { answers } = this.#app;
    this.#over = true;
    if (!requestEnded) this.#app.closeAfterAnswer();
    answers.beginHeaders(this.#stream);
    answers.putStatus(status);
    if (location !== undefined) answers.putPair("location", location);
    answers.putPair("content-length", "0");
    answers.endHeaders(true);
    if (!requestEnded) answers.resetStream(this.#stream, NO_ERROR);
    this.#stream.context = undefined;
    this.#app.finished(this, requestEnded);
  }

  onRequestBody(): void {}
  onRequestTrailers(): void {}
  onAppGone(): void {}
  onAppDrain(): void {}
  timeOut(): void {}
}
