// A notebook of one user, with a real control plane and real sidecars: its calls are that user's, without a line of code
// in the application; another workload's are nobody's, and what is revoked is replaced.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { parseSidecarConfig } from "../../../sidecar/config.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { runSidecar, type SidecarHandle } from "../../../sidecar/main.ts";
import { freePorts } from "../../demo/process.ts";
import { eventually, TestMesh } from "../../fakes/mesh.ts";
import { type App, hello, type RawAnswer, send, startApp } from "./world.ts";

let mesh: TestMesh;
let app: App;
let dir: string;
let modelPort: number;
const stops = new Map<string, () => Promise<void>>();
const handles = new Map<string, SidecarHandle>();

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "countersign-own-"));
  mesh = new TestMesh();
  app = await startApp(hello);
  const [a = 0, b = 0, c = 0, d = 0] = await freePorts(4);
  modelPort = d;
  mesh.write(
    "mesh.yaml",
    `
{apiVersion: countersign.dev/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {trustDomain: test.example}}
---
{apiVersion: countersign.dev/v1alpha1, kind: IdentityProvider, metadata: {name: okta-main}, spec: {type: oidc, displayName: Okta, issuer: "https://idp.example", clientID: c, clientSecretRef: {name: s}}}
---
{apiVersion: countersign.dev/v1alpha1, kind: Workload, metadata: {name: nb-alice, namespace: lab}, spec: {kind: notebook, serviceAccount: nb, addresses: [127.0.0.1], meshPort: ${a}, owner: okta-main|alice}}
---
{apiVersion: countersign.dev/v1alpha1, kind: Workload, metadata: {name: nb-shared, namespace: lab}, spec: {kind: notebook, serviceAccount: nb, addresses: [127.0.0.1], meshPort: ${b}}}
---
{apiVersion: countersign.dev/v1alpha1, kind: Workload, metadata: {name: job-alice, namespace: lab}, spec: {kind: job, serviceAccount: nb, addresses: [127.0.0.1], meshPort: ${c}, runAs: okta-main|alice, propagation: [session]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: Workload, metadata: {name: scorer, namespace: serving}, spec: {kind: serving, serviceAccount: scorer, addresses: [127.0.0.1], meshPort: ${d}, service: scorer, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]}}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRoleBinding
metadata: {name: alice}
spec: {roles: [fraud-ds], subjects: [{user: "okta-main|alice"}]}
---
{apiVersion: countersign.dev/v1alpha1, kind: ExternalService, metadata: {name: outside, namespace: lab}, spec: {hosts: [outside.example], port: 8443}}
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: out, namespace: lab}
spec:
  action: Allow
  targets: [{external: outside}]
  rules:
  - {name: scientists, from: [{user: {roles: [fraud-ds]}}], operations: [{any: true}]}
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: people, namespace: serving}
spec:
  action: Allow
  targets: [{names: [scorer]}]
  rules:
  - {name: scientists, from: [{user: {roles: [fraud-ds]}}], operations: [{op: serving.invoke}], with: {identity: {forward: [user, roles]}}}
`,
  );
  await mesh.start();
  await start("serving/scorer", `127.0.0.1:${modelPort}`);
});
afterAll(async () => {
  for (const stop of stops.values()) await stop();
  await app.close();
  await mesh.close();
  rmSync(dir, { recursive: true, force: true });
});

const auditOf = (workload: string): string => join(dir, `${workload.replace("/", "-")}.jsonl`);

async function start(workload: string, listen = "127.0.0.1:0"): Promise<SidecarHandle> {
  const stateDir = join(dir, workload.replace("/", "-"));
  const file = `${stateDir}.token`;
  const token = await mesh.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 600 });
  writeFileSync(file, String(token.body["token"]), { mode: 0o600 });
  const { bootstrap, discovery, tokens } = mesh.handle.ports;
  const stop = new AbortController();
  const handle = await runSidecar(
    parseSidecarConfig([
      ...["--workload", workload, "--state-dir", stateDir, "--join-token-file", file],
      ...["--control-plane", `127.0.0.1:${discovery}`, "--bootstrap", `127.0.0.1:${bootstrap}`],
      ...["--token-service", `127.0.0.1:${tokens}`, "--audit-file", auditOf(workload)],
      ...["--mesh-listen", listen, "--outbound-proxy", "127.0.0.1:0", "--metrics-listen", "none"],
      ...["--drain-timeout", "0s", "--app-port-map", `8080=127.0.0.1:${app.port}`],
    ]),
    { log: createLogger("error", {}, () => {}), clock: systemClock },
    stop.signal,
  );
  stops.set(workload, async () => {
    stop.abort();
    await handle.done;
  });
  await handle.ready;
  handles.set(workload, handle);
  return handle;
}

