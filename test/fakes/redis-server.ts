// A real redis-server (Debian's package) on loopback, which keeps what it was told over a restart.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../sidecar/core/runtime/log.ts";
import { RedisSessionStore } from "../../sidecar/gateway/session/redis-store.ts";
import { until } from "../demo/mesh-processes.ts";
import { type RunningProcess, startProgram } from "../demo/process.ts";

/** Names, for `canTest`. */
export const REDIS = { "redis-server": "Debian's package redis-server" };

export class RedisServer {
  readonly port: number;
  readonly #dir: string;
  #process: RunningProcess | undefined;

  constructor(port: number) {
    this.port = port;
    this.#dir = mkdtempSync(join(tmpdir(), "countersign-redis-"));
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}/3`;
  }

  /** Resolves when it answers. */
  async start(): Promise<void> {
    this.#process = startProgram("redis", "redis-server", [
      ...["--port", String(this.port), "--bind", "127.0.0.1", "--save", "", "--dir", this.#dir],
      ...["--appendonly", "yes", "--appendfsync", "everysec"],
    ]);
    const limits = { idleMs: 60_000, maxSessions: 1 };
    const probe = await RedisSessionStore.open({ url: this.url, prefix: "probe:" }, limits, silentLogger);
    await until("Redis", () => probe.lockRefresh("x", 1).catch(() => undefined), 30_000);
    await probe.close();
  }

  async stop(): Promise<void> {
    // What is not on the disk yet is written at its end.
    await this.#process?.stop(60_000);
    this.#process = undefined;
  }

  async close(): Promise<void> {
    await this.stop();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
