// `npm run demo`: a whole small ML platform with its mesh; prints who was allowed what and why, edits a policy, rolls
// it back, and says where to look. Ends with 0 when every call was answered as its policy says, with 1 otherwise.

import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import { printTable, terminal } from "../../control-plane/cli/print.ts";
import { until } from "./mesh-processes.ts";
import {
  type Answer,
  type AuditEvent,
  type Call,
  type Platform,
  removePlatformDir,
  startPlatform,
} from "./platform.ts";
import { repositoryRoot } from "./process.ts";

const HELP = `usage: npm run demo -- [--keep] [--json]

Starts a control plane, a notebook, two jobs, a fraud scorer (MLflow scoring protocol), a chat model (OpenAI protocol,
streaming) and a tracking server, each workload with a sidecar of its own, all on loopback. Prints one row per call:
who called what, the operation, the answer, the reason, the rule that decided, and which identity the application saw.

  --keep   leave it running until Ctrl-C, to look at metrics, audit and status
  --json   print the rows as JSON lines instead of a table
  --help   this text

Exit status: 0 when every call was answered as its policy says, 1 when one was not, 2 for a wrong option.
`;

interface Row {
  readonly step: string;
  readonly from: string;
  readonly to: string;
  readonly request: string;
  readonly operation: string;
  readonly status: number;
  readonly reason: string;
  readonly rule: string;
  readonly saw: string;
  readonly note: string;
  readonly expected: boolean;
}

interface Planned extends Call {
  readonly to: string;
  readonly want: { readonly status: number; readonly reason: string };
  readonly note?: string;
}

const CHAT = "http://llm-chat.ml-serving:8000";
const SCORER = "http://fraud-scorer.ml-serving:8080";
const MLFLOW = "http://mlflow.mlflow:5000";
const SCORE = { dataframe_records: [{ amount: 12 }, { amount: 4200 }] };

const nightlyCall: Planned = {
  from: "nightly-score",
  to: "serving/fraud-scorer",
  method: "POST",
  url: `${SCORER}/invocations`,
  body: SCORE,
  want: { status: 403, reason: "NO_MATCHING_ALLOW" },
  note: "outside its window",
};

const CALLS: readonly Planned[] = [
  {
    from: "nb-alice",
    to: "serving/llm-chat",
    method: "POST",
    url: `${CHAT}/v1/chat/completions`,
    body: { model: "llm-chat", stream: true, messages: [] },
    want: { status: 200, reason: "ALLOWED" },
    note: "streamed",
  },
  {
    from: "nb-alice",
    to: "serving/llm-chat",
    method: "POST",
    url: `${CHAT}/v1/chat/completions`,
    body: { model: "llm-chat", messages: [] },
    headers: { "x-mesh-caller": "job/release", "workload-proof-token": "forged" },
    want: { status: 200, reason: "ALLOWED" },
    note: "forged headers are stripped",
  },
  {
    from: "nb-alice",
    to: "serving/llm-chat",
    method: "POST",
    url: `${CHAT}/v1/embeddings`,
    body: { model: "llm-chat", input: "x" },
    want: { status: 403, reason: "NO_MATCHING_ALLOW" },
  },
  {
    from: "nb-alice",
    to: "service/mlflow",
    method: "POST",
    url: `${MLFLOW}/api/2.0/mlflow/runs/search`,
    body: {},
    want: { status: 200, reason: "ALLOWED" },
    note: "a read, although it is a POST",
  },
  {
    from: "nb-alice",
    to: "service/mlflow",
    method: "POST",
    url: `${MLFLOW}/api/2.0/mlflow/model-versions/transition-stage`,
    body: { name: "fraud", stage: "Production" },
    want: { status: 403, reason: "DENIED_BY_POLICY" },
    note: "guard rail of the platform",
  },
  {
    from: "nb-alice",
    to: "serving/fraud-scorer",
    method: "POST",
    url: `${SCORER}/invocations`,
    body: SCORE,
    want: { status: 403, reason: "NO_MATCHING_ALLOW" },
  },
  {
    from: "nb-alice",
    to: "serving/llm-chat",
    method: "POST",
    url: `${CHAT}/v1/models%2f..%2fadmin`,
    body: {},
    want: { status: 400, reason: "REQ_MALFORMED" },
    note: "never reaches the model",
  },
  {
    from: "nb-alice",
    to: "service/payroll",
    method: "GET",
    url: "http://payroll.finance:8080/salaries",
    want: { status: 502, reason: "UNKNOWN_DESTINATION" },
  },
  {
    from: "retrain-fraud",
    to: "service/mlflow",
    method: "POST",
    url: `${MLFLOW}/api/2.0/mlflow/runs/log-metric`,
    body: { run_id: "r-17", key: "auc", value: 0.97 },
    want: { status: 200, reason: "ALLOWED" },
  },
  {
    from: "retrain-fraud",
    to: "service/mlflow",
    method: "POST",
    url: `${MLFLOW}/api/2.0/mlflow/model-versions/create`,
    body: { name: "fraud_v2" },
    want: { status: 200, reason: "ALLOWED" },
    note: "model named in the body",
  },
  {
    from: "retrain-fraud",
    to: "service/mlflow",
    method: "POST",
    url: `${MLFLOW}/api/2.0/mlflow/model-versions/create`,
    body: { name: "credit" },
    want: { status: 403, reason: "NO_MATCHING_ALLOW" },
    note: "another team's model",
  },
  nightlyCall,
];

