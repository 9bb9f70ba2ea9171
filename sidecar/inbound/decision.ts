// Policy on one call whose facts are complete: the decision, its limits, and whether it can be recorded as it must be.
import type { Call } from "../core/policy/call.ts";
import { type Decision, decide } from "../core/policy/decide.ts";
import { refusalDecision } from "./authorize.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide } from "./caller-side.ts";
import { changeHeaders } from "./header-changes.ts";
import type { LimitedVerdict } from "./problem-answer.ts";
import type { InboundServices } from "./services.ts";

/** `limited` says by which limit it was refused. */
interface DeniedCall {
  readonly decision: Decision;
  readonly limited: LimitedVerdict | undefined;
}

/**
 * Decides and carries out what winning rules demand: header changes, limits, a record that must be possible.
 *
 * @returns why the call is denied; undefined: it is allowed, and `facts.decision` says by what.
 */
export function decideCall(
  facts: CallFacts,
  peer: CallerSide,
  services: InboundServices,
): DeniedCall | undefined {
  const { program, identified, classified, port, head } = facts;
  // Callers come here behind `admit`, which has them all.
  if (program === undefined || identified === undefined || classified === undefined || port === undefined)
    return { decision: refusalDecision("NOT_READY"), limited: undefined };
  const call: Call = {
    caller: identified.caller,
    user: undefined,
    via: identified.via,
    port: port.port,
    request: { ...classified.request, host: head.authority },
    operation: classified.operation,
    resource: classified.resource,
    folded: classified.folded,
    sourceIp: peer.remoteAddress,
    scope: identified.scope,
    nowMs: facts.nowMs,
  };
  facts.call = call;
  const decision = decide(program, call);
  facts.decision = decision;
  const { metrics, limiter, trail } = services;
  if (decision.would !== undefined) {
    const { policy, rule, allowed } = decision.would;
    metrics.dryRun.add(metrics.dryRun.series(policy ?? "", rule ?? "", allowed ? "Allow" : "Deny"));
  }
  if (!decision.allowed) return { decision, limited: undefined };
  if (decision.winners.length > 0) {
    head.lines = changeHeaders(head.lines, decision.winners);
    const admitted = limiter.admit(program, decision, call, facts.nowMs);
    if (!admitted.allowed) {
      const { policy, rule, limit } = admitted;
      metrics.limited.add(metrics.limited.series(policy, rule, limit.key.join("+")));
      return { decision: refusalDecision("RATE_LIMITED", policy, rule), limited: admitted };
    }
  }
  if (decision.audit?.mode === "Required" && !trail.hasRoom) {
    const refused = refusalDecision("AUDIT_UNAVAILABLE", decision.policy, decision.rule);
    return { decision: refused, limited: undefined };
  }
  return undefined;
}
