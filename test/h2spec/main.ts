// Runs h2spec (github.com/summerwind/h2spec) against an HTTP/2 port: `--codec` makes a server from our codec on
// loopback, `--target host:port` takes any other plaintext port, such as a local forwarder to a sidecar's mesh port.
import { execFile, spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { createCodecServer } from "./codec-server.ts";

const MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";
const INSTALL_TIMEOUT_MS = 300_000;
const RUN_TIMEOUT_MS = 240_000;

export interface H2specSummary {
  readonly tests: number;
  readonly passed: number;
  readonly skipped: number;
  readonly failed: number;
  readonly output: string;
}

/** Path of the h2spec binary; built with `go install` into the user's cache at the first call. */
export async function installH2spec(): Promise<string> {
  const base = process.env["XDG_CACHE_HOME"] ?? path.join(homedir(), ".cache");
  const folder = path.join(base, "countersign", "h2spec");
  const binary = path.join(folder, "h2spec");
  if (existsSync(binary)) return binary;
  mkdirSync(folder, { recursive: true });
  const env = { ...process.env, GOBIN: folder };
  await promisify(execFile)("go", ["install", MODULE], { env, timeout: INSTALL_TIMEOUT_MS });
  return binary;
}

/** Runs the whole suite (generic, HTTP/2, HPACK) against a plaintext port that answers `GET /` and `POST /`. */
export async function runH2spec(
  binary: string,
  host: string,
  port: number,
  extra: readonly string[] = [],
): Promise<H2specSummary> {
  const args = ["-h", host, "-p", String(port), "-o", "10", ...extra];
  const child = spawn(binary, args, { timeout: RUN_TIMEOUT_MS, stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  await new Promise((resolve, reject) => child.on("close", resolve).on("error", reject));
  const found = /(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed/.exec(output);
  const [tests = 0, passed = 0, skipped = 0, failed = 0] = found?.slice(1).map(Number) ?? [];
  return { tests, passed, skipped, failed, output };
}

const HELP = `usage: npm run h2spec -- [--codec | --mesh-port | --target HOST:PORT]

  --codec              our codec on a loopback port, plaintext
  --mesh-port          a sidecar's mesh port through mutual TLS (needs Debian's haproxy)
  --target HOST:PORT   any other plaintext HTTP/2 port

Without an option: codec and mesh port. Needs Go for the first run. Exit status 1 when a case fails or is skipped.
`;

async function main(args: readonly string[]): Promise<number> {
  if (args.includes("--help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const binary = await installH2spec();
  const target = args[args.indexOf("--target") + 1];
  const summaries: [string, H2specSummary][] = [];
  if (args.includes("--target") && target !== undefined) {
    const colon = target.lastIndexOf(":");
    summaries.push([
      target,
      await runH2spec(binary, target.slice(0, colon), Number(target.slice(colon + 1))),
    ]);
  } else {
    if (!args.includes("--mesh-port")) {
      const server = await createCodecServer();
      summaries.push(["codec", await runH2spec(binary, "127.0.0.1", server.port)]);
      await server.close();
    }
    if (!args.includes("--codec")) {
      const { startForwardedMeshPort } = await import("./mesh-port.ts");
      const forwarded = await startForwardedMeshPort();
      summaries.push(["mesh port", await runH2spec(binary, "127.0.0.1", forwarded.port)]);
      await forwarded.close();
    }
  }
  let ok = summaries.length > 0;
  for (const [name, summary] of summaries) {
    const passed = summary.tests > 0 && summary.failed === 0 && summary.skipped === 0;
    ok &&= passed;
    process.stdout.write(
      `${passed ? "" : summary.output}\n${name}: ${summary.tests} cases, ${summary.passed} passed, ${summary.skipped} skipped, ${summary.failed} failed\n`,
    );
  }
  return ok ? 0 : 1;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exitCode = await main(process.argv.slice(2));
}
