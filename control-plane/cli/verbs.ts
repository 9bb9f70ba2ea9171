// Every verb that answers and ends: their options and help. What each does is in the file of its name.
import { Command, CommanderError, InvalidArgumentError } from "commander";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { ExplainOptions } from "./explain-call.ts";
import { EXIT, type ExitStatus, type Output } from "./print.ts";

const DESCRIPTION = `A service mesh for machine-learning platforms: every call is authenticated, decided, countersigned and recorded.`;

const AFTER_HELP = `
Exit status: 0 done or yes; 1 no (problems found, vectors differ, call denied, refused); 2 wrong usage; 3 a file, directory or
control plane cannot be read or reached. \`--json\` prints one JSON document (or a line per row) instead of text.

Examples:
  countersign check policies/                          would a control plane accept this directory?
  countersign policy test decisions.yaml               do the policies decide as this table says?
  countersign explain --config-dir policies --from notebook/nb-1 --to serving/scorer --request "POST /invocations"
  countersign status --state-dir /var/lib/countersign  which policies are in force, in how many sidecars?
  countersign rollback 41 --state-dir /var/lib/countersign
`;

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError("expected a positive whole number.");
  return value;
}

function workloadId(text: string): string {
  if (!/^[^/]+\/[^/]+$/.test(text))
    throw new InvalidArgumentError("expected namespace/name, for example ml-dev/nb-alice.");
  return text;
}

const STATE_DIR = ["--state-dir <dir>", "state directory of the control plane"] as const;
const JSON_FLAG = ["--json", "print JSON"] as const;

