// PURE. Policies as they hold for a connection whose requests are encrypted end to end: who calls, when, from where and to
// which host can be told, what is asked for cannot.

import type { Call } from "./call.ts";
import { UNDETERMINED } from "./classified.ts";
import type { PolicyRule, ProgramPolicy, WorkloadProgram } from "./rule.ts";

const isOfAny = ({ operations }: PolicyRule): boolean =>
  operations === undefined || operations.some(({ any }) => any === true);

/** Of every rule that asks for operations: which one, does not matter where the operation is undetermined. */
const UNSEEN: PolicyRule["operations"] = [{ op: "unseen" }];

/**
 * The program in which every rule that asks for operations (methods, paths, resources) is an error of three-valued matching:
 * such an Allow allows nothing, and ends its policy, whose later rules may demand less; such a Deny holds for whoever else it
 * is about; such an Audit records. What CEL conditions read of a request is missing in the call (`unseenRequest`): an error too.
 * So nothing is allowed for being encrypted that would be refused in the open.
 */
export function unseenProgram(program: WorkloadProgram): WorkloadProgram {
  return { ...program, policies: program.policies.map(unseenPolicy) };
}

function unseenPolicy(policy: ProgramPolicy): ProgramPolicy {
  if (policy.rules.every(isOfAny)) return policy;
  const rules = policy.rules.map((rule) => (isOfAny(rule) ? rule : { ...rule, operations: UNSEEN }));
  return { ...policy, rules };
}

/** What a call says of requests that nobody can read. @param host name that the connection goes to. */
export function unseenRequest(host: string): Pick<Call, "request" | "operation" | "resource" | "folded"> {
  return {
    request: { method: "", path: "", host, grpc: undefined, mcp: undefined },
    operation: UNDETERMINED,
    resource: { kind: "none" },
    folded: [],
  };
}
