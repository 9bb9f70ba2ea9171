// Callers without mutual TLS, where the namespace lets them in: nothing is known of them, whatever they say.
import type { HeadLimits } from "../config.ts";
import type { CompiledProgram } from "../core/policy/decide.ts";
import { type Refusal, refusal } from "./admission.ts";
import type { Enforcement } from "./authorize.ts";
import type { ConnectionPeer } from "./connection-peer.ts";
import type { InboundServices, InboundState } from "./services.ts";
import type { IdentifiedCaller } from "./verify.ts";

export class PlaintextPeer implements ConnectionPeer {
  readonly side = "plaintext";
  readonly name = "plaintext";
  readonly port: number;
  readonly authority: string;
  readonly shows = false;
  readonly limits: HeadLimits;
  readonly #state: InboundState;
  readonly #caller: IdentifiedCaller;
  readonly #isFull: () => boolean;

  /** @param origin where the connection was going before it was captured, and whether such callers have their share. */
  constructor(
    { state, limits }: InboundServices,
    caller: IdentifiedCaller,
    origin: { readonly address: string; readonly port: number; readonly isFull: () => boolean },
  ) {
    const { address, port, isFull } = origin;
    this.#isFull = isFull;
    this.#state = state;
    this.limits = limits.head;
    this.#caller = caller;
    this.port = port;
    this.authority = `${address.includes(":") ? `[${address.replace(/%.*/, "")}]` : address}:${port}`;
  }

  get isWelcome(): boolean {
    return this.#state.enforcement?.plaintext !== undefined;
  }

  barred(): Refusal | undefined {
    return this.#isFull()
      ? refusal("OVERLOADED", "plaintext callers have their share of requests")
      : undefined;
  }

  programOf(enforcement: Enforcement): CompiledProgram | undefined {
    return enforcement.plaintext;
  }

  identify(): IdentifiedCaller {
    return this.#caller;
  }

  byConnection(): IdentifiedCaller {
    return this.#caller;
  }

  /** There is none to count: a caller that may not call any more is told and the connection ends. */
  countBadProof(): boolean {
    return false;
  }
}
