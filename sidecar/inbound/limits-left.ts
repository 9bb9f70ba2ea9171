// PURE. What is left of every limit for the caller that has least of it, as the metrics show it.
import type { LimitKind } from "../balance/limit-counters.ts";
import type { LimitKey, ProgramPolicy } from "../core/policy/rule.ts";

/**
 * @param policies of the table in force; a limit that nobody has used is whole.
 * @param counters policy, rule, kind, and what is left for one caller, in [0, 1].
 * @returns labels (policy, rule, what it is counted by) and what is left.
 */
export function limitsLeft(
  policies: readonly ProgramPolicy[],
  counters: Iterable<readonly [policy: string, rule: string, kind: LimitKind, left: number]>,
): readonly (readonly [readonly string[], number])[] {
  const least = new Map<string, { readonly labels: readonly string[]; left: number }>();
  const add = (policy: string, rule: string, kind: LimitKind, key: readonly LimitKey[] | undefined): void => {
    if (key === undefined) return;
    const keyType = key.join("+");
    const labels = [policy, rule, kind === "tokens" ? `${keyType}-tokens` : keyType];
    least.set(JSON.stringify([policy, rule, kind]), { labels, left: 1 });
  };
  for (const policy of policies)
    for (const { name, with: demands } of policy.rules) {
      add(policy.id, name, "requests", demands?.rateLimit?.key);
      add(policy.id, name, "tokens", demands?.tokenLimit?.key);
    }
  for (const [policy, rule, kind, left] of counters) {
    const found = least.get(JSON.stringify([policy, rule, kind]));
    if (found !== undefined) found.left = Math.min(found.left, left);
  }
  return [...least.values()].map(({ labels, left }) => [labels, left] as const);
}
