// A process with the gateway's code, as it is built, that holds many sessions, in memory or in Redis, so that its memory can
// be told. Prints one line and ends. usage: session-holder.mjs DIST_URL COUNT CLAIM_BYTES SEALED_BYTES [REDIS_URL]
import { hash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import type { SessionStore } from "../../../sidecar/gateway/session/session.ts";
import { sessionOfSize } from "./claims.ts";

export interface Memory {
  /** What would be free if the process ended; pages of the executable are shared with others. */
  readonly privateBytes: number;
  readonly rssBytes: number;
  readonly heapBytes: number;
  /** Buffers, slabs with them. */
  readonly bufferBytes: number;
}

/** What it prints: memory before the first session, with all of them, and after looking for them at random. */
export interface Held {
  readonly idle: Memory;
  readonly held: Memory;
  readonly used: Memory;
  /** CPU of one look-up, of sessions that were used lately and of any, microseconds. */
  readonly recentUs: number;
  readonly anyUs: number;
}

const LIMITS = { idleMs: 3_600_000, maxSessions: 250_000 };
const FINDS = 30_000;
const AT_A_TIME = 1_000;
const RECENT = 500;
const REST_MS = 12_000;
/** Sign-ins in one turn of the event loop. */
const AT_ONCE = 20;

const [dist = "", ...args] = process.argv.slice(2);

async function open(url: string | undefined): Promise<SessionStore> {
  if (url === undefined) {
    const { MemorySessionStore }: typeof import("../../../sidecar/gateway/session/memory-store.ts") =
      await import(`${dist}sidecar/gateway/session/memory-store.js`);
    return new MemorySessionStore(LIMITS);
  }
  const { RedisSessionStore }: typeof import("../../../sidecar/gateway/session/redis-store.ts") =
    await import(`${dist}sidecar/gateway/session/redis-store.js`);
  const { silentLogger }: typeof import("../../../sidecar/core/runtime/log.ts") = await import(
    `${dist}sidecar/core/runtime/log.js`
  );
  return RedisSessionStore.open({ url, prefix: "bench:" }, LIMITS, silentLogger);
}

function memory(): Memory {
  const { rss, heapUsed, arrayBuffers } = process.memoryUsage();
  const mapped = readFileSync("/proc/self/smaps_rollup", "utf8").matchAll(/^Private_\w+:\s+(\d+) kB$/gm);
  const privateKib = [...mapped].reduce((sum, [, kib]) => sum + Number(kib), 0);
  return { privateBytes: privateKib * 1_024, rssBytes: rss, heapBytes: heapUsed, bufferBytes: arrayBuffers };
}

/** When what malloc holds for nothing was given back. */
async function memoryAtRest(): Promise<Memory> {
  await sleep(REST_MS);
  return memory();
}

const salt = randomBytes(16).toString("hex");
/** Made again when it is asked for: browsers hold the ids of sessions, the gateway does not. */
const idOf = (index: number): string => hash("sha256", `${salt} ${index}`, "base64url");

async function timed(store: SessionStore, anyId: () => string): Promise<number> {
  let us = 0;
  for (let i = 0; i < FINDS; i += AT_A_TIME) {
    const ids = Array.from({ length: AT_A_TIME }, anyId);
    const started = process.cpuUsage();
    for (const id of ids) {
      const found = store.find(id, Date.now());
      if ((found instanceof Promise ? await found : found) === undefined)
        throw new Error("a session is gone");
    }
    // As between requests, where what was freed is collected.
    await turn();
    const { user, system } = process.cpuUsage(started);
    us += user + system;
  }
  return us / FINDS;
}

const [count = 0, bytes = 0, sealed = 0] = args.slice(0, 3).map(Number);
const { boundYoungGeneration }: typeof import("../../../sidecar/core/runtime/young-generation.ts") =
  await import(`${dist}sidecar/core/runtime/young-generation.js`);
boundYoungGeneration(new AbortController().signal, process.execArgv);
const { trimWhileBusy }: typeof import("../../../sidecar/core/runtime/malloc-trim.ts") = await import(
  `${dist}sidecar/core/runtime/malloc-trim.js`
);
trimWhileBusy(new AbortController().signal);
// All that a gateway has loaded.
for (const part of ["data-plane", "gateway-plane", "gateway-people"])
  await import(`${dist}sidecar/${part}.js`);
const idle = memory();
const store = await open(args[3]);
for (let i = 0; i < count; i += AT_ONCE) {
  const many = Array.from({ length: Math.min(AT_ONCE, count - i) }, (_, k) => i + k);
  await Promise.all(many.map((n) => store.create(idOf(n), sessionOfSize(n, bytes, sealed), Date.now())));
  await turn();
}
const held = await memoryAtRest();
const anyUs = await timed(store, () => idOf(Math.floor(Math.random() * count)));
const recent = Array.from({ length: RECENT }, (_, index) => idOf(index));
const recentUs = await timed(store, () => recent[Math.floor(Math.random() * RECENT)] ?? "");
const result: Held = { idle, held, used: await memoryAtRest(), recentUs, anyUs };
process.stdout.write(`${JSON.stringify(result)}\n`);
await store.close();
