// Every verb that answers and ends: their options and help. What each does is in the file of its name.
import { Command, CommanderError, InvalidArgumentError } from "commander";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { EXIT, type ExitStatus, type Output } from "./print.ts";

const DESCRIPTION = `A service mesh for machine-learning platforms: every call is authenticated, decided, countersigned and recorded.`;

const AFTER_HELP = `
Exit status: 0 done or yes; 1 no (problems found, vectors differ, call denied); 2 wrong usage; 3 a file, directory or
control plane cannot be read or reached. \`--json\` prints one JSON document (or a line per row) instead of text.

Examples:
  countersign check policies/                          would a control plane accept this directory?
  countersign policy test tests/decisions.yaml         do the policies decide as this table says?
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
  const verb = (parent: Command, usage: string, description: string) =>
    parent
      .command(usage)
      .description(description)
      .option(...JSON_FLAG)
      .exitOverride()
      .showSuggestionAfterError();

  // Listed for the help only: main.ts runs these two without loading this file.
  program
    .command("control-plane")
    .description("run the control plane; see `countersign control-plane --help`");
  program.command("sidecar").description("run a sidecar; see `countersign sidecar --help`");

  verb(
    program,
    "check <paths...>",
    "say whether a control plane would accept these files and directories, as a whole",
  ).action(async (paths: string[], options: { json?: true }) => {
    status = (await import("./check.ts")).checkPaths(
      paths,
      { json: options.json === true, lint: false },
      output,
    );
  });
  verb(
    program,
    "lint <paths...>",
    "as check, and warn about policies that are valid but probably not meant",
  ).action(async (paths: string[], options: { json?: true }) => {
    status = (await import("./check.ts")).checkPaths(
      paths,
      { json: options.json === true, lint: true },
      output,
    );
  });

  verb(program, "explain [decision-id]", "say which rule decides a call, or which condition failed")
    .option("--sidecar <dir>", "state directory of the sidecar that answered with this decision id")
    .option("--config-dir <dir>", "policies, for a described call")
    .option("--from <kind/name>", "the calling workload, e.g. notebook/nb-alice (or namespace/name)")
    .option("--to <kind/name>", "the called workload, e.g. serving/fraud-scorer (or namespace/name)")
    .option("--request <text>", 'method and path, e.g. "POST /invocations", or "MCP tools/call search"')
    .option("--body <json>", "request body, for operations whose resource stands in it")
    .option("--port <n>", "port of the target, when it has several", positive)
    .option("--user <id>", "user on whose behalf")
    .option("--roles <list>", "roles of that user, separated by commas")
    .option("--at <time>", "point in time (RFC 3339; default now)")
    .action(async (decisionId: string | undefined, options: Record<string, string>) => {
      status = await (await import("./explain.ts")).explain(
        decisionId,
        { ...options, json: "json" in options },
        output,
      );
    });

  const policy = program.command("policy").description("work with policies as files").exitOverride();
  verb(policy, "test <files...>", "run decision tables; exit status 1 names each vector that differs").action(
    async (files: string[], options: { json?: true }) => {
      status = await (await import("./policy-test.ts")).testPolicies(
        files,
        { json: options.json === true },
        output,
      );
    },
  );

  verb(program, "status", "policies and sidecars of a running control plane")
    .requiredOption(...STATE_DIR)
    .action(async (options: { stateDir: string; json?: true }) => {
      status = await (await import("./status.ts")).showStatus(
        options.stateDir,
        options.json === true,
        output,
      );
    });
  verb(program, "history", "revisions, newest first, and what each changed")
    .requiredOption(...STATE_DIR)
    .option("--limit <n>", "how many", positive, 20)
    .action(async (options: { stateDir: string; limit: number; json?: true }) => {
      status = await (await import("./history.ts")).showHistory(
        options.stateDir,
        options.limit,
        options.json === true,
        output,
      );
    });
  verb(program, "diff <from> [to]", "what changed between two revisions (default: until now)")
    .requiredOption(...STATE_DIR)
    .action(async (from: string, to: string | undefined, options: { stateDir: string; json?: true }) => {
      status = await (await import("./history.ts")).showDiff(
        options.stateDir,
        positive(from),
        to === undefined ? undefined : positive(to),
        options.json === true,
        output,
      );
    });
  verb(program, "rollback [revision]", "publish an earlier revision's policies and pin the mesh to it")
    .requiredOption(...STATE_DIR)
    .option("--release", "end the pin: what the directory says is in force again")
    .action(
      async (revision: string | undefined, options: { stateDir: string; release?: true; json?: true }) => {
        if ((revision === undefined) === (options.release === undefined))
          throw new MeshError(
            "bad_config",
            "name a revision, or give `--release`; see `countersign history`",
          );
        status = await (await import("./history.ts")).rollback(
          options.stateDir,
          revision === undefined ? "release" : positive(revision),
          options.json === true,
          output,
        );
      },
    );

  const identity = program.command("identity").description("identities of workloads").exitOverride();
  verb(identity, "export <namespace/name>", "write an SVID for a client without a sidecar, such as curl")
    .requiredOption(...STATE_DIR)
    .requiredOption("--out <dir>", "folder for svid.pem, key.pem and bundle.pem (made with mode 0700)")
    .option("--ttl-seconds <n>", "lifetime", positive, 3600)
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
    "join-token <namespace/name>",
    "make a one-time token with which a sidecar gets its first identity",
  )
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