const PREDICT =
  "POST http://scorer.serving:8080/invocations HTTP/1.1\r\nhost: scorer.serving:8080\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
const predict = ({ ports }: SidecarHandle): Promise<RawAnswer> => send(ports.outbound ?? 0, PREDICT);
/** Calls until there is this answer. */
const until = (handle: SidecarHandle, wanted: number): Promise<RawAnswer> =>
  eventually(
    () => predict(handle),
    ({ status }) => status === wanted,
  );
interface Event {
  readonly data: {
    readonly userIdentity: unknown;
    readonly txn: string | null;
    readonly identityMetadata: object;
  };
}
const lastEvent = async (workload = "serving/scorer"): Promise<Event> => {
  const text = await eventually(
    () => readFileSync(auditOf(workload), "utf8"),
    (found) => found.endsWith("\n"),
  );
  return JSON.parse(text.trimEnd().split("\n").at(-1) ?? "") as Event;
};

test("a notebook's calls are its owner's, a job's those of whom it runs as, a shared one's nobody's", async () => {
  for (const workload of ["lab/nb-alice", "lab/job-alice"]) {
    const handle = await start(workload);
    const heads = app.heads.length;
    // The first call has waited for the token.
    expect((await predict(handle)).status).toBe(200);
    expect((await predict(handle)).status).toBe(200);
    expect(app.heads).toHaveLength(heads + 2);
    expect(app.heads.at(-1)).toContain("\r\nx-forwarded-user: okta-main|alice\r\nx-mesh-roles: fraud-ds\r\n");
    expect(app.heads.at(-1)).not.toContain("txn-token");
  }
  const event = await lastEvent();
  expect(event.data.userIdentity).toMatchObject({
    id: "okta-main|alice",
    type: "person",
    roles: ["fraud-ds"],
  });
  expect(event.data.txn).toEqual(expect.any(String));
  expect(event.data.identityMetadata).toMatchObject({ runAs: "okta-main|alice" });
  const shared = await start("lab/nb-shared");
  const denied = await predict(shared);
  expect([denied.status, JSON.parse(denied.body).reason]).toEqual([403, "NO_MATCHING_ALLOW"]);
  await eventually(lastEvent, ({ data }) => Reflect.get(data.identityMetadata, "runAs") === null);
});

test.each([
  {
    name: "what it asks of hosts outside the mesh",
    outside:
      "POST http://outside.example:8443/x HTTP/1.1\r\nhost: outside.example:8443\r\ncontent-length: 2\r\n\r\n{}",
  },
  {
    name: "its own TLS to hosts outside the mesh",
    outside: "CONNECT outside.example:8443 HTTP/1.1\r\nhost: outside.example:8443\r\n\r\n",
  },
])("$name is its user's too", async ({ outside }) => {
  const handle = handles.get("lab/nb-alice");
  const shared = handles.get("lab/nb-shared");
  if (handle === undefined || shared === undefined) throw new Error("not started");
  // Nobody is there: what counts is that the call was let out, and whose it was.
  const answer = await send(handle.ports.outbound ?? 0, outside);
  expect([answer.status, JSON.parse(answer.body).reason]).toEqual([502, "UPSTREAM_FAILED"]);
  const denied = await send(shared.ports.outbound ?? 0, outside);
  expect([denied.status, JSON.parse(denied.body).reason]).toEqual([403, "NO_MATCHING_ALLOW"]);
  expect((await lastEvent("lab/nb-alice")).data.userIdentity).toMatchObject({ id: "okta-main|alice" });
  expect((await lastEvent("lab/nb-shared")).data.userIdentity).toBeNull();
});

test("goes on with its token when the control plane is away, after a restart too", async () => {
  await stops.get("lab/nb-alice")?.();
  const kept = JSON.parse(readFileSync(join(dir, "lab-nb-alice", "held-txns.json"), "utf8"));
  expect(kept.own).toEqual(expect.any(String));
  const stop = new AbortController();
  const handle = await runSidecar(
    parseSidecarConfig([
      ...["--workload", "lab/nb-alice", "--state-dir", join(dir, "lab-nb-alice")],
      ...["--mesh-listen", "127.0.0.1:0", "--outbound-proxy", "127.0.0.1:0", "--metrics-listen", "none"],
      ...["--drain-timeout", "0s", "--token-service", "127.0.0.1:1"],
    ]),
    { log: createLogger("error", {}, () => {}), clock: systemClock },
    stop.signal,
  );
  stops.set("lab/nb-alice", async () => {
    stop.abort();
    await handle.done;
  });
  expect((await until(handle, 200)).status).toBe(200);
});
