// A process with the gateway's code that holds many sessions, in memory or in Redis, so that its memory can be told. Prints
// one line and ends. usage: session-holder.ts COUNT CLAIM_BYTES SEALED_SHARE [REDIS_URL]
import { setImmediate as turn } from "node:timers/promises";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { boundYoungGeneration } from "../../../sidecar/core/runtime/young-generation.ts";
import { createSessionId } from "../../../sidecar/gateway/session/cookies.ts";
import { MemorySessionStore } from "../../../sidecar/gateway/session/memory-store.ts";
import type { SessionStore } from "../../../sidecar/gateway/session/session.ts";
import { sessionOfSize } from "./claims.ts";

/** What it prints. Memory is what the process has (RSS), and had before the first session. */
export interface Held {
  readonly idleBytes: number;
  readonly heldBytes: number;
  readonly heapBytes: number;
  /** CPU of one look-up, of sessions that were used lately and of any, microseconds. */
  readonly recentUs: number;
  readonly anyUs: number;
}

const LIMITS = { idleMs: 3_600_000, maxSessions: 250_000 };
const FINDS = 30_000;
const RECENT = 500;
/** Sign-ins in one turn of the event loop. */
const AT_ONCE = 20;

async function open(url: string | undefined): Promise<SessionStore> {
  if (url === undefined) return new MemorySessionStore(LIMITS);
  const { RedisSessionStore } = await import("../../../sidecar/gateway/session/redis-store.ts");
  return RedisSessionStore.open({ url, prefix: "bench:" }, LIMITS, silentLogger);
}

async function timed(store: SessionStore, ids: readonly string[], among: number): Promise<number> {
  const started = process.cpuUsage();
  for (let i = 0; i < FINDS; i++) {
    const id = ids[Math.floor(Math.random() * among)] ?? "";
    const found = store.find(id, Date.now());
    if ((found instanceof Promise ? await found : found) === undefined) throw new Error("a session is gone");
    // As between requests, where what was freed is collected.
    if (i % 1_000 === 0) await turn();
  }
  const { user, system } = process.cpuUsage(started);
  return (user + system) / FINDS;
}

if (import.meta.main) {
  const [count = 0, bytes = 0, share = 1] = process.argv.slice(2, 5).map(Number);
  boundYoungGeneration(new AbortController().signal, process.execArgv);
  // All that a gateway has loaded.
  await Promise.all([
    import("../../../sidecar/data-plane.ts"),
    import("../../../sidecar/gateway-plane.ts"),
    import("../../../sidecar/gateway-people.ts"),
  ]);
  const idleBytes = process.memoryUsage.rss();
  const store = await open(process.argv[5]);
  const ids: string[] = [];
  for (let i = 0; i < count; i += AT_ONCE) {
    const many = Array.from({ length: Math.min(AT_ONCE, count - i) }, createSessionId);
    ids.push(...many);
    await Promise.all(many.map((id, k) => store.create(id, sessionOfSize(i + k, bytes, share), Date.now())));
    await turn();
  }
  const anyUs = await timed(store, ids, count);
  const recentUs = await timed(store, ids, RECENT);
  const { rss, heapUsed } = process.memoryUsage();
  const held: Held = { idleBytes, heldBytes: rss, heapBytes: heapUsed, recentUs, anyUs };
  process.stdout.write(`${JSON.stringify(held)}\n`);
  await store.close();
}
