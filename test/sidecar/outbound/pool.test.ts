import { expect, test } from "@jest/globals";
import { Deadlines } from "../../../sidecar/balance/deadlines.ts";
import type { SidecarConfig } from "../../../sidecar/config.ts";
import { DEFAULT_LIMITS, DEFAULT_TIMEOUTS } from "../../../sidecar/config.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import type { MeshEndpoint, SidecarTable } from "../../../sidecar/discovery/table.ts";
import { SidecarMetrics } from "../../../sidecar/metrics.ts";
import { UpstreamPool } from "../../../sidecar/outbound/pool.ts";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";
import { createHttp2Shared } from "../../../sidecar/wire/http2/shared.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { table } from "../../integration/sidecar/world.ts";

const clock = new FakeClock(1_000);
const limits: SidecarConfig["limits"] = DEFAULT_LIMITS;

function createPool(): UpstreamPool {
  return new UpstreamPool({
    cache: new FieldCache(),
    http2: createHttp2Shared(),
    clock,
    meshNowMs: () => 0,
    timeouts: DEFAULT_TIMEOUTS,
    limits,
    metrics: new SidecarMetrics(),
    log: silentLogger,
    random: () => 0.5,
    randomId: () => "",
    deadlines: new Deadlines(clock),
    zone: () => "",
    tlsOptions: () => ({}),
  });
}

const THINGS = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

function tableWith(endpoints: readonly Partial<MeshEndpoint>[], ports = [8080]): SidecarTable {
  const plain = table({
    self: { ...THINGS, name: "caller" },
    services: [{ service: { ...THINGS, ports }, meshPort: 1 }],
    bundle: "",
  });
  const list = endpoints.map((one) => ({
    address: "10.0.0.1",
    meshPort: 16_008,
    spiffeId: "spiffe://t/ns/ml/sa/default/serving/things",
    ports: [],
    ...one,
  }));
  return { ...plain, endpoints: new Map([["ml/things", list]]) };
}

test("a group lasts as long as tables name its service and port, and takes up what they change", () => {
  const pool = createPool();
  const first = tableWith([{ address: "10.0.0.1" }, { address: "10.0.0.2" }]);
  pool.adopt(first);
  const group = pool.group("ml/things:8080", { service: "ml/things", port: 8080 }, first);
  const [, kept] = group.members;
  pool.adopt(tableWith([{ address: "10.0.0.2", zone: "b" }, { address: "10.0.0.3" }]));
  expect(group.members.map(({ upstream }) => upstream.endpoint.address)).toEqual(["10.0.0.2", "10.0.0.3"]);
  expect(group.members[0]).toBe(kept);
  expect(kept?.upstream.endpoint.zone).toBe("b");
  expect([...pool.upstreams]).toHaveLength(2);
  pool.adopt(tableWith([], [9090]));
  expect(pool.groups).toEqual([]);
  expect([...pool.upstreams]).toEqual([]);
});

test("the group of one address goes with its endpoint", () => {
  const pool = createPool();
  const both = tableWith([{ address: "10.0.0.1" }, { address: "10.0.0.2" }]);
  const [one] = both.endpoints.get("ml/things") ?? [];
  pool.group("ml/things@10.0.0.1 7070", { service: "ml/things", port: 7070 }, both, one);
  pool.adopt(both);
  expect(pool.groups.map(({ members }) => members.length)).toEqual([1]);
  pool.adopt(tableWith([{ address: "10.0.0.2" }]));
  expect(pool.groups).toEqual([]);
});
