// Hostile HTTP/2 clients with a valid certificate, made of hyperframe's frames: each attack ends in the way that RFC 9113
// names or is simply served, the sidecar stays small, and the next honest request is served.

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { privateBytes } from "../bench/measure.ts";
import { type RunningProcess, startNode, startProgram } from "../demo/process.ts";
import type { EdgeCallee } from "./edge-callee.ts";
import { pythonEnvironment } from "./python.ts";

/** What clients/hostile_h2.py prints. */
interface Outcome {
  readonly sent: number;
  readonly goaway: number | null;
  readonly closed: boolean;
  readonly resets: Readonly<Record<string, number>>;
  readonly answers: Readonly<Record<string, number>>;
  readonly body: number;
  readonly alive: boolean;
}

const PROTOCOL_ERROR = 1;
const FLOW_CONTROL_ERROR = 3;
const STREAM_CLOSED = 5;
const FRAME_SIZE_ERROR = 6;
const COMPRESSION_ERROR = 9;
const ENHANCE_YOUR_CALM = 11;

const ended = (goaway: number) => ({ goaway, closed: true, alive: false });
/** Only the stream ends. */
const reset = (code: number) => ({ goaway: null, resets: { [code]: 1 }, alive: true });
const answered = (status: string, count: number) => ({
  goaway: null,
  answers: expect.objectContaining({ [status]: count }),
  alive: true,
});

/** Codes are those of RFC 9113 section 7. */
const ATTACKS: readonly (readonly [name: string, expected: object])[] = [
  ["valid", { alive: true, answers: { "200": 4_001 } }],
  ["rapid_reset", ended(ENHANCE_YOUR_CALM)],
  ["made_you_reset", ended(ENHANCE_YOUR_CALM)],
  ["continuation_flood", ended(ENHANCE_YOUR_CALM)],
  ["continuation_trickle", ended(ENHANCE_YOUR_CALM)],
  ["hpack_bomb", answered("431", 20)],
  ["hpack_sizes", ended(COMPRESSION_ERROR)],
  ["hpack_garbage", ended(COMPRESSION_ERROR)],
  ["list_over_limit", answered("431", 5)],
  ["many_fields", answered("431", 20)],
  ["cookie_crumbs", answered("431", 20)],
  ["settings_flood", ended(ENHANCE_YOUR_CALM)],
  ["settings_acks", ended(ENHANCE_YOUR_CALM)],
  ["window_games", ended(ENHANCE_YOUR_CALM)],
  ["ping_flood", ended(ENHANCE_YOUR_CALM)],
  ["priority_flood", ended(ENHANCE_YOUR_CALM)],
  ["unknown_flood", ended(ENHANCE_YOUR_CALM)],
  ["empty_data", ended(ENHANCE_YOUR_CALM)],
  ["padded_data", ended(ENHANCE_YOUR_CALM)],
  ["tiny_data", answered("200", 2)],
  ["window_updates", ended(ENHANCE_YOUR_CALM)],
  ["window_overflow", ended(FLOW_CONTROL_ERROR)],
  ["stream_window_overflow", reset(FLOW_CONTROL_ERROR)],
  ["window_of_zero", ended(PROTOCOL_ERROR)],
  ["over_the_window", reset(FLOW_CONTROL_ERROR)],
  ["zero_window", { goaway: null, closed: false, answers: { "200": 200 }, body: 0 }],
  ["byte_windows", ended(ENHANCE_YOUR_CALM)],
  ["data_after_end", reset(STREAM_CLOSED)],
  ["data_behind_end", reset(STREAM_CLOSED)],
  ["headers_on_closed", ended(STREAM_CLOSED)],
  ["data_on_idle", ended(PROTOCOL_ERROR)],
  ["reset_on_idle", ended(PROTOCOL_ERROR)],
  ["even_stream", ended(PROTOCOL_ERROR)],
  ["older_stream", ended(PROTOCOL_ERROR)],
  ["interrupted_block", ended(PROTOCOL_ERROR)],
  ["large_frame", ended(FRAME_SIZE_ERROR)],
  ["push_promise", ended(PROTOCOL_ERROR)],
  ["bad_settings", ended(PROTOCOL_ERROR)],
  ["huge_table", answered("200", 201)],
  ["too_many_streams", ended(ENHANCE_YOUR_CALM)],
  ["goaway_flood", ended(ENHANCE_YOUR_CALM)],
  ["goaway_and_on", answered("200", 21)],
  ["half_a_frame", { goaway: null, closed: false }],
];

/** Beside ten times what was received: the heap's own ups and downs. */
const NOISE_BYTES = 24 * 1024 * 1024;
const python = await pythonEnvironment("hostile HTTP/2 clients (Python's hyperframe)");

(python ? describe : describe.skip)("a hostile HTTP/2 client", () => {
  let sidecar: RunningProcess;
  let callee: EdgeCallee;

  beforeAll(async () => {
    sidecar = startNode("callee", [fileURLToPath(new URL("edge-callee.ts", import.meta.url))]);
    callee = JSON.parse(await sidecar.nextLine()) as EdgeCallee;
  });
  afterAll(() => sidecar?.stop());

  test.each(ATTACKS)("%s", async (attack, expected) => {
    const before = privateBytes(callee.pid);
    const script = fileURLToPath(new URL("clients/hostile_h2.py", import.meta.url));
    const args = [script, String(callee.meshPort), callee.directory, attack];
    const client = startProgram(attack, join(python?.bin ?? "", "python3"), args, {
      PYTHONUNBUFFERED: "1",
    });
    const outcome = JSON.parse(await client.nextLine()) as Outcome;
    // Its connection is still there.
    const grown = privateBytes(callee.pid) - before;
    await client.stop();
    expect(outcome).toMatchObject(expected);
    expect(grown).toBeLessThanOrEqual(10 * outcome.sent + NOISE_BYTES);
  });

  test("has taken nothing from the others: honest requests are served as before", async () => {
    const script = fileURLToPath(new URL("clients/hostile_h2.py", import.meta.url));
    const args = [script, String(callee.meshPort), callee.directory, "valid"];
    const client = startProgram("valid", join(python?.bin ?? "", "python3"), args, { PYTHONUNBUFFERED: "1" });
    expect(JSON.parse(await client.nextLine())).toMatchObject({ alive: true, answers: { "200": 4_001 } });
    await client.stop();
  });
});
