// The root of a running mesh is replaced, given up half-way at every stage, and carried on by a control plane that started
// again, while calls go on. No call may fail.
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { parseSidecarConfig } from "../../../sidecar/config.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { runSidecar, type SidecarHandle } from "../../../sidecar/main.ts";
import { freePorts } from "../../demo/process.ts";
import { eventually, policyYaml, TestMesh } from "../../fakes/mesh.ts";
import { type App, hello, send, startApp } from "../sidecar/world.ts";

/** A restart waits for sidecars to come back, and a sidecar takes up to 11 s to leave a root. */
const STAGE_MS = 100_000;
const TEST_MS = 400_000;

let mesh: TestMesh;
let app: App;
let dir: string;
let caller: SidecarHandle;
let callee: SidecarHandle;
let stop: AbortController;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "countersign-root-"));
  mesh = new TestMesh();
  app = await startApp(hello);
  stop = new AbortController();
  const [first = 0, second = 0] = await freePorts(2);
  mesh.write(
    "mesh.yaml",
    `
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: test.example}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: notebook, namespace: lab}
spec: {kind: notebook, serviceAccount: notebook, addresses: [127.0.0.1], meshPort: ${first}}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: serving}
spec: {kind: serving, serviceAccount: scorer, addresses: [127.0.0.1], meshPort: ${second}, service: scorer, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]}
`,
  );
  mesh.write("policy.yaml", policyYaml("notebooks", "scorer", "notebook"));
  await mesh.start();
  callee = await start("serving/scorer", second);
  caller = await start("lab/notebook", first);
  await Promise.all([caller.ready, callee.ready]);
});
afterEach(async () => {
  stop.abort();
  await Promise.all([caller?.done, callee?.done]);
  await app.close();
  await mesh.close();
  rmSync(dir, { recursive: true, force: true });
});

async function start(workload: string, meshPort: number): Promise<SidecarHandle> {
  const { bootstrap, discovery } = mesh.handle.ports;
  const token = await mesh.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 600 });
  const file = join(dir, `token-${workload.replace("/", "-")}`);
  writeFileSync(file, String(token.body["token"]), { mode: 0o600 });
  const args = [
    ...["--workload", workload, "--state-dir", join(dir, workload.replace("/", "-"))],
    ...["--control-plane", `127.0.0.1:${discovery}`, "--bootstrap", `127.0.0.1:${bootstrap}`],
    ...["--mesh-listen", `127.0.0.1:${meshPort}`, "--join-token-file", file],
    // What is open when a root leaves gets this time to finish.
    ...["--outbound-proxy", "127.0.0.1:0", "--metrics-listen", "none", "--drain-timeout", "60s"],
    ...["--app-port-map", `8080=127.0.0.1:${app.port}`],
  ];
  return runSidecar(parseSidecarConfig(args), { log: silentLogger, clock: systemClock }, stop.signal);
}

const PREDICT =
  "POST http://scorer.serving:8080/invocations HTTP/1.1\r\nhost: scorer.serving:8080\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/** Calls one after the other until told to stop. */
function traffic(): { stop: () => Promise<{ ok: number; failed: readonly string[] }> } {
  const failed: string[] = [];
  let ok = 0;
  let stopping = false;
  const loop = (async () => {
    while (!stopping) {
      const answer = await send(caller.ports.outbound ?? 0, PREDICT);
      if (answer.status === 200) ok += 1;
      else failed.push(answer.raw.slice(0, 300));
      await systemClock.sleep(3);
    }
  })();
  return {
    stop: async () => {
      stopping = true;
      await loop;
      return { ok, failed };
    },
  };
}

interface Authority {
  readonly roots: readonly { readonly fingerprint256: string }[];
  readonly rotation: {
    readonly stage: string;
    readonly aborting: boolean;
    readonly waiting: number;
    readonly waitingFor: readonly string[];
  } | null;
}

const authority = async (): Promise<Authority> =>
  (await mesh.api("GET", "/v1/ca")).body as unknown as Authority;
const ask = async (verb: "rotate" | "abort" | "force"): Promise<number> =>
  (await mesh.api("POST", `/v1/ca/${verb}`)).status;
const metrics = async (): Promise<string> =>
  (await fetch(`http://127.0.0.1:${mesh.handle.ports.metrics}/metrics`)).text();
const stageOf = ({ rotation }: Authority): string =>
  rotation === null ? "none" : `${rotation.stage}${rotation.aborting ? " back" : ""}`;
const until = (stage: string): Promise<Authority> =>
  eventually(authority, (now) => stageOf(now) === stage, STAGE_MS);
const rootsOf = (now: Authority): readonly string[] => now.roots.map((one) => one.fingerprint256);

test(
  "a root is replaced under traffic, across a restart of the control plane, without a failed call",
  async () => {
    const [old] = rootsOf(await authority());
    const calls = traffic();
    expect(await ask("rotate")).toBe(200);
    expect(await ask("rotate")).toBe(409);
    expect(rootsOf(await authority())).toHaveLength(2);
    expect(await metrics()).toMatch(/^countersign_root_rotation_seconds\{stage="distribute"\} \d/m);
    await until("sign");
    await mesh.stop();
    await mesh.start(mesh.samePorts());
    expect(stageOf(await authority())).toBe("sign");
    await until("none");
    const roots = rootsOf(await authority());
    expect(roots).toHaveLength(1);
    expect(roots).not.toContain(old);
    expect(await metrics()).not.toContain("countersign_root_rotation_seconds{");
    expect(await metrics()).toMatch(/^countersign_root_expiry_seconds 3\d{8}/m);
    // The old key is gone from the disk.
    expect(readdirSync(join(mesh.stateDir, "ca")).filter((name) => name.startsWith("root"))).toHaveLength(1);
    // A restart with the new root, and a workload that comes back to it.
    await mesh.stop();
    await mesh.start(mesh.samePorts());
    expect(rootsOf(await authority())).toEqual(roots);
    await eventually(
      async () => (await mesh.api("GET", "/v1/status")).body["sidecars"] as { state: string }[],
      (sidecars) => sidecars.length === 2 && sidecars.every(({ state }) => state === "synced"),
    );
    const { ok, failed } = await calls.stop();
    expect(failed).toEqual([]);
    expect(ok).toBeGreaterThan(100);
  },
  TEST_MS,
);

test(
  "a rotation given up at any stage goes back to the old root without a failed call",
  async () => {
    const [old] = rootsOf(await authority());
    const calls = traffic();
    expect(await ask("abort")).toBe(404);

    expect(await ask("rotate")).toBe(200);
    expect(await ask("abort")).toBe(200);
    expect(stageOf(await authority())).toBe("none");
    expect(rootsOf(await authority())).toEqual([old]);

    expect(await ask("rotate")).toBe(200);
    await until("sign");
    expect(await ask("abort")).toBe(200);
    expect(await ask("abort")).toBe(409);
    await until("none");
    expect(rootsOf(await authority())).toEqual([old]);

    expect(await ask("rotate")).toBe(200);
    await until("retire");
    expect(rootsOf(await authority())).not.toContain(old);
    expect(await ask("abort")).toBe(200);
    await until("none");
    expect(rootsOf(await authority())).toEqual([old]);

    const { ok, failed } = await calls.stop();
    expect(failed).toEqual([]);
    expect(ok).toBeGreaterThan(100);
  },
  TEST_MS,
);
