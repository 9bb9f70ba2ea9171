// Three replicas on loopback, with real certificates: the leader counts everybody's sidecars, by its own tables.
import { connect } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { createServerIdentity } from "../../../control-plane/ca/server-identity.ts";
import type { ProxyStatus } from "../../../control-plane/discovery/server.ts";
import { ReplicaProxies } from "../../../control-plane/status/replica-proxies.ts";
import { ReportClient } from "../../../control-plane/status/report-client.ts";
import type { ReplicaMaterial } from "../../../control-plane/status/report-connection.ts";
import { createReportServer } from "../../../control-plane/status/report-server.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority, testId } from "../../fakes/authority.ts";
import { FakeClock } from "../../fakes/clock.ts";

const proxy = (workload: string, over: Partial<ProxyStatus> = {}): ProxyStatus => ({
  ...{ workload, instance: "i", pod: "", node: "n", softwareVersion: "1", state: "synced", digest: "new" },
  ...{ expectedDigest: "new", nack: undefined, syncedRevision: 7, sinceMs: 0 },
  ...{ leaf: { issuerKeyId: "", notAfterMs: 0 }, ...over },
});

let authority: TestAuthority;
beforeAll(async () => {
  authority = await createTestAuthority(Date.now());
});
afterAll(() => authority.close());

function materialOf({ ca }: TestAuthority): ReplicaMaterial {
  const { certificateChainPem, keyPem, caPem } = createServerIdentity(ca, Date.now());
  return { certificateChainPem, keyPem, rootsPem: caPem };
}

interface Member {
  readonly port: number;
  local: ProxyStatus[];
  changes: number;
  isLeader: boolean;
  readonly client: ReportClient;
  proxies(): readonly ProxyStatus[];
  close(): Promise<void>;
}

let members: Member[] = [];
afterEach(async () => {
  await Promise.all(members.map((one) => one.close()));
  members = [];
});

async function member(
  identity: string,
  local: ProxyStatus[],
  material = materialOf(authority),
): Promise<Member> {
  const stop = new AbortController();
  const common = { softwareVersion: "1", trustDomain: "lake.example", clock: systemClock, log: silentLogger };
  const reported = new ReplicaProxies({
    ...common,
    expectedDigest: () => "new",
    revision: () => 9,
    signal: stop.signal,
    onChanged: () => {
      made.changes += 1;
    },
  });
  const server = await createReportServer({
    ...{ ...common, host: "127.0.0.1", port: 0, material, proxies: reported },
    isLeader: () => made.isLeader,
  });
  const client = new ReportClient({
    ...{ ...common, identity, random: Math.random },
    material: () => material,
    proxies: () => made.local,
  });
  const reporting = client.run(stop.signal);
  const made: Member = {
    ...{ port: server.port, local, changes: 0, isLeader: false, client },
    proxies: () => (made.isLeader ? reported.merge(made.local) : made.local),
    close: async () => {
      stop.abort();
      await server.close();
      await reporting;
    },
  };
  members.push(made);
  return made;
}

