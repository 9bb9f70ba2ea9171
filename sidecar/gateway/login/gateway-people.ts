// Who a request from outside is made by: a session, a bearer token, or nobody; and the gateway's own pages.
import { isClientToken } from "../../core/gateway/client-login.ts";
import type { GatewayRoute } from "../../core/gateway/gateway.ts";
import type { HeldTxn } from "../../core/identity/held-txn.ts";
import { Revocations } from "../../core/identity/revocations.ts";
import type { TxnClaims } from "../../core/identity/txn.ts";
import { messageOf } from "../../core/runtime/errors.ts";
import { failurePage, problemPage, signedOutPage } from "../page/sign-in-pages.ts";
import type { Admitted, EdgeAnswer, EdgeProblem, EdgeRequest, People } from "../people.ts";
import type { CookieReading } from "../session/cookies.ts";
import type { Session } from "../session/session.ts";
import { challenge, json, loginPath, problem, type Refusal, redirect } from "./answers.ts";
import { BearerFields, exchangeBearer, type ShownToken } from "./bearer.ts";
import { authorizeClient, clientToken, revokeClientToken } from "./client-sign-in.ts";
import { handOver, takeOver } from "./hand-over.ts";
import type { LoginWorld } from "./login-world.ts";
import { isNavigation, isSameSite } from "./request-kind.ts";
import { OWN_PATHS, returnPath } from "./return-path.ts";
import { beginSignIn, finishSignIn } from "./sign-in.ts";
import { backChannelLogout, frontChannelLogout, signOut } from "./sign-out.ts";
import { endOf, StaySignedIn } from "./stay-signed-in.ts";
import { isStrongEnough, type Strength, strengthOf } from "./step-up.ts";
import type { TokenRefusal } from "./token-service.ts";

const NO_BODY = Buffer.alloc(0);
/** What programs post to, and the person's yes. */
const CLIENT_PAGES: ReadonlyMap<
  string,
  (world: LoginWorld, request: EdgeRequest, body: Buffer) => Promise<EdgeAnswer>
> = new Map([
  ["authorize", (world, request, body) => authorizeClient(world, request, new URLSearchParams(), body)],
  ["token", clientToken],
  ["revoke", revokeClientToken],
]);
const RETRY_AFTER = ["retry-after", "2"] as const;

interface OpenSession {
  /** Its absolute end. */
  endsMs: number;
  /** Of its newest token. */
  claims: TxnClaims;
  /** Sweeps since the last request that nothing hung on it. */
  unused: number;
}

/** A request that was let in hangs on its session long before so many sweeps are over: they come twice a second. */
const UNUSED_SWEEPS = 20;

