// The sidecar as it lives in a pod: token and roots from files that come and change, and joining again by itself.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { parseSidecarConfig } from "../../sidecar/config.ts";
import { type Clock, systemClock } from "../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../sidecar/core/runtime/log.ts";
import { runSidecar, type SidecarHandle } from "../../sidecar/main.ts";
import { eventually } from "../fakes/mesh.ts";
import { PodMesh, tokenOf } from "../fakes/pod-mesh.ts";

const FIRST = "11111111-1111-4111-8111-111111111111";
const SECOND = "22222222-2222-4222-8222-222222222222";

let mesh: PodMesh;
let stop: AbortController;
let started: Promise<SidecarHandle> | undefined;
let log: string[];

beforeEach(async () => {
  mesh = new PodMesh();
  await mesh.start();
});
afterEach(async () => {
  await halt();
  await mesh.close();
});

async function halt(): Promise<void> {
  stop?.abort();
  await started?.then(
    ({ done }) => done,
    () => {},
  );
  started = undefined;
}

/** Waits are a twentieth of what they are meant to be; the wall clock is the real one. */
const quick: Clock = {
  ...systemClock,
  sleep: (ms, signal) => systemClock.sleep(Math.min(ms, 3_600_000) / 20, signal),
};

function start(clock: Clock = quick): Promise<SidecarHandle> {
  stop = new AbortController();
  log = [];
  const config = parseSidecarConfig([
    ...["--service-account-token-file", mesh.tokenFile, "--trust-bundle-file", mesh.bundleFile],
    ...["--state-dir", join(mesh.dir, "sidecar"), "--node", "trainer-0"],
    ...["--bootstrap", `localhost:${mesh.ports.bootstrap}`],
    ...["--control-plane", `localhost:${mesh.ports.discovery}`],
    ...["--mesh-listen", "127.0.0.1:0", "--outbound-proxy", "none", "--metrics-listen", "none"],
    ...["--drain-timeout", "0s"],
  ]);
  started = runSidecar(
    config,
    { clock, log: createLogger("debug", {}, (line) => log.push(readable(line))) },
    stop.signal,
  );
  return started;
}

/** The message first, for the patterns below. */
function readable(line: string): string {
  const { msg, ...fields } = JSON.parse(line) as Record<string, unknown>;
  return `${msg} ${JSON.stringify(fields)}\n`;
}

const says = (pattern: RegExp): Promise<unknown> =>
  eventually(
    () => log.join(""),
    (text) => pattern.test(text),
  );

const connectedAs = (workload: string): Promise<unknown> =>
  eventually(
    () => mesh.connected,
    (proxies) => proxies.some((proxy) => proxy.workload === workload),
  );

