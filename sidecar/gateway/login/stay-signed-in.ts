// Silent refresh: now and then the provider is asked whether a person is still who they were, in the background, by one
// replica and once at a time per session.
import { messageOf } from "../../core/runtime/errors.ts";
import type { EdgeNote } from "../edge-audit.ts";
import type { Session } from "../session/session.ts";
import type { LoginWorld } from "./login-world.ts";
import { sessionOf } from "./sign-in.ts";

const LOCK_MS = 20_000;
/** After a failure that says nothing about the person. */
const AGAIN_MS = 60_000;
/** How long a session lasts on whose refresh token was lost with an answer or a replica. */
const WITHOUT_REFRESH_MS = 3_600_000;
const MAX_WAITING = 10_000;

/** The event of a session that ends by no will of the person. */
export function endOf({ sid, idp, user }: Session, reason: string, detail: string): EdgeNote {
  return { action: "session.end", allowed: false, reason, detail, idp, session: sid, user };
}

export class StaySignedIn {
  readonly #world: LoginWorld;
  readonly #underWay = new Map<string, Promise<void>>();
  /** Session to Unix milliseconds. */
  readonly #notBefore = new Map<string, number>();

  constructor(world: LoginWorld) {
    this.#world = world;
  }

  /** Refreshes a session when that is due; returns at once. */
  look(id: string, session: Session, nowMs: number): void {
    const { refreshAtMs, sid } = session;
    if (refreshAtMs === undefined || nowMs < refreshAtMs || this.#underWay.has(sid)) return;
    if (nowMs < (this.#notBefore.get(sid) ?? 0)) return;
    if (this.#notBefore.size >= MAX_WAITING) this.#notBefore.clear();
    this.#notBefore.set(sid, nowMs + AGAIN_MS);
    const refreshed = this.#refresh(id, session)
      .catch((error: unknown) => {
        this.#world.log.warn("session not refreshed", { idp: session.idp, sid, reason: messageOf(error) });
      })
      .finally(() => this.#underWay.delete(sid));
    this.#underWay.set(sid, refreshed);
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    await Promise.all(this.#underWay.values());
  }

  async #refresh(id: string, session: Session): Promise<void> {
    const { store, clock } = this.#world;
    if (!(await store.lockRefresh(id, LOCK_MS))) return;
    try {
      // Another replica may have done it between our look and the lock: a refresh token is good once.
      const current = await store.find(id, clock.nowMs());
      if (
        current === undefined ||
        current.handle !== session.handle ||
        current.refreshToken !== session.refreshToken
      )
        return;
      await this.#renew(id, current);
    } finally {
      await store.unlockRefresh(id);
    }
  }

  async #renew(id: string, session: Session): Promise<void> {
    const { store, tokens: service, clock, log } = this.#world;
    if (session.refreshToken === undefined) return;
    const provider = this.#world.provider(session.idp);
    // Written down before it is sent: most refresh tokens are good once, and this replica may not live to see the answer.
    if (!(await store.replace(id, { ...session, mayBeSpent: true }, clock.nowMs()))) return;
    const tokens = await provider.refresh(session.refreshToken);
    if (tokens === undefined && session.mayBeSpent === true) {
      await this.#goOnWithout(id, session);
      return;
    }
    if (tokens === undefined) {
      log.info("session ended by its identity provider", { idp: session.idp, sid: session.sid });
      this.#world.tell(endOf(session, "SESSION_EXPIRED", "the identity provider has ended it"));
      await store.endAll({ sid: session.sid });
      await service.endSession({ handle: session.handle });
      return;
    }
    const { idToken, accessToken } = tokens;
    const opened =
      idToken === undefined
        ? undefined
        : await service.refreshSession(session.handle, { idToken, accessToken });
    const nowMs = clock.nowMs();
    if (opened?.ok === false && !opened.error.isTemporary) {
      log.info("session ended by the token service", { sid: session.sid, reason: opened.error.reason });
      this.#world.tell(endOf(session, opened.error.reason, opened.error.detail));
      await store.endAll({ sid: session.sid });
      return;
    }
    // The provider's new refresh token is kept in any case: the old one is spent.
    const fresh =
      opened?.ok === true
        ? sessionOf(this.#world, { provider, tokens, opened: opened.value }, nowMs, session)
        : {
            ...session,
            refreshToken: tokens.refreshToken,
            refreshAtMs: nowMs + AGAIN_MS,
            mayBeSpent: undefined,
          };
    await store.replace(id, fresh, nowMs);
    if (opened?.ok === true) this.#notBefore.delete(session.sid);
  }

  /** The refusal says nothing about the person: the token was sent before, and what came back was lost. */
  async #goOnWithout(id: string, session: Session): Promise<void> {
    const nowMs = this.#world.clock.nowMs();
    this.#world.log.warn("refresh token lost, session goes on without", {
      ...{ idp: session.idp, sid: session.sid, forSeconds: WITHOUT_REFRESH_MS / 1_000 },
    });
    const endsMs = Math.min(session.endsMs, nowMs + WITHOUT_REFRESH_MS);
    const without = { refreshToken: undefined, refreshAtMs: undefined, mayBeSpent: undefined, endsMs };
    await this.#world.store.replace(id, { ...session, ...without }, nowMs);
  }
}
