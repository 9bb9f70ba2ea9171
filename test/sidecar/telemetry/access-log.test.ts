import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { type AccessLine, AccessLog } from "../../../sidecar/telemetry/access-log.ts";

function logOf(): { readonly log: AccessLog; readonly lines: string[] } {
  const lines: string[] = [];
  return { log: new AccessLog({ append: (line) => void lines.push(line) }), lines };
}

const LINE: AccessLine = {
  timeMs: 1_760_000_000_012,
  direction: "inbound",
  peer: "spiffe://mesh.local/ns/ml/sa/a/notebook/a",
  method: "GET",
  path: "/v1/models",
  operation: "mlflow.model.list",
  status: 200,
  reason: "ALLOWED",
  requestBytes: 0,
  responseBytes: 1_024,
  durationMs: 1.2345,
  traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
};

test("a line is written field by field in a fixed order", () => {
  const { log, lines } = logOf();
  log.write(LINE);
  expect(lines).toEqual([
    '{"time":1760000000012,"direction":"inbound","peer":"spiffe://mesh.local/ns/ml/sa/a/notebook/a","method":"GET",' +
      '"path":"/v1/models","operation":"mlflow.model.list","status":200,"reason":"ALLOWED","requestBytes":0,' +
      '"responseBytes":1024,"durationMs":1.23,"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}',
  ]);
});

test("what is remembered of a path never shows in a line of another request", () => {
  const text = fc.constantFrom("/a", "/b", '/"', "\\", "é", "\ud800", "x".repeat(600), "");
  const change: fc.Arbitrary<Partial<AccessLine>> = fc.record(
    {
      direction: fc.constantFrom("inbound" as const, "outbound" as const),
      peer: text,
      method: text,
      path: text,
      operation: text,
      status: fc.constantFrom(0, 200, 403),
      reason: fc.constantFrom("ALLOWED", "OVERLOADED"),
      requestBytes: fc.nat(),
      traceparent: fc.constantFrom(undefined, LINE.traceparent, '01-"'),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(fc.array(change, { maxLength: 20 }), (changes) => {
      const { log, lines } = logOf();
      const written = changes.map((each) => ({ ...LINE, ...each }));
      for (const line of written) log.write(line);
      expect(lines.map((line) => JSON.parse(line))).toEqual(
        written.map(({ timeMs, durationMs: _, traceparent, ...rest }) => ({
          time: timeMs,
          ...rest,
          durationMs: 1.23,
          ...(traceparent === undefined ? {} : { traceparent }),
        })),
      );
    }),
  );
});

test("a flood of paths is forgotten", () => {
  const { log, lines } = logOf();
  for (let round = 0; round < 2; round++)
    for (let i = 0; i < 3_000; i++) log.write({ ...LINE, path: `/${i}` });
  expect(lines).toHaveLength(6_000);
  expect(JSON.parse(lines[5_999] ?? "")).toMatchObject({ path: "/2999" });
});
