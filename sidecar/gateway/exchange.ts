// One request from outside: host and route found, people asked who it is, fields cleaned, then either answered here or
// carried into the mesh by an exchange like an application's. To the connection it is the exchange, to that one the
// connection.
import { CLIENT_TOKEN_PREFIX } from "../core/gateway/client-login.ts";
import type { GatewayRoute } from "../core/gateway/gateway.ts";
import { isGrpc } from "../core/http/grpc.ts";
import { joinedField } from "../core/http/headers.ts";
import { normalizePath, splitTarget } from "../core/http/path.ts";
import { type ProblemAnswer, problemJson } from "../core/http/problem.ts";
import { FrameBoundary, upgradeOf, WEBSOCKET } from "../core/http/websocket.ts";
import type { HeldTxn } from "../core/identity/held-txn.ts";
import type { HeaderLookup } from "../core/policy/mcp.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { AppExchange, AppSide, AppStream, OutboundHead } from "../outbound/app-side.ts";
import type { FixedDestination } from "../outbound/resolve.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import { createField, type Field } from "../wire/field.ts";
import { corsFields, isCorsField, preflightFields } from "./cors.ts";
import type { EdgeNote } from "./edge-audit.ts";
import { forwardedFields } from "./edge-fields.ts";
import type { EdgeResult, EdgeRules, Forwarded, Front, SessionBound } from "./front.ts";
import { HeldAnswer } from "./held-answer.ts";
import { endWithSession } from "./last-words.ts";
import type { Admitted, EdgeAnswer, EdgeRequest } from "./people.ts";
import { rewriteTarget, routeOf } from "./route-table.ts";
import { clientOf } from "./source-address.ts";
import { statusTitle } from "./status-titles.ts";

const NO_ERROR = 0x0;
/** How long signing in, or asking who it is, may take. */
const PEOPLE_MS = 15_000;
/** Bodies of the gateway's own pages: forms and logout tokens. */
const MAX_OWN_BODY_BYTES = 65_536;
const OWN_PATHS = "/.countersign/";
const EMPTY = Buffer.alloc(0);

/** What is known of a connection from outside. */
export interface EdgePlace {
  /** Address of the peer. */
  readonly peer: string;
  /** Name of the listener whose certificate it was shown. */
  readonly listener: string;
  /** The fields that tell applications of the peer. */
  readonly peerFields: readonly Field[];
}

/** How applications learn from where a request came; the same objects for the same address, as HPACK likes them. */
export function addressFields(front: Front, address: string): readonly Field[] {
  return [front.field("x-forwarded-for", address), front.field("x-real-ip", address)];
}

const OWN_TOKEN = new RegExp(`\\b${CLIENT_TOKEN_PREFIX}[A-Za-z0-9_-]{43}`);
const BEARER = /^bearer(?: |$)/i;
const PROTO: Field = createField("x-forwarded-proto", "https");

