// Whether a connection to a host outside the mesh may stand whose TLS is the application's own: by who calls, for whom,
// which host and when. Nothing more can be told, so rules that ask for more are never in its favour.
import { checkChain, scopeEntries } from "../core/identity/chain.ts";
import type { ViaHop } from "../core/identity/claims.ts";
import type { IssuedTo, Revocations } from "../core/identity/revocations.ts";
import type { Call } from "../core/policy/call.ts";
import { hopOf, scopeOfTxn, userOfTxn } from "../core/policy/call-subjects.ts";
import { type Decision, decide } from "../core/policy/decide.ts";
import type { Reason } from "../core/policy/reason.ts";
import { intersectScopes } from "../core/policy/scope.ts";
import { unseenRequest } from "../core/policy/unseen-program.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { type ExternalDestination, type Self, unmetDemand } from "./external.ts";

/** What does not change while the connection stands. */
export interface ConnectionClaim {
  /** Name that the client's TLS asks for, and that is connected to. */
  readonly host: string;
  /** Hops and person that it goes on for; undefined: the workload alone. */
  readonly chain: CallChain | undefined;
  readonly self: Self;
}

export interface ConnectionVerdict {
  /** undefined: it was refused before it could be decided on. */
  readonly call: Call | undefined;
  readonly decision: Decision | undefined;
  /** Why it may not stand; undefined: it may. */
  readonly refused: { readonly reason: Reason; readonly detail: string } | undefined;
}

const refused = (reason: Reason, detail: string): ConnectionVerdict => ({
  call: undefined,
  decision: undefined,
  refused: { reason, detail },
});

/**
 * Decides as the callee's sidecar would (DOMAIN 2.5 V5 to V9), with ourselves as the caller.
 *
 * @param nowMs control plane's time, Unix milliseconds.
 */
export function decideConnection(
  external: ExternalDestination,
  { host, chain, self }: ConnectionClaim,
  revocations: Revocations,
  nowMs: number,
): ConnectionVerdict {
  const txn = chain?.txn;
  const revoked = revokedBy(revocations, self.issuedTo, chain);
  if (revoked !== undefined) return refused("REVOKED", revoked);
  // The hops come from a verified proof, whose IDs were parsed (claims.ts).
  const via = (chain?.via ?? []) as readonly ViaHop[];
  const { caller } = self;
  const hops = checkChain(via, caller.spiffeId, via.length + 1, external.external.program.maxHops);
  if (!hops.ok) return refused(hops.error, "the call chain is too deep or loops");
  const caveat = chain?.caveat;
  if (caveat?.exp !== undefined && nowMs >= caveat.exp * 1_000)
    return refused("SCOPE_EXCEEDED", "the caveat of the proof has expired");
  const limits = caveat?.scope === undefined ? undefined : scopeEntries(caveat.scope);
  const call: Call = {
    ...unseenRequest(host),
    caller,
    user: txn === undefined ? undefined : userOfTxn(txn),
    via: via.map((hop) => hopOf(hop.s, hop.o)),
    port: external.port,
    sourceIp: txn?.claims.rctx.reqIp,
    scope: intersectScopes(limits, scopeOfTxn(txn)),
    nowMs,
  };
  const decision = decide(external.unseen, call);
  return { call, decision, refused: refusalOf(decision) };
}

function refusalOf(decision: Decision): ConnectionVerdict["refused"] {
  if (!decision.allowed)
    return {
      reason: decision.reason,
      detail:
        "policy does not allow this connection to a host outside the mesh: its requests are encrypted by the application, so only rules for any operation allow it",
    };
  const unmet = decision.audit?.mode === "Required" ? "audit: Required" : unmetDemand(decision);
  return unmet === undefined
    ? undefined
    : { reason: "UNSUPPORTED", detail: `\`${unmet}\` cannot be met for hosts outside the mesh` };
}

/** What of its ground is revoked, in words. */
function revokedBy(
  revocations: Revocations,
  issuedTo: IssuedTo | undefined,
  chain: CallChain | undefined,
): string | undefined {
  if (issuedTo === undefined || revocations.covers(issuedTo))
    return "what this workload was issued is revoked";
  const txn = chain?.txn;
  return txn !== undefined && revocations.coversTxn(txn.claims)
    ? "the user or the session is revoked"
    : undefined;
}
