// `countersign roles USER`: which roles somebody holds by which binding, and what follows from them: every path to every
// permission, answered by the code that token service and compiler use.
import type { User } from "../../sidecar/core/policy/call.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { createRoleFinder, type HeldRoles } from "../policy/role-subjects.ts";
import { type Permission, permissionsOf } from "../policy/user-permissions.ts";
import { type MeshOptions, withMesh } from "./mesh.ts";
import { counted, EXIT, type ExitStatus, type Output, plain, printJson, printTable } from "./print.ts";
import { type World, worldOfDirectory, worldOfMesh } from "./world.ts";

/** Options as the command line gave them. */
export interface RolesOptions extends MeshOptions {
  readonly configDir?: string;
  readonly group?: readonly string[];
  readonly claim?: readonly string[];
  readonly type?: string;
  /** Also what everybody may do. */
  readonly all?: true;
  readonly json?: true;
}

/**
 * @param who `idp|user`.
 * @returns `EXIT.ok` when the user holds a role or some rule names the user, `EXIT.no` otherwise.
 * @throws MeshError `bad_config` for a user, claim or type that cannot be.
 */
export async function showRoles(who: string, options: RolesOptions, output: Output): Promise<ExitStatus> {
  const { configDir, stateDir, kubeconfig, context } = options;
  if (configDir === undefined)
    return withMesh(options, async (mesh) => printRoles(who, await worldOfMesh(mesh), options, output));
  if (stateDir !== undefined || kubeconfig !== undefined || context !== undefined)
    throw new MeshError(
      "bad_config",
      "give `--config-dir` (policies as files) or a running mesh (`--state-dir`, `--kubeconfig`), not both",
    );
  return printRoles(who, worldOfDirectory(configDir), options, output);
}

function printRoles(who: string, world: World, options: RolesOptions, output: Output): ExitStatus {
  const { compiled } = world;
  const { state } = compiled;
  const idp = who.slice(0, Math.max(0, who.indexOf("|")));
  if (idp === "" || idp.length + 1 === who.length)
    throw new MeshError("bad_config", `\`${who}\` is no user; write \`provider|user\`, in quotes`);
  const type = typeOf(options.type);
  const held = createRoleFinder().rolesOf(
    { idp, userId: who, type, groups: options.group ?? "unknown", claims: claimsOf(options.claim) },
    state,
  );
  const user: User = {
    ...{ id: who, idp, type, roles: held.roles, amr: [] },
    ...{ acr: undefined, authTimeMs: undefined },
  };
  const permissions = permissionsOf(user, compiled).filter(
    ({ because }) => options.all === true || because !== "everybody",
  );
  const status = held.paths.length + permissions.length > 0 ? EXIT.ok : EXIT.no;
  const knownIdp = state.identityProviders.has(idp);
  if (options.json === true) {
    printJson(output, { user: who, knownProvider: knownIdp, ...held, permissions, refused: world.problems });
    return status;
  }
  output.out(`${plain(who)} (${type})\n`);
  if (!knownIdp)
    output.out(`  no IdentityProvider is named \`${plain(idp)}\`: nobody can sign in as this user\n`);
  printHeld(held, options.group !== undefined, output);
  printPermissions(permissions, output);
  if (world.problems.length > 0)
    output.err(
      `${counted(world.problems.length, "problem")}: what is refused was not considered; see \`${world.see}\`\n`,
    );
  return status;
}

function typeOf(text: string | undefined): User["type"] {
  if (text === undefined || text === "person") return "person";
  if (text === "servicePrincipal") return text;
  throw new MeshError("bad_config", `\`--type ${text}\` is none; write \`person\` or \`servicePrincipal\``);
}

/** `name=value` each; a value that is JSON counts as such. */
function claimsOf(list: readonly string[] = []): Readonly<Record<string, unknown>> {
  return Object.fromEntries(
    list.map((text) => {
      const equals = text.indexOf("=");
      if (equals < 1) throw new MeshError("bad_config", `\`--claim ${text}\` is no \`name=value\``);
      return [text.slice(0, equals), jsonOrText(text.slice(equals + 1))];
    }),
  );
}

function jsonOrText(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function printHeld({ paths, unknown }: HeldRoles, groupsGiven: boolean, output: Output): void {
  output.out("\nroles\n");
  if (paths.length === 0) output.out("  none\n");
  else
    printTable(
      output,
      paths.map(({ role, binding, through, namespaces }) => ({
        role: plain(role),
        binding: plain(binding),
        through: plain(through),
        "own rules in": plain(namespaces?.join(", ") ?? ""),
      })),
    );
  if (!groupsGiven && unknown.length > 0)
    output.out(
      `  groups may give besides: ${unknown.map(plain).join(", ")}; the provider knows, say which with \`--group\`\n`,
    );
}

function printPermissions(permissions: readonly Permission[], output: Output): void {
  output.out("\nfollows\n");
  if (permissions.length === 0)
    output.out("  no rule names this user, a role that is held, or users at all\n");
  for (const { action, enforcement, policy, rule, because, targets, operations, conditions } of permissions) {
    const shown = targets.slice(0, 5).join(", ");
    const more = targets.length > 5 ? ` and ${targets.length - 5} more` : "";
    const mode = enforcement === "DryRun" ? " (dry run)" : "";
    output.out(`  ${action}${mode} ${plain(operations.join("; "))}\n`);
    output.out(`    on      ${plain(shown)}${more}\n`);
    output.out(`    by      ${plain(policy)}/${plain(rule)}, because of ${plain(because)}\n`);
    for (const condition of conditions) output.out(`    only    ${plain(condition)}\n`);
  }
}
