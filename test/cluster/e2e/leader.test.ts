// Leader election against a real API server: three processes of their own, one of them ended by SIGTERM and one by SIGKILL.
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { createNamespace, kubectl, type TestNamespace, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";

const candidate = fileURLToPath(new URL("./elect.ts", import.meta.url));

interface Replica {
  readonly identity: string;
  readonly process: ChildProcess;
}

describeOnCluster("leader election", { testMs: 60_000, suiteMs: 150_000 }, () => {
  let namespace: TestNamespace;
  let replicas: Replica[] = [];
  /** `identity leads` and `identity ends`, with the time they were heard. */
  let heard: { readonly line: string; readonly atMs: number }[] = [];
  let lease = 0;

  beforeAll(async () => {
    namespace = await createNamespace("leader");
  });
  afterAll(() => namespace?.delete());
  beforeEach(async () => {
    lease += 1;
    heard = [];
    replicas = ["r1", "r2", "r3"].map(start);
    await waitFor(async () => leaders().length === 1, 20_000, "a first leader");
    // Each has seen the Lease as its holder keeps it.
    await waitFor(async () => heard.filter(({ line }) => line.endsWith("follows")).length === 2, 20_000);
  });
  afterEach(() => {
    for (const { process } of replicas) process.kill("SIGKILL");
  });

  const start = (identity: string): Replica => {
    const child = spawn(
      process.execPath,
      [candidate, adminKubeconfig(), namespace.name, `lease-${lease}`, identity],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    createInterface({ input: child.stdout }).on("line", (line) =>
      heard.push({ line: `${identity} ${line}`, atMs: performance.now() }),
    );
    return { identity, process: child };
  };
  const leaders = () => heard.filter(({ line }) => line.endsWith("leads"));
  const leader = (): Replica => {
    const [name] = leaders().at(-1)?.line.split(" ") ?? [];
    const found = replicas.find(({ identity }) => identity === name);
    if (!found) throw new Error("nobody leads");
    return found;
  };
  const spec = async () =>
    JSON.parse(await kubectl(["get", "lease", `lease-${lease}`, "-n", namespace.name, "-o", "json"])).spec;

  test("SIGTERM hands over long before the lease has run out, after the leader's work has ended", async () => {
    const first = leader();
    const startMs = performance.now();
    first.process.kill("SIGTERM");
    await waitFor(async () => leaders().length === 2, 20_000, "the next leader");
    const second = leaders()[1];
    // Less than 3 s on a quiet machine; the lease lasts 15 s.
    expect(Number(second?.atMs) - startMs).toBeLessThan(12_000);
    const end = heard.find(({ line }) => line === `${first.identity} ends`);
    expect(Number(end?.atMs)).toBeLessThan(Number(second?.atMs));
    expect(await spec()).toMatchObject({ holderIdentity: leader().identity, leaseTransitions: 1 });
  });

  test("a killed leader is followed, not before its lease has run out", async () => {
    const renewed = Date.parse((await spec()).renewTime);
    leader().process.kill("SIGKILL");
    await waitFor(async () => leaders().length === 2, 30_000, "the next leader");
    expect(Date.now() - renewed).toBeGreaterThanOrEqual(15_000);
    const { acquireTime, leaseDurationSeconds } = await spec();
    expect(leaseDurationSeconds).toBe(15);
    expect(acquireTime).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
  });
});
