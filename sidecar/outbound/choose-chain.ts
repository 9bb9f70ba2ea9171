// On whose behalf a call of the application goes on: by the token it sends (`forward`, which always wins), by the trace it
// belongs to (`trace`), or as the workload's one user (`session`); else as the workload alone (DOMAIN 2.6).
import { TXN_TOKEN } from "../core/identity/claims.ts";
import { AMBIGUOUS, type CallChain } from "../telemetry/correlation.ts";
import { traceIdOf } from "../telemetry/trace.ts";
import type { Field } from "../wire/field.ts";
import type { CallFacts } from "./call-facts.ts";
import { type OutboundRefusal, refused } from "./locate.ts";
import type { OutboundServices } from "./services.ts";

export interface ChosenChain {
  readonly kind: "chosen";
  /** undefined: the call begins here, on nobody's behalf. */
  readonly chain: CallChain | undefined;
}

/** The token of the workload's user has to be asked for first. */
interface Waiting {
  readonly kind: "waiting";
}

export type ChainChoice = ChosenChain | Waiting | OutboundRefusal;

const NONE: ChosenChain = { kind: "chosen", chain: undefined };
const WAITING: Waiting = { kind: "waiting" };

/** Chooses for one call. Nearly all of them have neither token nor known trace: three comparisons. */
export function chooseChain(facts: CallFacts, services: OutboundServices): ChainChoice {
  const { state, correlation, ownUser } = services;
  const { traceparent, ownTrace, nowMs, startedMs } = facts;
  const found =
    state.carriesTrace && !ownTrace && traceparent !== undefined
      ? correlation?.find(traceIdOf(traceparent), startedMs)
      : undefined;
  if (state.takesTxn) {
    const token = sentToken(facts.head.fields);
    if (token !== undefined) return ofToken(token, found, services, facts);
  }
  if (found === AMBIGUOUS) {
    count(services, "ambiguous");
    return NONE;
  }
  if (found !== undefined) return checked(found, facts);
  return ownUser === undefined ? NONE : ofUser(services, nowMs);
}

/** As the workload's one user, if it has one. */
export function ofUser(services: OutboundServices, nowMs: number): ChosenChain | Waiting {
  const chain = services.ownUser?.chain(nowMs);
  if (chain === "waiting") return WAITING;
  if (chain === "unavailable") {
    count(services, "unavailable");
    return NONE;
  }
  return chain === undefined ? NONE : { kind: "chosen", chain };
}

/** Waits for the token of the workload's user. Never rejects. */
export async function afterWaiting(services: OutboundServices): Promise<CallChain | undefined> {
  const chain = await services.ownUser?.wait();
  if (chain === undefined) count(services, "unavailable");
  return chain;
}

/** `twice` for more than one. Names that only folding tells apart are none: they were never delivered under those. */
function sentToken(fields: readonly Field[]): string | undefined {
  let token: string | undefined;
  for (const field of fields) {
    if (field.name !== TXN_TOKEN) continue;
    if (token !== undefined) return "twice";
    token = field.value;
  }
  return token;
}

function ofToken(
  token: string,
  found: CallChain | undefined,
  { held }: OutboundServices,
  facts: CallFacts,
): ChainChoice {
  if (token === "twice") return refused("AUTHN_TXN_INVALID", "there is more than one Txn-Token field");
  // The trace says best by which way the token came.
  const chain = found?.txn?.token === token ? found : held.find(token);
  return chain === undefined
    ? refused("TXN_NOT_HELD", "this workload never received that transaction token")
    : checked(chain, facts);
}

/** A chain whose token is over would be refused by every callee. */
function checked(chain: CallChain, facts: CallFacts): ChainChoice {
  const { txn } = chain;
  if (txn === undefined || facts.nowMs < txn.claims.exp * 1_000) return { kind: "chosen", chain };
  // The record says whose call it was.
  facts.chain = chain;
  return refused("AUTHN_TXN_EXPIRED", "the transaction that this call belongs to is over");
}

function count({ metrics }: OutboundServices, reason: "ambiguous" | "unavailable"): void {
  metrics.propagationFallbacks.add(metrics.propagationFallbacks.series(reason));
}