export class EdgeExchange
  implements AppExchange, AppSide, AppStream, AnswerWriter<AppStream>, EdgeRequest, SessionBound
{
  readonly head: OutboundHead;
  appSlot = -1;
  slot = -1;
  /** As the stream of the exchange with the mesh. */
  context: AppExchange | undefined = undefined;
  readonly #front: Front;
  readonly #place: EdgePlace;
  readonly #app: AppSide;
  readonly #stream: AppStream;
  #rules: EdgeRules | undefined;
  #deadlineMs: number;
  #inner: Forwarded | undefined;
  #route: GatewayRoute | undefined;
  #sourceIp = "";
  #session: string | undefined;
  #admitted: HeldTxn | undefined;
  #setCookie: readonly string[] = [];
  #bodyless = false;
  /** Of the request, as long as it is not known where it goes. */
  #kept: Buffer[] = [];
  #keptBytes = 0;
  #requestEnded = false;
  #trailers: readonly Field[] | undefined;
  /** It is answered by one of the gateway's own pages, once its body is there. */
  #isOwn = false;
  #over = false;
  // Of the answer from the mesh.
  #status = 0;
  #answerBegan = false;
  #isEventStream = false;
  #isGrpc = false;
  /** Nothing can be added to it: it is compressed, or as long as was said. */
  #isFixed = false;
  #frames: FrameBoundary | undefined;
  #isEnding = false;
  /** A refusal, until its head is whole. */
  #held: HeldAnswer | undefined;
  #isPage = false;

  constructor(front: Front, place: EdgePlace, app: AppSide, stream: AppStream, head: OutboundHead) {
    this.#front = front;
    this.#place = place;
    this.#app = app;
    this.#stream = stream;
    this.head = head;
    this.#deadlineMs = front.deps.clock.monotonicMs() + PEOPLE_MS;
  }

  // --- as a request, for people ----------------------------------------------------------------------------------

  get method(): string {
    return this.head.method;
  }

  get host(): string {
    return this.head.authority;
  }

  get target(): string {
    return this.head.target;
  }

  get sourceIp(): string {
    return this.#sourceIp;
  }

  get isUpgrade(): boolean {
    return (upgradeOf(this.head.upgrade) ?? "-") !== "";
  }

  get route(): GatewayRoute | undefined {
    return this.#route;
  }

  field(name: string): string | undefined {
    if (name !== "cookie") return joinedField(this.head.fields, name);
    let cookie: string | undefined;
    for (const field of this.head.fields)
      if (field.name === "cookie") cookie = cookie === undefined ? field.value : `${cookie}; ${field.value}`;
    return cookie;
  }

  // --- as the exchange of a connection ---------------------------------------------------------------------------

  get deadlineMs(): number {
    return this.#inner === undefined ? this.#deadlineMs : this.#inner.deadlineMs;
  }

  start(_fixed: FixedDestination | undefined, bodyless: boolean): void {
    this.#bodyless = bodyless;
    this.#requestEnded = bodyless;
    const { rules } = this.#front;
    this.#rules = rules;
    if (rules === undefined) {
      this.#refuse("unavailable", { reason: "NOT_READY", detail: "the gateway has no routes yet" });
      return;
    }
    const { peer } = this.#place;
    this.#sourceIp = rules.trusted.isTrusted(peer)
      ? rules.trusted.client(peer, this.field("x-forwarded-for"))
      : peer;
    const { head } = this;
    const entry = rules.routes.find(head.authority);
    if (entry === undefined || !entry.listeners.has(this.#place.listener)) {
      this.#refuse("unknown_host", { status: 421, detail: "this server does not answer for that host" });
      return;
    }
    const waitSeconds =
      rules.perIp?.take(clientOf(this.#sourceIp), this.#front.deps.clock.monotonicMs()) ?? 0;
    if (waitSeconds > 0) {
      this.#limited(waitSeconds, "too many requests from this address");
      return;
    }
    if (head.absolute === true || head.method === "CONNECT" || head.method === "TRACE") {
      this.#refuse("malformed", {
        reason: "REQ_MALFORMED",
        detail: "a gateway takes requests of its own hosts, in origin form, and neither CONNECT nor TRACE",
      });
      return;
    }
    const path = normalizePath(splitTarget(head.target).path, true);
    if (!path.ok) {
      this.#refuse("malformed", { reason: "REQ_MALFORMED", detail: path.error });
      return;
    }
    if (path.value.path.startsWith(OWN_PATHS)) {
      this.#isOwn = true;
      if (this.#requestEnded) this.#serve();
      return;
    }
    const published =
      head.method === "GET" || head.method === "HEAD"
        ? this.#front.published?.answer(head.authority, path.value.path)
        : undefined;
    if (published !== undefined) {
      this.#count("own");
      this.#answer(published.status, published.fields, published.body);
      return;
    }
    this.#route = routeOf(entry, path.value.path);
    if (this.#route === undefined) {
      this.#refuse("unknown_path", { status: 404, detail: "nothing is served at this path" });
      return;
    }
    this.#admit(this.#route, rules);
  }

  #admit(route: GatewayRoute, rules: EdgeRules): void {
    if (this.head.method === "OPTIONS" && route.cors !== undefined) {
      const method = this.field("access-control-request-method");
      const origin = this.field("origin");
      if (method !== undefined && origin !== undefined) {
        const headers = this.field("access-control-request-headers");
        const fields = preflightFields(route.cors, { origin, method, headers });
        this.#count("preflight");
        this.#answer(fields === undefined ? 403 : 204, [["vary", "origin"], ...(fields ?? [])], EMPTY);
        return;
      }
    }
    const { people } = this.#front;
    if (people === undefined) {
      if (route.access === "Public")
        this.#forward(route, rules, {
          kind: "admitted",
          txn: undefined,
          session: undefined,
          setCookie: [],
          // Sessions outlive the time in which nobody can be asked: their cookies are no application's.
          cookie: rules.cookies.read(this.field("cookie")).forwarded,
        });
      else
        this.#refuse("unavailable", {
          reason: "NOT_READY",
          detail: "signing in is not possible at the moment",
        });
      return;
    }
    const found = people.authenticate(this);
    if (!(found instanceof Promise)) {
      this.#decide(route, rules, found);
      return;
    }
    found.then(
      (later) => this.#decide(route, rules, later),
      () => {
        if (!this.#over) this.#refuse("unavailable", { reason: "NOT_READY", detail: "signing in failed" });
      },
    );
  }

  #decide(route: GatewayRoute, rules: EdgeRules, found: Admitted | EdgeAnswer): void {
    if (this.#over) return;
    if (found.kind === "answer") {
      this.#count("answered");
      this.#answer(found.status, found.fields, found.body, route);
      return;
    }
    this.#admitted = found.txn;
    const user = found.txn?.claims.sub;
    if (route.owner !== undefined && user !== route.owner) {
      this.#refuse("not_owner", {
        reason: "NO_MATCHING_ALLOW",
        detail: "this address belongs to another person",
      });
      return;
    }
    if (user !== undefined) {
      const waitSeconds = rules.perUser?.take(user, this.#front.deps.clock.monotonicMs()) ?? 0;
      if (waitSeconds > 0) {
        this.#limited(waitSeconds, "too many requests of this user");
        return;
      }
    }
    this.#forward(route, rules, found);
  }

  #forward(route: GatewayRoute, rules: EdgeRules, admitted: Admitted): void {
    const { deps } = this.#front;
    const target = rewriteTarget(route, this.head.target);
    const { backend } = route;
    if (target === undefined) {
      this.#refuse("malformed", { reason: "REQ_MALFORMED", detail: "the path spells a prefix with escapes" });
      return;
    }
    const port = backend.kind === "service" ? (backend.port ?? deps.portOf(backend.id)) : 0;
    const head = this.#forwardedHead(route, rules, admitted, target);
    const external = backend.kind === "external" ? backend.id : undefined;
    const inner = port === undefined ? undefined : deps.forward(external, this, this, head);
    if (inner === undefined || port === undefined) {
      this.#refuse("unavailable", {
        reason: "UNKNOWN_DESTINATION",
        detail: "what is served here is not known or may not be called from here",
      });
      return;
    }
    this.#setCookie = admitted.setCookie;
    if (admitted.session !== undefined) {
      this.#session = admitted.session;
      this.#front.bind(admitted.session, this);
      if (upgradeOf(this.head.upgrade) === WEBSOCKET) this.#frames = new FrameBoundary();
    }
    this.#count("forwarded");
    this.#inner = inner;
    const chain = admitted.txn === undefined ? undefined : this.#front.chainOf(admitted.txn);
    inner.start({ kind: "service", service: backend.id, port }, this.#bodyless, chain);
    this.#passKept(inner);
  }

  #forwardedHead(route: GatewayRoute, rules: EdgeRules, admitted: Admitted, target: string): OutboundHead {
    const front = this.#front;
    const { head } = this;
    const fields = forwardedFields({
      fields: head.fields,
      isTrustedHop: this.#sourceIp !== this.#place.peer || rules.trusted.isTrusted(this.#place.peer),
      dropsAuthorization: this.#usesBearer(route),
      names: front.names,
      onAnomaly: front.onAnomaly,
    });
    if (admitted.cookie !== undefined && admitted.cookie !== "")
      fields.push(front.cookies.get(admitted.cookie));
    // Nobody outside needs to know who our clients are.
    if (route.backend.kind === "service") this.#putAddress(fields, route);
    return {
      method: head.method,
      target,
      authority: route.rewrite?.host ?? head.authority,
      fields,
      upgrade: head.upgrade,
      connectionNames: head.connectionNames,
    };
  }

  #putAddress(fields: Field[], route: GatewayRoute): void {
    const { peer, peerFields } = this.#place;
    const address = this.#sourceIp === peer ? peerFields : addressFields(this.#front, this.#sourceIp);
    for (const field of address) fields.push(field);
    fields.push(PROTO, this.#front.hosts.get(this.head.authority));
    if (route.rewrite?.prefix !== undefined && route.path.value !== "/")
      fields.push(this.#front.field("x-forwarded-prefix", route.path.value.replace(/\/$/, "")));
  }

  /** Whether the bearer token of the request is the gateway's to read, and not for the backend. */
  #usesBearer({ access }: GatewayRoute): boolean {
    const authorization = this.field("authorization");
    if (authorization === undefined) return false;
    if ((access === "Bearer" || access === "LoginOrBearer") && BEARER.test(authorization)) return true;
    // A token of ours is nobody else's, wherever it is shown.
    return OWN_TOKEN.test(authorization);
  }

  #passKept(inner: Forwarded): void {
    const kept = this.#kept;
    this.#kept = [];
    this.#keptBytes = 0;
    if (this.#bodyless) return;
    const { length } = kept;
    const endsWithData = this.#requestEnded && this.#trailers === undefined;
    for (let i = 0; i < length; i++) inner.onRequestBody(kept[i] ?? EMPTY, endsWithData && i === length - 1);
    if (endsWithData && length === 0) inner.onRequestBody(EMPTY, true);
    if (this.#trailers !== undefined) inner.onRequestTrailers(this.#trailers);
  }

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    if (endStream) this.#requestEnded = true;
    if (this.#inner !== undefined) this.#inner.onRequestBody(chunk, endStream);
    else if (this.#over) this.#app.answers.consumed(this.#stream, chunk.length);
    else {
      this.#keptBytes += chunk.length;
      // A copy: the view would keep the whole received buffer alive.
      this.#kept.push(Buffer.from(chunk));
      if (!this.#isOwn) return;
      if (this.#keptBytes > MAX_OWN_BODY_BYTES)
        this.#refuse("malformed", { status: 413, detail: "the form is too large" });
      else {
        this.#app.answers.consumed(this.#stream, chunk.length);
        if (endStream) this.#serve();
      }
    }
  }

  onRequestTrailers(trailers: readonly Field[]): void {
    this.#requestEnded = true;
    if (this.#inner !== undefined) this.#inner.onRequestTrailers(trailers);
    else if (this.#isOwn && !this.#over) this.#serve();
    else this.#trailers = trailers;
  }

  onRequestMalformed(detail: string): boolean {
    if (this.#inner !== undefined) return this.#inner.onRequestMalformed(detail);
    if (this.#over) return false;
    this.#refuse("malformed", { reason: "REQ_MALFORMED", detail });
    return true;
  }

  onAppGone(detail: string): void {
    if (this.#inner !== undefined) this.#inner.onAppGone(detail);
    else this.#finish(this.#requestEnded);
  }

  onAppDrain(): void {
    this.#inner?.onAppDrain();
  }

  timeOut(): void {
    if (this.#inner !== undefined) this.#inner.timeOut();
    else if (!this.#over)
      this.#refuse("unavailable", {
        reason: "UPSTREAM_TIMEOUT",
        detail: "it took too long to tell who this is",
      });
  }

  /** The session that the request came with is over. */
  onSessionEnd(): void {
    const inner = this.#inner;
    this.#session = undefined;
    if (this.#over || inner === undefined || this.#isPage) return;
    this.#isEnding = true;
    inner.onAppGone("the session ended");
    if (!this.#answerBegan) {
      this.#refuse("answered", { reason: "LOGIN_REQUIRED", detail: "the session ended" });
      return;
    }
    endWithSession(this.#app.answers, this.#stream, {
      frames: this.#frames,
      isGrpc: this.#isGrpc,
      isEventStream: this.#isEventStream && !this.#isFixed,
    });
    this.#finish(false);
  }

  // --- as the connection of the exchange with the mesh -----------------------------------------------------------

  /** What the callee's application should expect where nothing says so: only gRPC needs HTTP/2 to the end. */
  get protocol(): "http" | "h2c" {
    return isGrpc(joinedField(this.head.fields, "content-type")) ? "h2c" : "http";
  }

  get isHttp2(): boolean {
    return this.#app.isHttp2;
  }

  get answers(): AnswerWriter<AppStream> {
    return this;
  }

  lookup(fields: readonly Field[]): HeaderLookup {
    return this.#app.lookup(fields);
  }

  closeAfterAnswer(): void {
    this.#app.closeAfterAnswer();
  }

  switchTo(_stream: AppStream, upgrade: string, fields: readonly Field[]): void {
    this.#answerBegan = true;
    const ours = this.#rules?.cookies;
    const kept = fields.filter(({ name, value }) => name !== "set-cookie" || ours?.isOurs(value) !== true);
    for (const cookie of this.#setCookie) kept.push(createField("set-cookie", cookie));
    this.#app.switchTo(this.#stream, upgrade, kept);
  }

  finished(_exchange: AppExchange, requestEnded: boolean): void {
    if (!this.#isEnding) this.#finish(requestEnded);
  }

  beginHeaders(): void {
    // That of an answer begins with its status; trailers have none.
    if (this.#answerBegan && !this.#isPage) this.#app.answers.beginHeaders(this.#stream);
  }

  putStatus(status: number): void {
    this.#status = status;
    if (!this.#answerBegan && HeldAnswer.isWanted(status)) {
      this.#held = new HeldAnswer(status);
      return;
    }
    this.#app.answers.beginHeaders(this.#stream);
    this.#app.answers.putStatus(status);
  }

  putField(field: Field): void {
    const { name } = field;
    if (!this.#answerBegan) {
      if (this.#rules?.security.names.has(name) === true) return;
      if (this.#route?.cors !== undefined && isCorsField(name)) return;
      if (name === "set-cookie" && this.#rules?.cookies.isOurs(field.value) === true) return;
      if (name === "content-type") {
        this.#isEventStream = field.value.toLowerCase().startsWith("text/event-stream");
        this.#isGrpc = isGrpc(field.value);
      } else if (name === "content-length" || name === "content-encoding") this.#isFixed = true;
    }
    if (this.#held === undefined && !this.#isPage) this.#app.answers.putField(field);
    else this.#held?.putField(field);
  }

  putPair(name: string, value: string): void {
    if (this.#held === undefined && !this.#isPage) this.#app.answers.putPair(name, value);
    else this.#held?.putPair(name, value);
  }

  endHeaders(endStream: boolean): void {
    if (this.#isPage) return;
    if (this.#held !== undefined) {
      const held = this.#held;
      this.#held = undefined;
      if (this.#putPage(held)) return;
      held.release(this.#app.answers, this.#stream);
    }
    // Informational heads come before it, trailers after it.
    if (!this.#answerBegan && this.#status >= 200) {
      this.#answerBegan = true;
      this.#putOwn(this.#route);
      for (const cookie of this.#setCookie) this.#app.answers.putPair("set-cookie", cookie);
    }
    this.#app.answers.endHeaders(endStream);
  }

  sendData(_stream: AppStream, chunk: Buffer, endStream: boolean): boolean {
    if (this.#isPage) return true;
    this.#frames?.push(chunk);
    return this.#app.answers.sendData(this.#stream, chunk, endStream);
  }

  consumed(_stream: AppStream, bytes: number): void {
    this.#app.answers.consumed(this.#stream, bytes);
  }

  resetStream(_stream: AppStream, code: number): void {
    if (!this.#isEnding && !this.#isPage) this.#app.answers.resetStream(this.#stream, code);
  }

  /** Says a sidecar's refusal to whoever looks at it; the document for programs is then left unread. */
  #putPage(held: HeldAnswer): boolean {
    const problem = held.problem();
    const page = problem === undefined ? undefined : this.#front.people?.explain(this, problem);
    if (page === undefined) return false;
    this.#isPage = true;
    this.#write(page.status, page.fields, page.body);
    return true;
  }

  // --- answered here ---------------------------------------------------------------------------------------------

  #serve(): void {
    const { people } = this.#front;
    if (people === undefined) {
      this.#refuse("unavailable", {
        reason: "NOT_READY",
        detail: "signing in is not possible at the moment",
      });
      return;
    }
    this.#count("own");
    const body = this.#kept.length === 1 ? (this.#kept[0] ?? EMPTY) : Buffer.concat(this.#kept);
    this.#kept = [];
    people.serve(this, body).then(
      ({ status, fields, body: page }) => {
        if (!this.#over) this.#answer(status, fields, page);
      },
      () => {
        if (!this.#over) this.#refuse("unavailable", { reason: "NOT_READY", detail: "signing in failed" });
      },
    );
  }

  #limited(waitSeconds: number, detail: string): void {
    this.#refuse("limited", { reason: "RATE_LIMITED", detail }, [["retry-after", String(waitSeconds)]]);
  }

  #refuse(
    result: EdgeResult,
    why: { readonly reason?: Reason; readonly status?: number; readonly detail: string },
    more: readonly (readonly [string, string])[] = [],
  ): void {
    const { deps, people } = this.#front;
    this.#count(result);
    const decisionId = deps.decisionId();
    const { reason, detail } = why;
    const problem =
      reason === undefined
        ? plainProblem(why.status ?? 500, why.detail, decisionId)
        : problemJson({ reason, detail, decisionId });
    deps.tell({
      ...{ action: "request", allowed: false, reason: reason ?? result.toUpperCase(), detail, decisionId },
      ...{ user: userOf(this.#admitted), session: this.#session, request: this, status: problem.status },
    });
    const page = people?.explain(this, {
      status: problem.status,
      title: statusTitle(problem.status),
      detail: why.detail,
      decisionId,
    });
    if (page !== undefined) this.#answer(page.status, [...page.fields, ...more], page.body);
    else
      this.#answer(
        problem.status,
        [["content-type", problem.contentType], ["cache-control", "no-store"], ...more],
        problem.body,
      );
  }

  #answer(
    status: number,
    fields: readonly (readonly [string, string])[],
    body: string | Buffer,
    route: GatewayRoute | undefined = this.#route,
  ): void {
    this.#write(status, fields, body, route);
    this.#finish(this.#requestEnded);
  }

  #write(
    status: number,
    fields: readonly (readonly [string, string])[],
    body: string | Buffer,
    route: GatewayRoute | undefined = this.#route,
  ): void {
    const { answers } = this.#app;
    const stream = this.#stream;
    const bytes = typeof body === "string" ? Buffer.from(body) : body;
    const isBodyless = this.head.method === "HEAD" || status === 204 || status === 304;
    this.#answerBegan = true;
    // A body that nobody will read: an HTTP/1.1 connection cannot be used again without reading it.
    if (!this.#requestEnded) this.#app.closeAfterAnswer();
    answers.beginHeaders(stream);
    answers.putStatus(status);
    for (const [name, value] of fields) answers.putPair(name, value);
    if (status !== 204 && status !== 304) answers.putPair("content-length", String(bytes.length));
    this.#putOwn(route, fields);
    answers.endHeaders(isBodyless || bytes.length === 0);
    if (!isBodyless && bytes.length > 0) answers.sendData(stream, bytes, true);
    if (!this.#requestEnded) answers.resetStream(stream, NO_ERROR);
  }

  /** Fields of every answer, those left out that it has already. */
  #putOwn(route: GatewayRoute | undefined, given: readonly (readonly [string, string])[] = []): void {
    const { answers } = this.#app;
    for (const field of this.#rules?.security.fields ?? [])
      if (!given.some(([name]) => name === field.name)) answers.putField(field);
    if (route?.cors === undefined || given.some(([name]) => isCorsField(name))) return;
    answers.putField(this.#front.field("vary", "origin"));
    const origin = this.field("origin");
    for (const [name, value] of (origin === undefined ? undefined : corsFields(route.cors, origin)) ?? [])
      answers.putField(this.#front.field(name, value));
  }

  #count(result: EdgeResult): void {
    this.#front.count(this.#route, result);
  }

  #finish(requestEnded: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.#kept = [];
    if (this.#session !== undefined) this.#front.unbind(this.#session, this);
    this.#stream.context = undefined;
    this.#app.finished(this, requestEnded);
  }
}

function userOf(txn: HeldTxn | undefined): EdgeNote["user"] {
  if (txn === undefined) return undefined;
  const { typ, roles, email } = txn.claims.tctx;
  return { id: txn.claims.sub, type: typ, roles, email };
}

/** What no decision of ours has a name for. */
function plainProblem(status: number, detail: string, decisionId: string): ProblemAnswer {
  const body = JSON.stringify({
    type: "about:blank",
    title: statusTitle(status),
    status,
    detail,
    decisionId,
  });
  return { status, contentType: "application/problem+json", body };
}
