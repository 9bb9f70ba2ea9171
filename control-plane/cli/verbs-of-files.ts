// Verbs that need no control plane: they read files, and answer with the code that decides in production.
import type { ExplainOptions } from "./explain-call.ts";
import type { MeshOptions } from "./mesh.ts";
import type { RolesOptions } from "./roles.ts";
import { type JsonOption, onCluster, onMesh, positive, type Verbs } from "./verb-options.ts";

type CheckOptions = JsonOption & MeshOptions & { readonly lint?: true; readonly pre?: true };

const collected = (value: string, before: readonly string[] = []): readonly string[] => [...before, value];

/** Adds `check`, `lint`, `explain`, `roles` and `policy`. */
export function addFileVerbs({ program, output, verb, run }: Verbs): void {
  onCluster(
    verb(
      program,
      "check",
      "say whether files would be accepted; without files, whether the cluster is ready for the mesh, or the mesh is well",
      `
With files: reads, validates and compiles as the control plane does. Prints \`error:\` for what would be refused and
\`warning:\` for what is accepted but has no effect or names what is not there, each with file and line.

Without: before installation, can the cluster run Countersign and may you install it; afterwards, is the control plane well, are
its webhooks, certificates and trust bundles in order, which pods, sidecars and policies are not. Each line says what to do.

Exit status 1: something would be refused, or failed.

Examples:
  countersign check policies/
  countersign check --context prod`,
    ),
  )
    .argument("[paths...]", "YAML files, or directories of them")
    .option("--lint", "fail on warnings too, as `countersign lint` does")
    .option("--pre", "look at the cluster as before installation")
    .action(async (paths: string[], options: CheckOptions) => {
      if (paths.length === 0) {
        const { checkCluster } = await import("./cluster-check.ts");
        await run(() => checkCluster(options, output));
        return;
      }
      const { checkPaths } = await import("./check.ts");
      await run(() =>
        checkPaths(paths, { json: options.json === true, lint: options.lint === true }, output),
      );
    });
  onMesh(
    verb(
      program,
      "lint",
      "policies that are valid but probably not meant: in files, or without files in the running mesh",
      `
As check, and warnings count too: for pre-commit hooks and CI. Give the files together: a policy alone is warned about,
because the workloads and roles that it names are not there. Without files the policies in force are held against the
workloads, roles and operations that there are.

Exit status 1: there is an error or a warning.

Examples:
  countersign lint policies/ workloads.yaml
  countersign lint --context prod`,
    ),
  )
    .argument("[paths...]", "YAML files, or directories of them")
    .action(async (paths: string[], options: JsonOption & MeshOptions) => {
      if (paths.length === 0) {
        const [{ withMesh }, { worldOfMesh }, { lintWorld }] = await Promise.all([
          import("./mesh.ts"),
          import("./world.ts"),
          import("./lint-mesh.ts"),
        ]);
        await run(() =>
          withMesh(options, async (mesh) => lintWorld(await worldOfMesh(mesh), options, output)),
        );
        return;
      }
      const { checkPaths } = await import("./check.ts");
      await run(() => checkPaths(paths, { json: options.json === true, lint: true }, output));
    });

  onMesh(
    verb(
      program,
      "explain",
      "say which rule decides a call, or which condition failed",
      `
Two ways. A described call is compiled and decided here with the code of production, from a directory of policies
(--config-dir) or from what is in force in a running mesh; the user has signed in just now with a second factor. A decision id (from a denial or the audit log) is explained by the
sidecar that answered with it (--pod in a cluster, --sidecar on this machine); sidecars keep their last 1000 denials. Exit status 1:
the call is denied.

--from and --to take kind/name, namespace/name, namespace/kind/name, a bare name, pod/namespace/name, external/name (--to), or
plaintext and a SPIFFE ID (--from).

Examples:
  countersign explain --config-dir policies --from job/nightly-score --to serving/fraud-scorer \\
      --request "POST /invocations" --at 2026-09-15T02:10:00+02:00
  countersign explain --from notebook/nb-alice --to serving/llm-chat --request "POST /v1/chat/completions" --context prod
  countersign explain d-7f3a90bc12de4567 --pod fraud-scorer-6c9f-x7k2p -n ml-serving
  countersign explain d-7f3a90bc12de4567 --sidecar /var/lib/countersign/sidecar`,
    ),
  )
    .argument("[decision-id]", "the `decisionId` of a denial")
    .option("--sidecar <dir>", "state directory of the sidecar that answered with this decision id")
    .option("--pod <name>", "pod whose sidecar answered with this decision id")
    .option("-n, --namespace <name>", "namespace of that pod (default: that of the context)")
    .option("--config-dir <dir>", "policies and workloads, for a described call")
    .option("--from <workload>", "who calls, e.g. notebook/nb-alice")
    .option("--to <workload>", "who is called, e.g. serving/fraud-scorer")
    .option("--request <text>", 'method and path, e.g. "POST /invocations", or "MCP tools/call search"')
    .option("--body <json>", "request body, for operations whose resource stands in it")
    .option("--port <n>", "port of the target, when it has several", positive)
    .option("--user <id>", "user on whose behalf")
    .option("--roles <list>", "roles of that user, separated by commas")
    .option("--via <list>", "earlier hops, oldest first, separated by commas")
    .option("--at <time>", "point in time (RFC 3339; default now)")
    .action(
      async (decisionId: string | undefined, options: Omit<ExplainOptions, "json"> & { json?: true }) => {
        const { explain } = await import("./explain.ts");
        await run(() => explain(decisionId, { ...options, json: options.json === true }, output));
      },
    );

  onMesh(
    verb(
      program,
      "roles",
      "which roles a user holds and why, and every path from there to a permission",
      `
From a directory of policies (--config-dir) or what is in force in a running mesh. Roles follow from MeshRoleBindings as the token
service reads them. Groups and claims are known to the identity provider alone: say them to try. What depends on a
call (from where, when, how signed in) is shown as \`only\`. Exit status 1: nothing is meant for this user.

Examples:
  countersign roles "okta-main|alice" --group data-science --config-dir policies
  countersign roles "okta-main|ci" --type servicePrincipal --context prod
  countersign roles "okta-main|alice" --claim department=risk --all`,
    ),
  )
    .argument("<user>", "`provider|user`")
    .option("--config-dir <dir>", "policies and workloads as files")
    .option("--group <name>", "a group that the provider names; may be repeated", collected)
    .option(
      "--claim <name=value>",
      "a claim of the user's token, value as text or JSON; may be repeated",
      collected,
    )
    .option("--type <type>", "`person` (default) or `servicePrincipal`")
    .option("--all", "also what every caller may do")
    .action(async (user: string, options: RolesOptions) => {
      const { showRoles } = await import("./roles.ts");
      await run(() => showRoles(user, options, output));
    });

  const policy = program.command("policy").description("work with policies as tests").exitOverride();
  onMesh(
    verb(
      policy,
      "test",
      "run decision tables; exit status 1 names each vector that differs",
      `
A table is a YAML file with \`world\` (workloads, users, grants, a clock), \`policies\` (objects, or paths from the file) and
\`vectors\` (a call each, and what it must come to). Operations, policies and time are evaluated by the code of production.
Each vector that differs is shown with the first condition that failed. With --json: a line per vector. With --live the policies
in force in the running mesh are tested instead of those of the table.

Examples:
  countersign policy test crds/decisions/fraud-scorer.yaml
  countersign policy test decisions.yaml --live --context prod`,
    ),
  )
    .argument("<files...>", "decision tables")
    .option("--live", "with the policies in force in the running mesh")
    .action(async (files: string[], options: JsonOption & MeshOptions & { live?: true }) => {
      const { testPolicies } = await import("./policy-test.ts");
      const json = options.json === true;
      if (options.live === undefined) {
        await run(() => testPolicies(files, { json }, output));
        return;
      }
      const [{ withMesh }, { worldOfMesh }] = await Promise.all([import("./mesh.ts"), import("./world.ts")]);
      await run(() =>
        withMesh(options, async (mesh) => {
          const { state } = (await worldOfMesh(mesh)).compiled;
          return testPolicies(files, { json, policies: [...state.policies.values()] }, output);
        }),
      );
    });
}
