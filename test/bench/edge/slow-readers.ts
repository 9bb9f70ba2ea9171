// A thousand callers that ask for 100 MB each and hardly read: what the sidecars hold for them, and what other callers of
// the same pair notice of it.
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePorts, type RunningProcess, startProgram as startProcess } from "../../demo/process.ts";
import { runPaced } from "../datapath/load.ts";
import { type OwnPair, startOurs } from "../datapath/ours.ts";
import { operationPath } from "../datapath/peers.ts";
import { type ProgramProcess, startProgram } from "../datapath/program.ts";
import { atMost, type BenchRow, median, privateBytes, row } from "../measure.ts";

const READERS = 1_000;
const BODY_BYTES = 100_000_000;
const MIB = 1024 * 1024;
const SMALL = operationPath(0);
const LARGE = operationPath(1);
/** Requests of the others. */
const PER_SECOND = 200;
const SECONDS = 10;
const ROUNDS = 3;
const SETTLE_MS = 8_000;

/** nginx with a file of 100 MB, and small send buffers: what waits is held by the sidecars, not by the kernel. */
function startApplication(dir: string, port: number): Promise<ProgramProcess> {
  const files = join(dir, "files");
  mkdirSync(join(files, dirname(LARGE)), { recursive: true });
  writeFileSync(join(files, LARGE), "");
  truncateSync(join(files, LARGE), BODY_BYTES);
  const configuration = join(dir, "application.conf");
  writeFileSync(
    configuration,
    `worker_processes 1; daemon off; master_process off; pid ${dir}/application.pid; error_log ${dir}/application.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 1000s; send_timeout 1000s;
  server { listen 127.0.0.1:${port} backlog=4096 sndbuf=16k; root ${files};
    location = ${SMALL} { default_type application/json; return 200 "${"x".repeat(1_024)}"; } } }
`,
  );
  return startProgram("nginx", ["-p", dir, "-c", configuration], port);
}

/** One thing measured on both pairs at once: whatever else the machine does slows both. */
interface Both {
  readonly beside: number;
  readonly alone: number;
}

/** Requests of others to both pairs at the same time. @returns their p99, ms. */
async function others(beside: OwnPair, alone: OwnPair): Promise<Both> {
  const [one, two] = await Promise.all(
    [beside, alone].map(({ port }) =>
      runPaced(port, [{ path: SMALL, headers: [] }], 16, PER_SECOND, SECONDS),
    ),
  );
  const failures = (one?.failures ?? 0) + (two?.failures ?? 0);
  if (failures > 0) throw new Error(`${failures} requests of the others failed`);
  return { beside: one?.p99Ms ?? Number.NaN, alone: two?.p99Ms ?? Number.NaN };
}

const show = (rounds: readonly Both[]): string =>
  rounds.map(({ beside, alone }) => `${beside.toFixed(1)} / ${alone.toFixed(1)}`).join(", ");

export async function benchSlowReaders(say: (text: string) => void): Promise<BenchRow[]> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-slow-"));
  const [port = 0] = await freePorts(1);
  const application = await startApplication(dir, port);
  const pair = await startOurs(join(dir, "ours"), port, "parity");
  const unburdened = await startOurs(join(dir, "unburdened"), port, "parity");
  let readers: RunningProcess | undefined;
  try {
    await others(pair, unburdened);
    const before = { client: privateBytes(pair.clientPid), server: privateBytes(pair.serverPid) };
    const grownMiB = (): { client: number; server: number } => ({
      client: (privateBytes(pair.clientPid) - before.client) / MIB,
      server: (privateBytes(pair.serverPid) - before.server) / MIB,
    });
    const first = [await others(pair, unburdened)];
    const script = fileURLToPath(new URL("slow_readers.py", import.meta.url));
    readers = startProcess("readers", "python3", [script, String(pair.port), LARGE, String(READERS)]);
    await readers.nextLine();
    await delay(SETTLE_MS);
    const early = grownMiB();
    const rounds: Both[] = [];
    for (let round = 0; round < ROUNDS; round++) rounds.push(await others(pair, unburdened));
    const late = grownMiB();
    const grown = {
      client: Math.max(early.client, late.client),
      server: Math.max(early.server, late.server),
    };
    say(
      `${READERS} slow readers: ${early.client.toFixed(0)} and ${early.server.toFixed(0)} MiB more, later ${late.client.toFixed(0)} and ${late.server.toFixed(0)}; others' p99 beside them / on another pair at the same time: ${show(rounds)} ms, before they came ${show(first)}`,
    );
    const mostMemory = atMost("ours", 150, 80);
    return [
      row(
        "edge",
        `${READERS} slow readers of 100 MB, caller's side`,
        grown.client,
        "MiB more",
        undefined,
        mostMemory,
      ),
      row(
        "edge",
        `${READERS} slow readers of 100 MB, callee's side`,
        grown.server,
        "MiB more",
        undefined,
        mostMemory,
      ),
      row(
        "edge",
        "p99 of other callers beside them",
        median(rounds.map(({ beside }) => beside)),
        "ms",
        { name: "on another pair", value: median(rounds.map(({ alone }) => alone)) },
        atMost("ratio", 2, 2),
      ),
    ];
  } finally {
    await readers?.stop();
    await unburdened.stop();
    await pair.stop();
    await application.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
