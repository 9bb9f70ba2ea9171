// What a request is kept together with others by, as the consistent hash of its service says.
import { hash32 } from "../balance/pick.ts";
import { joinedField } from "../core/http/headers.ts";
import type { LoadBalancing } from "../core/traffic/traffic.ts";
import type { CallFacts } from "./call-facts.ts";

/**
 * @param pod name of this pod or machine: what the address of its calls stands for, seen from the callee.
 * @returns undefined: nothing keeps it together with others, so load alone decides. So do a header that is not there and
 *   a call on nobody's behalf.
 */
export function hashKeyOf(lb: LoadBalancing, facts: CallFacts, pod: string): number | undefined {
  if (lb.kind !== "consistentHash") return undefined;
  switch (lb.key.by) {
    case "header": {
      const value = joinedField(facts.head.fields, lb.key.name);
      return value === undefined ? undefined : hash32(value);
    }
    case "workload":
      return hash32(facts.destination?.callerSpiffeId ?? "");
    case "sourceIp":
      return hash32(pod);
    case "user": {
      const user = facts.chain?.txn?.claims.sub;
      return user === undefined ? undefined : hash32(user);
    }
  }
}
