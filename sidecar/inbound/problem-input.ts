// What callers are told of a call that is not carried out, in whatever form they are told it.
import type { ProblemInput } from "../core/http/problem.ts";
import type { Reason } from "../core/policy/reason.ts";
import { nameOf, operationLabel } from "./authorize.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide } from "./caller-side.ts";

/** @param facts with the decision id and the error. */
export function problemInput(facts: CallFacts, peer: CallerSide, reason: Reason): ProblemInput {
  const explains = facts.enforcement?.table.settings.explainDenials === true;
  const caller = facts.identified?.caller ?? peer.byConnection(facts.nowMs)?.caller;
  return {
    reason,
    operation: facts.classified === undefined ? undefined : operationLabel(facts.classified),
    target: facts.enforcement?.target,
    caller: caller === undefined ? undefined : nameOf(caller),
    decisionId: facts.decisionId,
    txn: facts.identified?.txn?.claims.txn,
    detail: facts.error,
    policy: explains ? facts.decision?.policy : undefined,
    rule: explains ? facts.decision?.rule : undefined,
  };
}
