// The newest login of each user that this replica has seen: a pod that acts for somebody who is signed in may say so.

import { userIdOf } from "./person.ts";
import type { Session } from "./session-handle.ts";

const MAX_USERS = 50_000;

export class LiveLogins {
  readonly #byUser = new Map<string, Session>();

  seen(session: Session): void {
    const user = userIdOf(session.person);
    const known = this.#byUser.get(user);
    if (
      known?.sid === session.sid
        ? known === session
        : known !== undefined && known.openedAt > session.openedAt
    )
      return;
    this.#byUser.delete(user);
    if (this.#byUser.size >= MAX_USERS) {
      const [oldest] = this.#byUser.keys();
      if (oldest !== undefined) this.#byUser.delete(oldest);
    }
    this.#byUser.set(user, session);
  }

  /** @param isOver asked of what is known; it is forgotten then. */
  of(user: string, isOver: (session: Session) => boolean): Session | undefined {
    const session = this.#byUser.get(user);
    if (session === undefined || !isOver(session)) return session;
    this.#byUser.delete(user);
    return undefined;
  }
}