/** Parses and runs one command line that is not `sidecar` or `control-plane`. */
export async function runVerb(args: readonly string[], output: Output): Promise<ExitStatus> {
  let status: ExitStatus = EXIT.ok;
  const program = new Command("countersign");
  program
    .description(DESCRIPTION)
    .addHelpText("after", AFTER_HELP)
    .exitOverride()
    .showSuggestionAfterError()
    .configureOutput({ writeOut: (text) => output.out(text), writeErr: (text) => output.err(text) });
  /** A verb, with what all verbs share. */
  const verb = (parent: Command, name: string, description: string, more: string) =>
    parent
      .command(name)
      .description(description)
      .addHelpText("after", more)
      .option(...JSON_FLAG)
      .exitOverride()
      .showSuggestionAfterError();

  // Listed for the help only: main.ts runs these three without loading this file.
  program
    .command("control-plane")
    .description("run the control plane; see `countersign control-plane --help`");
  program.command("sidecar").description("run a sidecar; see `countersign sidecar --help`");
  program
    .command("capture-init")
    .description("redirect the traffic of a pod to its sidecar; see `countersign capture-init --help`");

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
    .action(async (paths: string[], options: { json?: true; lint?: true }) => {
      const { checkPaths } = await import("./check.ts");
      status = checkPaths(paths, { json: options.json === true, lint: options.lint === true }, output);
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
    .action(async (paths: string[], options: { json?: true }) => {
      const { checkPaths } = await import("./check.ts");
      status = checkPaths(paths, { json: options.json === true, lint: true }, output);
    });

  verb(
    program,
    "explain",
    "say which rule decides a call, or which condition failed",
    `
Two ways. A described call is compiled and decided here, from a directory of policies, with the code of production; the
user has signed in just now with a second factor. A decision id (from a denial or the audit log) is explained by the
sidecar that answered with it; sidecars keep their last 1000 denials. Exit status 1: the call is denied.

--from and --to take kind/name, namespace/name, a bare name, external/name (--to), or plaintext and a SPIFFE ID (--from).

Examples:
  countersign explain --config-dir policies --from job/nightly-score --to serving/fraud-scorer \\
      --request "POST /invocations" --at 2026-09-15T02:10:00+02:00
  countersign explain d-7f3a90bc12de4567 --sidecar /var/lib/countersign/sidecar`,
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
        status = await explain(decisionId, { ...options, json: options.json === true }, output);
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
    .action(async (files: string[], options: { json?: true }) => {
      const { testPolicies } = await import("./policy-test.ts");
      status = testPolicies(files, { json: options.json === true }, output);
    });

  verb(
    program,
    "status",
    "policies and sidecars of a running control plane",
    `
First line: the revision, and whether the mesh is pinned to an earlier one. Then the policies (in how many of their
targets' connected sidecars they are in force), the sidecars, and what is wrong with the configuration, with file and line.

Example: countersign status --state-dir /var/lib/countersign`,
  )
    .requiredOption(...STATE_DIR)
    .action(async (options: { stateDir: string; json?: true }) => {
      const { showStatus } = await import("./status.ts");
      status = await showStatus(options.stateDir, options.json === true, output);
    });
  verb(
    program,
    "history",
    "revisions, newest first, and what each changed",
    `
\`+\` added, \`~\` changed, \`-\` removed. A revision that was recorded while the mesh was pinned is "recorded only".

Example: countersign history --state-dir /var/lib/countersign --limit 5`,
  )
    .requiredOption(...STATE_DIR)
    .option("--limit <n>", "how many", positive, 20)
    .action(async (options: { stateDir: string; limit: number; json?: true }) => {
      const { showHistory } = await import("./history.ts");
      status = await showHistory(options.stateDir, options.limit, options.json === true, output);
    });
  verb(
    program,
    "diff",
    "what changed between two revisions: objects, then their fields",
    `
Example: countersign diff 41 43 --state-dir /var/lib/countersign`,
  )
    .argument("<from>", "the earlier revision", positive)
    .argument("[to]", "the later revision (default: the newest)", positive)
    .requiredOption(...STATE_DIR)
    .action(async (from: number, to: number | undefined, options: { stateDir: string; json?: true }) => {
      const { showDiff } = await import("./history.ts");
      status = await showDiff(options.stateDir, from, to, options.json === true, output);
    });
  verb(
    program,
    "rollback",
    "publish an earlier revision again and pin the mesh to it, until --release",
    `
Policies, roles, external services and settings become those of the revision; each sidecar applies them whole or not at
all. Trust bundles, revocations and grants are never rolled back. Waits up to 5 s for the sidecars and says how many have it.

Examples:
  countersign rollback 41 --state-dir /var/lib/countersign
  countersign rollback --release --state-dir /var/lib/countersign`,
  )
    .argument("[revision]", "a revision of `countersign history`", positive)
    .requiredOption(...STATE_DIR)
    .option("--release", "end the pin: what the directory says is in force again")
    .action(
      async (revision: number | undefined, options: { stateDir: string; release?: true; json?: true }) => {
        if ((revision === undefined) === (options.release === undefined))
          throw new MeshError(
            "bad_config",
            "name a revision, or give `--release`; see `countersign history`",
          );
        const { rollback } = await import("./history.ts");
        status = await rollback(options.stateDir, revision ?? "release", options.json === true, output);
      },
    );

  const identity = program.command("identity").description("identities of workloads").exitOverride();
  verb(
    identity,
    "export",
    "write an SVID for a client without a sidecar, such as curl",
    `
The workload must be declared. Whoever has the key is the workload until the certificate ends: keep it as a secret.
Replaces files of an earlier export. Prints a curl command that uses them.

Example: countersign identity export ml-dev/nb-alice --out id --state-dir /var/lib/countersign`,
  )
    .argument("<workload>", "namespace/name", workloadId)
    .requiredOption(...STATE_DIR)
    .requiredOption("--out <dir>", "folder for svid.pem, key.pem and bundle.pem (made with mode 0700)")
    .option("--ttl-seconds <n>", "lifetime, at most 86400", positive, 3600)
    .action(
      async (
        workload: string,
        options: { stateDir: string; out: string; ttlSeconds: number; json?: true },
      ) => {
        status = await (await import("./identity.ts")).exportIdentity(workload, options, output);
      },
    );
  verb(
    identity,
    "join-token",
    "make a one-time token with which a sidecar gets its first identity",
    `
Prints the token alone on standard output. It carries the fingerprint of the mesh's root, so that the sidecar knows whom to trust.

Example: (umask 077; countersign identity join-token ml-dev/nb-alice --state-dir /var/lib/countersign > token)`,
  )
    .argument("<workload>", "namespace/name", workloadId)
    .requiredOption(...STATE_DIR)
    .option("--ttl-seconds <n>", "lifetime", positive, 600)
    .action(async (workload: string, options: { stateDir: string; ttlSeconds: number; json?: true }) => {
      status = await (await import("./identity.ts")).createToken(workload, options, output);
    });

  try {
    if (args.length === 0) {
      output.out(program.helpInformation() + AFTER_HELP);
      return EXIT.usage;
    }
    await program.parseAsync([...args], { from: "user" });
    return status;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    output.err(`countersign: ${messageOf(error)}\n`);
    if (!(error instanceof MeshError)) return EXIT.unreachable;
    if (error.code === "bad_config") return EXIT.usage;
    return error.code === "bad_object" ? EXIT.no : EXIT.unreachable;
  }
}
