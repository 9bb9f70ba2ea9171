// Puts the capture rules of this network namespace in force: chooses the iptables that works, applies, reads back.
import { spawnSync } from "node:child_process";
import { MeshError } from "../core/runtime/errors.ts";
import {
  type CaptureSettings,
  captureRules,
  type IpFamily,
  isCaptureInForce,
  presentJumps,
} from "./rules.ts";

export interface RunResult {
  /** undefined: the program is not there, or did not end in time. */
  readonly status: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}
export type RunProgram = (program: string, args: readonly string[], input: string) => RunResult;

export type Backend = "nft" | "legacy";
export const BACKENDS: readonly Backend[] = ["nft", "legacy"];

const PROGRAM: Readonly<Record<IpFamily, string>> = { ipv4: "iptables", ipv6: "ip6tables" };
const PROGRAM_TIMEOUT_MS = 10_000;

/** Runs one program of the PATH to its end, for at most ten seconds. */
export const runProgram: RunProgram = (program, args, input) => {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    input,
    encoding: "utf8",
    timeout: PROGRAM_TIMEOUT_MS,
  });
  return { status: status ?? undefined, stdout: stdout ?? "", stderr: error?.message ?? stderr ?? "" };
};

/**
 * Applies the rules of one family and reads them back. Rules that one backend already holds stay with it, so that
 * doing it again changes nothing; otherwise nft comes before legacy.
 *
 * @param backends the ones to choose from.
 * @returns the backend that holds the rules.
 * @throws MeshError `io_failed` when none works, with what each said.
 */
export function applyRules(
  settings: CaptureSettings,
  family: IpFamily,
  run: RunProgram,
  backends: readonly Backend[] = BACKENDS,
): Backend {
  const held = backends.filter((backend) => {
    const { output, prerouting } = presentJumps(list(family, backend, run).stdout);
    return output > 0 || prerouting > 0;
  });
  const failures: string[] = [];
  for (const backend of held.length > 0 ? held : backends) {
    const problem = applyWith(settings, family, backend, run);
    if (problem === undefined) return backend;
    failures.push(`${PROGRAM[family]}-${backend}: ${problem}`);
  }
  throw new MeshError(
    "io_failed",
    `cannot capture ${family === "ipv4" ? "IPv4" : "IPv6"}: ${failures.join("; ")}`,
  );
}

function list(family: IpFamily, backend: Backend, run: RunProgram): RunResult {
  return run(`${PROGRAM[family]}-${backend}`, ["-w", "5", "-t", "nat", "-S"], "");
}

function applyWith(
  settings: CaptureSettings,
  family: IpFamily,
  backend: Backend,
  run: RunProgram,
): string | undefined {
  const text = captureRules(settings, family, presentJumps(list(family, backend, run).stdout));
  const applied = run(`${PROGRAM[family]}-${backend}-restore`, ["--noflush", "-w", "5"], text);
  if (applied.status !== 0) return complaintOf(applied);
  const listing = list(family, backend, run);
  if (listing.status !== 0) return complaintOf(listing);
  return isCaptureInForce(listing.stdout) ? undefined : "the rules are not there after they were applied";
}

/** One line of what a program said; programs of this family explain themselves in many. */
function complaintOf({ status, stderr }: RunResult): string {
  const line = stderr
    .split("\n")
    .map((one) => one.trim())
    .find((one) => one !== "" && !one.startsWith("#"));
  const said = (line ?? "no message").replace(/\s+/g, " ").slice(0, 200);
  return status === undefined ? `cannot be run (${said})` : `ended with ${status} (${said})`;
}
