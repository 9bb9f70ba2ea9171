// PURE. Which counter a call falls under: the value of a limit's key parts, bounded in length.
import { hash } from "node:crypto";
import type { Call } from "../core/policy/call.ts";
import { namedRoles } from "../core/policy/role-label.ts";
import type { LimitKey } from "../core/policy/rule.ts";

/** Value of one key part; a missing user falls back to the workload, so that dropping a token gains nothing. */
function partOf(key: LimitKey, target: string, call: Call): string {
  switch (key) {
    case "user":
      return call.user === undefined ? `w:${call.caller.spiffeId}` : `u:${call.user.id}`;
    case "role":
      return call.user === undefined
        ? `w:${call.caller.spiffeId}`
        : `r:${[...namedRoles(call.user.roles)].sort().join(",")}`;
    case "workload":
      return `w:${call.caller.spiffeId}`;
    case "namespace":
      return `n:${call.caller.trustDomain}/${call.caller.namespace}`;
    case "target":
      return `t:${target}`;
    case "resource":
      return call.resource.kind === "known"
        ? `k:${call.resource.type}:${call.resource.value}`
        : `k:${call.resource.kind}`;
  }
}

/** A resource may be 8 KiB of path: what is longer than this is kept as its digest, so that counters have a size. */
const MAX_KEY_LENGTH = 256;

/** @param target id of the program that decided. */
export function counterKey(parts: readonly LimitKey[], target: string, call: Call): string {
  const key = JSON.stringify(parts.map((part) => partOf(part, target, call)));
  return key.length <= MAX_KEY_LENGTH ? key : hash("sha256", key, "base64url");
}