async function until(condition: () => boolean): Promise<void> {
  const endMs = performance.now() + 30_000;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error("it did not come to be");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const names = (one: Member): string[] =>
  one
    .proxies()
    .map(({ workload, state }) => `${workload} ${state}`)
    .sort();

describe("replicas", () => {
  test("the leader knows the sidecars of all, the others their own, and a new leader takes over", async () => {
    const [a, b, c] = [
      await member("a", [proxy("w/a")]),
      await member("b", [proxy("w/b")]),
      await member("c", []),
    ];
    const lead = (leader: Member, identity: string): void => {
      for (const one of members) {
        one.isLeader = one === leader;
        one.client.follow({ identity, address: `127.0.0.1:${leader.port}` });
      }
    };
    lead(a, "a");
    await until(() => names(a).length === 2);
    expect(names(a)).toEqual(["w/a synced", "w/b synced"]);
    expect(names(b)).toEqual(["w/b synced"]);
    c.local = [proxy("w/c", { digest: "old", state: "stale" })];
    c.client.changed();
    await until(() => names(a).length === 3);
    expect(names(a)).toContain("w/c stale");
    lead(c, "c");
    await until(() => names(c).length === 3);
    expect(names(c)).toEqual(["w/a synced", "w/b synced", "w/c stale"]);
    expect(names(a)).toEqual(["w/a synced"]);
  });

  test("neither a workload's certificate nor that of another mesh is listened to, nor such a leader told", async () => {
    const a = await member("a", []);
    a.isLeader = true;
    const other = await createTestAuthority(Date.now());
    try {
      const theirs = materialOf(other);
      const workload = issueTestIdentity(authority, testId("w"), Date.now());
      const certificates = [
        {
          cert: workload.certificateChainPem,
          key: workload.tlsKey.export({ type: "pkcs8", format: "pem" }).toString(),
        },
        { cert: theirs.certificateChainPem, key: theirs.keyPem },
        {},
      ];
      for (const own of certificates) {
        const socket = connect({
          ...{ host: "127.0.0.1", port: a.port, ...own, rejectUnauthorized: false },
          minVersion: "TLSv1.3",
        });
        socket.on("error", () => {});
        socket.write('{"hello":{"replica":"evil","software":"1"}}\n{"set":[]}\n');
        await new Promise((resolve) => socket.once("close", resolve));
      }
      const stranger = await member("stranger", [proxy("w/s")], materialOf(other));
      stranger.client.follow({ identity: "a", address: `127.0.0.1:${a.port}` });
      const foreign = await member("foreign", [], materialOf(other));
      foreign.isLeader = true;
      const b = await member("b", [proxy("w/b")]);
      b.client.follow({ identity: "foreign", address: `127.0.0.1:${foreign.port}` });
      await new Promise((resolve) => setTimeout(resolve, 700));
      expect([a.changes, foreign.changes]).toEqual([0, 0]);
      // The very same report of a replica of this mesh is taken.
      b.client.follow({ identity: "a", address: `127.0.0.1:${a.port}` });
      await until(() => a.changes > 0);
    } finally {
      await other.close();
    }
  });
});

describe("ReplicaProxies", () => {
  const setUp = () => {
    const clock = new FakeClock(1_000);
    const stop = new AbortController();
    const world = { digest: "new" as string | undefined, revision: 9 };
    const proxies = new ReplicaProxies({
      expectedDigest: () => world.digest,
      revision: () => world.revision,
      softwareVersion: "1",
      clock,
      onChanged: () => {},
      signal: stop.signal,
    });
    return { clock, world, proxies };
  };
  const one = (merged: readonly ProxyStatus[]) =>
    merged.map(({ state, syncedRevision }) => ({ state, syncedRevision }));

  test("goes by its own table, not by what another replica expects", () => {
    const { world, proxies } = setUp();
    const report = proxies.begin("b", "1");
    report.take({
      set: [proxy("w/b", { digest: "old", state: "synced", syncedRevision: 99 })],
      complete: true,
    });
    expect(one(proxies.merge([]))).toEqual([{ state: "stale", syncedRevision: 0 }]);
    report.take({ set: [proxy("w/b", { digest: "new", state: "stale", syncedRevision: 1 })] });
    expect(one(proxies.merge([]))).toEqual([{ state: "synced", syncedRevision: 9 }]);
    world.digest = "newer";
    world.revision = 10;
    expect(one(proxies.merge([]))).toEqual([{ state: "stale", syncedRevision: 9 }]);
  });

  test("believes a replica of another build, whose tables may have other bytes", () => {
    const { proxies } = setUp();
    proxies
      .begin("b", "2")
      .take({ set: [proxy("w/b", { digest: "other", state: "synced" })], complete: true });
    expect(one(proxies.merge([]))).toEqual([{ state: "synced", syncedRevision: 7 }]);
  });

  test("counts a sidecar once, where it is connected, and one that left until its workload is there", () => {
    const { proxies } = setUp();
    const report = proxies.begin("b", "1");
    report.take({
      set: [proxy("w/x", { state: "disconnected", sinceMs: 50 }), proxy("w/y")],
      complete: true,
    });
    expect(proxies.merge([proxy("w/x", { sinceMs: 10 })]).map(({ state }) => state)).toEqual([
      "synced",
      "synced",
    ]);
    expect(proxies.merge([]).map(({ state }) => state)).toEqual(["disconnected", "synced"]);
    expect(proxies.merge([proxy("w/x", { instance: "other" })]).map(({ workload }) => workload)).toEqual([
      "w/x",
      "w/y",
    ]);
  });

  test("keeps a replica's sidecars for five seconds after it left, and until a new report is complete", () => {
    const { clock, proxies } = setUp();
    const first = proxies.begin("b", "1");
    first.take({ set: [proxy("w/x"), proxy("w/y")], complete: true });
    first.end();
    clock.advance(4_999);
    expect(proxies.merge([])).toHaveLength(2);
    const again = proxies.begin("b", "1");
    again.take({ set: [proxy("w/x")] });
    expect(proxies.merge([])).toHaveLength(2);
    again.take({ complete: true });
    expect(proxies.merge([])).toHaveLength(1);
    again.end();
    clock.advance(5_000);
    expect(proxies.merge([])).toHaveLength(0);
  });
});
