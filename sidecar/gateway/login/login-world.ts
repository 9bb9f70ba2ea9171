// What signing in, staying signed in and signing out have in common (types only).
import type { Gateway } from "../../core/gateway/gateway.ts";
import type { Revocations } from "../../core/identity/revocations.ts";
import type { Clock } from "../../core/runtime/clock.ts";
import type { Logger } from "../../core/runtime/log.ts";
import type { TellEdge } from "../edge-audit.ts";
import type { GatewayCookies } from "../session/cookies.ts";
import type { SessionStore } from "../session/session.ts";
import type { Provider } from "./provider.ts";
import type { SignInFailure } from "./sign-in-failure.ts";
import type { TokenService } from "./token-service.ts";

export interface LoginWorld {
  /** As it is in force now. */
  gateway(): Gateway;
  /** One of the gateway's identity providers. @throws SignInError `invalid` when it has none of that name. */
  provider(name: string): Provider;
  readonly cookies: GatewayCookies;
  readonly store: SessionStore;
  readonly tokens: TokenService;
  /** Whose tokens and sessions count no more, as this gateway knows it now. */
  revocations(): Revocations;
  readonly clock: Pick<Clock, "nowMs">;
  readonly log: Logger;
  /** Whether a mesh service (`namespace/name`) leads to a workload: endpoints of its own, or of what its routes send calls to. */
  leadsTo(service: string, spiffeId: string): boolean;
  /** Counts an exchange of a user's. @returns 0: admitted; else seconds after which the next one is. */
  mayExchange(user: string): number;
  /** Writes down who signs in and out, and who is refused. */
  readonly tell: TellEdge;
  /** For a person to name to whoever helps; in the log, too. */
  reference(): string;
  count(idp: string, result: "ok" | SignInFailure): void;
  /** A cookie of ours came that this gateway did not set: two of a name, or a value that it never gives. */
  countOddCookie(): void;
}
