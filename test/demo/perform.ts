// Makes a planned call and puts together what the caller got and what was recorded of it; or a whole chain of calls.
import { randomBytes } from "node:crypto";
import type { Planned } from "./calls.ts";
import { until } from "./mesh-processes.ts";
import { idOf, type Person, type PersonName } from "./people.ts";
import type { AuditEvent, Platform } from "./platform.ts";
import type { RelayedCall } from "./relay.ts";

export interface Row {
  readonly step: string;
  /** As the audit names them; empty: nobody. */
  readonly person: string;
  /** Everybody on the way, the caller last. */
  readonly path: string;
  readonly to: string;
  readonly request: string;
  readonly operation: string;
  readonly status: number;
  readonly reason: string;
  readonly rule: string;
  readonly saw: string;
  readonly vector: string;
  readonly txn: string;
  readonly time: string;
  readonly note: string;
  readonly expected: boolean;
}

/** What the caller got. */
interface Outcome {
  readonly traceId: string;
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
  readonly streamed: string | undefined;
}

export interface Stage {
  readonly platform: Platform;
  readonly person: (name: PersonName) => Person;
}

/** Makes the call. */
export async function perform(stage: Stage, step: string, planned: Planned): Promise<Row> {
  const outcome = planned.at === undefined ? await alone(stage, planned) : await through(stage, planned);
  const { want, to, from, person, note, path = [], vector = "" } = planned;
  const events = await stage.platform.audit(outcome.traceId, (found) => isComplete(found, to));
  const event = events.findLast(({ subject }) => subject === to) ?? events.at(-1);
  const row = rowOf(step, event, { to, request: `${planned.method} ${new URL(planned.url).pathname}` });
  const saw = `${outcome.headers["x-demo-saw"] ?? ""}`;
  const user = `${outcome.headers["x-demo-user"] ?? ""}`;
  const reason = row.reason || (problemOf(outcome)["reason"] ?? "");
  const asserted = person === undefined ? "" : idOf(person);
  return {
    ...{ ...row, status: outcome.status, reason, vector, saw: user === "" ? saw : `${saw} for ${user}` },
    note: outcome.streamed ?? note ?? "",
    expected:
      outcome.status === want.status &&
      reason === want.reason &&
      (want.rule === undefined || row.rule.endsWith(want.rule)) &&
      // What never got anywhere is nobody's yet.
      (row.person === asserted || want.reason === "UNKNOWN_DESTINATION") &&
      row.path.startsWith(path.join(" → ")) &&
      row.path.endsWith(`/${from}`) &&
      (saw === "" || (saw.endsWith(`/${from}`) && user === asserted)),
  };
}

/** The callee records what it decides, the caller what never got there. */
function isComplete(events: readonly AuditEvent[], to: string): boolean {
  const reached = events.filter(({ subject }) => /^(notebook|agent|job)\//.test(subject));
  return events.some(({ subject }) => subject === to) || events.length > reached.length;
}

/** The workload calls by itself. */
async function alone({ platform }: Stage, { from, method, url, headers, body }: Planned): Promise<Outcome> {
  const traceId = randomBytes(16).toString("hex");
  const answer = await platform.call({
    ...{ from, method, url, body },
    headers: { ...headers, traceparent: `00-${traceId}-00f067aa0ba902b7-01` },
  });
  if (answer.error !== undefined) throw new Error(`${from} could not call ${url}: ${answer.error}`);
  const chunks = answer.body.split("\n\n").filter((line) => line.startsWith("data:")).length;
  const { firstByteMs, lastByteMs } = answer;
  return {
    ...{ traceId, status: answer.status, headers: answer.headers, body: answer.body },
    streamed:
      chunks === 0
        ? undefined
        : `${chunks} events, first after ${firstByteMs.toFixed(0)} of ${lastByteMs.toFixed(0)} ms`,
  };
}

/** A person asks at the gateway, and the application behind it calls. */
async function through({ person }: Stage, planned: Planned): Promise<Outcome> {
  const { person: who, at, method, url, headers = {}, body } = planned;
  if (who === undefined || at === undefined) throw new Error("nobody asks");
  const reply = await person(who).ask(at, [{ method, url, headers, body }]);
  const [answer] = reply.relayed?.answers ?? [];
  if (answer === undefined) throw new Error(`${who} did not get through: ${reply.status} ${reply.text}`);
  return { ...answer, traceId: traceIdOf(reply.relayed?.saw["traceparent"]), streamed: undefined };
}

function traceIdOf(traceparent: unknown): string {
  const id = typeof traceparent === "string" ? traceparent.split("-")[1] : undefined;
  if (id === undefined) throw new Error("the application was called without a trace");
  return id;
}

function problemOf({ headers, body }: Pick<Outcome, "headers" | "body">): Record<string, string> {
  return String(headers["content-type"]).startsWith("application/problem+json")
    ? (JSON.parse(body) as Record<string, string>)
    : {};
}

function rowOf(
  step: string,
  event: AuditEvent | undefined,
  asked: { readonly to: string; readonly request: string },
): Row {
  const { decision, identityMetadata, userIdentity, txn, actionName, response } = event?.data ?? {};
  const chain = identityMetadata?.chain?.map(({ s }) => s) ?? [];
  return {
    ...{ step, ...asked, operation: actionName ?? "", status: response?.statusCode ?? 0 },
    person: userIdentity?.id ?? "",
    path: chain.length > 0 ? chain.join(" → ") : (identityMetadata?.caller ?? ""),
    reason: decision?.reason ?? "",
    rule: decision?.policy ? `${decision.policy}/${decision.rule}` : "",
    ...{ saw: "", vector: "", note: "", txn: txn ?? "", time: event?.time ?? "", expected: true },
  };
}

/** Repeats the call until it is answered with what is wanted; returns the last row and the milliseconds it took. */
export async function performUntil(
  stage: Stage,
  step: string,
  planned: Planned,
): Promise<{ row: Row; tookMs: number }> {
  const startedMs = performance.now();
  const { from, method, url, headers = {}, body } = planned;
  await until(`the ${step} to take effect`, async () => {
    const answer = await stage.platform.call({ from, method, url, headers, body });
    return answer.status === planned.want.status ? true : undefined;
  });
  const tookMs = performance.now() - startedMs;
  return { row: await perform(stage, step, planned), tookMs };
}

/** A chain of calls: one record per call, under one transaction. */
export async function performChain(
  { platform, person }: Stage,
  chain: {
    readonly by: PersonName;
    readonly at: Parameters<Person["ask"]>[0];
    readonly calls: readonly RelayedCall[];
    readonly lines: readonly (readonly string[])[];
  },
): Promise<readonly Row[]> {
  const { relayed, status, text } = await person(chain.by).ask(chain.at, chain.calls);
  if (relayed === undefined) throw new Error(`${chain.by} did not get through: ${status} ${text}`);
  const events = await platform.audit(
    traceIdOf(relayed.saw["traceparent"]),
    ({ length }) => length >= chain.lines.length,
  );
  const rows = events.map((event) => rowOf("chain", event, { to: event.subject, request: "" }));
  const [first] = rows;
  return rows.map((row, i) => ({
    ...row,
    expected:
      rows.length === chain.lines.length &&
      row.reason === "ALLOWED" &&
      row.person === idOf(chain.by) &&
      row.txn !== "" &&
      row.txn === first?.txn &&
      [row.path, row.to, row.operation].join("\n") === chain.lines[i]?.join("\n"),
  }));
}
