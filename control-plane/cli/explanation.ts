// Puts an explanation of a decision into words, whether it was made here or came from a sidecar.
import { fieldsOf, listOf, textOf } from "./answers.ts";
import { type Output, plain } from "./print.ts";

/** An explanation as far as it is shown; every text may come from another process. */
export interface ShownExplanation {
  readonly allowed: boolean;
  readonly reason: string;
  /** `policy/rule`, or empty when no rule decided. */
  readonly by: string;
  /** What the dry-run policies would have made of it; empty when nothing else. */
  readonly would: string;
  readonly policies: readonly ShownPolicy[];
}

export interface ShownPolicy {
  readonly policy: string;
  readonly action: string;
  readonly enforcement: string;
  readonly source: string;
  readonly rules: readonly { readonly rule: string; readonly outcome: string; readonly why: string }[];
}

/** More policies than this are counted, not shown: those that decided come first. */
const SHOWN_POLICIES = 50;

function ruleName(policy: string, rule: string): string {
  return policy === "" ? "" : rule === "" ? policy : `${policy}/${rule}`;
}

/** Reads an `Explanation` of the engine, or its JSON form. */
export function shownExplanation(value: unknown): ShownExplanation {
  const fields = fieldsOf(value);
  const would = fieldsOf(fields["would"]);
  const wouldBy = ruleName(textOf(would["policy"]), textOf(would["rule"]));
  return {
    allowed: fields["allowed"] === true,
    reason: plain(textOf(fields["reason"])),
    by: plain(ruleName(textOf(fields["policy"]), textOf(fields["rule"]))),
    would:
      would["reason"] === undefined
        ? ""
        : plain(
            `${would["allowed"] === true ? "allowed" : "denied"}: ${textOf(would["reason"])}${wouldBy === "" ? "" : ` by ${wouldBy}`}`,
          ),
    policies: listOf(fields["policies"]).map((policy) => ({
      policy: plain(textOf(policy["policy"])),
      action: plain(textOf(policy["action"])),
      enforcement: plain(textOf(policy["enforcement"])),
      source: plain(textOf(policy["source"])),
      rules: listOf(policy["rules"]).map((rule) => ({
        rule: plain(textOf(rule["rule"])),
        outcome: plain(textOf(rule["outcome"])),
        why: plain(textOf(rule["why"])),
      })),
    })),
  };
}

/** One rule and what became of it. */
export function ruleText(
  action: string,
  rule: { readonly rule: string; readonly outcome: string; readonly why: string },
): string {
  const effect = action === "Deny" ? "denies" : action === "Allow" ? "allows" : "records";
  switch (rule.outcome) {
    case "matched":
      return `${rule.rule}: matches, ${effect}`;
    case "error":
      return action === "Deny"
        ? `${rule.rule}: cannot be told, so it denies: ${rule.why}`
        : `${rule.rule}: cannot be told, so its policy does not apply: ${rule.why}`;
    case "exempt":
      return `${rule.rule}: would match, but ${rule.why}`;
    case "skipped":
      return `${rule.rule}: not looked at: ${rule.why}`;
    default:
      return `${rule.rule}: no match: ${rule.why}`;
  }
}

/** A line per policy and rule; those that decided come first, those that only record come last. */
export function policyLines(explanation: ShownExplanation): string[] {
  const weight = ({ action, rules }: ShownPolicy) => {
    if (action === "Audit") return 3;
    if (rules.some(({ outcome }) => outcome !== "failed" && outcome !== "skipped")) return 0;
    // A call that nothing allows is one about the Allow policies.
    return action === "Allow" ? 1 : 2;
  };
  const policies = explanation.policies
    .map((policy, index) => ({ policy, index }))
    .sort((a, b) => weight(a.policy) - weight(b.policy) || a.index - b.index)
    .map(({ policy }) => policy);
  const lines: string[] = [];
  for (const policy of policies.slice(0, SHOWN_POLICIES)) {
    const mode = policy.enforcement === "DryRun" ? " (dry run)" : "";
    const source = policy.source === "policy" || policy.source === "" ? "" : ` (${policy.source})`;
    lines.push(`${policy.action} ${policy.policy}${mode}${source}`);
    for (const rule of policy.rules) lines.push(`  ${ruleText(policy.action, rule)}`);
  }
  if (policies.length > SHOWN_POLICIES)
    lines.push(
      `… and ${policies.length - SHOWN_POLICIES} more policies that do not match; \`--json\` has all`,
    );
  return lines;
}

export const userText = (user: string): string => (user === "" ? "" : ` for user ${plain(user)}`);

/** Prints `policyLines`, indented. */
export function printPolicies(explanation: ShownExplanation, output: Output): void {
  const lines = policyLines(explanation);
  if (lines.length === 0) output.out("  none\n");
  for (const line of lines) output.out(`  ${line}\n`);
}
