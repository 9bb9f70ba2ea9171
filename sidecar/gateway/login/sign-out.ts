// Signing out: by the person, and by the provider through the browser (OpenID Connect Front-Channel Logout 1.0) or from
// server to server (Back-Channel Logout 1.0).
import { messageOf } from "../../core/runtime/errors.ts";
import { signedOutPage, signOutPage } from "../page/sign-in-pages.ts";
import type { EdgeAnswer, EdgeRequest } from "../people.ts";
import { json, loginPath, problem, redirect } from "./answers.ts";
import { loginHostFor } from "./hand-over.ts";
import type { LoginWorld } from "./login-world.ts";
import { isSameSite } from "./request-kind.ts";
import { OWN_PATHS } from "./return-path.ts";

/** `GET logout` asks, `POST logout` does it: here, in the mesh, and where the provider has a page for it there. */
export async function signOut(world: LoginWorld, request: EdgeRequest): Promise<EdgeAnswer> {
  const { cookies, store, tokens } = world;
  const { id } = cookies.read(request.field("cookie"));
  const nowMs = world.clock.nowMs();
  const session = id === undefined ? undefined : await store.find(id, nowMs);
  if (request.method !== "POST") {
    if (session === undefined) return signedOutPage(loginPath("/"), [cookies.clearSession()]);
    const { user, idp } = session;
    const there = await providerPage(world, idp, session.idToken, signedOutAt(world, request.host));
    // The form redirects there, which the policy of the page must permit.
    const targets = there === undefined ? [] : [new URL(there).origin];
    return signOutPage(user.email ?? user.username ?? user.id, `${OWN_PATHS}logout`, targets);
  }
  if (!isSameSite(request, [])) {
    const detail = "only this gateway's own page signs people out";
    const { user, sid, idp } = session ?? {};
    const reason = "ORIGIN_REFUSED";
    world.tell({
      ...{ action: "logout", allowed: false, reason, detail, user, session: sid, idp, request, status: 403 },
    });
    return problem({ status: 403, reason, title: "Forbidden", detail });
  }
  if (session === undefined || id === undefined)
    return redirect(`${OWN_PATHS}signed-out`, [cookies.clearSession()], 303);
  // What programs hold of it ends, too.
  await store.endAll({ sid: session.sid });
  const { idp, sid, user } = session;
  world.log.info("signed out", { idp, user: user.id, sid });
  world.tell({
    ...{ action: "logout", allowed: true, reason: "ALLOWED", idp, user, session: sid, request, status: 303 },
  });
  const ended = await tokens.endSession({ handle: session.handle });
  if (!ended.ok) world.log.warn("session not revoked in the mesh", { sid, reason: ended.error.detail });
  const there = await providerPage(world, idp, session.idToken, signedOutAt(world, request.host));
  return redirect(there ?? `${OWN_PATHS}signed-out`, [cookies.clearSession()], 303);
}

async function providerPage(
  world: LoginWorld,
  idp: string,
  idToken: string | undefined,
  after: string,
): Promise<string | undefined> {
  try {
    return (await world.provider(idp).endSessionUrl(idToken, after))?.href;
  } catch {
    return undefined;
  }
}

/** At the host that the identity providers know. */
const signedOutAt = (world: LoginWorld, host: string): string =>
  `https://${loginHostFor(world.gateway(), host) ?? host.toLowerCase()}${OWN_PATHS}signed-out`;

