// The newest login of each user: a pod that acts for somebody who is signed in may say so. Each replica knows those it
// has seen; on a cluster they tell each other by a record per user, so that it does not matter whom the pod asks.
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { userIdOf } from "./person.ts";
import type { Session, SessionHandles } from "./session-handle.ts";

/** Handles of logins, where other replicas find them. */
export interface LoginRecords {
  /** Takes the place of the one before. @throws MeshError `io_failed`. */
  put(user: string, handle: string, untilMs: number): Promise<void>;
  /** undefined: there is none. @throws MeshError `io_failed`. */
  get(user: string): Promise<string | undefined>;
}

export interface LiveLoginsDeps {
  readonly handles: Pick<SessionHandles, "open">;
  /** undefined: there is one replica. */
  readonly records?: LoginRecords | undefined;
  readonly monotonicMs: () => number;
  readonly log: Logger;
}

const MAX_USERS = 50_000;
/** A user without login is not looked up again for so long. */
const LOOK_AGAIN_MS = 10_000;

export class LiveLogins {
  readonly #deps: LiveLoginsDeps;
  readonly #byUser = new Map<string, Session>();
  readonly #lookedAtMs = new Map<string, number>();

  constructor(deps: LiveLoginsDeps) {
    this.#deps = deps;
  }

  seen(session: Session): void {
    const user = userIdOf(session.person);
    const known = this.#byUser.get(user);
    if (known === session || (known !== undefined && known.openedAt > session.openedAt)) return;
    remember(this.#byUser, user, session);
  }

  /** A login or its refresh, for the other replicas too. One that they cannot be told of is known here alone. */
  async opened(session: Session, handle: string): Promise<void> {
    this.seen(session);
    const { records, log } = this.#deps;
    try {
      await records?.put(userIdOf(session.person), handle, session.expiresAt * 1000);
    } catch (error) {
      log.warn("other replicas are not told of a login", { error: messageOf(error) });
    }
  }

  /** @param isOver asked of what is known; it is forgotten then. */
  async of(user: string, isOver: (session: Session) => boolean): Promise<Session | undefined> {
    const session = this.#byUser.get(user) ?? (await this.#recorded(user));
    if (session === undefined || !isOver(session)) return session;
    this.#byUser.delete(user);
    return undefined;
  }

  async #recorded(user: string): Promise<Session | undefined> {
    const { records, handles, monotonicMs, log } = this.#deps;
    if (records === undefined) return undefined;
    const lookedAtMs = this.#lookedAtMs.get(user);
    if (lookedAtMs !== undefined && monotonicMs() - lookedAtMs < LOOK_AGAIN_MS) return undefined;
    remember(this.#lookedAtMs, user, monotonicMs());
    try {
      const handle = await records.get(user);
      if (handle === undefined) return undefined;
      const session = await handles.open(handle);
      // The record's name is a digest of the user: what is in it says who it is.
      if (userIdOf(session.person) !== user) return undefined;
      this.seen(session);
      return session;
    } catch (error) {
      log.warn("a login of another replica cannot be read", { error: messageOf(error) });
      return undefined;
    }
  }
}

function remember<T>(map: Map<string, T>, key: string, value: T): void {
  map.delete(key);
  if (map.size >= MAX_USERS) {
    const [oldest] = map.keys();
    if (oldest !== undefined) map.delete(oldest);
  }
  map.set(key, value);
}
