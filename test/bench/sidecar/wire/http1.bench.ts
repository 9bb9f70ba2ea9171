// Cost of parsing one request head when its lines are cached: `node test/bench/sidecar/wire/http1.bench.ts [--json]`.
import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import { type Http1Handler, type RequestHead, RequestParser } from "../../../../sidecar/wire/http1/parser.ts";

const ROUNDS = 15;
const REQUESTS = 50_000;

const FIELDS = [
  "Host: fraud-scorer.ml-serving:8080",
  "User-Agent: python-requests/2.32.3",
  "Accept-Encoding: gzip, deflate, br",
  "Accept: application/json",
  "Connection: keep-alive",
  "Content-Type: application/json; charset=utf-8",
  "Authorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSJ9.MEUCIQDxyz",
];

interface Row {
  readonly row: string;
  /** The bytes of the n-th request. */
  readonly request: (n: number) => Buffer;
}

function get(target: string, fields: readonly string[]): Buffer {
  return Buffer.from(`GET ${target} HTTP/1.1\r\n${fields.join("\r\n")}\r\n\r\n`);
}

const repeated = get("/api/2.0/mlflow/runs/get?run_id=4f1d2c", [...FIELDS, "X-Client: sdk/1.8"]);
const traced = Array.from({ length: 64 }, (_, n) => {
  const id = n.toString(16).padStart(32, "0");
  return get("/api/2.0/mlflow/runs/get?run_id=4f1d2c", [
    ...FIELDS,
    `traceparent: 00-${id}-00f067aa0ba902b7-01`,
  ]);
});
const ROWS: readonly Row[] = [
  { row: "8 cached fields", request: () => repeated },
  { row: "7 cached fields and a trace id", request: (n) => traced[n & 63] ?? repeated },
];

function nanosecondsPerRequest(row: Row, cache: FieldCache): number {
  let heads = 0;
  const handler: Http1Handler<RequestHead> = {
    onHead: () => {
      heads++;
    },
    onBody: () => {},
    onEnd: () => parser.resume(),
    onProblem: (problem) => {
      throw new Error(problem.message);
    },
  };
  const parser = new RequestParser(handler, cache);
  const start = process.cpuUsage();
  for (let n = 0; n < REQUESTS; n++) parser.push(row.request(n));
  const used = process.cpuUsage(start);
  const elapsed = (used.user + used.system) * 1000;
  if (heads !== REQUESTS) throw new Error(`parsed ${heads} requests of ${REQUESTS}`);
  return elapsed / REQUESTS;
}

for (const row of ROWS) {
  const cache = new FieldCache();
  const samples = Array.from({ length: ROUNDS }, () => nanosecondsPerRequest(row, cache)).sort(
    (a, b) => a - b,
  );
  const ours = Math.round(samples[ROUNDS >> 1] ?? 0);
  const bytes = row.request(0).length;
  if (process.argv.includes("--json")) {
    console.log(JSON.stringify({ bench: "http1-parse", row: row.row, ours, unit: "ns/request", bytes }));
  } else
    console.log(
      `${row.row}: ${ours} ns per request of ${bytes} bytes (best round ${Math.round(samples[0] ?? 0)})`,
    );
}
