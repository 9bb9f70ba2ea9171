// Cost of classifying a request: repeated targets (the hot path) and targets never seen before. Run it directly with
// Node 24; prints one JSON line per row, medians of batches in microseconds.
import { loadBuiltInPacks } from "../../../../../control-plane/policy/packs.ts";
import { parsePack } from "../../../../../sidecar/core/policy/catalog.ts";
import { type Classifier, createClassifier } from "../../../../../sidecar/core/policy/operations.ts";

const texts = loadBuiltInPacks();
const port = (...names: string[]): Classifier =>
  createClassifier({
    packs: names.map((name) => {
      const parsed = parsePack(name, texts.get(name) ?? "");
      if (!parsed.ok) throw new Error(parsed.error);
      return parsed.value;
    }),
    selfName: "fraud-scorer",
  });

const header = (): undefined => undefined;

/** Median over 41 batches; targets are built as Latin-1 copies, as a parser would hand them over. */
function measure(row: string, classifier: Classifier, method: string, targetOf: (i: number) => string): void {
  const batch = 2000;
  const samples: number[] = [];
  let n = 0;
  let ok = 0;
  for (let round = 0; round < 41; round++) {
    const inputs = Array.from({ length: batch }, () => ({
      method,
      target: Buffer.from(targetOf(n++)).toString("latin1"),
      contentType: "application/json",
      header,
    }));
    const start = process.hrtime.bigint();
    for (const input of inputs) if (classifier.classify(input).ok) ok++;
    samples.push(Number(process.hrtime.bigint() - start) / 1000 / batch);
  }
  samples.sort((a, b) => a - b);
  process.stdout.write(
    `${JSON.stringify({ bench: "classify", row, ours: Number((samples[20] ?? 0).toFixed(3)), unit: "us", ok: ok === n })}\n`,
  );
}

const scorer = port("mlflow-scoring", "oip-v2");
const databricks = port("databricks");
for (const round of ["warm-up", "measured"]) {
  measure(`hit, one target (${round})`, port("openai"), "POST", () => "/v1/chat/completions");
  measure(`hit, 100 targets (${round})`, scorer, "POST", (i) => `/v2/models/fraud-${i % 100}/infer`);
  measure(`miss, scorer (${round})`, scorer, "POST", (i) => `/v2/models/fraud-${round}-${i}/infer`);
  measure(
    `miss, databricks query (${round})`,
    databricks,
    "GET",
    (i) => `/api/2.1/jobs/get?job_id=${round === "measured" ? 1 : 2}${i}`,
  );
  measure(
    `miss, databricks escaped tail (${round})`,
    databricks,
    "GET",
    (i) => `/api/2.0/fs/files/Volumes/main/a%20b/${round}-${i}.parquet`,
  );
}