/** A time of day in Berlin, `hours` from now, as `HH:MM`. */
function berlinTime(hours: number): string {
  return new Intl.DateTimeFormat("de-DE", {
    timeZone: "Europe/Berlin",
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
  }).format(Date.now() + hours * 3_600_000);
}

function problemOf(answer: Answer): Record<string, string> {
  return answer.headers["content-type"]?.startsWith("application/problem+json")
    ? (JSON.parse(answer.body) as Record<string, string>)
    : {};
}

/** Makes the call and puts together what the caller got and what the callee's sidecar recorded. */
async function perform(platform: Platform, step: string, planned: Planned): Promise<Row> {
  const traceId = randomBytes(16).toString("hex");
  const { want, to, note, ...call } = planned;
  const answer = await platform.call({
    ...call,
    headers: { ...call.headers, traceparent: `00-${traceId}-00f067aa0ba902b7-01` },
  });
  if (answer.error !== undefined) throw new Error(`${call.from} could not call ${call.url}: ${answer.error}`);
  const events: AuditEvent[] = await platform.audit(traceId);
  const event = events.at(-1);
  const reason = event?.data.decision.reason ?? problemOf(answer)["reason"] ?? "";
  const rule = event?.data.decision.policy ? `${event.data.decision.policy}/${event.data.decision.rule}` : "";
  const chunks = answer.body.split("\n\n").filter((line) => line.startsWith("data:")).length;
  return {
    step,
    from: event?.data.identityMetadata.caller ?? call.from,
    to,
    request: `${call.method} ${new URL(call.url).pathname}`,
    operation: event?.data.actionName ?? "",
    status: answer.status,
    reason,
    rule,
    saw: answer.headers["x-demo-saw"] ?? "",
    note:
      chunks > 0
        ? `${chunks} events, first after ${answer.firstByteMs.toFixed(0)} of ${answer.lastByteMs.toFixed(0)} ms`
        : (note ?? ""),
    expected:
      answer.status === want.status &&
      reason === want.reason &&
      (answer.status !== 200 || answer.headers["x-demo-saw"]?.endsWith(`/${call.from}`) === true),
  };
}

/** Repeats the call until it is answered with `status`; returns the last row and the milliseconds it took. */
async function performUntil(
  platform: Platform,
  step: string,
  planned: Planned,
): Promise<{ row: Row; tookMs: number }> {
  const startedMs = performance.now();
  const row = await until(
    `the ${step} to take effect`,
    async () => {
      const answer = await platform.call(planned);
      return answer.status === planned.want.status ? perform(platform, step, planned) : undefined;
    },
    5000,
  );
  return { row, tookMs: performance.now() - startedMs };
}

