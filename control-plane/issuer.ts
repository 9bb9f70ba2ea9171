// Who gets which identity outside Kubernetes: holders of a join token, sidecars that renew over their stream, and the
// operator who exports one for a client. The name always comes from the declared workload, never from the request.
import { createPublicKey } from "node:crypto";
import type { CertificateRequest__Output } from "../proto/gen/countersign/mesh/v1/CertificateRequest.ts";
import type { Identity } from "../proto/gen/countersign/mesh/v1/Identity.ts";
import { controlPlaneSpiffeId } from "../proto/protocol.ts";
import type { SpiffeId } from "../sidecar/core/identity/spiffe-id.ts";
import type { Clock } from "../sidecar/core/runtime/clock.ts";
import { MeshError, type Result } from "../sidecar/core/runtime/errors.ts";
import { generateKey } from "./ca/certificates.ts";
import { parseCsr } from "./ca/csr.ts";
import { issueIdentity, validity, writeLeaf } from "./ca/issue.ts";
import { createJoinToken, redeemJoinToken } from "./ca/join-tokens.ts";
import { trustBundleJson } from "./ca/jwks.ts";
import type { CertificateAuthority } from "./ca/root.ts";
import type { ControlPlaneMetrics } from "./metrics.ts";
import { spiffeIdOf } from "./resources/build.ts";
import type { ClusterState, Workload } from "./sources/store.ts";

export interface IssuerDeps {
  readonly ca: CertificateAuthority;
  readonly stateDir: string;
  readonly cluster: string;
  readonly clock: Clock;
  readonly state: () => ClusterState;
  readonly metrics: Pick<ControlPlaneMetrics, "joined" | "issued">;
}

export interface ExportedIdentity {
  readonly spiffeId: string;
  /** Leaf, then the issuing certificate. */
  readonly certificatePem: string;
  readonly keyPem: string;
  readonly caPem: string;
  readonly notAfter: string;
}

export interface Issuer {
  readonly join: (token: string, request: CertificateRequest__Output) => Promise<Result<Identity, MeshError>>;
  readonly renew: (
    workloadId: string,
    spiffeId: string,
    request: CertificateRequest__Output,
  ) => Promise<Result<Identity, string>>;
  readonly createToken: (
    workloadId: string,
    ttlSeconds: number,
  ) => Promise<{ readonly token: string; readonly expiresAt: string; readonly workload: string }>;
  readonly exportIdentity: (workloadId: string, ttlSeconds: number) => Promise<ExportedIdentity>;
}

const MAX_EXPORT_SECONDS = 86_400;

export function createIssuer(deps: IssuerDeps): Issuer {
  const { ca, clock, metrics, stateDir } = deps;

  const workloadOf = (id: string): { readonly workload: Workload; readonly spiffeId: SpiffeId } => {
    const workload = deps.state().workloads.get(id);
    if (!workload)
      throw new MeshError(
        "not_found",
        `workload \`${id}\` is not declared; add a Workload object to the configuration directory`,
      );
    const spiffeId = spiffeIdOf(workload, ca.trustDomain);
    if (spiffeId === controlPlaneSpiffeId(ca.trustDomain))
      throw new MeshError("bad_config", `\`${id}\` is the control plane's own name`);
    return { workload, spiffeId };
  };

  const issue = (id: string, request: CertificateRequest__Output): Result<Identity, MeshError> => {
    let named: ReturnType<typeof workloadOf>;
    try {
      named = workloadOf(id);
    } catch (error) {
      return {
        ok: false,
        error:
          error instanceof MeshError
            ? error
            : new MeshError("join_rejected", "the workload cannot have an identity", { cause: error }),
      };
    }
    const { workload, spiffeId } = named;
    const nowMs = clock.nowMs();
    const { csrDer, tokenJwk, tokenKeyProof } = request;
    const issued = issueIdentity(ca, {
      spiffeId,
      csrDer,
      tokenJwk,
      tokenKeyProof,
      workloadFacts: {
        kind: workload.kind,
        name: workload.name,
        env: workload.env,
        owner: workload.owner,
        cluster: deps.cluster,
      },
      ttlMs: deps.state().config.svidTtlMs,
      nowMs,
    });
    metrics.issued(issued.ok ? "ok" : "rejected");
    if (!issued.ok) return issued;
    const { chainDer, wit, notBeforeMs, notAfterMs } = issued.value;
    return {
      ok: true,
      value: {
        certificateChainDer: [...chainDer],
        workloadIdentityToken: wit,
        trustBundle: trustBundleJson(ca),
        notBeforeUnixMs: notBeforeMs,
        notAfterUnixMs: notAfterMs,
        spiffeId,
        serverTimeUnixMs: nowMs,
        id: request.id,
      },
    };
  };

  return {
    async join(token, request) {
      // A broken request must not cost the token.
      const csr = parseCsr(request.csrDer);
      if (!csr.ok) return csr;
      const redeemed = await redeemJoinToken({ stateDir, token, nowMs: clock.nowMs() });
      metrics.joined(redeemed.ok ? "ok" : "rejected");
      return redeemed.ok ? issue(redeemed.value.workload, request) : redeemed;
    },
    async renew(workloadId, spiffeId, request) {
      const issued = issue(workloadId, request);
      if (!issued.ok) return { ok: false, error: issued.error.message };
      return issued.value.spiffeId === spiffeId
        ? issued
        : { ok: false, error: "the workload has another identity now, join again" };
    },
    async createToken(workloadId, ttlSeconds) {
      workloadOf(workloadId);
      const { token, record } = await createJoinToken({
        stateDir,
        workload: workloadId,
        ttlSeconds,
        rootSpkiSha256: ca.rootSpkiSha256,
        nowMs: clock.nowMs(),
      });
      return { token, expiresAt: new Date(record.expiresAtMs).toISOString(), workload: workloadId };
    },
    async exportIdentity(workloadId, ttlSeconds) {
      if (ttlSeconds < 1 || ttlSeconds > MAX_EXPORT_SECONDS)
        throw new MeshError("bad_config", `\`ttlSeconds\` must be 1 to ${MAX_EXPORT_SECONDS}`);
      const { spiffeId } = workloadOf(workloadId);
      const key = generateKey();
      const times = validity(ca, clock.nowMs(), ttlSeconds * 1000);
      const spki = createPublicKey(key).export({ type: "spki", format: "der" });
      const leaf = writeLeaf(ca, { spiffeId, spki, instance: "export", ...times });
      const lines = leaf.toString("base64").match(/.{1,64}/g) ?? [];
      return {
        spiffeId,
        certificatePem: `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n${ca.issuing.certificatePem}`,
        keyPem: key.export({ type: "pkcs8", format: "pem" }).toString(),
        caPem: ca.roots.map((root) => root.toString()).join(""),
        notAfter: new Date(times.notAfterMs).toISOString(),
      };
    },
  };
}
