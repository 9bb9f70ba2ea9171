// The one user of a single-user workload (propagation mode `session`): its calls carry a token that this sidecar asks for
// itself, without any change to the application (DOMAIN 2.6). Whether there is a user is what the control plane attested.
import type { HeldTxn } from "../core/identity/held-txn.ts";
import type { Revocations } from "../core/identity/revocations.ts";
import { type CallChain, originChain } from "../telemetry/correlation.ts";
import { PatientTimer } from "../wire/patient-timer.ts";
import type { TokenClient } from "./token-client.ts";

export interface OwnUserDeps {
  /** undefined: no token service is known. */
  readonly client: () => TokenClient | undefined;
  /** Whether this workload acts for a user, and may by its modes of propagation. */
  readonly isBound: () => boolean;
  readonly revocations: () => Revocations;
}

/** How long a call waits for the first token. */
const WAIT_MS = 2_000;
/** A token that is revoked is replaced no more often: what is issued in the second of the epoch is revoked again. */
const LEAST_AGE_MS = 1_000;
/** Least time between two questions for the login of a user who is known to have one: a replica may hear of it late. */
const LOGIN_PAUSE_MS = 5_000;

export class OwnUser {
  readonly #deps: OwnUserDeps;
  #chain: CallChain | undefined;
  /** No token could be had the last time: calls do not wait for the next one. */
  #isAway = false;
  #noticesFromMs = 0;

  constructor(deps: OwnUserDeps) {
    this.#deps = deps;
  }

  /** See `OwnUser` of the outbound services. */
  chain(nowMs: number): CallChain | undefined | "waiting" | "unavailable" {
    const { client: find, isBound, revocations } = this.#deps;
    if (!isBound()) return undefined;
    const client = find();
    if (client === undefined) return "unavailable";
    const held = client.heldOwn();
    if (held === undefined) return this.#without(client);
    if (revocations().coversTxn(held.claims) && nowMs - held.claims.iat * 1_000 > LEAST_AGE_MS) {
      client.dropOwn();
      return "waiting";
    }
    return this.#chainOf(held);
  }

  /**
   * A call came that rests on a login. Where it is the own user's and the own token rests on none, another one is asked
   * for, so that calls of this workload have that login at once and not only with the next renewal.
   */
  notice({ claims }: HeldTxn, nowMs: number): void {
    if (claims.rctx.sid === undefined || nowMs < this.#noticesFromMs) return;
    const client = this.#deps.client();
    const own = client?.lookOwn()?.claims;
    if (client === undefined || own?.sub !== claims.sub || own.rctx.sid !== undefined) return;
    this.#noticesFromMs = nowMs + LOGIN_PAUSE_MS;
    client.renewOwn();
  }

  #without(client: TokenClient): "waiting" | "unavailable" {
    if (client.isOwnRefused) return "unavailable";
    if (!this.#isAway) return "waiting";
    void this.wait();
    return "unavailable";
  }

  /** The token once it has been asked for; undefined: it could not be had in time. Never rejects. */
  async wait(): Promise<CallChain | undefined> {
    const client = this.#deps.client();
    if (client === undefined) return undefined;
    const late = Promise.withResolvers<undefined>();
    const timer = new PatientTimer(WAIT_MS, () => late.resolve(undefined));
    const result = await Promise.race([client.mintOwn(), late.promise]);
    timer.cancel();
    this.#isAway = result?.ok !== true;
    return result?.ok === true ? this.#chainOf(result.value) : undefined;
  }

  /** One object per token, so that caches of proofs need not look inside. */
  #chainOf(held: HeldTxn): CallChain {
    if (this.#chain?.txn?.token !== held.token) this.#chain = originChain(held);
    return this.#chain;
  }
}
