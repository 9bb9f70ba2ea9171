// The status writer over a world of 10 000 policies: what it writes, and that it looks only at what changed.
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { parse } from "yaml";
import type { ProxyStatus } from "../../../control-plane/discovery/server.ts";
import type { AccessPolicy } from "../../../control-plane/policy/access-policy.ts";
import type { Compiled } from "../../../control-plane/policy/compile.ts";
import type { PolicyReport } from "../../../control-plane/policy/policy-report.ts";
import {
  type RefusedObject,
  runStatusWriter,
  type StatusWriter,
} from "../../../control-plane/status/writer.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";

const NOW = Date.UTC(2026, 10, 21);
const policyOf = (name: string, generation = 1, notAfterMs?: number): AccessPolicy => ({
  kind: "AccessPolicy",
  name,
  namespace: "ns",
  generation,
  action: "Deny",
  enforcement: "Enforce",
  targets: undefined,
  rules: [{ name: "r", ...(notAfterMs === undefined ? {} : { when: { notAfterMs } }) }],
});
const proxy = (workload: string, over: Partial<ProxyStatus> = {}): ProxyStatus => ({
  workload,
  instance: "i",
  node: "n",
  pod: "",
  softwareVersion: "1",
  state: "synced",
  digest: "d",
  expectedDigest: "d",
  nack: undefined,
  syncedRevision: 1,
  leaf: { issuerKeyId: "", notAfterMs: 0 },
  sinceMs: 0,
  ...over,
});
const reportOf = (target: string): PolicyReport => ({ targets: [target], problems: [] });

let dir: string;
let clock: FakeClock;
let stop: AbortController;
let writer: StatusWriter;
let policies: Map<string, AccessPolicy>;
let reports: Map<string, PolicyReport>;
let proxies: ProxyStatus[];
let refused: RefusedObject[];
let revision: number;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "countersign-status-"));
  clock = new FakeClock(NOW);
  stop = new AbortController();
  policies = new Map();
  reports = new Map();
  proxies = [proxy("ns/a"), proxy("ns/b")];
  refused = [];
  revision = 1;
});
afterEach(async () => {
  stop.abort();
  await writer.done;
  rmSync(dir, { recursive: true, force: true });
});

function put(name: string, target: string, policy = policyOf(name)): void {
  policies = new Map(policies).set(`AccessPolicy/ns/${name}`, policy);
  reports = new Map(reports).set(`AccessPolicy/ns/${name}`, reportOf(target));
}

async function start({ stateDir }: { readonly stateDir?: string } = { stateDir: dir }): Promise<void> {
  writer = runStatusWriter(
    {
      stateDir,
      clock,
      log: silentLogger,
      world: {
        // The writer reads these of a compiled state and nothing else.
        compiled: () =>
          ({
            state: {
              policies,
              routePolicies: new Map(),
              trafficPolicies: new Map(),
              meshGateways: new Map(),
              workloads: new Map(),
            },
            policies: reports,
          }) as unknown as Compiled,
        proxies: () => proxies,
        refused: () => refused,
        problems: () => [],
        revision: () => revision,
        pinned: () => undefined,
      },
    },
    stop.signal,
  );
  await flush();
}

/** Lets the writer write what it has: it settles for 50 ms and then rests for 2 s. */
async function flush(): Promise<void> {
  for (const ms of [0, 50, 2_000, 50, 2_000]) {
    while (clock.sleeping === 0) await setImmediate();
    clock.advance(ms);
  }
  while (clock.sleeping === 0) await setImmediate();
}

const file = (name: string): string => join(dir, "status", "AccessPolicy", "ns", `${name}.yaml`);
const condition = (name: string, type: string): { status: string; reason: string; message?: string } =>
  parse(readFileSync(file(name), "utf8")).status.conditions.find(
    (one: { type: string }) => one.type === type,
  );

describe("status writer", () => {
  test("writes what a policy's sidecars say, and only files that change", async () => {
    put("one", "ns/a");
    put("two", "ns/b");
    await start();
    expect(condition("one", "Programmed")).toMatchObject({ status: "True", message: "1/1 proxies" });
    // A time that no file written now has: neither inodes nor times of change are sure to differ from one write to the next.
    const LONG_AGO = new Date(0);
    for (const name of ["one", "two"]) utimesSync(file(name), LONG_AGO, LONG_AGO);
    revision = 2;
    put("one", "ns/a", policyOf("one", 2));
    proxies = [proxy("ns/a", { state: "stale" }), proxy("ns/b")];
    writer.changed();
    await flush();
    expect(condition("one", "Programmed")).toMatchObject({ status: "False", reason: "Propagating" });
    proxies = [proxy("ns/a", { syncedRevision: 2 }), proxy("ns/b")];
    writer.changed();
    await flush();
    expect(condition("one", "Programmed")).toMatchObject({ status: "True", observedGeneration: 2 });
    expect(["one", "two"].map((name) => statSync(file(name)).mtimeMs === 0)).toEqual([false, true]);
  });

  test("a sidecar that is behind leaves policies that it has as they are", async () => {
    for (let i = 0; i < 50; i++) put(`p${i}`, "ns/a");
    await start();
    revision = 2;
    put("p0", "ns/a", policyOf("p0", 2));
    proxies = [proxy("ns/a", { state: "stale", nack: "no" }), proxy("ns/b")];
    writer.changed();
    await flush();
    expect(condition("p0", "Programmed")).toMatchObject({ reason: "Refused" });
    expect(condition("p1", "Programmed")).toMatchObject({ reason: "Programmed" });
  });

  test("names why an object is refused, and removes the file of one that is gone", async () => {
    put("one", "ns/a");
    refused = [
      { object: "AccessPolicy/ns/new", refusals: [{ reason: "UnknownOperation", message: "no such" }] },
    ];
    await start();
    expect(condition("new", "Accepted")).toMatchObject({
      status: "False",
      reason: "UnknownOperation",
      message: "no such; no version of it is in force",
    });
    refused = [];
    policies = new Map();
    reports = new Map();
    writer.changed();
    await flush();
    expect(readdirSync(join(dir, "status", "AccessPolicy", "ns"))).toEqual([]);
  });

  test("says when a rule's time has passed, without any other change", async () => {
    put("one", "ns/a", policyOf("one", 1, NOW + 10_000));
    await start();
    expect(condition("one", "Accepted")).toMatchObject({ reason: "Accepted" });
    clock.advance(10_000);
    await flush();
    expect(condition("one", "Accepted")).toMatchObject({ status: "True", reason: "NeverMatches" });
  });

  test("one edit among 10 000 policies makes one status", async () => {
    for (let i = 0; i < 10_000; i++) {
      policies.set(`AccessPolicy/ns/p${i}`, policyOf(`p${i}`));
      reports.set(`AccessPolicy/ns/p${i}`, reportOf("ns/a"));
    }
    // 10 000 files would take longer than all the rest.
    await start({});
    const before = new Map(writer.policies().map(({ object, status }) => [object, status]));
    revision = 2;
    put("p77", "ns/a", policyOf("p77", 2));
    proxies = [proxy("ns/a", { syncedRevision: 2 }), proxy("ns/b")];
    const startMs = performance.now();
    const rows = writer.policies();
    const tookMs = performance.now() - startMs;
    const changed = rows.filter(({ object, status }) => before.get(object) !== status);
    expect(changed.map(({ object }) => object)).toEqual(["AccessPolicy/ns/p77"]);
    if (process.env["SHOW_FIGURES"]) console.log(`status of one edit: ${tookMs.toFixed(1)} ms`);
  });
});
