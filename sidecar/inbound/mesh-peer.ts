// A peer of the mesh: known by its certificate and by the proof tokens that its requests carry as fields.
import type { HeadLimits } from "../config.ts";
import type { CompiledProgram } from "../core/policy/decide.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { Enforcement } from "./authorize.ts";
import type { ConnectionPeer } from "./connection-peer.ts";
import type { IdentifiedCaller, IdentityRefusal, PeerVerifier, ShownTokens } from "./verify.ts";

/** What the tokens of a request may have. */
const TOKEN_BYTES = 8_192;
/** Fields that the hop adds to those of the application. */
const HOP_FIELDS = 28;
/** Requests of one connection whose identity does not verify; then it ends. */
const MAX_BAD_PROOFS = 10;

export class MeshPeer implements ConnectionPeer {
  readonly side = "mesh";
  readonly port = undefined;
  readonly authority = "";
  readonly shows = true;
  readonly limits: HeadLimits;
  readonly isWelcome = true;
  readonly #verifier: PeerVerifier;
  readonly #log: Logger;
  #badProofs = 0;

  /** @param limits of a head without tokens. */
  constructor(verifier: PeerVerifier, limits: HeadLimits, log: Logger) {
    this.limits = {
      ...limits,
      headBytes: limits.headBytes + TOKEN_BYTES,
      fields: limits.fields + HOP_FIELDS,
    };
    this.#verifier = verifier;
    this.#log = log;
  }

  get name(): string {
    return this.#verifier.peer.spiffeId;
  }

  barred(): undefined {
    return undefined;
  }

  programOf(enforcement: Enforcement): CompiledProgram {
    return enforcement.program;
  }

  identify(shown: ShownTokens, bundleEpoch: string, nowMs: number): IdentifiedCaller | IdentityRefusal {
    return this.#verifier.identify(shown, bundleEpoch, nowMs);
  }

  byConnection(nowMs: number): IdentifiedCaller | undefined {
    return this.#verifier.byCertificate(nowMs);
  }

  countBadProof(): boolean {
    this.#badProofs++;
    if (this.#badProofs !== MAX_BAD_PROOFS) return false;
    this.#log.warn("mesh connection ended after ten requests with a bad identity", { peer: this.name });
    return true;
  }
}
