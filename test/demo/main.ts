// `npm run demo`: a whole small ML platform with its mesh and its people; prints who was allowed what and why, follows one
// transaction from a person to a model, edits a policy, rolls it back, signs somebody out, and says where to look. Ends
// with 0 when every call was answered as its policy says, with 1 otherwise.

import { execFile } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import { ALICE_CHATS, CHAIN, CHAT, NIGHTLY, OF_WORKLOADS, ofPeople, WITHOUT_LOGIN } from "./calls.ts";
import { PERSON_NAMES, type Person, type PersonName, startPeopleWorld } from "./people.ts";
import { perform, performChain, performUntil, type Row, type Stage } from "./perform.ts";
import { type Platform, removePlatformDir, startPlatform } from "./platform.ts";
import { repositoryRoot } from "./process.ts";
import { Report } from "./report.ts";

const HELP = `usage: npm run demo -- [--keep] [--json]

Starts a control plane, a gateway, two notebooks, three jobs, an agent with its tools, a fraud scorer (MLflow scoring and
Open Inference protocols), a chat model (OpenAI protocol, streaming) and a tracking server, each workload with a sidecar of
its own, and an OpenID Provider where Alice, Bob and Dave sign in; all on loopback. Prints one row per call: who called what
by which way, the operation, the answer, the reason, and the rule that decided.

  --keep   leave it running until Ctrl-C, to look at metrics, audit and status
  --json   print the rows as JSON lines instead of a table
  --help   this text

Exit status: 0 when every call was answered as its policy says, 1 when one was not, 2 for a wrong option.
`;

/** A time of day in Berlin, `hours` from now, as `HH:MM`. */
function berlinTime(hours: number): string {
  return new Intl.DateTimeFormat("de-DE", {
    timeZone: "Europe/Berlin",
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
  }).format(Date.now() + hours * 3_600_000);
}

type World = Awaited<ReturnType<typeof startPeopleWorld>>;

async function signIns(stage: Stage, report: Report): Promise<void> {
  const refused = await stage.person("alice").ask("nb-alice", []);
  report.say(
    `\nPeople: Alice's notebook at the gateway, nobody signed in: ${refused.status} ${String(JSON.parse(refused.text).reason)}. They sign in:`,
  );
  report.check(refused.status === 401, "the gateway let somebody in who has not signed in");
  for (const name of PERSON_NAMES) {
    const startedMs = performance.now();
    const { user = "", roles = [] } = await stage.person(name).signIn();
    const tookMs = performance.now() - startedMs;
    report.say(
      `  ${user.padEnd(16)} ${roles.join(", ").padEnd(22)} ${tookMs.toFixed(0)} ms, the provider's pages included`,
    );
    report.check(user === stage.person(name).id, `${name} signed in as ${user}`);
  }
  const bob = stage.person("bob");
  await bob.signIn("nb-alice");
  const strayed = await bob.ask("nb-alice", []);
  report.check(strayed.status === 403, `Bob was answered ${strayed.status} at Alice's notebook`);
  report.say(`  Bob, signed in, at the address of Alice's notebook: ${strayed.status}, it is hers alone.`);
  report.say("");
}

async function edits(stage: Stage, report: Report): Promise<void> {
  const { platform } = stage;
  const before = Number(((await platform.manage("GET", "/v1/status")).body["revision"] as number) ?? 0);
  report.say(
    "\nThe nightly job is late: its window in fraud-scorer-callers.yaml is opened, nothing is restarted.",
  );
  platform.edit("fraud-scorer-callers.yaml", (text) =>
    text.replace(/from: "\d.*"/, `from: "${berlinTime(-1)}"`).replace(/to: "\d.*"/, `to: "${berlinTime(1)}"`),
  );
  const edited = await performUntil(stage, "edit", {
    ...NIGHTLY,
    want: { status: 200, reason: "ALLOWED" },
    note: "window opened",
  });
  report.rows([edited.row]);
  report.say(`In force ${edited.tookMs.toFixed(0)} ms after the file was saved.`);

  const command = ["rollback", String(before), "--state-dir", platform.stateDir];
  report.say(`\nRolled back: countersign ${command.slice(0, 2).join(" ")}`);
  await promisify(execFile)(process.execPath, [
    join(repositoryRoot, "dist/control-plane/cli/main.js"),
    ...command,
  ]);
  const rolledBack = await performUntil(stage, "rollback", {
    ...NIGHTLY,
    note: `revision ${before} is pinned`,
  });
  report.rows([rolledBack.row]);
}