describe("a sidecar in a pod", () => {
  test("joins with token and roots, gets its program by its pod, and is shown under its node's name", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.writeBundle();
    const handle = await start();
    await handle.ready;
    await connectedAs("lab/runner/job/trainer");
    expect(mesh.connected).toMatchObject([
      { pod: FIRST, workload: "lab/runner/job/trainer", node: "trainer-0" },
    ]);
    expect(log.join("")).toContain("spiffe://test.example/ns/lab/sa/runner/job/trainer");
    expect(log.join("")).not.toContain(tokenOf(FIRST));
  });

  test("waits for the roots and for the token, and says which is missing", async () => {
    const pending = start();
    await says(/cannot join yet.*roots\.pem` is not there yet.*countersign-bundle/);
    writeFileSync(mesh.bundleFile, "half a certifica");
    await says(/cannot join yet.*it holds no certificate/);
    mesh.writeBundle();
    await says(/cannot join yet.*--service-account-token-file: cannot read/);
    writeFileSync(mesh.tokenFile, tokenOf("nobody"));
    await says(/cannot join yet.*the ServiceAccount token is not valid/);
    mesh.setPod(FIRST, "job", "trainer");
    await (await pending).ready;
  });

  test("whose identity is revoked loses its stream, and joins again by itself", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.writeBundle();
    await (await start()).ready;
    await connectedAs("lab/runner/job/trainer");
    mesh.revoked.replace([
      {
        id: "r",
        spiffeId: "",
        pod: FIRST,
        beforeMs: Date.now() + 1_000,
        reason: "",
        expiresAtMs: Date.now() + 1e6,
      },
    ]);
    await says(/was revoked, join again/);
    // What it is issued before the epoch is as bad as what it had.
    await eventually(
      () => mesh.connected,
      (proxies) => Date.now() > (mesh.revoked.all[0]?.beforeMs ?? 0) && proxies.length === 1,
    );
  });

  test("waits for a control plane that is not its own, and ends when told to", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    const other = new PodMesh();
    await other.start();
    writeFileSync(mesh.bundleFile, other.ca.roots.map(String).join(""));
    await other.close();
    const pending = start();
    await says(/cannot join yet.*leads to none of the roots/);
    expect(mesh.reviews.asked).toEqual([]);
    stop.abort();
    await expect(pending).rejects.toMatchObject({ code: "not_ready" });
  });

  test("is served again after a restart without token, roots or control plane", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.writeBundle();
    await (await start()).ready;
    await halt();
    await mesh.stop();
    rmSync(mesh.tokenFile);
    rmSync(mesh.bundleFile);
    await (await start()).ready;
    expect(log.join("")).toMatch(/last good table loaded/);
    await mesh.start();
    await connectedAs("lab/runner/job/trainer");
    expect(log.join("")).toMatch(/trust bundle file not used/);
  });

  test("joins again when its pod is of another workload now, with the last table until then", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.writeBundle();
    await (await start()).ready;
    await connectedAs("lab/runner/job/trainer");
    mesh.setPod(FIRST, "agent", "planner");
    await says(/the identity is not taken any more, joining again/);
    await connectedAs("lab/runner/agent/planner");
    expect(log.join("")).toMatch(/identity renewed.*sa\/runner\/agent\/planner/);
    expect(log.join("")).not.toMatch(/table refused/);
  });

  test("reads the token anew at each attempt", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.writeBundle();
    writeFileSync(mesh.tokenFile, tokenOf("worn-out"));
    const pending = start();
    await says(/the ServiceAccount token is not valid/);
    writeFileSync(mesh.tokenFile, tokenOf(FIRST));
    await (await pending).ready;
    expect(new Set(mesh.reviews.asked.map(({ spec }) => spec.token))).toEqual(
      new Set([tokenOf("worn-out"), tokenOf(FIRST)]),
    );
  });

  test("joins again once its certificate has expired while the control plane was away", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.setState({ config: { ...mesh.state.config, svidTtlMs: 4_000 } });
    mesh.writeBundle();
    await (await start()).ready;
    await connectedAs("lab/runner/job/trainer");
    await mesh.stop();
    await says(/identity not renewed.*"leftMs":0[,}]/);
    await mesh.start();
    await connectedAs("lab/runner/job/trainer");
  });

  test("goes over to a new authority when the file brings its roots", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.writeBundle();
    await (await start()).ready;
    await connectedAs("lab/runner/job/trainer");
    await mesh.stop();
    await mesh.start("another-ca");
    await says(/discovery stream lost.*of another CA.*--trust-bundle-file/);
    mesh.writeBundle();
    await says(/joining again.*disowned/);
    await connectedAs("lab/runner/job/trainer");
  });

  test("does not renew by token what its stream renews", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.setState({ config: { ...mesh.state.config, svidTtlMs: 40_000 } });
    mesh.writeBundle();
    await (await start()).ready;
    await connectedAs("lab/runner/job/trainer");
    const asked = mesh.reviews.asked.length;
    // As when the API server is down: only a join would need it.
    mesh.reviews.failure = new Error("connect ECONNREFUSED");
    await says(/identity renewed/);
    expect(mesh.reviews.asked).toHaveLength(asked);
  });

  test("tries another pod's kept identity no longer than the control plane takes it", async () => {
    mesh.setPod(FIRST, "job", "trainer");
    mesh.writeBundle();
    await (await start()).ready;
    await halt();
    // A copied state directory: the pod of the certificate is gone.
    mesh.setPod(SECOND, "job", "trainer");
    mesh.setState({ pods: new Map([...mesh.state.pods].filter(([uid]) => uid === SECOND)) });
    await (await start()).ready;
    await eventually(
      () => mesh.connected,
      (proxies) => proxies.some(({ pod }) => pod === SECOND),
    );
  });

  test("takes a directory in place of a token file for a mistake", async () => {
    mesh.writeBundle();
    mkdirSync(mesh.tokenFile);
    await expect(start()).rejects.toMatchObject({
      code: "bad_config",
      message: expect.stringContaining("--service-account-token-file: cannot read"),
    });
  });
});
