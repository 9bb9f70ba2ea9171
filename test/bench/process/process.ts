// A sidecar as a process: how fast it is ready, what memory it takes idle and loaded, and how fast an edit on disk is
// in force in all sidecars of the demo's platform.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { startPlatform } from "../../demo/platform.ts";
import { freePorts } from "../../demo/process.ts";
import { runWrk } from "../datapath/load.ts";
import { startOurs } from "../datapath/ours.ts";
import { OPERATIONS, operationPath, startBackend } from "../datapath/peers.ts";
import { type BenchRow, median, privateBytes, row } from "../measure.ts";

const EDITS = 20;
const IDLE_MS = 5_000;
const LOAD_SECONDS = 10;

interface Options {
  readonly rounds: number;
  readonly say: (text: string) => void;
}

/** Start-up and memory of a pair, started one after the other. */
async function measurePair(
  dir: string,
  backend: number,
): Promise<{ readyMs: number; idle: number; loaded: number }> {
  const pair = await startOurs(dir, backend, "everything");
  try {
    await delay(IDLE_MS);
    const idle = Math.max(privateBytes(pair.clientPid), privateBytes(pair.serverPid));
    const targets = Array.from({ length: OPERATIONS }, (_, index) => ({
      path: operationPath(index),
      headers: [],
    }));
    const load = await runWrk(pair.port, targets, 32, LOAD_SECONDS);
    if (load.failures > 0) throw new Error(`${load.failures} requests failed`);
    return {
      readyMs: pair.readyMs,
      idle,
      loaded: Math.max(privateBytes(pair.clientPid), privateBytes(pair.serverPid)),
    };
  } finally {
    await pair.stop();
  }
}

/** Milliseconds from the rename of a policy file to the last sidecar's acknowledgement; the edit affects all of them. */
async function measureEdits(dir: string): Promise<number[]> {
  const platform = await startPlatform(dir, { windowFrom: "01:00", windowTo: "05:00" });
  try {
    const status = async () =>
      (await platform.manage("GET", "/v1/status")).body as {
        revision: number;
        proxies: { total: number; synced: number };
      };
    const times: number[] = [];
    for (let edit = 0; edit < EDITS; edit++) {
      const before = (await status()).revision;
      const startedMs = performance.now();
      platform.edit("guard-rails.yaml", (text) =>
        text.replace(/- name: admin-ops\d*/, `- name: admin-ops${edit}`),
      );
      for (;;) {
        const { revision, proxies } = await status();
        if (revision > before && proxies.synced === proxies.total && proxies.total > 0) break;
        if (performance.now() - startedMs > 10_000)
          throw new Error("an edit was not in force after ten seconds");
      }
      times.push(performance.now() - startedMs);
      await delay(100);
    }
    return times;
  } finally {
    await platform.close();
  }
}

export async function benchProcess({ rounds, say }: Options): Promise<BenchRow[]> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-process-"));
  const [port = 0] = await freePorts(1);
  const backend = await startBackend(dir, port, 1024);
  try {
    const pairs: { readyMs: number; idle: number; loaded: number }[] = [];
    for (let round = 0; round < rounds; round++) {
      const one = await measurePair(join(dir, `pair-${round}`), port);
      say(
        `round ${round + 1}/${rounds}: ready after ${one.readyMs.toFixed(0)} ms, private ${(one.idle / 1e6).toFixed(1)} MB idle, ${(one.loaded / 1e6).toFixed(1)} MB loaded`,
      );
      pairs.push(one);
    }
    const edits = await measureEdits(join(dir, "platform"));
    return [
      row(
        "process",
        "sidecar, exec to ready with identity and policy (slower of two)",
        median(pairs.map((one) => one.readyMs)),
        "ms",
      ),
      row(
        "process",
        "sidecar, private memory idle (larger of two)",
        median(pairs.map((one) => one.idle)) / 1e6,
        "MB",
      ),
      row(
        "process",
        "sidecar, private memory after load at 32 connections (larger of two)",
        median(pairs.map((one) => one.loaded)) / 1e6,
        "MB",
      ),
      row("process", "policy edit on disk to acknowledged by all six sidecars, median", median(edits), "ms"),
      row(
        "process",
        "policy edit on disk to acknowledged by all six sidecars, slowest",
        Math.max(...edits),
        "ms",
      ),
    ];
  } finally {
    await backend.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