/** `POST backchannel-logout/IDP`: the token service verifies the logout token and revokes; here the sessions end. */
export async function backChannelLogout(
  world: LoginWorld,
  request: EdgeRequest,
  idp: string,
  body: Buffer,
): Promise<EdgeAnswer> {
  const type = request.field("content-type") ?? "";
  const form = /^application\/x-www-form-urlencoded\b/i.test(type)
    ? new URLSearchParams(body.toString("utf8"))
    : new URLSearchParams();
  const [logoutToken, second] = form.getAll("logout_token");
  if (request.method !== "POST" || logoutToken === undefined || second !== undefined)
    return json(400, {
      error: "invalid_request",
      error_description: "one `logout_token` is expected in a form",
    });
  const answer = await world.tokens.endSession({ idp, logoutToken });
  if (!answer.ok) {
    const { reason, detail, isTemporary } = answer.error;
    const status = isTemporary ? 503 : 400;
    if (world.tell({ action: "logout", allowed: false, reason, detail, idp, request, status }))
      world.log.warn("logout of an identity provider refused", { idp, reason: detail });
    // The provider asks again later where it can help (section 2.8: 400 for what is wrong with the token).
    return answer.error.isTemporary
      ? json(503, { error: "temporarily_unavailable" }, [["retry-after", "5"]])
      : json(400, { error: "invalid_request", error_description: answer.error.reason });
  }
  const { ended, user, sid } = await endHere(world, idp, logoutToken);
  world.tell({
    ...{ action: "logout", allowed: true, reason: "ALLOWED", idp, request, status: 200 },
    detail: `by the identity provider, ${sid === undefined ? "all sessions" : `session \`${sid.slice(0, 64)}\` of its own`}: ${ended} ended here`,
    user: user === undefined ? undefined : { id: user, roles: [] },
  });
  world.log.info("signed out by the identity provider", { idp, sessions: ended });
  return json(200, {});
}

/** The token was verified: its claims are read as they are. */
async function endHere(
  world: LoginWorld,
  idp: string,
  logoutToken: string,
): Promise<{ readonly ended: number; readonly user: string | undefined; readonly sid: string | undefined }> {
  const claims: unknown = JSON.parse(
    Buffer.from(logoutToken.split(".")[1] ?? "", "base64url").toString("utf8"),
  );
  const { sid, sub } = claims as { readonly sid?: unknown; readonly sub?: unknown };
  const user = typeof sub === "string" ? `${idp}|${sub}` : undefined;
  if (typeof sid === "string") return { ended: await world.store.endAll({ idp, idpSid: sid }), user, sid };
  const ended = user === undefined ? 0 : await world.store.endAll({ user });
  return { ended, user, sid: undefined };
}

/**
 * `GET frontchannel-logout/IDP`: in a frame of the provider's page, where our cookie does not come along. The session is
 * named by `sid`, which the provider and this gateway alone know; nothing tells whether there was one. Who learns of a `sid`
 * can sign that person out, and no more: only where a session of it is here is anything revoked, so that no stranger makes
 * revocations.
 */
export async function frontChannelLogout(
  world: LoginWorld,
  request: EdgeRequest,
  idp: string,
  query: URLSearchParams,
): Promise<EdgeAnswer> {
  const provider = world.gateway().idps.find(({ name }) => name === idp);
  const sid = query.get("sid");
  if (provider === undefined || query.get("iss") !== provider.issuer || sid === null || sid === "")
    return json(400, { error: "invalid_request", error_description: "`iss` and `sid` are expected" });
  try {
    const ended = await world.store.endAll({ idp, idpSid: sid });
    if (ended > 0) {
      world.tell({
        ...{ action: "logout", allowed: true, reason: "ALLOWED", idp, request, status: 200 },
        detail: `through the identity provider's page: ${ended} ended here`,
      });
      const revoked = await world.tokens.endSession({ idp, idpSid: sid });
      if (!revoked.ok)
        world.log.warn("session not revoked in the mesh", { idp, reason: revoked.error.detail });
    }
  } catch (error) {
    world.log.warn("logout of an identity provider failed", { idp, reason: messageOf(error) });
    return json(503, { error: "temporarily_unavailable" });
  }
  const origin = URL.canParse(provider.issuer) ? new URL(provider.issuer).origin : "'none'";
  return {
    kind: "answer",
    status: 200,
    fields: [
      ["content-type", "text/plain; charset=utf-8"],
      ["cache-control", "no-store"],
      ["content-security-policy", `default-src 'none'; frame-ancestors ${origin}`],
    ],
    body: "",
  };
}
