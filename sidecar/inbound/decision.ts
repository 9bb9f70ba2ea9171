// Policy on one call whose facts are complete: the decision, its limits, and whether it can be recorded as it must be.

import type { Call } from "../core/policy/call.ts";
import { type Decision, decide } from "../core/policy/decide.ts";
import { refusalDecision } from "./authorize.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide } from "./caller-side.ts";
import { type DeniedCall, dutiesOf, isModelOperation } from "./duties.ts";
import { changeHeaders, withoutEncodings } from "./header-changes.ts";
import type { InboundServices } from "./services.ts";

/**
 * Decides, and changes header fields as winning rules demand. What else they demand becomes `facts.duties`.
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
    user: identified.user,
    via: identified.via,
    port: port.port,
    // Of bytes the name in the ClientHello, which is looked at before the application gets one of them.
    request: { ...classified.request, host: head.isOpaque ? (head.serverName ?? "") : head.authority },
    operation: classified.operation,
    resource: classified.resource,
    folded: classified.folded,
    sourceIp: identified.sourceIp(peer.remoteAddress),
    scope: identified.scope,
    nowMs: facts.nowMs,
  };
  facts.call = call;
  const decision = decide(program, call);
  facts.decision = decision;
  const { metrics, trail } = services;
  if (decision.would !== undefined) {
    const { policy, rule, allowed } = decision.would;
    metrics.dryRun.add(metrics.dryRun.series(policy ?? "", rule ?? "", allowed ? "Allow" : "Deny"));
  }
  const payload = trail.payload(decision.audit);
  facts.payload = payload;
  if (payload !== undefined) payload.request.fields = head.fields;
  if (!decision.allowed) return { decision, limited: undefined };
  if (decision.winners.length > 0) head.lines = changeHeaders(head.lines, decision.winners);
  const isModel = isModelOperation(call.operation);
  facts.duties = dutiesOf({ facts, peer, services, program, call, decision, payload, isModel });
  if (facts.duties !== undefined && isPaidByTokens(decision)) head.lines = withoutEncodings(head.lines);
  return undefined;
}

const isPaidByTokens = ({ winners }: Decision): boolean =>
  winners.some((winner) => winner.with?.tokenLimit !== undefined);