async function main(): Promise<number> {
  let options: { keep?: boolean; json?: boolean; help?: boolean };
  try {
    options = parseArgs({
      options: { keep: { type: "boolean" }, json: { type: "boolean" }, help: { type: "boolean" } },
    }).values;
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${HELP}`);
    return 2;
  }
  if (options.help === true) {
    process.stdout.write(HELP);
    return 0;
  }
  const json = options.json === true;
  const say = (text: string) => {
    if (!json) process.stdout.write(`${text}\n`);
  };
  const rows: Row[] = [];
  const dir = mkdtempSync(join(tmpdir(), "countersign-demo-"));
  // Ctrl-C ends everything at once, or, with --keep, the waiting.
  let stopWaiting = (): void => {
    removePlatformDir(dir);
    process.exit(130);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => stopWaiting());
  say("Starting a control plane and six workloads, each with its own sidecar …");
  const startedMs = performance.now();
  const platform = await startPlatform(dir, { windowFrom: berlinTime(2), windowTo: berlinTime(4) });
  try {
    const readyMs = [...platform.sidecars.values()].map((one) => one.readyMs);
    say(`Ready after ${((performance.now() - startedMs) / 1000).toFixed(1)} s.\n`);
    for (const planned of CALLS) rows.push(await perform(platform, "first", planned));
    const report = (from: number) => {
      if (json) for (const row of rows.slice(from)) process.stdout.write(`${JSON.stringify(row)}\n`);
      else
        printTable(
          terminal,
          rows
            .slice(from)
            .map(({ from: caller, to, operation, request, status, reason, rule, saw, note }) => ({
              caller,
              target: to,
              operation: operation || request,
              answer: String(status),
              reason,
              "decided by": rule,
              "application saw": saw,
              note,
            })),
        );
    };
    report(0);

    const before = Number(
      ((await platform.manage("GET", "/v1/status")).body["revision"] as number | undefined) ?? 0,
    );
    say(
      "\nThe nightly job is late: its window in fraud-scorer-callers.yaml is opened, nothing is restarted.",
    );
    platform.edit("fraud-scorer-callers.yaml", (text) =>
      text.replace(/from: ".*"/, `from: "${berlinTime(-1)}"`).replace(/to: ".*"/, `to: "${berlinTime(1)}"`),
    );
    const edited = await performUntil(platform, "edit", {
      ...nightlyCall,
      want: { status: 200, reason: "ALLOWED" },
      note: "window opened",
    });
    rows.push(edited.row);
    report(rows.length - 1);
    say(`In force ${edited.tookMs.toFixed(0)} ms after the file was saved.`);

    const command = ["rollback", String(before), "--state-dir", platform.stateDir];
    say(`\nRolled back: countersign ${command.slice(0, 2).join(" ")}`);
    await promisify(execFile)(process.execPath, [
      join(repositoryRoot, "dist/control-plane/cli/main.js"),
      ...command,
    ]);
    const rolledBack = await performUntil(platform, "rollback", {
      ...nightlyCall,
      note: `revision ${before} is pinned`,
    });
    rows.push(rolledBack.row);
    report(rows.length - 1);

    const wrong = rows.filter((row) => !row.expected);
    for (const row of wrong)
      process.stderr.write(
        `unexpected: ${row.from} ${row.request} was answered ${row.status} ${row.reason}\n`,
      );
    const notebook = platform.sidecars.get("nb-alice");
    const scorer = platform.sidecars.get("fraud-scorer");
    say(`
Where to look${options.keep === true ? "" : " (with --keep)"}:
  metrics   curl -s http://127.0.0.1:${scorer?.metricsPort}/metrics | grep countersign_
            curl -s http://127.0.0.1:${platform.ports.metrics}/metrics | grep countersign_
  audit     tail -n 3 ${scorer?.auditFile}
  status    npm run -s countersign -- status --state-dir ${platform.stateDir}
  history   npm run -s countersign -- history --state-dir ${platform.stateDir}
  policies  ${platform.configDir}
  a call    curl -x http://127.0.0.1:${notebook?.proxyPort} ${CHAT}/v1/chat/completions -H 'content-type: application/json' -d '{"model":"llm-chat"}'

${rows.length} calls, ${wrong.length === 0 ? "each answered as its policy says" : `${wrong.length} NOT answered as their policy says`}; six sidecars were ready within ${Math.max(...readyMs).toFixed(0)} ms, started together.`);
    if (options.keep === true) {
      say("\nRunning until Ctrl-C …");
      await new Promise<void>((resolve) => {
        stopWaiting = resolve;
      });
    }
    return wrong.length === 0 ? 0 : 1;
  } finally {
    await platform.close();
    removePlatformDir(dir);
  }
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`the demo failed: ${error instanceof Error ? error.message : String(error)}\n`);
  return 1;
});
