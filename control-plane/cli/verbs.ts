// Every verb that answers and ends: parses one command line and turns errors into an exit status. The verbs are listed in
// verbs-of-*.ts; what each does is in the file of its name.
import { Command, CommanderError } from "commander";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { SOFTWARE_VERSION } from "../version.ts";
import { EXIT, type ExitStatus, type Output } from "./print.ts";
import type { Verbs } from "./verb-options.ts";
import { addAuthorityVerbs } from "./verbs-of-authority.ts";
import { addClusterVerbs } from "./verbs-of-cluster.ts";
import { addFileVerbs } from "./verbs-of-files.ts";
import { addInjectionVerbs } from "./verbs-of-injection.ts";
import { addMeshVerbs } from "./verbs-of-mesh.ts";
import { addPeopleVerbs } from "./verbs-of-people.ts";

const DESCRIPTION = `A service mesh for machine-learning platforms: every call is authenticated, decided, countersigned and recorded.`;

const AFTER_HELP = `
Exit status: 0 done or yes; 1 no (problems found, vectors differ, call denied, refused); 2 wrong usage; 3 a file, directory,
cluster or control plane cannot be read or reached. \`--json\` prints one JSON document (or a line per row) instead of text.

A running mesh is found through the kubeconfig (--kubeconfig, --context; as kubectl does), or with --state-dir on this
machine. Also as \`kubectl countersign\` where \`kubectl-countersign\` is on the PATH.

Examples:
  countersign check                                    is the cluster ready for, or well with, Countersign?
  countersign check policies/                          would a control plane accept this directory?
  countersign policy test decisions.yaml               do the policies decide as this table says?
  countersign describe pod nb-alice-0 -n ml-dev        is it meshed, who is it, which policies bind it?
  countersign explain --config-dir policies --from notebook/nb-1 --to serving/scorer --request "POST /invocations"
  countersign status                                   which policies are in force, in how many sidecars?
  countersign rollback 41 --state-dir /var/lib/countersign
`;

/** Parses and runs one command line that is not `sidecar` or `control-plane`. */
export async function runVerb(args: readonly string[], output: Output): Promise<ExitStatus> {
  let status: ExitStatus = EXIT.ok;
  const program = new Command("countersign");
  program
    .description(DESCRIPTION)
    .version(SOFTWARE_VERSION, "--version", "print the version of this program")
    .addHelpText("after", AFTER_HELP)
    .exitOverride()
    .showSuggestionAfterError()
    .configureOutput({ writeOut: (text) => output.out(text), writeErr: (text) => output.err(text) });

  // Listed for the help only: main.ts runs these three without loading this file.
  program
    .command("control-plane")
    .description("run the control plane; see `countersign control-plane --help`");
  program.command("sidecar").description("run a sidecar; see `countersign sidecar --help`");
  program
    .command("capture-init")
    .description("redirect the traffic of a pod to its sidecar; see `countersign capture-init --help`");

  const verbs: Verbs = {
    program,
    output,
    verb: (parent, name, description, more) =>
      parent
        .command(name)
        .description(description)
        .addHelpText("after", more)
        .option("--json", "print JSON")
        .exitOverride()
        .showSuggestionAfterError(),
    run: async (work) => {
      status = await work();
    },
  };
  addFileVerbs(verbs);
  addClusterVerbs(verbs);
  addInjectionVerbs(verbs);
  addMeshVerbs(verbs);
  addAuthorityVerbs(verbs);
  addPeopleVerbs(verbs);

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
