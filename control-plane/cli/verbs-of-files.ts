// Verbs that need no control plane: they read files, and answer with the code that decides in production.
import type { ExplainOptions } from "./explain-call.ts";
import { type JsonOption, onMesh, positive, type Verbs } from "./verb-options.ts";

/** Adds `check`, `lint`, `explain` and `policy`. */
export function addFileVerbs({ program, output, verb, run }: Verbs): void {
  verb(
    program,
    "check",
    "say whether a control plane would accept these files and directories, as a whole",
    `
Reads, validates and compiles as the control plane does. Prints \`error:\` for what would be refused and \`warning:\` for
what is accepted but has no effect or names what is not there, each with file and line. Exit status 1: something would be refused.

Example: countersign check policies/`,
  )
    .argument("<paths...>", "YAML files, or directories of them")
    .option("--lint", "fail on warnings too, as `countersign lint` does")
    .action(async (paths: string[], options: JsonOption & { lint?: true }) => {
      const { checkPaths } = await import("./check.ts");
      await run(() =>
        checkPaths(paths, { json: options.json === true, lint: options.lint === true }, output),
      );
    });
  verb(
    program,
    "lint",
    "as check, and warnings count too: policies that are valid but probably not meant",
    `
For pre-commit hooks and CI. Exit status 1: there is an error or a warning. Give the files together: a policy alone is
warned about, because the workloads and roles that it names are not there.

Example: countersign lint policies/ workloads.yaml`,
  )
    .argument("<paths...>", "YAML files, or directories of them")
    .action(async (paths: string[], options: JsonOption) => {
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
sidecar that answered with it; sidecars keep their last 1000 denials. Exit status 1: the call is denied.

--from and --to take kind/name, namespace/name, namespace/kind/name, a bare name, pod/namespace/name, external/name (--to), or
plaintext and a SPIFFE ID (--from).

Examples:
  countersign explain --config-dir policies --from job/nightly-score --to serving/fraud-scorer \\
      --request "POST /invocations" --at 2026-09-15T02:10:00+02:00
  countersign explain --from notebook/nb-alice --to serving/llm-chat --request "POST /v1/chat/completions" --context prod
  countersign explain d-7f3a90bc12de4567 --sidecar /var/lib/countersign/sidecar`,
    ),
  )
    .argument("[decision-id]", "the `decisionId` of a denial")
    .option("--sidecar <dir>", "state directory of the sidecar that answered with this decision id")
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

  const policy = program.command("policy").description("work with policies as files").exitOverride();
  verb(
    policy,
    "test",
    "run decision tables; exit status 1 names each vector that differs",
    `
A table is a YAML file with \`world\` (workloads, users, grants, a clock), \`policies\` (objects, or paths from the file) and
\`vectors\` (a call each, and what it must come to). Operations, policies and time are evaluated by the code of production.
Each vector that differs is shown with the first condition that failed. With --json: a line per vector.

Example: countersign policy test crds/decisions/fraud-scorer.yaml`,
  )
    .argument("<files...>", "decision tables")
    .action(async (files: string[], options: JsonOption) => {
      const { testPolicies } = await import("./policy-test.ts");
      await run(() => testPolicies(files, { json: options.json === true }, output));
    });
}
