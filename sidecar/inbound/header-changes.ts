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
 * Field lines after the changes of the winning rules. Of two rules that set a name the first one counts; setting beats
 * removing. What came under a name that only folding tells apart (`x_team`, `x-team`) goes too.
 *
 * @param lines `name: value\r\n`, any number of them.
 */
export function changeHeaders(lines: string, winners: readonly WinningRule[]): string {
  let set: Map<string, string> | undefined;
  let gone: Set<string> | undefined;
  for (const winner of winners) {
    const headers = winner.with?.headers;
    if (headers === undefined) continue;
    set ??= new Map();
    gone ??= new Set();
    for (const name of headers.remove) gone.add(foldFieldName(name));
    for (const [name, value] of headers.set) {
      gone.add(foldFieldName(name));
      if (!set.has(name)) set.set(name, value);
    }
  }
  if (set === undefined || gone === undefined) return lines;
  let changed = "";
  for (const line of lines.split("\r\n")) {
    if (line === "" || gone.has(foldFieldName(line.slice(0, line.indexOf(":"))))) continue;
    changed += `${line}\r\n`;
  }
  for (const [name, value] of set) changed += `${name}: ${value}\r\n`;
  return changed;
}
