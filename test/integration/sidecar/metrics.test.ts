// What a scrape shows after a few calls: every family of the docs, counters that only grow, limits and tokens counted.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import { ALLOW_READ, hello, type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const LIMITED: ProgramPolicy = {
  ...ALLOW_READ,
  rules: ALLOW_READ.rules.map((rule) => ({
    ...rule,
    with: { rateLimit: { key: ["workload"], requests: 4, perMs: 3_600_000, burst: 4 } },
  })),
};

let world: World;
let caller: Sidecar;
let callee: Sidecar;

beforeAll(async () => {
  world = await World.create();
  const bundle = world.authority.bundle.json;
  callee = await world.sidecar(THINGS, { app: await world.app(hello) });
  caller = await world.sidecar(NOTEBOOK);
  callee.plane.setTable(table({ self: THINGS, policies: [LIMITED], bundle }));
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
  );
});
afterAll(() => world.close());

const scrape = (sidecar: Sidecar): string => exposition(sidecar.plane.metrics).body;
const seriesValue = (text: string, series: string): number | undefined => {
  const line = text.split("\n").find((one) => one.startsWith(`${series} `));
  return line === undefined ? undefined : Number(line.slice(series.length + 1));
};
const get = (): Promise<{ status: number }> =>
  send(caller.proxyPort, "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n");

test("counts tokens, decisions, limits and audit events under the documented names", async () => {
  const statuses: number[] = [];
  for (let i = 0; i < 6; i++) statuses.push((await get()).status);
  expect(statuses).toEqual([200, 200, 200, 200, 429, 429]);
  await callee.audit();
  const [out, inn] = [scrape(caller), scrape(callee)];
  const edge = 'caller_kind="notebook",caller="nb-1",callee_kind="serving",callee="things",op="thing.read"';
  expect(
    seriesValue(
      inn,
      `countersign_requests_total{reporter="destination",${edge},code="200",decision="allow"}`,
    ),
  ).toBe(4);
  expect(
    seriesValue(out, `countersign_requests_total{reporter="source",${edge},code="429",decision="allow"}`),
  ).toBe(2);
  expect(seriesValue(out, 'countersign_token_sign_total{type="wpt",cache="miss",result="ok"}')).toBe(1);
  expect(seriesValue(out, 'countersign_token_sign_total{type="wpt",cache="hit",result="ok"}')).toBe(5);
  expect(seriesValue(inn, 'countersign_token_verify_total{type="wpt",cache="miss",result="ok"}')).toBe(1);
  expect(seriesValue(inn, 'countersign_token_verify_total{type="wpt",cache="hit",result="ok"}')).toBe(5);
  const rule = 'policy="ml/readers",rule="notebooks",key_type="workload"';
  expect(seriesValue(inn, `countersign_limited_total{${rule}}`)).toBe(2);
  expect(seriesValue(inn, `countersign_limit_remaining_ratio{${rule}}`)).toBeCloseTo(0, 2);
  expect(seriesValue(inn, 'countersign_audit_events_total{sink="file",result="written"}')).toBe(6);
  expect(seriesValue(inn, 'countersign_audit_dropped_total{sink="file",result="overflow"}')).toBe(0);
  expect(inn).toMatch(/^# TYPE countersign_token_verify_total counter$/m);
  expect(inn).toMatch(/^# TYPE countersign_limit_remaining_ratio gauge$/m);
});

test("counters outlive a renewed identity", async () => {
  await caller.plane.setIdentity(world.identity(NOTEBOOK));
  await get();
  const text = scrape(caller);
  expect(
    seriesValue(text, 'countersign_token_sign_total{type="wpt",cache="miss",result="ok"}'),
  ).toBeGreaterThan(0);
  expect(
    seriesValue(text, 'countersign_token_sign_total{type="wpt",cache="hit",result="ok"}'),
  ).toBeGreaterThan(4);
});
