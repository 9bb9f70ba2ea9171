// What replicas tell the leader: lines that say what changed, and a reader that takes nothing else.
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { ProxyStatus } from "../../../control-plane/discovery/server.ts";
import {
  MAX_REPORT_LINE,
  parseReportLine,
  proxyId,
  type ReportedProxy,
  ReportWriter,
} from "../../../control-plane/status/replica-report.ts";

const text = fc.string({ unit: "binary", maxLength: 40 }).map((value) => value.toWellFormed());
const proxies = fc
  .array(
    fc.record({
      workload: fc.constantFrom("a/x", "a/y", "b/z"),
      instance: fc.constantFrom("1", "2", "3", "4"),
      pod: text,
      node: text,
      softwareVersion: text,
      state: fc.constantFrom("synced" as const, "stale" as const, "disconnected" as const),
      digest: text,
      expectedDigest: text,
      nack: fc.option(text, { nil: undefined }),
      syncedRevision: fc.nat(),
      leaf: fc.record({ issuerKeyId: text, notAfterMs: fc.nat() }),
      sinceMs: fc.nat(),
    }),
    { maxLength: 12 },
  )
  .map((list) => [...new Map(list.map((one) => [proxyId(one), one])).values()]);

const withoutExpected = ({ expectedDigest: _, ...proxy }: ProxyStatus): ReportedProxy => proxy;

describe("a report", () => {
  test("carries any series of standings", () => {
    fc.assert(
      fc.property(fc.array(proxies, { maxLength: 6 }), (series) => {
        const writer = new ReportWriter();
        const known = new Map<string, ReportedProxy>();
        series.forEach((now, turn) => {
          const lines = writer.next(now);
          let isComplete = false;
          for (const line of lines) {
            const parsed = parseReportLine(line.trimEnd());
            if (!parsed.ok) throw new Error(parsed.error);
            for (const proxy of parsed.value.set ?? []) known.set(proxyId(proxy), proxy);
            for (const id of parsed.value.gone ?? []) known.delete(id);
            isComplete ||= parsed.value.complete === true;
          }
          expect(isComplete).toBe(turn === 0);
          const sorted = (list: Iterable<ReportedProxy>): ReportedProxy[] =>
            [...list].sort((a, b) => (proxyId(a) < proxyId(b) ? -1 : 1));
          expect(sorted(known.values())).toEqual(sorted(now.map(withoutExpected)));
          expect(writer.next(now)).toEqual([]);
        });
      }),
    );
  });

  test("a line of the longest texts stays within its bound", () => {
    const long = "\u{1f600}".repeat(100);
    const many = Array.from({ length: 450 }, (_, i) => ({
      ...{
        workload: `${long}${i}`,
        instance: long,
        pod: long,
        node: long,
        softwareVersion: "1",
        digest: "d",
      },
      ...{ state: "stale" as const, expectedDigest: "e", nack: "\u0000".repeat(5_000), syncedRevision: 1 },
      ...{ leaf: { issuerKeyId: "", notAfterMs: 0 }, sinceMs: 0 },
    }));
    for (const line of new ReportWriter().next(many)) {
      expect(Buffer.byteLength(line)).toBeLessThan(MAX_REPORT_LINE * 2);
      expect(line.length).toBeLessThanOrEqual(MAX_REPORT_LINE);
      expect(parseReportLine(line.trimEnd()).ok).toBe(true);
    }
  });

  test("the reader takes any line without failing, and refuses what is not a report", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (line) => {
        expect(typeof parseReportLine(line).ok).toBe("boolean");
      }),
    );
    const proxy = {
      ...{
        workload: "w",
        instance: "i",
        pod: "",
        node: "",
        softwareVersion: "",
        state: "synced",
        digest: "",
      },
      ...{ syncedRevision: 0, sinceMs: 0, leaf: { issuerKeyId: "", notAfterMs: 0 } },
    };
    for (const bad of [
      "",
      "[]",
      "null",
      '{"hello":{}}',
      '{"hello":{"replica":1,"software":""}}',
      '{"gone":[1]}',
      '{"set":{}}',
      '{"set":[{}]}',
      JSON.stringify({ set: [{ ...proxy, state: "fine" }] }),
      JSON.stringify({ set: [{ ...proxy, leaf: undefined }] }),
      JSON.stringify({ set: [{ ...proxy, workload: "x".repeat(3_000) }] }),
      JSON.stringify({ set: [{ ...proxy, syncedRevision: null }] }),
      JSON.stringify({ gone: Array.from({ length: 1_001 }, () => "x") }),
    ])
      expect({ bad, ok: parseReportLine(bad).ok }).toEqual({ bad, ok: false });
    expect(parseReportLine(JSON.stringify({ set: [proxy], other: 1 }))).toMatchObject({ ok: true });
  });
});
