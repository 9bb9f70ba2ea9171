#!/usr/bin/env node
// The command line `countersign`: finds the verb and runs it. Verbs that serve are started without loading the others.
// No name that an old Node lacks may be imported here: it could not even say that it is too old.
import * as modules from "node:module";
import { EXIT, type ExitStatus, terminal } from "./print.ts";

/** Runs one command line; `args` without the program's own name. */
async function main(args: readonly string[]): Promise<ExitStatus> {
  const [verb, ...rest] = args;
  if (verb === "sidecar" || verb === "control-plane") {
    const serve = await import("./serve.ts");
    return verb === "sidecar"
      ? serve.runSidecarVerb(rest, terminal)
      : serve.runControlPlaneVerb(rest, terminal);
  }
  if (verb === "capture-init") {
    const { runCaptureInit } = await import("../../sidecar/capture-init.ts");
    return runCaptureInit(rest, process.env, terminal);
  }
  const { runVerb } = await import("./verbs.ts");
  return runVerb(args, terminal);
}

/** As `engines` of package.json says: the Kubernetes client does not load on less. */
function isTooOld(): boolean {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  return major < 22 || (major === 22 && minor < 19);
}

if (isTooOld()) {
  terminal.err(`countersign: Node ${process.versions.node} is too old, 22.19 or newer is needed\n`);
  process.exit(EXIT.usage);
}
modules.enableCompileCache();
// `countersign history | head` closes the pipe before we are done: nobody reads the rest.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit();
});
try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  terminal.err(`countersign: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = EXIT.unreachable;
}
