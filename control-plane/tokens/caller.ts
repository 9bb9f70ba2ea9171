// Who asks the token service: the workload whose certificate the connection was opened with, checked again at each request.
import type { TLSSocket } from "node:tls";
import type { SpiffeId } from "../../sidecar/core/identity/spiffe-id.ts";
import { workloadOf } from "../../sidecar/core/identity/spiffe-id.ts";
import { checkSvid, parseSvid, SVID_PROBLEMS, type SvidFacts } from "../../sidecar/core/identity/svid.ts";
import { verifyWit } from "../../sidecar/core/identity/token.ts";
import type { TrustBundle } from "../../sidecar/core/identity/trust-bundle.ts";
import type { FoundWorkload } from "../resources/workload-of-svid.ts";
import type { ClusterState } from "../sources/store.ts";
import { TokenRefusal } from "./refusal.ts";

export interface TokenCaller {
  readonly spiffeId: SpiffeId;
  readonly kind: string;
  /**
   * Whom the workload acts for, `idp|id`: its `run-as`, else its owner. Both were verified where they came from: by the
   * webhook, or because whoever writes the directory is trusted. undefined: nobody.
   */
  readonly actsFor: string | undefined;
  readonly owner: string | undefined;
  /** One of `MeshConfig.trustedSpawners`. */
  readonly isTrustedSpawner: boolean;
}

export interface CallerDeps {
  readonly trustDomain: string;
  readonly state: () => ClusterState;
  readonly workloadOf: (svid: SvidFacts) => FoundWorkload;
  readonly isRevoked: (svid: SvidFacts) => boolean;
  readonly bundle: () => TrustBundle;
  readonly nowMs: () => number;
}

/** What the certificate of a connection says; it does not change. */
interface Certified {
  readonly svid: SvidFacts;
  readonly kind: string;
}

const unknown = (detail: string): TokenRefusal => new TokenRefusal("CALLER_UNKNOWN", detail);

export class Callers {
  readonly #deps: CallerDeps;
  readonly #certified = new WeakMap<TLSSocket, Certified>();

  constructor(deps: CallerDeps) {
    this.#deps = deps;
  }

  /** @throws TokenRefusal `CALLER_UNKNOWN`, `REVOKED`. */
  of(socket: TLSSocket): TokenCaller {
    const { trustDomain, state, nowMs } = this.#deps;
    const { svid, kind } = this.#certifiedBy(socket);
    const problem = checkSvid(svid, { nowMs: nowMs(), trustDomains: [trustDomain] });
    if (problem !== undefined) throw unknown(SVID_PROBLEMS[problem]);
    if (this.#deps.isRevoked(svid))
      throw new TokenRefusal("REVOKED", "the identity of the caller was revoked; join again");
    const now = state();
    const found = this.#deps.workloadOf(svid);
    if ("problem" in found) throw unknown(found.problem);
    const workload = now.workloads.get(found.id);
    if (workload === undefined || found.spiffeId !== svid.spiffeId)
      throw unknown("the workload has another identity now; join again");
    return {
      spiffeId: svid.spiffeId,
      // Of the certificate, which says the same: it was compared above.
      kind,
      actsFor: workload.runAs ?? workload.owner,
      owner: workload.owner,
      isTrustedSpawner: now.config.trustedSpawners.includes(
        `${workload.namespace}/${workload.serviceAccount}`,
      ),
    };
  }

  /**
   * Checks the caller's own identity token, which says what was attested of this pod when it was issued.
   *
   * @throws TokenRefusal `CALLER_UNKNOWN` for one that does not count or is another's, and for another owner than now.
   */
  checkFacts({ spiffeId, owner: ownerNow }: TokenCaller, wit: string | undefined): void {
    if (wit === undefined) throw unknown("send the workload's own token as `Workload-Identity-Token`");
    const claims = verifyWit(wit, {
      bundle: this.#deps.bundle(),
      peerSpiffeId: spiffeId,
      nowMs: this.#deps.nowMs(),
    });
    if (!claims.ok) throw unknown(`the workload identity token does not count: ${claims.detail}`);
    if (claims.value.workload?.owner !== ownerNow)
      throw unknown("the workload has another owner now; it gets a new identity with the next renewal");
  }

  #certifiedBy(socket: TLSSocket): Certified {
    const known = this.#certified.get(socket);
    if (known !== undefined) return known;
    const certificate = socket.getPeerX509Certificate();
    if (certificate === undefined) throw unknown("show a certificate of this mesh");
    const svid = parseSvid(certificate.raw);
    if (!svid.ok) throw unknown(SVID_PROBLEMS[svid.error]);
    const certified = { svid: svid.value, kind: workloadOf(svid.value.spiffeId)?.kind ?? "" };
    this.#certified.set(socket, certified);
    return certified;
  }
}
