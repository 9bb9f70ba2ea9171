// The identity a process holds: certificate chain, both private keys, its WIT and the trust bundle, checked to fit
// together once when it arrives or is loaded, so that nothing later has to doubt it.
import { createPublicKey, type KeyObject, X509Certificate } from "node:crypto";
import type { Result } from "../runtime/errors.ts";
import { isAnchored } from "./anchors.ts";
import type { SpiffeId } from "./spiffe-id.ts";
import { parseSvid, SVID_PROBLEMS } from "./svid.ts";
import { tokenKeyOf, verifyWit } from "./token.ts";
import type { TrustBundle } from "./trust-bundle.ts";

export interface WorkloadIdentity {
  readonly spiffeId: SpiffeId;
  readonly trustDomain: string;
  /** Leaf first, then the issuing certificate; the root is in the bundle. */
  readonly certificateChainPem: string;
  /** base64url SHA-256 of the leaf. */
  readonly leafThumbprint: string;
  readonly tlsKey: KeyObject;
  readonly tokenKey: KeyObject;
  readonly wit: string;
  /** `idp|user` of the one user that this workload acts for; undefined: it acts for itself. */
  readonly actsFor: string | undefined;
  /** Unix milliseconds. */
  readonly witExpiresAtMs: number;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly bundle: TrustBundle;
}

export interface IdentityMaterial {
  /** DER, leaf first. */
  readonly chainDer: readonly Buffer[];
  readonly tlsKey: KeyObject;
  readonly tokenKey: KeyObject;
  readonly wit: string;
  readonly bundle: TrustBundle;
  readonly nowMs: number;
}

function isSameKey(privateKey: KeyObject, publicKey: KeyObject): boolean {
  return createPublicKey(privateKey).equals(publicKey);
}

/** The first link of the chain that does not hold, in words. */
function chainProblem(chain: readonly X509Certificate[], bundle: TrustBundle): string | undefined {
  for (let i = 0; i < chain.length; i++) {
    const certificate = chain[i];
    const issuers = i + 1 < chain.length ? chain.slice(i + 1, i + 2) : bundle.roots;
    const isIssued = issuers.some(
      (issuer) => certificate?.checkIssued(issuer) === true && certificate.verify(issuer.publicKey),
    );
    if (!isIssued)
      return i + 1 < chain.length
        ? "the certificate chain does not hold together"
        : "the certificate chain does not end in the trust bundle";
  }
  return undefined;
}

/**
 * Puts an identity together from what was issued (or stored).
 *
 * @returns the identity, or the first thing that does not fit, in words: an unusable identity never replaces a good one.
 */
export function createWorkloadIdentity(material: IdentityMaterial): Result<WorkloadIdentity, string> {
  const { chainDer, tlsKey, tokenKey, wit, bundle, nowMs } = material;
  const [leaf] = chainDer;
  if (leaf === undefined || chainDer.length > 4)
    return { ok: false, error: "the certificate chain is empty or longer than 4" };
  const facts = parseSvid(leaf);
  if (!facts.ok) return { ok: false, error: SVID_PROBLEMS[facts.error] };
  if (facts.value.trustDomain !== bundle.trustDomain)
    return { ok: false, error: SVID_PROBLEMS.foreign_trust_domain };
  if (nowMs >= facts.value.notAfterMs) return { ok: false, error: SVID_PROBLEMS.expired };
  let chain: X509Certificate[];
  try {
    chain = chainDer.map((bytes) => new X509Certificate(bytes));
  } catch {
    return { ok: false, error: SVID_PROBLEMS.malformed_certificate };
  }
  const broken = chainProblem(chain, bundle);
  if (broken !== undefined) return { ok: false, error: broken };
  if (chain[0] === undefined || !isSameKey(tlsKey, chain[0].publicKey)) {
    return { ok: false, error: "the certificate is for another key than the one requested" };
  }
  const claims = verifyWit(wit, { bundle, peerSpiffeId: facts.value.spiffeId, nowMs });
  if (!claims.ok) return { ok: false, error: `the workload identity token is not usable: ${claims.detail}` };
  const witKey = tokenKeyOf(claims.value.jwk);
  if (witKey === undefined || !isSameKey(tokenKey, witKey)) {
    return { ok: false, error: "the workload identity token is for another key than the one requested" };
  }
  return {
    ok: true,
    value: {
      spiffeId: facts.value.spiffeId,
      trustDomain: facts.value.trustDomain,
      certificateChainPem: chain.map((certificate) => certificate.toString()).join(""),
      leafThumbprint: facts.value.leafThumbprint,
      tlsKey,
      tokenKey,
      wit,
      actsFor: claims.value.workload?.runAs ?? claims.value.workload?.owner,
      witExpiresAtMs: claims.value.exp * 1000,
      notBeforeMs: facts.value.notBeforeMs,
      notAfterMs: facts.value.notAfterMs,
      bundle,
    },
  };
}

/** The same identity with a newer bundle (a rotation of roots does not need a new leaf at once). */
export function withBundle(identity: WorkloadIdentity, bundle: TrustBundle): WorkloadIdentity {
  return { ...identity, bundle };
}

/** Whether this identity's certificate leads to one of these roots. */
export function isBelow(
  { certificateChainPem }: Pick<WorkloadIdentity, "certificateChainPem">,
  roots: readonly X509Certificate[],
): boolean {
  const last = certificateChainPem.lastIndexOf("-----BEGIN CERTIFICATE-----");
  return isAnchored(new X509Certificate(certificateChainPem.slice(last)), roots);
}

/** Whether the root of this identity's certificate is about to leave the trust bundle, or has left it. */
export function isRetiring(identity: WorkloadIdentity): boolean {
  const { retiring, roots } = identity.bundle;
  return (retiring.length > 0 && isBelow(identity, retiring)) || !isBelow(identity, roots);
}
