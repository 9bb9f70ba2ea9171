// `countersign status`: which policies are in force, in how many sidecars, and what is wrong.
import { type Fields, fieldsOf, listOf, numberOf, textOf, textsOf } from "./answers.ts";
import type { Mesh } from "./mesh.ts";
import {
  counted,
  EXIT,
  type ExitStatus,
  type Output,
  plain,
  printJson,
  printTable,
  timeText,
} from "./print.ts";
import { readStatus } from "./sidecars.ts";

/** @returns `EXIT.ok`: problems are part of the answer, `countersign check` is for scripts that want a verdict. */
export async function showStatus(mesh: Mesh, json: boolean, output: Output): Promise<ExitStatus> {
  const [status, policies] = await Promise.all([
    readStatus(mesh),
    mesh.manage("GET", "/v1/policies").then((answer) => fieldsOf(answer)["policies"]),
  ]);
  if (json) {
    printJson(output, { ...status, policyStatus: policies ?? [] });
    return EXIT.ok;
  }
  output.out(`${headline(status, mesh.source)}\n`);
  const rows = listOf(policies);
  if (rows.length > 0) {
    output.out("\n");
    printTable(output, rows.map(policyRow));
  }
  const sidecars = listOf(status["sidecars"]);
  output.out("\n");
  if (sidecars.length === 0) output.out("no sidecar has connected yet; see `countersign sidecar --help`\n");
  else printTable(output, sidecars.map(sidecarRow));
  const notes = rows.flatMap(notesOf);
  const problems = textsOf(status["problems"]).map(plain);
  if (notes.length > 0) output.out(`\nworth a look:\n${notes.map((note) => `  ${note}\n`).join("")}`);
  if (problems.length > 0)
    output.out(
      `\n${counted(problems.length, "problem")} in the configuration (what was accepted before stays in force):\n${problems
        .map((problem) => `  ${problem}\n`)
        .join("")}`,
    );
  return EXIT.ok;
}

function headline(status: Fields, source: Mesh["source"]): string {
  const pinned = numberOf(status["pinned"]);
  const proxies = fieldsOf(status["proxies"]);
  const total = (numberOf(proxies["total"]) ?? 0) - (numberOf(proxies["disconnected"]) ?? 0);
  const state =
    pinned === undefined
      ? `follows the ${source}`
      : `PINNED to revision ${pinned} until \`countersign rollback --release\``;
  const counts = `${counted(numberOf(status["workloads"]) ?? 0, "workload")}, ${numberOf(proxies["synced"]) ?? 0}/${total} connected sidecars up to date`;
  return `revision ${textOf(status["revision"]) || "?"}, ${state}; ${counts}`;
}

/** `Kind/namespace/name` as people write it. */
export function objectText(object: string): string {
  const slash = object.indexOf("/");
  return slash < 0 ? plain(object) : plain(`${object.slice(0, slash)} ${object.slice(slash + 1)}`);
}

function conditionOf(row: Fields, type: string): Fields | undefined {
  return listOf(fieldsOf(row["status"])["conditions"]).find((one) => one["type"] === type);
}

/** `True`, or `False (Reason)`. */
function conditionText(row: Fields, type: string): string {
  const condition = conditionOf(row, type);
  if (condition === undefined) return "?";
  const status = textOf(condition["status"]);
  const reason = textOf(condition["reason"]);
  return reason === type || reason === "" ? status : `${status} (${reason})`;
}

function policyRow(row: Fields): Record<string, string> {
  const status = fieldsOf(row["status"]);
  const targets = fieldsOf(status["targets"]);
  const proxies = fieldsOf(status["proxies"]);
  return {
    policy: objectText(textOf(row["object"])),
    action: textOf(row["action"]) || "-",
    mode: textOf(row["enforcement"]) || "-",
    targets: String((numberOf(targets["workloads"]) ?? 0) + (numberOf(targets["externals"]) ?? 0)),
    sidecars: `${numberOf(proxies["programmed"]) ?? 0}/${numberOf(proxies["total"]) ?? 0}`,
    accepted: plain(conditionText(row, "Accepted")),
    programmed: plain(conditionText(row, "Programmed")),
  };
}

/** What stands behind a `False`, and behind warnings. */
function notesOf(row: Fields): string[] {
  const notes: string[] = [];
  const object = objectText(textOf(row["object"]));
  const message = (type: string) => plain(textOf(conditionOf(row, type)?.["message"]));
  for (const type of ["Accepted", "ResolvedRefs"])
    if (message(type) !== "") notes.push(`${object}: ${conditionText(row, type)}: ${message(type)}`);
  const proxies = fieldsOf(fieldsOf(row["status"])["proxies"]);
  const lagging = textsOf(proxies["lagging"]);
  if (lagging.length > 0) notes.push(`${object}: waiting for ${plain(lagging.join(", "))}`);
  for (const nack of textsOf(proxies["nacks"])) notes.push(`${object}: refused by ${plain(nack)}`);
  return notes;
}

function sidecarRow(sidecar: Fields): Record<string, string> {
  const digest = textOf(sidecar["digest"]).slice(0, 8);
  const expected = textOf(sidecar["expectedDigest"]).slice(0, 8);
  return {
    workload: plain(textOf(sidecar["workload"])),
    node: plain(textOf(sidecar["node"])),
    state: plain(textOf(sidecar["state"])),
    since: timeText(numberOf(sidecar["sinceMs"]) ?? Number.NaN),
    version: plain(textOf(sidecar["softwareVersion"])),
    // A sidecar's revision is the digest of its own table (DESIGN 3): others' changes do not touch it.
    table: digest === expected || expected === "" ? digest : `${digest || "none"} (wants ${expected})`,
    "last refusal": plain(textOf(sidecar["nack"])),
  };
}
