// Who gets which identity: pods by their ServiceAccount token, holders of a join token, sidecars that renew over their
// stream, and the operator who exports one for a client. The name comes from the workload, never from the request.
import { createPublicKey } from "node:crypto";
import type { CertificateRequest__Output } from "../proto/gen/countersign/mesh/v1/CertificateRequest.ts";
import type { Identity } from "../proto/gen/countersign/mesh/v1/Identity.ts";
import { controlPlaneSpiffeId } from "../proto/protocol.ts";
import type { SpiffeId } from "../sidecar/core/identity/spiffe-id.ts";
import type { Clock } from "../sidecar/core/runtime/clock.ts";
import { MeshError, type Result } from "../sidecar/core/runtime/errors.ts";
import { type JoinProof, JoinRefusal } from "./attestation/refusal.ts";
import type { ServiceAccountAttestor } from "./attestation/service-account.ts";
import { generateKey } from "./ca/certificates.ts";
import { parseCsr } from "./ca/csr.ts";
import { issueIdentity, validity, writeLeaf } from "./ca/issue.ts";
import { createJoinToken, type JoinTokenStore, redeemJoinToken } from "./ca/join-tokens.ts";
import { trustBundleJson } from "./ca/jwks.ts";
import type { CertificateAuthority } from "./ca/root.ts";
import type { ControlPlaneMetrics } from "./metrics.ts";
import { isDeclared } from "./policy/declared-services.ts";
import { spiffeIdOf } from "./resources/build.ts";
import type { ClusterState, Workload } from "./sources/store.ts";

export interface IssuerDeps {
  readonly ca: CertificateAuthority;
  readonly joinTokens: JoinTokenStore;
  readonly cluster: string;
  readonly clock: Clock;
  readonly state: () => ClusterState;
  readonly metrics: Pick<ControlPlaneMetrics, "joined" | "issued">;
  /** On a cluster; undefined: ServiceAccount tokens are not taken. */
  readonly attest?: ServiceAccountAttestor;
  /** Whether join tokens are taken now; undefined: always. On a cluster: while Workload objects are declared. */
  readonly takesJoinTokens?: () => boolean;
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
  readonly join: (
    proof: JoinProof,
    request: CertificateRequest__Output,
  ) => Promise<Result<Identity, JoinRefusal>>;
  /** @param instance subject serial number of the certificate that the stream was opened with: a pod UID, or empty. */
  readonly renew: (
    workloadId: string,
    spiffeId: string,
    request: CertificateRequest__Output,
    instance?: string,
  ) => Promise<Result<Identity, string>>;
  readonly createToken: (
    workloadId: string,
    ttlSeconds: number,
  ) => Promise<{ readonly token: string; readonly expiresAt: string; readonly workload: string }>;
  readonly exportIdentity: (workloadId: string, ttlSeconds: number) => Promise<ExportedIdentity>;
}

const MAX_EXPORT_SECONDS = 86_400;
/** Instance of certificates that an operator exported: they end when they say, whatever stream they open. */
const EXPORTED = "export";
const NO_IDENTITY = "the workload cannot have an identity; the control plane's log says why";
const JOIN_TOKEN_REJECTED =
  "the join token is not valid: unknown, expired or used; make a new one with `countersign join-token create`";

/** Of whom the proof is. */
async function proven(
  deps: IssuerDeps,
  proof: JoinProof,
): Promise<Result<{ readonly workload: string; readonly podUid?: string }, JoinRefusal>> {
  if (proof.kind === "service-account-token") {
    if (deps.attest === undefined)
      return {
        ok: false,
        error: new JoinRefusal("unsupported", "this control plane takes join tokens only"),
      };
    const pod = await deps.attest(proof.token);
    return pod.ok ? { ok: true, value: { workload: pod.value.workload, podUid: pod.value.uid } } : pod;
  }
  if (deps.takesJoinTokens?.() === false)
    return {
      ok: false,
      error: new JoinRefusal(
        "unsupported",
        "this control plane knows pods by their ServiceAccount tokens; join tokens are for declared Workload objects, and there are none",
      ),
    };
  const redeemed = await redeemJoinToken({
    store: deps.joinTokens,
    token: proof.token,
    nowMs: deps.clock.nowMs(),
  });
  return redeemed.ok
    ? redeemed
    : {
        ok: false,
        // What is wrong with a join token helps in guessing another.
        error: new JoinRefusal("join_rejected", redeemed.error.message, JOIN_TOKEN_REJECTED),
      };
}

export function createIssuer(deps: IssuerDeps): Issuer {
  const { ca, clock, metrics } = deps;

  const workloadOf = (id: string): { readonly workload: Workload; readonly spiffeId: SpiffeId } => {
    const workload = deps.state().workloads.get(id);
    if (!workload)
      throw new MeshError(
        "not_found",
        `workload \`${id}\` is not known; declare it with a Workload object (a pod is known by itself and needs no join token)`,
      );
    const spiffeId = spiffeIdOf(workload, ca.trustDomain);
    if (spiffeId === controlPlaneSpiffeId(ca.trustDomain))
      throw new MeshError("bad_config", `\`${id}\` is the control plane's own name`);
    return { workload, spiffeId };
  };

  const issue = (
    id: string,
    request: CertificateRequest__Output,
    podUid?: string,
  ): Result<Identity, MeshError> => {
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
        runAs: workload.runAs,
        cluster: deps.cluster,
        ...(podUid === undefined ? {} : { pod: podUid }),
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
    async join(proof, request) {
      // A broken request must not cost a token, nor a question to the API server.
      const csr = parseCsr(request.csrDer);
      if (!csr.ok) return { ok: false, error: new JoinRefusal("csr_rejected", csr.error.message) };
      const subject = await proven(deps, proof);
      metrics.joined(subject.ok ? "ok" : subject.error.code === "join_rejected" ? "rejected" : "failed");
      if (!subject.ok) return subject;
      const issued = issue(subject.value.workload, request, subject.value.podUid);
      if (issued.ok) return issued;
      const { code, message } = issued.error;
      return {
        ok: false,
        error:
          code === "csr_rejected"
            ? new JoinRefusal("csr_rejected", message)
            : new JoinRefusal("join_rejected", message, NO_IDENTITY),
      };
    },
    async renew(workloadId, spiffeId, request, instance = "") {
      if (instance === EXPORTED)
        return { ok: false, error: "an exported identity is not renewed; export another one" };
      // A declared workload has no pod.
      const podUid = instance === "" || isDeclared(workloadId) ? undefined : instance;
      if (podUid !== undefined) {
        // What the watch saw last counts, so a renewal needs no API server.
        const pod = deps.state().pods.get(podUid);
        if (pod === undefined)
          return { ok: false, error: "this certificate is of no pod that is known, join again" };
        if (pod.workload !== workloadId)
          return { ok: false, error: "the pod is of another workload now, join again" };
      }
      const issued = issue(workloadId, request, podUid);
      if (!issued.ok) return { ok: false, error: issued.error.message };
      return issued.value.spiffeId === spiffeId
        ? issued
        : { ok: false, error: "the workload has another identity now, join again" };
    },
    async createToken(workloadId, ttlSeconds) {
      workloadOf(workloadId);
      const { token, record } = await createJoinToken({
        store: deps.joinTokens,
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
      const leaf = writeLeaf(ca, { spiffeId, spki, instance: EXPORTED, ...times });
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
