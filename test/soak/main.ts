// `npm run soak -- --minutes N`: a pair of sidecars under steady load while policies are edited, revisions rolled back
// and certificates rotated every few seconds. Not one request may fail, and memory must stay flat. With `--restarts` ten
// callees are restarted one after the other instead.
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { manage } from "../../control-plane/cli/management-client.ts";
import { runPaced } from "../bench/datapath/load.ts";
import { startOurs } from "../bench/datapath/ours.ts";
import { OPERATIONS, operationPath, startBackend } from "../bench/datapath/peers.ts";
import { median, privateBytes } from "../bench/measure.ts";
import { freePorts } from "../demo/process.ts";
import { runRestarts } from "./restarts.ts";

// What was started ends with us: process.ts and program.ts see to it when this process exits.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(130));

const HELP = `usage: npm run soak -- [--minutes N] [--rate N] [--restarts N]

  --minutes N  how long (default 10)
  --rate N     requests per second (default 2000; 500 with --restarts)
  --restarts N restart each of ten callees N times, one after the other, with 50 streams open; nothing else is done

Needs Debian's nginx-light as the application, and dist/. Exit status 1 when a request failed or memory grew.
`;

const EDIT_EVERY_MS = 3_000;
const ROLLBACK_EVERY_MS = 11_000;
const SLICE_SECONDS = 10;
/** Certificates are renewed at half of this. */
const SVID_TTL = "60s";
/** How much the last quarter's memory may lie above the second quarter's. */
const MAX_GROWTH_BYTES = 12e6;

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    rate: { type: "string" },
    restarts: { type: "string" },
    help: { type: "boolean" },
  },
});
const minutes = Number(values.minutes);
const restarts = Number(values.restarts ?? "0");
const rate = Number(values.rate ?? (restarts > 0 ? "500" : "2000"));
if (values.help === true || !(minutes > 0 && rate > 0)) {
  process.stderr.write(HELP);
  process.exit(values.help === true ? 0 : 2);
}
if (restarts > 0) {
  const report = await runRestarts({
    upstreams: 10,
    rounds: restarts,
    rate,
    streams: 50,
    leavesTable: true,
    onRestart: (done, { requests, streams, failed }) =>
      process.stdout.write(
        `${new Date().toISOString()} restarts ${done} requests ${requests} streams ${streams} failed ${failed}\n`,
      ),
  });
  process.stdout.write(
    `${report.restarts} restarts, ${report.requests} requests, ${report.streams} streams, ${report.failed} failed\n${report.failures.map((one) => `PROBLEM: ${one}\n`).join("")}`,
  );
  process.exit(report.failed === 0 ? 0 : 1);
}

const dir = mkdtempSync(join(tmpdir(), "countersign-soak-"));
const [backendPort = 0] = await freePorts(1);
const backend = await startBackend(dir, backendPort, 1024);
const pair = await startOurs(join(dir, "mesh"), backendPort, "everything", { svidTtl: SVID_TTL });
const stateDir = join(dir, "mesh", "state");
const stopped = new AbortController();
let edits = 0;
let rollbacks = 0;
const problems: string[] = [];

/** Saves the policies with one harmless change, as an editor does. */
function edit(): void {
  const path = join(pair.configDir, "policies.yaml");
  const text = readFileSync(path, "utf8");
  edits += 1;
  const next = text.replace(/^(\s+)- name: r(\d*)$/m, `$1- name: r${edits}`);
  writeFileSync(`${path}.next~`, next);
  renameSync(`${path}.next~`, path);
}

async function repeat(everyMs: number, action: () => Promise<void> | void): Promise<void> {
  while (!stopped.signal.aborted) {
    await delay(everyMs, undefined, { signal: stopped.signal }).catch(() => undefined);
    if (stopped.signal.aborted) return;
    try {
      await action();
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
  }
}

const targets = Array.from({ length: OPERATIONS }, (_, index) => ({
  path: operationPath(index),
  headers: [],
}));
const disturbances = [
  repeat(EDIT_EVERY_MS, edit),
  repeat(ROLLBACK_EVERY_MS, async () => {
    const { revisions } = (await manage(stateDir, "GET", "/v1/history")) as {
      revisions: { sequence: number }[];
    };
    const earlier = revisions
      .map((one) => one.sequence)
      .sort((a, b) => a - b)
      .at(-2);
    if (earlier === undefined) return;
    await manage(stateDir, "POST", "/v1/rollback", { revision: earlier });
    await delay(1500);
    await manage(stateDir, "POST", "/v1/rollback/release", {});
    rollbacks += 1;
  }),
];
const memory: { client: number; server: number; controlPlane: number }[] = [];
let requests = 0;
let failures = 0;
const endMs = performance.now() + minutes * 60_000;
try {
  while (performance.now() < endMs) {
    const load = await runPaced(
      pair.port,
      targets,
      32,
      rate,
      Math.min(SLICE_SECONDS, Math.max(1, Math.ceil((endMs - performance.now()) / 1000))),
    );
    requests += load.requests;
    failures += load.failures;
    const sample = {
      client: privateBytes(pair.clientPid),
      server: privateBytes(pair.serverPid),
      controlPlane: privateBytes(pair.controlPlane.pid),
    };
    memory.push(sample);
    process.stdout.write(
      `${new Date().toISOString()} requests ${requests} failed ${failures} p50 ${load.p50Ms.toFixed(2)} ms p99 ${load.p99Ms.toFixed(2)} ms edits ${edits} rollbacks ${rollbacks} private MB client ${(sample.client / 1e6).toFixed(1)} server ${(sample.server / 1e6).toFixed(1)} control plane ${(sample.controlPlane / 1e6).toFixed(1)}\n`,
    );
  }
} finally {
  stopped.abort();
  await Promise.all(disturbances);
  await pair.stop();
  await backend.stop();
  rmSync(dir, { recursive: true, force: true });
}
const quarter = Math.floor(memory.length / 4);
for (const who of ["client", "server", "controlPlane"] as const) {
  const early = median(memory.slice(quarter, quarter * 2).map((one) => one[who]));
  const late = median(memory.slice(quarter * 3).map((one) => one[who]));
  if (quarter > 0 && late - early > MAX_GROWTH_BYTES)
    problems.push(`${who} grew from ${(early / 1e6).toFixed(1)} to ${(late / 1e6).toFixed(1)} MB`);
}
if (failures > 0) problems.push(`${failures} requests failed`);
if (edits === 0 || rollbacks === 0) problems.push("nothing was edited or rolled back: run longer");
process.stdout.write(
  `${requests} requests, ${failures} failed, ${edits} edits, ${rollbacks} rollbacks\n${problems.map((one) => `PROBLEM: ${one}\n`).join("")}`,
);
process.exitCode = problems.length === 0 ? 0 : 1;
