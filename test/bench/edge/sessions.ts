// What a gateway takes to hold 100 000 people who are signed in, with 2 KB of claims each: in its own memory, and in Redis.
import { execFile } from "node:child_process";
import { createSecretKey, randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { stripTypeScriptTypes } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { SessionHandles } from "../../../control-plane/tokens/session-handle.ts";
import { freePorts, repositoryRoot } from "../../demo/process.ts";
import { startProgram } from "../datapath/program.ts";
import { atMost, type BenchRow, row, type Target } from "../measure.ts";
import { sessionOfSize } from "./claims.ts";
import type { Held } from "./session-holder.ts";

const SESSIONS = 100_000;
const CLAIM_BYTES = 2_048;
const MB = 1e6;

export async function benchSessions({ say }: { readonly say: (text: string) => void }): Promise<BenchRow[]> {
  const sealedBytes = await bytesSealed();
  const memory = await hold(sealedBytes);
  say(`sessions: held in memory: ${JSON.stringify(memory)}`);
  const [port = 0] = await freePorts(1);
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
  const redis = await startProgram("redis-server", args, port);
  try {
    const kept = await hold(sealedBytes, `redis://127.0.0.1:${port}`);
    say(`sessions: held in Redis: ${JSON.stringify(kept)}`);
    return [
      ...rowsOf("100 000 with 2 KB of claims in memory", memory, atMost("ours", 400, 300)),
      ...rowsOf("the same in Redis, the gateway alone", kept, atMost("ours", 100, 80)),
      row("sessions", "CPU to find one that was used lately", memory.recentUs, "µs"),
      row("sessions", "CPU to find one that was not", memory.anyUs, "µs"),
    ];
  } finally {
    await redis.stop();
  }
}

function rowsOf(name: string, { idle, held, used }: Held, target: Target): BenchRow[] {
  const before = (value: number) => ({ name: "before the first session", value: value / MB });
  return [
    row("sessions", `${name}, private`, held.privateBytes / MB, "MB", before(idle.privateBytes), target),
    row(
      "sessions",
      `${name}, private, 60 000 finds later`,
      used.privateBytes / MB,
      "MB",
      before(idle.privateBytes),
      target,
    ),
    row("sessions", `${name}, RSS`, used.rssBytes / MB, "MB", before(idle.rssBytes)),
  ];
}

/** What our token service seals of such claims. */
async function bytesSealed(): Promise<number> {
  const { sid, idp, user, idToken = "" } = sessionOfSize(1, CLAIM_BYTES);
  const payload = Buffer.from(idToken.split(".")[1] ?? "", "base64url").toString("utf8");
  // Our own, of a moment ago.
  const { sub, groups } = JSON.parse(payload) as { readonly sub: string; readonly groups: string[] };
  const key = createSecretKey(randomBytes(32));
  const handles = new SessionHandles(() => [{ kid: "tts-1", key, signsFromMs: 0, file: "" }]);
  const person = { idp, id: sub, type: "person", groups, claims: {}, amr: user.amr, acr: user.acr } as const;
  const times = { openedAt: 1_800_000_000, expiresAt: 1_800_043_200 };
  const gateway = "spiffe://acme.example/ns/mesh-edge/sa/gateway";
  const { email, username } = user;
  const handle = await handles.seal({
    ...{ gateway, sid, ...times, subject: sub },
    person: { ...person, email, username, authTime: times.openedAt },
  });
  return Buffer.from(handle.split(".")[3] ?? "", "base64url").length;
}

/** In a process that translates no TypeScript, as little as a gateway does. */
async function hold(sealedBytes: number, ...url: string[]): Promise<Held> {
  const folder = await mkdtemp(join(tmpdir(), "countersign-sessions-"));
  try {
    for (const name of ["claims", "session-holder"]) {
      const text = await readFile(new URL(`./${name}.ts`, import.meta.url), "utf8");
      const script = stripTypeScriptTypes(text).replaceAll("./claims.ts", "./claims.mjs");
      await writeFile(join(folder, `${name}.mjs`), script);
    }
    const dist = pathToFileURL(join(repositoryRoot, "dist/")).href;
    const args = [join(folder, "session-holder.mjs"), dist, SESSIONS, CLAIM_BYTES, sealedBytes, ...url];
    const { stdout } = await promisify(execFile)(process.execPath, args.map(String), {
      env: { ...process.env, MALLOC_ARENA_MAX: "1" },
    });
    // Our own program prints it.
    return JSON.parse(stdout) as Held;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
