// Lines of a report, altered at random: the reader never throws, and what it takes can be merged, written and read again.
import fc from "fast-check";
import { ReplicaProxies } from "../../../../control-plane/status/replica-proxies.ts";
import { parseReportLine, ReportWriter } from "../../../../control-plane/status/replica-report.ts";
import { systemClock } from "../../../../sidecar/core/runtime/clock.ts";

const odd = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.constantFrom<unknown>("__proto__", 1e308, -0, null));
const sometimes = (value: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 30, arbitrary: value }, { weight: 1, arbitrary: odd });
const text = sometimes(fc.string({ unit: "binary", maxLength: 12 }));
const count = sometimes(fc.integer());
const proxy = fc.record(
  {
    ...{ workload: text, instance: text, pod: text, node: text, softwareVersion: text, digest: text },
    state: sometimes(fc.constantFrom("synced", "stale", "disconnected")),
    nack: text,
    ...{ syncedRevision: count, sinceMs: count },
    leaf: sometimes(fc.record({ issuerKeyId: text, notAfterMs: count })),
    more: odd,
  },
  { requiredKeys: ["workload", "instance", "pod", "node", "softwareVersion", "digest", "state", "leaf"] },
);
const line = fc.oneof(
  fc.string(),
  fc
    .record(
      {
        hello: sometimes(fc.record({ replica: text, software: text })),
        set: sometimes(fc.array(sometimes(proxy), { maxLength: 4 })),
        gone: sometimes(fc.array(text, { maxLength: 3 })),
        complete: sometimes(fc.constant(true)),
      },
      { requiredKeys: [] },
    )
    .map((value) => JSON.stringify(value)),
);

function check(lines: readonly string[]): void {
  const stop = new AbortController();
  stop.abort();
  const proxies = new ReplicaProxies({
    ...{ expectedDigest: () => "d", revision: () => 1, softwareVersion: "1", clock: systemClock },
    ...{ onChanged: () => {}, signal: stop.signal },
  });
  const report = proxies.begin("a", "1");
  for (const text of lines) {
    const parsed = parseReportLine(text);
    if (parsed.ok) report.take(parsed.value);
  }
  const merged = proxies.merge([]);
  for (const again of new ReportWriter().next(merged))
    if (!parseReportLine(again.trimEnd()).ok) throw new Error("what was read cannot be written and read");
}

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  let cases = 0;
  fc.assert(
    fc.property(fc.array(line, { maxLength: 6 }), (lines) => {
      cases++;
      check(lines);
    }),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  return { cases };
}
