// A TrafficPolicy as somebody writes it, through the control plane to the sidecars that carry it out: every part of it
// against endpoints that fail in the way it is meant for. Real processes.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { get, type Sidecar, startControlPlane, startSidecar, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../demo/process.ts";
import { type Answer, type App, hello, type RawAnswer, send, startApp } from "./sidecar/world.ts";

const dir = mkdtempSync(join(tmpdir(), "countersign-traffic-"));
const configDir = join(dir, "config");
const running: RunningProcess[] = [];
const apps: App[] = [];
/** How each application answers at the moment. */
const answers: Answer[] = [hello, hello];
let caller: Sidecar;
let callees: readonly Sidecar[];

const CALL =
  "POST http://scorer.serving:8080/invocations HTTP/1.1\r\nhost: scorer.serving:8080\r\ncontent-length: 5\r\n\r\nscore";
const silent: Answer = () => {};
const failing =
  (status: string, fields = ""): Answer =>
  (_head, socket) => {
    socket.write(`HTTP/1.1 ${status}\r\n${fields}content-length: 0\r\n\r\n`);
  };

const workload = (name: string, meshPort: number, zone: string): string => `
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: ${name}, namespace: serving}
spec: {kind: serving, zone: ${zone}, serviceAccount: scorer, addresses: [127.0.0.1], meshPort: ${meshPort}, service: scorer, ports: [{port: 8080, packs: [mlflow-scoring]}]}
---`;

beforeAll(async () => {
  for (const index of [0, 1]) {
    apps.push(await startApp((head, socket, body) => (answers[index] ?? hello)(head, socket, body)));
  }
  const [a = 0, b = 0, c = 0, proxyPort = 0, ...metrics] = await freePorts(7);
  mkdirSync(configDir);
  writeFileSync(
    join(configDir, "mesh.yaml"),
    `
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: test.example}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: notebook, namespace: lab}
spec: {kind: notebook, zone: east, serviceAccount: notebook}
---
${workload("scorer-a", a, "west")}
${workload("scorer-b", b, "east")}
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: notebooks, namespace: serving}
spec:
  action: Allow
  targets: [{names: ["scorer-*"]}]
  rules: [{name: only, from: [{workload: {kinds: [notebook]}}], operations: [{op: serving.invoke}, {op: health.probe}]}]
`,
  );
  const controlPlane = await startControlPlane(configDir, join(dir, "control-plane"), running);
  const start = (name: string, namespace: string, meshPort: number, index: number): Promise<Sidecar> =>
    startSidecar(
      controlPlane,
      {
        namespace,
        name,
        dir: join(dir, name),
        meshPort,
        proxyPort: namespace === "lab" ? proxyPort : 0,
        metricsPort: metrics[index] ?? 0,
        args: namespace === "lab" ? [] : ["--app-port-map", `8080=127.0.0.1:${apps[index]?.port}`],
      },
      running,
    );
  callees = [await start("scorer-a", "serving", a, 0), await start("scorer-b", "serving", b, 1)];
  caller = await start("notebook", "lab", c, 2);
});
afterAll(async () => {
  await Promise.all(running.map((one) => one.stop()));
  for (const app of apps) await app.close();
  rmSync(dir, { recursive: true, force: true });
});

async function revision(): Promise<number> {
  const { body } = await get(caller.metricsPort, "/metrics");
  return Number(/^countersign_config_revision (\d+)$/m.exec(body)?.[1]);
}

/** Puts the spec in force at the caller. */
async function traffic(spec: string): Promise<void> {
  const before = await revision();
  writeFileSync(
    join(configDir, "traffic.yaml"),
    `
apiVersion: countersign.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: scorers, namespace: serving}
spec: {targets: [{names: ["scorer-*"]}], ${spec}}
`,
  );
  await until("the policy at the caller", async () => ((await revision()) > before ? true : undefined));
}

const metric = async (line: string): Promise<boolean> =>
  (await get(caller.metricsPort, "/metrics")).body.includes(line);
const reached = (): number[] => apps.map((app) => app.heads.length);
const ask = (): Promise<RawAnswer> => send(caller.proxyPort, CALL);
const reasonOf = ({ body }: RawAnswer): unknown => (JSON.parse(body) as Record<string, unknown>)["reason"];

async function statuses(count: number): Promise<Readonly<Record<string, number>>> {
  const seen: Record<string, number> = {};
  for (let i = 0; i < count; i++) {
    const { status } = await ask();
    seen[status] = (seen[status] ?? 0) + 1;
  }
  return seen;
}

