// `countersign proxy-status`: one line per sidecar.
import { systemClock } from "../../sidecar/core/runtime/clock.ts";
import { type Fields, fieldsOf, listOf, numberOf, textOf } from "./answers.ts";
import type { Mesh } from "./mesh.ts";
import { counted, EXIT, type ExitStatus, type Output, plain, printJson, printTable } from "./print.ts";
import { readStatus } from "./sidecars.ts";

/**
 * @param options.namespace only sidecars of workloads there.
 * @returns `EXIT.no` when a connected sidecar has not what it should have.
 */
export async function showProxies(
  mesh: Mesh,
  options: { readonly namespace?: string; readonly json?: boolean },
  output: Output,
  nowMs: number = systemClock.nowMs(),
): Promise<ExitStatus> {
  const [status, pods] = await Promise.all([
    readStatus(mesh),
    mesh.manage("GET", "/v1/state").then((state) => fieldsOf(fieldsOf(state)["pods"])),
  ]);
  const { namespace } = options;
  const sidecars = listOf(status["sidecars"]).filter(
    (one) => namespace === undefined || textOf(one["workload"]).startsWith(`${namespace}/`),
  );
  const behind = sidecars.filter((one) => isBehind(one));
  if (options.json === true) {
    printJson(output, { revision: status["revision"], pinned: status["pinned"] ?? null, sidecars });
    return behind.length === 0 ? EXIT.ok : EXIT.no;
  }
  const connected = sidecars.filter((one) => one["state"] !== "disconnected").length;
  output.out(
    `revision ${textOf(status["revision"]) || "?"}; ${counted(sidecars.length, "sidecar")}, ${connected} connected, ${behind.length} behind\n`,
  );
  if (sidecars.length > 0) output.out("\n");
  printTable(
    output,
    sidecars.map((one) => rowOf(one, fieldsOf(pods[textOf(one["pod"])]), nowMs)),
  );
  if (behind.length > 0)
    output.out(
      "\na stale sidecar goes on with its last good table; its refusal, if there is one, names what it cannot read\n",
    );
  return behind.length === 0 ? EXIT.ok : EXIT.no;
}

function isBehind(sidecar: Fields): boolean {
  return (
    sidecar["state"] !== "disconnected" && (sidecar["state"] !== "synced" || textOf(sidecar["nack"]) !== "")
  );
}

function rowOf(sidecar: Fields, pod: Fields, nowMs: number): Record<string, string> {
  const sinceMs = numberOf(sidecar["sinceMs"]);
  const digest = textOf(sidecar["digest"]).slice(0, 8);
  const expected = textOf(sidecar["expectedDigest"]).slice(0, 8);
  const name = textOf(pod["name"]);
  return {
    pod: name === "" ? "" : plain(`${textOf(pod["namespace"])}/${name}`),
    workload: plain(textOf(sidecar["workload"])),
    state: plain(textOf(sidecar["state"])),
    for: sinceMs === undefined ? "" : durationText(nowMs - sinceMs),
    table: digest,
    wants: digest === expected ? "" : expected,
    version: plain(textOf(sidecar["softwareVersion"])),
    "last refusal": plain(textOf(sidecar["nack"])),
  };
}

/** `12s`, `5m`, `3h`, `2d`: as kubectl writes ages. */
export function durationText(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3_600)}h` : `${Math.floor(seconds / 86_400)}d`;
}