async function signOut(stage: Stage, report: Report): Promise<void> {
  report.say("\nAlice signs out. Her notebook still runs; its calls are no longer made with her login.");
  await stage.person("alice").signOut();
  const { row, tookMs } = await performUntil(stage, "sign-out", {
    ...ALICE_CHATS,
    ...WITHOUT_LOGIN,
  });
  report.rows([row]);
  report.say(`In force ${tookMs.toFixed(0)} ms after she had signed out.`);
}

async function tell(stage: Stage, world: World, report: Report): Promise<void> {
  const rows: Row[] = [];
  for (const planned of OF_WORKLOADS) rows.push(await perform(stage, "workloads", planned));
  rows.push(await perform(stage, "signed out", { ...ALICE_CHATS, ...WITHOUT_LOGIN }));
  report.rows(rows);
  await signIns(stage, report);
  const ofThem: Row[] = [];
  for (const planned of ofPeople(world.values["workspace"] ?? "")) {
    const { eventually = false } = planned;
    ofThem.push(
      eventually
        ? (await performUntil(stage, "people", planned)).row
        : await perform(stage, "people", planned),
    );
  }
  report.rows(ofThem);
  report.say(
    "\nOne transaction: Alice asks in her notebook, the notebook starts a job, the job asks the model.",
  );
  report.chain(await performChain(stage, { by: "alice", ...CHAIN }));
  await edits(stage, report);
  await signOut(stage, report);
}

function whereToLook(
  { sidecars, ports, stateDir, configDir }: Platform,
  world: World,
  keep: boolean,
): string {
  const scorer = sidecars.get("fraud-scorer");
  return `
Where to look${keep ? "" : " (with --keep)"}:
  metrics   curl -s http://127.0.0.1:${scorer?.metricsPort}/metrics | grep countersign_
            curl -s http://127.0.0.1:${ports.metrics}/metrics | grep countersign_
  audit     tail -n 3 ${scorer?.auditFile}
            tail -n 3 ${stateDir}/audit/tokens.jsonl
  status    npm run -s countersign -- status --state-dir ${stateDir}
  history   npm run -s countersign -- history --state-dir ${stateDir}
  roles     npm run -s countersign -- roles 'okta-main|bob' --group fraud-data-scientists --group externals --state-dir ${stateDir}
  policies  ${configDir}
  a call    curl -x http://127.0.0.1:${sidecars.get("nb-alice")?.proxyPort} ${CHAT}/v1/chat/completions -H 'content-type: application/json' -d '{"model":"llm-chat"}'
  a page    https://nb-alice.notebooks.acme.example:${world.gatewayPort}/ (name it 127.0.0.1 in /etc/hosts)
`;
}

function parseOptions(): { keep?: boolean; json?: boolean; help?: boolean } | undefined {
  try {
    return parseArgs({
      options: { keep: { type: "boolean" }, json: { type: "boolean" }, help: { type: "boolean" } },
    }).values;
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${HELP}`);
    return undefined;
  }
}

async function main(): Promise<number> {
  const options = parseOptions();
  if (options === undefined) return 2;
  if (options.help === true) {
    process.stdout.write(HELP);
    return 0;
  }
  const keep = options.keep === true;
  const report = new Report(options.json === true);
  const dir = mkdtempSync(join(tmpdir(), "countersign-demo-"));
  // Ctrl-C ends everything at once, or, with --keep, the waiting.
  let stopWaiting = (): void => {
    removePlatformDir(dir);
    process.exit(130);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => stopWaiting());
  report.say(
    "Starting a control plane, a gateway, ten workloads, each with its own sidecar, and an OpenID Provider …",
  );
  const startedMs = performance.now();
  const world = await startPeopleWorld(dir);
  let platform: Platform | undefined;
  try {
    const values = { ...world.values, windowFrom: berlinTime(2), windowTo: berlinTime(4) };
    platform = await startPlatform(dir, values, world.more);
    report.say(`Ready after ${((performance.now() - startedMs) / 1000).toFixed(1)} s.\n`);
    const people = new Map<PersonName, Person>();
    const person = (name: PersonName): Person => {
      const known = people.get(name) ?? world.person(name);
      people.set(name, known);
      return known;
    };
    await tell({ platform, person }, world, report);
    report.say(whereToLook(platform, world, keep));
    report.end();
    if (keep) {
      report.say("\nRunning until Ctrl-C …");
      await new Promise<void>((resolve) => {
        stopWaiting = resolve;
      });
    }
    return report.isGood ? 0 : 1;
  } finally {
    await platform?.close();
    await world.close();
    removePlatformDir(dir);
  }
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`the demo failed: ${error instanceof Error ? error.message : String(error)}\n`);
  return 1;
});
