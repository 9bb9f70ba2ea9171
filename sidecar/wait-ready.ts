// Entry point of `countersign wait-ready`, the startup probe of an injected sidecar: one process that asks again and again
// and ends when the sidecar is ready, where a probe by HTTP would be asked once a second.
import { get } from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import type { TextOutput } from "./capture-init.ts";
import { messageOf } from "./core/runtime/errors.ts";

const HELP = `countersign wait-ready: waits until the sidecar on this machine or in this pod is ready

  --port PORT      its port of /readyz (default 16020)
  --for SECONDS    give up after this time (default 9)

Exit status: 0 it is ready; 1 it is not, and why; 2 wrong usage.
`;

const TRY_EVERY_MS = 20;
const ONE_TRY_MS = 1_000;

/** Why the sidecar is not ready; undefined: it is. */
function unready(port: number): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  // Not `fetch`, which takes three times as long to load, from the CPU that the sidecar starts with.
  const request = get({ host: "localhost", port, path: "/readyz", timeout: ONE_TRY_MS }, (answer) => {
    text(answer).then(
      (reason) => resolve(answer.statusCode === 200 ? undefined : reason.trim()),
      (error: unknown) => resolve(messageOf(error)),
    );
  });
  request.on("timeout", () => request.destroy(new Error("its status port does not answer")));
  // Two refusals, of IPv4 and IPv6, come as one error without a text.
  request.on("error", (error) =>
    resolve(error.message === "" ? "nobody listens on its status port" : error.message),
  );
  return promise;
}

function numberOf(args: readonly string[], flag: string, fallback: number, most: number): number {
  const at = args.indexOf(flag);
  if (at < 0) return fallback;
  const text = args[at + 1] ?? "";
  const value = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return value <= most ? value : 0;
}

/** Waits as the help says; the result is the exit status. */
export async function runWaitReady(args: readonly string[], output: TextOutput): Promise<0 | 1 | 2> {
  if (args.includes("--help") || args.includes("-h")) {
    output.out(HELP);
    return 0;
  }
  const known = args.every((arg, i) => (i % 2 === 0 ? arg === "--port" || arg === "--for" : true));
  const port = numberOf(args, "--port", 16_020, 65_535);
  const seconds = numberOf(args, "--for", 9, 3_600);
  if (!known || args.length % 2 !== 0 || port === 0 || seconds === 0) {
    output.err("countersign: wait-ready takes `--port 1-65535` and `--for 1-3600` seconds\n");
    return 2;
  }
  const until = performance.now() + seconds * 1_000;
  for (;;) {
    const reason = await unready(port);
    if (reason === undefined) return 0;
    if (performance.now() >= until) {
      output.err(`countersign: the sidecar is not ready after ${seconds} s: ${reason}\n`);
      return 1;
    }
    await sleep(TRY_EVERY_MS);
  }
}
