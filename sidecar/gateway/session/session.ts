// A person's session as the gateway keeps it, and what a store of sessions can do. The browser has an opaque id alone;
// stores see the id's digest, so that who reads a store or its backup cannot use what is in it.
import { hash } from "node:crypto";

/** Who signed in, as the token service said. */
export interface SessionUser {
  /** `idp|id`, as policies name them. */
  readonly id: string;
  readonly email?: string | undefined;
  readonly username?: string | undefined;
  readonly roles: readonly string[];
  readonly acr?: string | undefined;
  readonly amr: readonly string[];
  /** Unix milliseconds of the sign-in at the identity provider; a refresh does not change it. */
  readonly authTimeMs: number;
}

export interface Session {
  /** Public name, as in Txn-Tokens and audit events: it gives no access. */
  readonly sid: string;
  /** A program's part of a session (`countersign login`), under a token instead of a cookie's id. */
  readonly isToken?: true | undefined;
  readonly idp: string;
  /** The identity provider's own name of the session (OIDC `sid`), for its logout. */
  readonly idpSid?: string | undefined;
  readonly user: SessionUser;
  /** Of the token service, sealed and bound to this gateway; Txn-Tokens are minted from it. */
  readonly handle: string;
  readonly refreshToken?: string | undefined;
  /** Hint for the logout at the identity provider (OpenID Connect RP-Initiated Logout 1.0). */
  readonly idToken?: string | undefined;
  /** Unix milliseconds. */
  readonly createdMs: number;
  /** Absolute end, Unix milliseconds: nothing prolongs it. */
  readonly endsMs: number;
  /** When the identity provider is to be asked again; undefined: never. */
  readonly refreshAtMs?: number | undefined;
  /** The refresh token was sent and no answer came to be written down: the provider may hold it for spent. */
  readonly mayBeSpent?: true | undefined;
}

/** Whose sessions end: all of one user, or those that one session at the identity provider began. */
export type SessionsOf =
  | { readonly user: string }
  | { readonly idp: string; readonly idpSid: string }
  | { readonly sid: string };

export interface SessionStore {
  /**
   * The session behind an id, and that it was used now; undefined: there is none, or its time is over. Answers at once
   * where it can: this is asked with every request.
   *
   * @throws MeshError `io_failed` when the store cannot be reached: nobody is let in then.
   */
  find(id: string, nowMs: number): Session | undefined | Promise<Session | undefined>;
  /** @throws MeshError `io_failed`, or `not_ready` when it holds as many as it may. */
  create(id: string, session: Session, nowMs: number): Promise<void>;
  /** After a refresh; false: the session has ended meanwhile and stays ended. */
  replace(id: string, session: Session, nowMs: number): Promise<boolean>;
  /** Takes it for this replica alone to refresh the session, for at most `ttlMs`. */
  lockRefresh(id: string, ttlMs: number): Promise<boolean>;
  unlockRefresh(id: string): Promise<void>;
  /** Ends one session; the result is what it was. */
  end(id: string): Promise<Session | undefined>;
  /** @returns how many ended. */
  endAll(of: SessionsOf): Promise<number>;
  /** Keeps a small record of a sign-in under way for `ttlMs`; who has the id reads it. @throws MeshError `io_failed`. */
  keep(id: string, record: object, ttlMs: number): Promise<void>;
  /** Takes it out, once; undefined: there is none (any more). @throws MeshError `io_failed`. */
  take(id: string): Promise<unknown>;
  /** Calls with the `sid` of each session that ended before its time, in whichever replica. */
  onEnd(listener: (sid: string) => void): void;
  close(): Promise<void>;
}

/** Limits of a gateway's sessions, milliseconds. */
export interface SessionLimits {
  /** Without a request for so long, a session is over. */
  readonly idleMs: number;
  readonly maxSessions: number;
}

/** What a store knows of an id. */
export function digestOf(id: string): string {
  return hash("sha256", id, "base64url");
}

/** What sessions are ended by. */
export type SessionNames = Pick<Session, "sid" | "idp" | "idpSid"> & {
  readonly user: { readonly id: string };
};

export function isOf(session: SessionNames, of: SessionsOf): boolean {
  if ("user" in of) return session.user.id === of.user;
  if ("sid" in of) return session.sid === of.sid;
  return session.idp === of.idp && session.idpSid === of.idpSid;
}
