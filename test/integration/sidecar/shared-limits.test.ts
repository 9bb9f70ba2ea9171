// A limit that two replicas share, with a real control plane and real sidecars: together they admit what the limit says.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { parseSidecarConfig } from "../../../sidecar/config.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { runSidecar, type SidecarHandle } from "../../../sidecar/main.ts";
import { freePorts } from "../../demo/process.ts";
import { TestMesh } from "../../fakes/mesh.ts";
import { type App, hello, send, startApp } from "./world.ts";

const REPLICAS = ["127.0.0.1", "127.0.0.2"];
/** An hour's worth at once, so that nothing comes back while the test runs. */
const BURST = 40;

let mesh: TestMesh;
let app: App;
let dir: string;
let port: number;
const stops: (() => Promise<void>)[] = [];

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "countersign-shared-"));
  mesh = new TestMesh();
  app = await startApp(hello);
  const [callerPort = 0, meshPort = 0] = await freePorts(2);
  port = meshPort;
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
spec: {kind: notebook, serviceAccount: notebook, addresses: [127.0.0.1], meshPort: ${callerPort}}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: serving}
spec: {kind: serving, serviceAccount: scorer, addresses: [${REPLICAS.join(", ")}], meshPort: ${meshPort}, service: scorer, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]}
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: notebooks, namespace: serving}
spec:
  action: Allow
  targets: [{names: [scorer]}]
  rules:
  - name: only
    from: [{workload: {kinds: [notebook], namespaces: [lab]}}]
    operations: [{op: serving.invoke}]
    with: {rateLimit: {key: workload, requests: ${BURST}, per: 1h}}
`,
  );
  await mesh.start();
});
afterAll(async () => {
  for (const stop of stops) await stop();
  await app.close();
  await mesh.close();
  rmSync(dir, { recursive: true, force: true });
});

async function start(workload: string, name: string, listen: string): Promise<SidecarHandle> {
  const token = await mesh.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 600 });
  const file = join(dir, `token-${name}`);
  writeFileSync(file, String(token.body["token"]), { mode: 0o600 });
  const { bootstrap, discovery } = mesh.handle.ports;
  const stop = new AbortController();
  const handle = await runSidecar(
    parseSidecarConfig([
      ...["--workload", workload, "--state-dir", join(dir, name), "--join-token-file", file],
      ...["--control-plane", `127.0.0.1:${discovery}`, "--bootstrap", `127.0.0.1:${bootstrap}`],
      ...["--mesh-listen", listen, "--outbound-proxy", "127.0.0.1:0", "--metrics-listen", "none"],
      ...["--drain-timeout", "0s", "--app-port-map", `8080=127.0.0.1:${app.port}`],
    ]),
    { log: createLogger("error", {}, () => {}), clock: systemClock },
    stop.signal,
  );
  stops.push(async () => {
    stop.abort();
    await handle.done;
  });
  await handle.ready;
  return handle;
}

const PREDICT =
  "POST http://scorer.serving:8080/invocations HTTP/1.1\r\nhost: scorer.serving:8080\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

test("two replicas admit together what the limit says, not twice as much", async () => {
  for (const address of REPLICAS) await start("serving/scorer", `scorer-${address}`, `${address}:${port}`);
  const caller = await start("lab/notebook", "notebook", "127.0.0.1:0");
  const statuses: number[] = [];
  // Until both have refused for a while: what one of them does not use is moved to the other.
  for (let refused = 0; refused < 60; ) {
    const answers = await Promise.all(
      Array.from({ length: 4 }, () => send(caller.ports.outbound ?? 0, PREDICT)),
    );
    statuses.push(...answers.map(({ status }) => status));
    refused += answers.filter(({ status }) => status === 429).length;
  }
  const admitted = statuses.filter((status) => status === 200).length;
  expect(new Set(statuses)).toEqual(new Set([200, 429]));
  expect(admitted).toBeGreaterThanOrEqual(BURST * 0.8);
  // Calls that cross a move of a part may come on top: 44 were seen on a busy machine.
  expect(admitted).toBeLessThanOrEqual(BURST * 1.25);
});
