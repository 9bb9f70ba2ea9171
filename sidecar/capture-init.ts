// Entry point of `countersign capture-init`, the init step of a pod: options, outcome, exit status.
import { runProgram } from "./capture/apply.ts";
import { initCapture } from "./capture/init.ts";
import { readKernel } from "./capture/ip-families.ts";
import { captureRules } from "./capture/rules.ts";
import { CAPTURE_INIT_HELP, parseCaptureInit } from "./capture/settings.ts";
import { MeshError, messageOf } from "./core/runtime/errors.ts";
import { createLogger } from "./core/runtime/log.ts";

export interface TextOutput {
  out(text: string): void;
  err(text: string): void;
}

/** Runs the init step; the result is the exit status that its help names. */
export async function runCaptureInit(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  output: TextOutput,
): Promise<0 | 1 | 2 | 3> {
  if (args.includes("--help") || args.includes("-h")) {
    output.out(CAPTURE_INIT_HELP);
    return 0;
  }
  try {
    const config = parseCaptureInit(args, env);
    if (config.print) {
      output.out(`# iptables-restore --noflush\n${captureRules(config, "ipv4")}`);
      output.out(`# ip6tables-restore --noflush\n${captureRules(config, "ipv6")}`);
      return 0;
    }
    const log = createLogger("info", { process: "capture-init" });
    await initCapture(config, config.backends, { run: runProgram, read: readKernel, log });
    return 0;
  } catch (error) {
    output.err(`countersign: ${messageOf(error)}\n`);
    if (!(error instanceof MeshError)) return 3;
    if (error.code === "bad_config") return 2;
    return error.code === "not_ready" ? 1 : 3;
  }
}
