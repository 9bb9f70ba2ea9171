// `countersign history`, `diff` and `rollback`: what the mesh was told when, and how to go back.
import { type Clock, systemClock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { type Fields, fieldsOf, listOf, numberOf, textOf } from "./answers.ts";
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
import { objectText } from "./status.ts";

const SHOWN_CHANGES = 3;
const SHOWN_CHARS = 200;
const WAIT_MS = 5_000;
const POLL_MS = { "configuration directory": 50, cluster: 500 } as const;

const SIGN: Readonly<Record<string, string>> = { added: "+", changed: "~", removed: "-" };

/** @param limit how many revisions, newest first. */
export async function showHistory(
  mesh: Mesh,
  limit: number,
  json: boolean,
  output: Output,
): Promise<ExitStatus> {
  const history = fieldsOf(await mesh.manage("GET", "/v1/history"));
  const all = listOf(history["revisions"]);
  const revisions = all.slice(0, limit);
  if (json) {
    printJson(output, { ...history, revisions });
    return EXIT.ok;
  }
  const pinned = numberOf(history["pinned"]);
  output.out(
    pinned === undefined
      ? "not pinned: the newest revision is in force\n\n"
      : `PINNED to revision ${pinned}: edits are recorded, but not in force until \`countersign rollback --release\`\n\n`,
  );
  if (all.length === 0) {
    output.out("no revision yet\n");
    return EXIT.ok;
  }
  const inForce = all.find((one) => one["applied"] !== false)?.["sequence"];
  printTable(
    output,
    revisions.map((one) => ({
      revision: textOf(one["sequence"]),
      time: timeText(numberOf(one["timeMs"]) ?? Number.NaN),
      why: whyText(one),
      state: one["sequence"] === inForce ? "in force" : one["applied"] === false ? "recorded only" : "",
      changes: changesText(one),
    })),
  );
  if (all.length > revisions.length)
    output.out(`${counted(all.length - revisions.length, "older revision")} not shown; see \`--limit\`\n`);
  return EXIT.ok;
}

function whyText(revision: Fields): string {
  const to = textOf(revision["rollbackTo"]);
  return to === "" ? plain(textOf(revision["reason"])) : `rollback to ${to}`;
}

function changesText(revision: Fields): string {
  const changes = listOf(revision["changes"]);
  const count = numberOf(revision["changeCount"]) ?? changes.length;
  if (count === 0) return "none";
  const shown = changes
    .slice(0, SHOWN_CHANGES)
    .map((one) => `${SIGN[textOf(one["change"])] ?? "?"} ${objectText(textOf(one["object"]))}`);
  return `${shown.join(", ")}${count > shown.length ? ` and ${count - shown.length} more` : ""}`;
}

/**
 * Objects and fields that differ between two revisions.
 *
 * @param to undefined: the newest revision.
 */
export async function showDiff(
  mesh: Mesh,
  from: number,
  to: number | undefined,
  json: boolean,
  output: Output,
): Promise<ExitStatus> {
  const history = fieldsOf(await mesh.manage("GET", "/v1/history"));
  const newest = numberOf(listOf(history["revisions"])[0]?.["sequence"]);
  const until = to ?? newest;
  if (until === undefined) throw new MeshError("bad_object", "there is no revision yet");
  const diff = fieldsOf(await mesh.manage("GET", `/v1/diff?from=${from}&to=${until}`));
  if (json) {
    printJson(output, diff);
    return EXIT.ok;
  }
  const objects = listOf(diff["objects"]);
  output.out(`from revision ${from} to ${until}: ${counted(objects.length, "change")}\n`);
  for (const object of objects) {
    const change = textOf(object["change"]);
    output.out(`\n${SIGN[change] ?? "?"} ${objectText(textOf(object["object"]))} ${plain(change)}\n`);
    if (change !== "changed") continue;
    for (const field of listOf(object["fields"])) {
      const path = plain(textOf(field["path"])) || "(whole)";
      output.out(`    ${path}: ${valueText(field["from"])} -> ${valueText(field["to"])}\n`);
    }
  }
  const pinned = numberOf(history["pinned"]);
  if (pinned !== undefined)
    output.out(`\nthe mesh is PINNED to revision ${pinned}; what was recorded since is not in force\n`);
  return EXIT.ok;
}

/** JSON on one line, cut short; a field that was not there is `unset`. */
function valueText(value: unknown): string {
  if (value === undefined) return "unset";
  const text = plain(JSON.stringify(value));
  return text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}…` : text;
}

interface Acknowledged {
  readonly synced: number;
  readonly connected: number;
  /** Sidecars that are not there yet, with their refusal where they sent one. */
  readonly waiting: readonly string[];
}

/**
 * Publishes an earlier revision, or releases the pin, and waits up to five seconds for the sidecars.
 *
 * @returns `EXIT.ok` also when some sidecar has not answered yet: the rollback stands, and it applies it when it can.
 */
export async function rollback(
  mesh: Mesh,
  target: number | "release",
  json: boolean,
  output: Output,
  clock: Clock = systemClock,
): Promise<ExitStatus> {
  const summary = fieldsOf(
    target === "release"
      ? await mesh.manage("POST", "/v1/rollback/release", {})
      : await mesh.manage("POST", "/v1/rollback", { revision: target }),
  );
  const acknowledged = await untilAcknowledged(mesh, clock);
  const { synced, connected, waiting } = acknowledged;
  if (json) {
    printJson(output, { ...summary, acknowledged });
    return EXIT.ok;
  }
  const sequence = textOf(summary["sequence"]);
  output.out(
    target === "release"
      ? `released: revision ${sequence} is what the ${mesh.source} says\n`
      : `rolled back: revision ${sequence} is revision ${target} again\n`,
  );
  output.out(`changes: ${changesText(summary)}\n`);
  output.out(`acknowledged by ${synced}/${connected} connected sidecars\n`);
  for (const one of waiting) output.out(`  waiting for ${one}\n`);
  if (waiting.length > 0) output.out("see `countersign status` for what they answer\n");
  output.out(
    target === "release"
      ? `next: edits of the ${mesh.source} take effect again\n`
      : `next: correct the ${mesh.source} (\`countersign lint\`, \`countersign diff\`), then \`countersign rollback --release\`; until then edits are recorded but not in force. Trust bundles, revocations and grants were not rolled back\n`,
  );
  return EXIT.ok;
}

async function untilAcknowledged(mesh: Mesh, clock: Clock): Promise<Acknowledged> {
  const endMs = clock.monotonicMs() + WAIT_MS;
  for (;;) {
    const status = await readStatus(mesh);
    const connected = listOf(status["sidecars"]).filter((one) => one["state"] !== "disconnected");
    const behind = connected.filter((one) => one["state"] !== "synced");
    if (behind.length === 0 || clock.monotonicMs() >= endMs) {
      const waiting = behind.map((one) => {
        const nack = textOf(one["nack"]);
        return plain(`${textOf(one["workload"])}${nack === "" ? "" : `: refused: ${nack}`}`);
      });
      return { synced: connected.length - behind.length, connected: connected.length, waiting };
    }
    await clock.sleep(POLL_MS[mesh.source]);
  }
}
