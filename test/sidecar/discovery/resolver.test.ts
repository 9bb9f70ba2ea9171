import { describe, expect, test } from "@jest/globals";
import { type Resolution, Resolver } from "../../../sidecar/discovery/resolver.ts";
import type { MeshService, SidecarTable } from "../../../sidecar/discovery/table.ts";
import { FakeClock } from "../../fakes/clock.ts";

const service: MeshService = { id: "ml/scorer", hosts: ["scorer.ml"], addresses: [], ports: [] };
// The resolver looks at nothing else of a table.
const tableOf = (services: readonly MeshService[]): SidecarTable =>
  ({
    program: { namespace: "lab" },
    services: new Map(services.map((one) => [one.id, one])),
    servicesByHost: new Map(services.flatMap((one) => one.hosts.map((host) => [host, one]))),
  }) as unknown as SidecarTable;

function setUp(isConnected = true) {
  const clock = new FakeClock(0);
  const asked: string[] = [];
  let table = tableOf([]);
  const resolver = new Resolver({
    clock,
    table: () => table,
    ask: (_id, host, port) => {
      asked.push(`${host}:${port}`);
      return isConnected;
    },
  });
  return {
    clock,
    asked,
    resolver,
    arrive: () => {
      table = tableOf([service]);
      resolver.tableChanged(table);
    },
  };
}

const refused = (reason: string): Resolution => ({ kind: "refused", reason });
const promise = { id: 1, service: "ml/scorer", reason: "", ttlMs: 0 };

describe("Resolver", () => {
  test("waits for a service that was promised", async () => {
    const { resolver, arrive } = setUp();
    const answer = resolver.resolve("10.96.0.7", 80);
    resolver.answered(promise);
    arrive();
    expect(await answer).toEqual({ kind: "service", service });
  });

  test.each([
    { name: "nobody answers", promised: false, reason: "NOT_READY" },
    { name: "what was promised does not come", promised: true, reason: "NO_ENDPOINTS" },
  ])(
    "says after two seconds that $name, and never takes a promise for a stranger",
    async ({ promised, reason }) => {
      const { resolver, clock } = setUp();
      const answer = resolver.resolve("10.96.0.7", 80);
      if (promised) resolver.answered(promise);
      clock.advance(2_000);
      expect(await answer).toEqual(refused(reason));
    },
  );

  test.each([
    { promised: false, reason: "NOT_READY" },
    { promised: true, reason: "NO_ENDPOINTS" },
  ])("says so at once when the stream breaks (promised: $promised)", async ({ promised, reason }) => {
    const { resolver } = setUp();
    const answer = resolver.resolve("10.96.0.7", 80);
    if (promised) resolver.answered(promise);
    resolver.disconnected();
    expect(await answer).toEqual(refused(reason));
  });

  test("remembers a refusal for as long as it holds, and until the table changes", async () => {
    const { resolver, asked, clock, arrive } = setUp();
    const refuse = (id: number): void =>
      resolver.answered({ id, service: "", reason: "DEFAULT_DENY", ttlMs: 1_000 });
    const first = resolver.resolve("10.96.0.7", 80);
    expect(resolver.resolve("10.96.0.7", 80)).toBe(first);
    refuse(1);
    expect(await first).toEqual(refused("DEFAULT_DENY"));
    expect(await resolver.resolve("10.96.0.7", 80)).toEqual(refused("DEFAULT_DENY"));
    expect(asked).toHaveLength(1);
    clock.advance(1_001);
    const second = resolver.resolve("10.96.0.7", 80);
    expect(asked).toHaveLength(2);
    refuse(2);
    expect(await second).toEqual(refused("DEFAULT_DENY"));
    arrive();
    void resolver.resolve("10.96.0.7", 80);
    expect(asked).toHaveLength(3);
  });

  test("asks nobody while it is not connected", async () => {
    const { resolver } = setUp(false);
    expect(await resolver.resolve("10.96.0.7", 80)).toEqual(refused("NOT_READY"));
  });
});