export class GatewayPeople implements People {
  readonly #world: LoginWorld;
  readonly #stay: StaySignedIn;
  readonly #bearers = new BearerFields();
  readonly #listeners: {
    readonly ended: (session: string) => void;
    readonly isOpen: (session: string) => boolean;
  }[] = [];
  /** Sessions that streams may hang on: not all that there are. */
  readonly #open = new Map<string, OpenSession>();
  #judged = Revocations.none;

  constructor(world: LoginWorld) {
    this.#world = world;
    this.#stay = new StaySignedIn(world);
    world.store.onEnd((sid) => this.#ended(sid));
  }

  onSessionEnd(ended: (session: string) => void, isOpen: (session: string) => boolean): void {
    this.#listeners.push({ ended, isOpen });
  }

  /** How many sessions are looked at when somebody is revoked. */
  get openSessions(): number {
    return this.#open.size;
  }

  /**
   * Ends what hangs on sessions that have reached their absolute end, and forgets those that nothing hangs on; called twice
   * a second.
   */
  sweep(nowMs: number): void {
    for (const [sid, open] of this.#open) {
      if (nowMs >= open.endsMs) this.#ended(sid);
      else if (this.#listeners.some(({ isOpen }) => isOpen(sid))) open.unused = 0;
      else if (++open.unused > UNUSED_SWEEPS) this.#open.delete(sid);
    }
  }

  /** Ends what hangs on sessions that were revoked meanwhile; called with each table. */
  revoked(): void {
    const revocations = this.#world.revocations();
    if (revocations === this.#judged) return;
    this.#judged = revocations;
    if (revocations.size === 0) return;
    for (const [sid, { claims }] of this.#open) {
      if (!revocations.coversTxn(claims)) continue;
      const { sub, tctx } = claims;
      this.#world.tell({
        ...{ action: "session.end", allowed: false, reason: "REVOKED", session: sid, idp: tctx.idp },
        ...{ detail: "what it had open was ended", user: { id: sub, type: tctx.typ, roles: tctx.roles } },
      });
      this.#ended(sid);
    }
  }

  authenticate(request: EdgeRequest): Admitted | EdgeAnswer | Promise<Admitted | EdgeAnswer> {
    const { route } = request;
    const cookies = this.#world.cookies.read(request.field("cookie"));
    if (cookies.isOdd) this.#world.countOddCookie();
    if (route === undefined || route.access === "Public") return admitted(cookies, undefined, undefined);
    if (route.access !== "Login" || cookies.id === undefined) {
      const shown = this.#bearers.read(request.field("authorization"));
      if (shown !== undefined && isClientToken(shown.token))
        return this.#bySession(request, route, cookies, shown.token);
      if (shown !== undefined && route.access !== "Login")
        return this.#byBearer(request, route, cookies, shown);
      if (route.access === "Bearer") return this.#unauthenticated(request, route);
    }
    return this.#bySession(request, route, cookies, cookies.id);
  }

  async serve(request: EdgeRequest, body: Buffer): Promise<EdgeAnswer> {
    const question = request.target.indexOf("?");
    const path = question < 0 ? request.target : request.target.slice(0, question);
    const query = new URLSearchParams(question < 0 ? "" : request.target.slice(question + 1));
    const [page = "", idp = "", ...rest] = path.slice(OWN_PATHS.length).split("/");
    const isRead = request.method === "GET" || request.method === "HEAD";
    if (rest.length === 0) {
      if (page === "backchannel-logout" && this.#isIdp(idp))
        return await backChannelLogout(this.#world, request, idp, body);
      const clients = idp === "" && request.method === "POST" ? CLIENT_PAGES.get(page) : undefined;
      if (clients !== undefined)
        return await this.#guarded(request, () => clients(this.#world, request, body));
      if (page === "logout" && idp === "" && (isRead || request.method === "POST"))
        return await this.#guarded(request, () => signOut(this.#world, request));
      if (isRead) {
        const answer = this.#read(request, page, idp, query);
        if (answer !== undefined) return await this.#guarded(request, () => answer);
      }
    }
    const detail = "There is no such page of the gateway.";
    return (
      this.explain(request, {
        status: 404,
        title: "Not found",
        detail,
        decisionId: this.#world.reference(),
      }) ?? problem({ status: 404, reason: "NOT_FOUND", title: "Not found", detail })
    );
  }

  explain(request: EdgeRequest, { status, title, detail, decisionId }: EdgeProblem): EdgeAnswer | undefined {
    return isNavigation(request) ? problemPage(status, title, detail, decisionId) : undefined;
  }

  /** Resolves when no refresh is under way. */
  async close(): Promise<void> {
    await this.#stay.idle();
    await this.#world.store.close();
  }

  #read(
    request: EdgeRequest,
    page: string,
    idp: string,
    query: URLSearchParams,
  ): Promise<EdgeAnswer> | EdgeAnswer | undefined {
    const world = this.#world;
    if (page === "callback" && this.#isIdp(idp)) return finishSignIn(world, request, idp, query);
    if (page === "frontchannel-logout" && this.#isIdp(idp))
      return frontChannelLogout(world, request, idp, query);
    if (idp !== "") return undefined;
    if (page === "authorize") return authorizeClient(world, request, query, NO_BODY);
    if (page === "hand-over") return handOver(world, request, query);
    if (page === "handed-over") return takeOver(world, request, query);
    if (page === "login") return beginSignIn(world, request, query);
    if (page === "whoami") return this.#whoami(request);
    if (page === "signed-out") return signedOutPage(loginPath(returnPath(query.get("rd"))), []);
    if (page === "oauth-protected-resource") return this.#resource(request.host);
    return undefined;
  }

  #isIdp(name: string): boolean {
    return this.#world.gateway().idps.some((idp) => idp.name === name);
  }

  /** Only the store of sessions can fail below; the answer says so. */
  async #guarded(request: EdgeRequest, answer: () => EdgeAnswer | Promise<EdgeAnswer>): Promise<EdgeAnswer> {
    try {
      return await answer();
    } catch (error) {
      return this.#unavailable(request, messageOf(error));
    }
  }

  // --- sessions -----------------------------------------------------------------------------------------------------

  #bySession(
    request: EdgeRequest,
    route: GatewayRoute,
    cookies: CookieReading,
    id: string | undefined,
  ): Admitted | EdgeAnswer | Promise<Admitted | EdgeAnswer> {
    if (id === undefined) return this.#unauthenticated(request, route);
    let found: Session | undefined | Promise<Session | undefined>;
    const nowMs = this.#world.clock.nowMs();
    try {
      found = this.#world.store.find(id, nowMs);
    } catch (error) {
      return this.#unavailable(request, messageOf(error));
    }
    if (!(found instanceof Promise)) return this.#withSession(request, route, cookies, id, found);
    return found.then(
      (session) => this.#withSession(request, route, cookies, id, session),
      (error: unknown) => this.#unavailable(request, messageOf(error)),
    );
  }

  #withSession(
    request: EdgeRequest,
    route: GatewayRoute,
    cookies: CookieReading,
    id: string,
    session: Session | undefined,
  ): Admitted | EdgeAnswer | Promise<Admitted | EdgeAnswer> {
    if (session === undefined) return this.#unauthenticated(request, route);
    // A browser shows a token only when a page has it.
    if (session.isToken !== true && !isSameSite(request, route.cors?.allowOrigins ?? []))
      return this.#refused(request, session, {
        status: 403,
        reason: "ORIGIN_REFUSED",
        title: "Forbidden",
        detail: `a page of \`${(request.field("origin") ?? "an unknown origin").slice(0, 100)}\` may not do this in your name`,
      });
    const nowMs = this.#world.clock.nowMs();
    const idp = this.#world.gateway().idps.find(({ name }) => name === session.idp);
    // A provider that was taken away takes its sessions with it.
    if (idp === undefined) {
      this.#world.tell(
        endOf(session, "IDP_UNKNOWN", "its identity provider is not of this gateway any more"),
      );
      return this.#end(id, session).then(() => this.#unauthenticated(request, route));
    }
    const strength = strengthOf(route, idp);
    if (strength !== undefined && !isStrongEnough(session.user, strength, nowMs))
      return this.#tooWeak(request, strength, session);
    this.#stay.look(id, session, nowMs);
    const { tokens } = this.#world;
    const context = { reqIp: request.sourceIp, sid: session.sid };
    const held = tokens.heldForSession(session.handle, context);
    if (held !== undefined) return this.#admit(request, route, cookies, { id, session }, held);
    return tokens.mintFromSession(session.handle, context).then((answer) => {
      if (answer.ok) return this.#admit(request, route, cookies, { id, session }, answer.value);
      if (answer.error.isTemporary) return this.#unavailable(request, answer.error.detail);
      this.#world.log.info("session ended by the token service", {
        sid: session.sid,
        reason: answer.error.reason,
      });
      this.#world.tell({ ...endOf(session, answer.error.reason, answer.error.detail), request });
      return this.#end(id, session).then(() => this.#unauthenticated(request, route));
    });
  }

  #admit(
    request: EdgeRequest,
    route: GatewayRoute,
    cookies: CookieReading,
    key: { readonly id: string; readonly session: Session },
    txn: HeldTxn,
  ): Admitted | Promise<EdgeAnswer> {
    const { id, session } = key;
    const { claims } = txn;
    const { sid, endsMs } = session;
    // A token that is held is as old as the session, or younger: what revokes it revokes the session.
    if (this.#world.revocations().coversTxn(claims)) {
      this.#world.log.info("session ended by a revocation", { sid, user: session.user.id });
      this.#world.tell({ ...endOf(session, "REVOKED", "the user or the session was revoked"), request });
      return this.#end(id, session).then(() => this.#unauthenticated(request, route));
    }
    const open = this.#open.get(sid);
    if (open === undefined) this.#open.set(sid, { endsMs, claims, unused: 0 });
    else {
      open.claims = claims;
      open.unused = 0;
      // Streams are the session's, whichever of its keys opened them.
      if (session.isToken !== true) open.endsMs = endsMs;
    }
    return admitted(cookies, txn, sid);
  }

  async #end(id: string, session: Session): Promise<void> {
    try {
      await this.#world.store.end(id);
    } catch (error) {
      // It lets nobody in: there are no tokens for it.
      this.#world.log.warn("session not taken away", { sid: session.sid, reason: messageOf(error) });
      this.#ended(session.sid);
    }
  }

  #ended(sid: string): void {
    this.#open.delete(sid);
    for (const { ended } of this.#listeners) ended(sid);
  }

  // --- bearer tokens ------------------------------------------------------------------------------------------------

  #byBearer(
    request: EdgeRequest,
    { backend }: GatewayRoute,
    cookies: CookieReading,
    shown: ShownToken,
  ): Admitted | EdgeAnswer | Promise<Admitted | EdgeAnswer> {
    const { tokens } = this.#world;
    // Asked of each request: the same token is shown at all addresses.
    if (
      shown.audience !== undefined &&
      (backend.kind !== "service" || !this.#world.leadsTo(backend.id, shown.audience))
    )
      return this.#badToken(request, "it is for another endpoint than this address leads to");
    const found = exchangeBearer(tokens, this.#world.gateway(), shown, request.sourceIp);
    return found instanceof Promise
      ? found.then((answer) => this.#withBearer(request, cookies, answer))
      : this.#withBearer(request, cookies, found);
  }

  #withBearer(
    request: EdgeRequest,
    cookies: CookieReading,
    found: HeldTxn | TokenRefusal,
  ): Admitted | EdgeAnswer {
    if ("token" in found && this.#world.revocations().coversTxn(found.claims))
      return this.#badToken(request, "the user was revoked; get a new one");
    if ("token" in found) {
      const { acr, authTime } = found.claims.tctx;
      const strength = request.route === undefined ? undefined : strengthOf(request.route, undefined);
      const user = { acr, authTimeMs: (authTime ?? 0) * 1_000 };
      if (strength !== undefined && !isStrongEnough(user, strength, this.#world.clock.nowMs()))
        return this.#tooWeak(request, strength, undefined);
      return admitted(cookies, found, undefined);
    }
    if (found.isTemporary) return this.#unavailable(request, found.detail);
    return this.#badToken(request, found.detail);
  }

  /** RFC 6750 section 3.1. */
  #badToken(request: EdgeRequest, why: string): EdgeAnswer {
    return this.#refused(request, undefined, {
      status: 401,
      reason: "LOGIN_REQUIRED",
      title: "Unauthorized",
      detail: `the bearer token is not accepted: ${why}`,
      fields: [["www-authenticate", challenge(request.host, "invalid_token")]],
    });
  }

  // --- answers ------------------------------------------------------------------------------------------------------

  /** A problem document, and an event that says who was refused. */
  #refused(request: EdgeRequest, session: Session | undefined, refusal: Refusal): EdgeAnswer {
    const { reason, detail, status } = refusal;
    const { user, sid, idp } = session ?? {};
    this.#world.tell({
      ...{ action: "request", allowed: false, reason, detail, status, request, user, session: sid, idp },
    });
    return problem(refusal);
  }

  #unauthenticated(request: EdgeRequest, route: GatewayRoute): EdgeAnswer {
    const isPeoples = route.access !== "Bearer";
    if (isPeoples && isNavigation(request)) return redirect(loginPath(returnPath(request.target)));
    return this.#refused(request, undefined, {
      status: 401,
      reason: "LOGIN_REQUIRED",
      title: "Unauthorized",
      detail: isPeoples
        ? "nobody is signed in, or the session is over; a person signs in at `login`, or at a terminal with `countersign login`"
        : "an access token is expected in `Authorization: Bearer …`",
      login: isPeoples ? absolute(request.host, loginPath("/")) : undefined,
      fields: [["www-authenticate", challenge(request.host)]],
    });
  }

  /** RFC 9470 section 3. */
  #tooWeak(request: EdgeRequest, strength: Strength, session: Session | undefined): EdgeAnswer {
    const idp = session?.idp;
    const login = loginPath(returnPath(request.target), { idp, strength });
    if (idp !== undefined && isNavigation(request)) return redirect(login);
    const more = {
      ...(strength.acr === undefined ? {} : { acr_values: strength.acr }),
      ...(strength.maxAgeSeconds === undefined ? {} : { max_age: String(strength.maxAgeSeconds) }),
    };
    return this.#refused(request, session, {
      status: 401,
      reason: "STEP_UP_REQUIRED",
      title: "Unauthorized",
      detail: "a stronger or fresher sign-in is needed for this",
      login: idp === undefined ? undefined : absolute(request.host, loginPath("/", { idp, strength })),
      fields: [["www-authenticate", challenge(request.host, "insufficient_user_authentication", more)]],
    });
  }

  #unavailable(request: EdgeRequest, reason: string): EdgeAnswer {
    const reference = this.#world.reference();
    const isNew = this.#world.tell({
      ...{ action: "request", allowed: false, reason: "NOT_READY", detail: reason, request, status: 503 },
      decisionId: reference,
    });
    if (isNew) this.#world.log.warn("nobody can be recognised", { reason, reference });
    if (!isNavigation(request))
      return problem({
        status: 503,
        reason: "NOT_READY",
        title: "Service Unavailable",
        detail: "who you are cannot be told at the moment; ask again in a little while",
        fields: [RETRY_AFTER],
      });
    const page = failurePage({ failure: "mesh_down", againLink: returnPath(request.target), reference });
    return { ...page, fields: [...page.fields, RETRY_AFTER] };
  }

  async #whoami(request: EdgeRequest): Promise<EdgeAnswer> {
    const { cookies, store, clock } = this.#world;
    const token = this.#bearers.read(request.field("authorization"))?.token;
    const id = token !== undefined && isClientToken(token) ? token : cookies.read(request.field("cookie")).id;
    const session = id === undefined ? undefined : await store.find(id, clock.nowMs());
    if (session === undefined)
      return json(200, { signedIn: false, login: absolute(request.host, loginPath("/")) });
    const { user, idp, sid, endsMs } = session;
    return json(200, {
      signedIn: true,
      user: user.id,
      ...{ email: user.email, username: user.username, roles: user.roles, idp, session: sid },
      authenticatedAt: new Date(user.authTimeMs).toISOString(),
      endsAt: new Date(endsMs).toISOString(),
      logout: absolute(request.host, `${OWN_PATHS}logout`),
    });
  }

  /** RFC 9728 section 2. */
  #resource(host: string): EdgeAnswer {
    return json(200, {
      resource: absolute(host, "/"),
      authorization_servers: this.#world
        .gateway()
        .idps.filter(({ audiences }) => audiences.length > 0)
        .map(({ issuer }) => issuer),
      bearer_methods_supported: ["header"],
    });
  }
}

const absolute = (host: string, path: string): string => `https://${host.toLowerCase()}${path}`;

function admitted(
  { forwarded }: CookieReading,
  txn: HeldTxn | undefined,
  session: string | undefined,
): Admitted {
  return { kind: "admitted", txn, session, setCookie: NO_COOKIES, cookie: forwarded };
}

const NO_COOKIES: readonly string[] = [];
