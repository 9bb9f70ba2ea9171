// A revocation: from its epoch on, what a workload or a pod was issued before is refused, by callees and by us. PURE but
// for the id.
import { randomBytes } from "node:crypto";
import type { RevocationEntry } from "../../sidecar/core/identity/revocations.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { MAX_IDENTITY_TTL_MS } from "../ca/certificates.ts";
import { spiffeIdOf } from "../resources/build.ts";
import { closestName } from "../sources/closest-name.ts";
import type { ClusterState } from "../sources/store.ts";

export interface Revocation extends RevocationEntry {
  readonly id: string;
  /** For people. */
  readonly reason: string;
  /** Unix milliseconds: nothing issued before the epoch is valid any more. */
  readonly expiresAtMs: number;
}

/**
 * The epoch lies this far ahead. Until a replica has heard of a revocation it goes on renewing what is revoked: what it
 * issues in that time is revoked too.
 */
const EPOCH_AHEAD_MS = 3_000;
const UID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export interface RevocationRequest {
  /** Key in `ClusterState.workloads`. */
  readonly workload?: string | undefined;
  /** `namespace/name` of a pod, or its UID (also of one that is gone). */
  readonly pod?: string | undefined;
  readonly reason: string;
}

/** @throws MeshError `bad_config` (no subject, or two), `not_found`. */
export function createRevocation(
  { workload, pod, reason }: RevocationRequest,
  state: Pick<ClusterState, "workloads" | "pods">,
  trustDomain: string,
  nowMs: number,
): Revocation {
  if ((workload === undefined) === (pod === undefined))
    throw new MeshError("bad_config", "name either `workload` or `pod`");
  const beforeMs = nowMs + EPOCH_AHEAD_MS;
  return {
    id: randomBytes(8).toString("hex"),
    spiffeId: workload === undefined ? "" : spiffeIdOfWorkload(workload, state, trustDomain),
    pod: pod === undefined ? "" : uidOf(pod, state),
    beforeMs,
    reason,
    expiresAtMs: beforeMs + MAX_IDENTITY_TTL_MS,
  };
}

function spiffeIdOfWorkload(
  key: string,
  { workloads }: Pick<ClusterState, "workloads">,
  domain: string,
): string {
  const workload = workloads.get(key);
  if (workload !== undefined) return spiffeIdOf(workload, domain);
  const closest = closestName(key, [...workloads.keys()]);
  throw new MeshError(
    "not_found",
    `there is no workload \`${key}\`${closest === undefined ? "" : `; did you mean \`${closest}\`?`}`,
  );
}

function uidOf(pod: string, { pods }: Pick<ClusterState, "pods">): string {
  if (UID.test(pod)) return pod;
  for (const { uid, namespace, name } of pods.values()) if (`${namespace}/${name}` === pod) return uid;
  const closest = closestName(
    pod,
    [...pods.values()].map(({ namespace, name }) => `${namespace}/${name}`),
  );
  throw new MeshError(
    "not_found",
    `there is no pod \`${pod}\`${closest === undefined ? "; for one that is gone give its UID" : `; did you mean \`${closest}\`?`}`,
  );
}

/** A revocation as it is stored. @returns undefined for what is none: it was not written by us. */
export function parseRevocation(value: unknown): Revocation | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const {
    id,
    spiffeId = "",
    pod = "",
    beforeMs,
    reason = "",
    expiresAtMs,
  } = value as Record<string, unknown>;
  if (typeof id !== "string" || typeof spiffeId !== "string" || typeof pod !== "string") return undefined;
  if (typeof beforeMs !== "number" || typeof expiresAtMs !== "number" || typeof reason !== "string")
    return undefined;
  if ((spiffeId === "") === (pod === "") || !(beforeMs >= 1) || !(expiresAtMs >= beforeMs)) return undefined;
  return { id, spiffeId, pod, beforeMs, reason, expiresAtMs };
}
