// A caller with an SVID that speaks HTTP/1.1 on the mesh port: known by its certificate and, like every peer of the mesh, by
// the proof tokens that its requests carry as fields.
import type { CompiledProgram } from "../core/policy/decide.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { Enforcement } from "./authorize.ts";
import type { Http1Peer } from "./http1-connection.ts";
import { MAX_BAD_PROOFS } from "./peer-connection.ts";
import type { IdentifiedCaller, IdentityRefusal, PeerVerifier, ShownTokens } from "./verify.ts";

export class MeshHttp1Peer implements Http1Peer {
  readonly side = "mesh";
  readonly port = undefined;
  readonly authority = "";
  readonly shows = true;
  /** A head of the usual size, and tokens of up to 8 KiB. */
  readonly limits = { headBytes: 24_576, fields: 128 };
  readonly isWelcome = true;
  readonly #verifier: PeerVerifier;
  readonly #log: Logger;
  #badProofs = 0;

  constructor(verifier: PeerVerifier, log: Logger) {
    this.#verifier = verifier;
    this.#log = log;
  }

  get name(): string {
    return this.#verifier.peer.spiffeId;
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
