// A revocation: from its epoch on, what a workload, a pod, a user or a session was issued before is refused, by callees and
// by us. PURE but for the id.
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
/** Nothing of a user or session outlives its session: twelve hours, and what clocks differ. */
const LONGEST_SESSION_MS = 12 * 3_600_000 + 600_000;
const SESSION = /^[A-Za-z0-9_-]{16,64}(?:\.[A-Za-z0-9_-]{16,64})?$/;
const USER = /^([a-z0-9.-]{1,253})\|(?=[^\p{Cc}]{1,255}$)/u;
const UID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export interface RevocationRequest {
  /** Key in `ClusterState.workloads`. */
  readonly workload?: string | undefined;
  /** `namespace/name` of a pod, or its UID (also of one that is gone). */
  readonly pod?: string | undefined;
  /** `idp|id`: every session of the user, and what was issued on their behalf. */
  readonly user?: string | undefined;
  /** Id of a session, or what stands before the `.` in it. */
  readonly session?: string | undefined;
  readonly reason: string;
  /** For a user or session: Unix milliseconds when nothing that it is about can be valid any more. */
  readonly untilMs?: number | undefined;
}

/** @throws MeshError `bad_config` (no subject, or two), `not_found`. */
export function createRevocation(
  { workload, pod, user, session, reason, untilMs }: RevocationRequest,
  state: Pick<ClusterState, "workloads" | "pods" | "identityProviders">,
  trustDomain: string,
  nowMs: number,
): Revocation {
  if ([workload, pod, user, session].filter((subject) => subject !== undefined).length !== 1)
    throw new MeshError("bad_config", "name one of `workload`, `pod`, `user` and `session`");
  const beforeMs = nowMs + EPOCH_AHEAD_MS;
  const id = randomBytes(8).toString("hex");
  if (user !== undefined || session !== undefined) {
    const subject =
      user === undefined ? { session: checkedSession(session ?? "") } : { user: checkedUser(user, state) };
    const expiresAtMs = Math.max(beforeMs, untilMs ?? beforeMs + LONGEST_SESSION_MS);
    return { id, spiffeId: "", pod: "", ...subject, beforeMs, reason, expiresAtMs };
  }
  return {
    id,
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

function checkedSession(session: string): string {
  if (SESSION.test(session)) return session;
  throw new MeshError("bad_config", "`session` is no id of a session; it stands as `sid` in audit events");
}

function checkedUser(user: string, { identityProviders }: Pick<ClusterState, "identityProviders">): string {
  const idp = USER.exec(user)?.[1];
  if (idp === undefined)
    throw new MeshError("bad_config", `\`${user.slice(0, 128)}\` is no user; write \`identity-provider|id\``);
  if (identityProviders.has(idp)) return user;
  const closest = closestName(idp, [...identityProviders.keys()]);
  throw new MeshError(
    "not_found",
    `there is no IdentityProvider \`${idp}\`${closest === undefined ? "" : `; did you mean \`${closest}\`?`}`,
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

/** Who or what it is about, for logs. */
export function subjectOf({ spiffeId, pod, user = "", session = "" }: RevocationEntry): string {
  return [spiffeId, pod, user, session].find((subject) => subject !== "") ?? "";
}

/** A revocation as it is stored. @returns undefined for what is none: it was not written by us. */
export function parseRevocation(value: unknown): Revocation | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const {
    id,
    spiffeId = "",
    pod = "",
    user = "",
    session = "",
    beforeMs,
    reason = "",
    expiresAtMs,
  } = value as Record<string, unknown>;
  if (typeof id !== "string" || typeof spiffeId !== "string" || typeof pod !== "string") return undefined;
  if (typeof beforeMs !== "number" || typeof expiresAtMs !== "number" || typeof reason !== "string")
    return undefined;
  if (typeof user !== "string" || typeof session !== "string") return undefined;
  if ([spiffeId, pod, user, session].filter((subject) => subject !== "").length !== 1) return undefined;
  if (!(beforeMs >= 1) || !(expiresAtMs >= beforeMs)) return undefined;
  return {
    ...{ id, spiffeId, pod, beforeMs, reason, expiresAtMs },
    ...(user === "" ? {} : { user }),
    ...(session === "" ? {} : { session }),
  };
}
