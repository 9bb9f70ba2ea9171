// On what ground a workload calls a host outside the mesh: for whom and by which hops, whether that holds, and what a decision
// comes to there. The same for requests that are read and for connections that are not (DOMAIN 2.5 V5 to V9).
import { checkChain, scopeEntries } from "../core/identity/chain.ts";
import type { ViaHop } from "../core/identity/claims.ts";
import type { IssuedTo, Revocations } from "../core/identity/revocations.ts";
import type { Call, Caller } from "../core/policy/call.ts";
import { hopOf, scopeOfTxn, userOfTxn } from "../core/policy/call-subjects.ts";
import type { Decision } from "../core/policy/decide.ts";
import type { Reason } from "../core/policy/reason.ts";
import { intersectScopes } from "../core/policy/scope.ts";
import type { Result } from "../core/runtime/errors.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { unmetDemand } from "./external.ts";

/** Why a call must not go on. */
export interface ExternalRefusal {
  readonly reason: Reason;
  readonly detail: string;
}

/** What a call says of who makes it. */
export type CallSubjects = Pick<Call, "caller" | "user" | "via" | "sourceIp" | "scope">;

export const NOT_READY: ExternalRefusal = { reason: "NOT_READY", detail: "no policy or identity yet" };
export const EXPIRED: ExternalRefusal = {
  reason: "IDENTITY_EXPIRED",
  detail: "the own certificate has expired",
};
export const TXN_EXPIRED: ExternalRefusal = {
  reason: "AUTHN_TXN_EXPIRED",
  detail: "the transaction token has expired",
};
export const GONE: ExternalRefusal = {
  reason: "UNKNOWN_DESTINATION",
  detail: "the host is none of the mesh's any more",
};

/** Whether the transaction token that a call goes on with has expired. @param nowMs control plane's time, Unix milliseconds. */
export function isTxnExpired(chain: CallChain | undefined, nowMs: number): boolean {
  return chain?.txn !== undefined && nowMs >= chain.txn.claims.exp * 1_000;
}

/** @returns what of a call's ground is revoked. */
export function revokedBy(
  revocations: Revocations,
  issuedTo: IssuedTo | undefined,
  chain: CallChain | undefined,
): ExternalRefusal | undefined {
  if (issuedTo === undefined || revocations.covers(issuedTo))
    return { reason: "REVOKED", detail: "what this workload was issued is revoked" };
  const txn = chain?.txn;
  return txn !== undefined && revocations.coversTxn(txn.claims)
    ? { reason: "REVOKED", detail: "the user or the session is revoked" }
    : undefined;
}

/** @param nowMs control plane's time, Unix milliseconds. */
export function caveatExpired(chain: CallChain | undefined, nowMs: number): ExternalRefusal | undefined {
  const until = chain?.caveat?.exp;
  return until !== undefined && nowMs >= until * 1_000
    ? { reason: "SCOPE_EXCEEDED", detail: "the caveat of the proof has expired" }
    : undefined;
}

/** Who calls, with ourselves as the caller, if the hops and the caveat of the proof allow it to go on. */
export function subjectsOf(
  caller: Caller,
  chain: CallChain | undefined,
  maxHops: number,
  nowMs: number,
): Result<CallSubjects, ExternalRefusal> {
  // The hops come from a verified proof, whose IDs were parsed (claims.ts).
  const via = (chain?.via ?? []) as readonly ViaHop[];
  const hops = checkChain(via, caller.spiffeId, via.length + 1, maxHops);
  if (!hops.ok)
    return {
      ok: false,
      error: { reason: hops.error, detail: "the call chain is too deep or loops" },
    };
  const expired = caveatExpired(chain, nowMs);
  if (expired !== undefined) return { ok: false, error: expired };
  const txn = chain?.txn;
  const scope = chain?.caveat?.scope;
  const limits = scope === undefined ? undefined : scopeEntries(scope);
  return {
    ok: true,
    value: {
      caller,
      user: txn === undefined ? undefined : userOfTxn(txn),
      via: via.map((hop) => hopOf(hop.s, hop.o)),
      sourceIp: txn?.claims.rctx.reqIp,
      scope: intersectScopes(limits, scopeOfTxn(txn)),
    },
  };
}

/** Why a decision lets nothing through: it denies, or demands what nobody outside can be held to. @param denied in words. */
export function refusalOf(decision: Decision, denied: string): ExternalRefusal | undefined {
  if (!decision.allowed) return { reason: decision.reason, detail: denied };
  const unmet =
    unmetDemand(decision) ?? (decision.audit?.mode === "Required" ? "audit: Required" : undefined);
  return unmet === undefined
    ? undefined
    : { reason: "UNSUPPORTED", detail: `\`${unmet}\` cannot be met for hosts outside the mesh` };
}
