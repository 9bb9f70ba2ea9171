// Obligation `headers` of a rule: fields set and removed on the way to the application. Names that frame a request, carry
// identity, or were classified on are refused with the whole table, so that what was decided on is what is forwarded.
import { foldFieldName, isPolicyField } from "../core/http/headers.ts";
import type { WinningRule } from "../core/policy/decide.ts";
import type { WorkloadProgram } from "../core/policy/rule.ts";

/** What keeps the `headers` obligations of a program from being carried out; undefined: nothing. */
export function headerChangesProblem(program: WorkloadProgram): string | undefined {
  for (const policy of program.policies) {
    for (const rule of policy.rules) {
      const headers = rule.with?.headers;
      if (headers === undefined) continue;
      for (const name of [...headers.set.keys(), ...headers.remove]) {
        if (!isPolicyField(name))
          return `policy \`${policy.id}\`, rule \`${rule.name}\`: field \`${name.slice(0, 64)}\` cannot be changed by a policy`;
      }
      for (const [name, value] of headers.set) {
        // Anything else could end the line, or be read differently by the application.
        if (!/^[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?$/.test(value))
          return `policy \`${policy.id}\`, rule \`${rule.name}\`: the value of \`${name}\` is not visible ASCII`;
      }
    }
  }
  return undefined;
}

/**
 * Field lines without `accept-encoding`: an answer that is paid for by what it says must be readable.
 *
 * @param lines as in `changeHeaders`.
 */
export function withoutEncodings(lines: string): string {
  return lines.replace(/^accept-encoding:[^\r\n]*\r\n/gm, "");
}

/**
 * Field lines after the changes of the winning rules. The first rule that sets or removes a name decides about it (DOMAIN
 * 3.3); inside one rule setting beats removing. What came under a name that only folding tells apart (`x_team`, `x-team`)
 * is the same name.
 *
 * @param lines `name: value\r\n`, any number of them.
 * @param winners in reported order.
 */
export function changeHeaders(lines: string, winners: readonly WinningRule[]): string {
  // By folded name: the line to write, or undefined for a name that goes.
  let changes: Map<string, string | undefined> | undefined;
  for (const winner of winners) {
    const headers = winner.with?.headers;
    if (headers === undefined) continue;
    changes ??= new Map();
    for (const [name, value] of headers.set) {
      const folded = foldFieldName(name);
      if (!changes.has(folded)) changes.set(folded, `${name}: ${value}\r\n`);
    }
    for (const name of headers.remove) {
      const folded = foldFieldName(name);
      if (!changes.has(folded)) changes.set(folded, undefined);
    }
  }
  if (changes === undefined) return lines;
  let changed = "";
  for (const line of lines.split("\r\n")) {
    if (line === "" || changes.has(foldFieldName(line.slice(0, line.indexOf(":"))))) continue;
    changed += `${line}\r\n`;
  }
  for (const line of changes.values()) changed += line ?? "";
  return changed;
}
