// What a gateway takes to hold 100 000 people who are signed in, with 2 KB of claims each: in its own memory, and in Redis.
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePorts } from "../../demo/process.ts";
import { startProgram } from "../datapath/program.ts";
import { atMost, type BenchRow, row } from "../measure.ts";
import type { Held } from "./session-holder.ts";

const SESSIONS = 100_000;
const CLAIM_BYTES = 2_048;
/** What deflating leaves of claims that are mostly ids, in the handles of our token service. */
const SEALED_SHARE = 0.6;
const MB = 1e6;

export async function benchSessions({ say }: { readonly say: (text: string) => void }): Promise<BenchRow[]> {
  const memory = await hold();
  say("sessions: held in memory");
  const [port = 0] = await freePorts(1);
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
  const redis = await startProgram("redis-server", args, port);
  try {
    const kept = await hold(`redis://127.0.0.1:${port}`);
    say("sessions: held in Redis");
    const before = (held: Held) => ({ name: "before the first session", value: held.idleBytes / MB });
    return [
      row(
        "sessions",
        "100 000 with 2 KB of claims in memory, RSS",
        memory.heldBytes / MB,
        "MB",
        before(memory),
        atMost("ours", 400, 300),
      ),
      row(
        "sessions",
        "the same in Redis, RSS of the gateway",
        kept.heldBytes / MB,
        "MB",
        before(kept),
        atMost("ours", 100, 80),
      ),
      row("sessions", "CPU to find one that was used lately", memory.recentUs, "µs"),
      row("sessions", "CPU to find one that was not", memory.anyUs, "µs"),
    ];
  } finally {
    await redis.stop();
  }
}

async function hold(...url: string[]): Promise<Held> {
  const script = fileURLToPath(new URL("./session-holder.ts", import.meta.url));
  const args = [script, SESSIONS, CLAIM_BYTES, SEALED_SHARE, ...url].map(String);
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", ...args],
    {
      env: { ...process.env, MALLOC_ARENA_MAX: "1" },
    },
  );
  // Our own program prints it.
  return JSON.parse(stdout) as Held;
}
