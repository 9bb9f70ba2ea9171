// `countersign authz`: the policies that bind a workload, and whom they let in.
import { type Bindings, bindingsOf } from "./bindings.ts";
import { EXIT, type ExitStatus, type Output, plain, printJson, printTable } from "./print.ts";
import { workloadNamed } from "./workload-names.ts";
import type { World } from "./world.ts";

const SHOWN = 20;

/**
 * @param name as `workloadNamed` takes it.
 * @throws MeshError `bad_config` for a workload that is not there.
 */
export function showAuthz(
  world: World,
  name: string,
  options: { readonly namespace?: string | undefined; readonly json?: boolean | undefined },
  output: Output,
): ExitStatus {
  const { compiled } = world;
  const [key, workload] = workloadNamed(name, compiled.state, "authz", options.namespace);
  const bindings = bindingsOf(compiled, key, workload);
  if (options.json === true) {
    printJson(output, bindings);
    return EXIT.ok;
  }
  output.out(`${plain(bindings.workload)} (${plain(bindings.spiffeId)})\n`);
  output.out(`  key       ${plain(key)}\n\n`);
  printBindings(bindings, output);
  output.out(
    `\nnext: \`countersign explain --from CALLER --to ${plain(`${workload.kind}/${workload.name}`)} --request "METHOD /path"\` decides one call\n`,
  );
  return EXIT.ok;
}

/** Policies, callers and callees of a workload; also what `describe` shows. */
export function printBindings(bindings: Bindings, output: Output): void {
  const { policies, defaultAction, plaintext, callers, callees, excluded } = bindings;
  output.out(
    `${policies.length === 1 ? "1 policy binds" : `${policies.length} policies bind`} it; what none of them decides is ${defaultAction === "Deny" ? "denied" : "allowed (defaultAction: Allow)"}; callers without mesh identity are ${plaintext === "refused" ? "refused" : "decided on (Permissive)"}\n`,
  );
  if (policies.length > 0) output.out("\n");
  printTable(
    output,
    policies.map(({ policy, action, mode, ports, rules }) => ({
      policy: plain(policy),
      action,
      mode: mode === "Enforce" ? "" : "dry run",
      ports: ports?.join(", ") ?? "",
      rules: plain(rules.join(", ")),
    })),
  );
  if (excluded.length > 0)
    output.out(`\nnot in force:\n${excluded.map((one) => `  ${plain(one)}\n`).join("")}`);
  const some = "as far as policy can tell without user, chain, operation and time";
  output.out(`\nmay be called by (${some}):\n${lines(callers)}`);
  output.out(`\nmay call (${some}):\n${lines(callees)}`);
}

function lines(names: readonly string[]): string {
  if (names.length === 0) return "  nobody\n";
  const shown = names.slice(0, SHOWN).map((name) => `  ${plain(name)}\n`);
  const left = names.length - shown.length;
  return `${shown.join("")}${left > 0 ? `  … and ${left} more; \`--json\` has all\n` : ""}`;
}