test("retries: what the callee declares idempotent is sent again, each attempt decided and recorded there", async () => {
  answers[0] = failing("503 Service Unavailable");
  const without = await statuses(20);
  expect(without["503"]).toBeGreaterThan(0);
  await traffic("retries: {attempts: 2, retryOn: ['503'], idempotent: [serving.invoke], budgetPercent: 100}");
  const before = reached();
  expect(await statuses(40)).toEqual({ 200: 40 });
  const [first = 0, second = 0] = reached().map((count, index) => count - (before[index] ?? 0));
  expect(second).toBe(40);
  expect(first).toBeGreaterThan(5);
  expect(
    await metric(`countersign_retries_total{service="serving/scorer",cause="503",result="sent"} ${first}`),
  ).toBe(true);
  const recorded = (callee: Sidecar | undefined): number =>
    readFileSync(callee?.auditFile ?? "", "utf8").split("\n").length - 1;
  await until("the records", () =>
    recorded(callees[0]) === apps[0]?.heads.length && recorded(callees[1]) === apps[1]?.heads.length
      ? true
      : undefined,
  );
});

test("retries: Retry-After keeps an endpoint out while another one is there", async () => {
  answers[0] = failing("503 Service Unavailable", "retry-after: 60\r\n");
  const before = reached();
  expect(await statuses(30)).toEqual({ 200: 30 });
  expect((apps[0]?.heads.length ?? 0) - (before[0] ?? 0)).toBe(1);
  expect(await metric('countersign_endpoints{service="serving/scorer",state="resting"} 1')).toBe(true);
});

test("outliers: an endpoint that fails three times in a row is left alone", async () => {
  answers[0] = hello;
  answers[1] = failing("500 Internal Server Error");
  await traffic("outlier: {consecutive5xx: 3, ejectFor: 60s}");
  await until("an ejection", async () => {
    await ask();
    return (
      (await metric('countersign_endpoint_ejections_total{service="serving/scorer",reason="failures"} 1')) ||
      undefined
    );
  });
  answers[1] = hello;
});

test("timeouts: the whole call, and an answer that stops", async () => {
  answers[0] = answers[1] = silent;
  // Long enough for an answer where the machine stands still.
  await traffic("timeouts: {request: 3s}");
  const startedMs = performance.now();
  const answer = await ask();
  expect([answer.status, reasonOf(answer)]).toEqual([504, "UPSTREAM_TIMEOUT"]);
  expect(performance.now() - startedMs).toBeGreaterThan(2_500);
  answers[0] = answers[1] = hello;
  expect(await statuses(10)).toEqual({ 200: 10 });
});

test("limits: what is too much for the endpoints is refused with Retry-After, nothing else", async () => {
  const held: (() => void)[] = [];
  const slow: Answer = (head, socket, body) => {
    held.push(() => hello(head, socket, body));
  };
  answers[0] = answers[1] = slow;
  await traffic("limits: {requests: 1}");
  const first = ask();
  const second = ask();
  await until("both at work", () => (held.length === 2 ? true : undefined));
  const refused = await ask();
  expect([refused.status, reasonOf(refused)]).toEqual([503, "OVERLOADED"]);
  expect(refused.head).toContain("retry-after:");
  for (const answer of held) answer();
  expect([(await first).status, (await second).status]).toEqual([200, 200]);
  answers[0] = answers[1] = hello;
});

test("health checks: an endpoint that says it is not well is left alone", async () => {
  answers[0] = (head, socket, body) =>
    (head.startsWith("GET /ping") ? failing("500 Internal Server Error") : hello)(head, socket, body);
  await traffic(
    "healthCheck: {type: http, path: /ping, interval: 1s, timeout: 10s, unhealthyThreshold: 1}, lb: roundRobin",
  );
  expect((await ask()).status).toBe(200);
  await until(
    "the endpoint to be unhealthy",
    async () =>
      (await metric('countersign_endpoints{service="serving/scorer",state="unhealthy"} 1')) || undefined,
  );
  const before = apps[1]?.heads.filter((head) => head.startsWith("POST")).length ?? 0;
  expect(await statuses(10)).toEqual({ 200: 10 });
  expect((apps[1]?.heads.filter((head) => head.startsWith("POST")).length ?? 0) - before).toBe(10);
});

test("zones: calls stay in the caller's zone while its endpoints can take them", async () => {
  answers[0] = answers[1] = hello;
  await traffic("preferZone: true, outlier: {consecutive5xx: 3, ejectFor: 60s, maxEjectPercent: 100}");
  const before = reached();
  expect(await statuses(20)).toEqual({ 200: 20 });
  expect(reached()).toEqual([before[0], (before[1] ?? 0) + 20]);
  answers[1] = failing("500 Internal Server Error");
  const failed = await statuses(20);
  expect(failed).toEqual({ 200: 17, 500: 3 });
});
