// What the engine answers, and the answers that no rule makes.
import type { Reason } from "./reason.ts";
import { AUDIT_LEVELS, type AuditSetting, type IdentityHeader, type Obligations } from "./rule.ts";

/** An allow rule that won, with what it demands. */
export interface WinningRule {
  readonly policy: string;
  readonly policyName: string;
  readonly rule: string;
  readonly ruleIndex: number;
  readonly with: Obligations | undefined;
}

export interface Decision {
  readonly allowed: boolean;
  readonly reason: Reason;
  /** `name`, or `namespace/name` of a namespaced policy; undefined when no rule decided. */
  readonly policy: string | undefined;
  readonly policyName: string | undefined;
  readonly rule: string | undefined;
  /** Position of the rule in its program, for counters; -1 when no rule decided. */
  readonly ruleIndex: number;
  /**
   * The winning allow rules in reported order: the reported one, and every other that has obligations. Winners that
   * demand nothing are left out, which is what keeps the cost independent of the number of policies.
   */
  readonly winners: readonly WinningRule[];
  /** The highest audit setting of the winners and of matching Audit rules. */
  readonly audit: AuditSetting | undefined;
  readonly identityHeaders: readonly IdentityHeader[];
  /** Set only when the answer would differ if the dry-run policies were enforced. */
  readonly would:
    | undefined
    | {
        readonly allowed: boolean;
        readonly reason: Reason;
        readonly policy: string | undefined;
        readonly rule: string | undefined;
      };
}

const plain = (allowed: boolean, reason: Reason): Decision => ({
  allowed,
  reason,
  policy: undefined,
  policyName: undefined,
  rule: undefined,
  ruleIndex: -1,
  winners: [],
  audit: undefined,
  identityHeaders: [],
  would: undefined,
});

/** Decisions that no rule makes. */
export const FIXED = {
  DEFAULT_ALLOW: plain(true, "DEFAULT_ALLOW"),
  DEFAULT_DENY: plain(false, "DEFAULT_DENY"),
  NO_MATCHING_ALLOW: plain(false, "NO_MATCHING_ALLOW"),
  SCOPE_EXCEEDED: plain(false, "SCOPE_EXCEEDED"),
  CHAIN_TOO_DEEP: plain(false, "CHAIN_TOO_DEEP"),
  CHAIN_LOOP: plain(false, "CHAIN_LOOP"),
} as const;

/** The highest level; of equal levels the denser sample; `Required` as soon as one of them says so. */
export function mergeAudit(
  a: AuditSetting | undefined,
  b: AuditSetting | undefined,
): AuditSetting | undefined {
  if (a === undefined || b === undefined || a === b) return a ?? b;
  const difference = AUDIT_LEVELS.indexOf(a.level) - AUDIT_LEVELS.indexOf(b.level);
  const higher = difference === 0 ? (a.sample >= b.sample ? a : b) : difference > 0 ? a : b;
  const mode = a.mode === "Required" || b.mode === "Required" ? "Required" : "BestEffort";
  return higher.mode === mode ? higher : { ...higher, mode };
}
