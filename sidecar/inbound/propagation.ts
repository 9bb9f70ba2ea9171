// What the application may do on behalf of a call while it serves it: its own calls with the same trace continue the call's
// chain, and it may show the transaction token that it got.
import { traceIdOf } from "../telemetry/trace.ts";
import { operationLabel } from "./authorize.ts";
import type { CallFacts } from "./call-facts.ts";
import type { InboundServices } from "./services.ts";

/**
 * @param facts of a call that is about to be forwarded.
 * @param nowMs monotonic.
 * @returns the trace id that calls may continue it by until `Correlation.end`; undefined: none.
 */
export function beginPropagation(
  facts: CallFacts,
  services: InboundServices,
  nowMs: number,
): string | undefined {
  const { correlation, state, held, ownUser } = services;
  const { identified, classified, enforcement } = facts;
  if (identified === undefined) return undefined;
  const { txn } = identified;
  if (ownUser !== undefined && txn !== undefined) ownUser.notice(txn, facts.nowMs);
  if (correlation === undefined || classified === undefined) return undefined;
  const isHeld = txn !== undefined && enforcement?.passesTxn === true;
  if (!state.carriesTrace && !isHeld) return undefined;
  const chain = identified.chain(operationLabel(classified));
  if (isHeld) held.deliver(chain);
  if (!state.carriesTrace) return undefined;
  const traceId = traceIdOf(facts.head.traceparent);
  return correlation.begin(traceId, chain, nowMs) ? traceId : undefined;
}
