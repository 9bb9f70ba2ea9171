// The sidecar as its owner knows it: first identity, restarts, an absent or another control plane, and what it says when
// it cannot start.
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { parseSidecarConfig } from "../../sidecar/config.ts";
import { type Clock, systemClock } from "../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../sidecar/core/runtime/log.ts";
import { runSidecar, type SidecarHandle } from "../../sidecar/main.ts";
import { freePorts } from "../demo/process.ts";
import { eventually, policyYaml, TestMesh } from "../fakes/mesh.ts";
import { type App, hello, send, startApp } from "../integration/sidecar/world.ts";

interface Running extends SidecarHandle {
  readonly log: string[];
  stop(): Promise<void>;
}

let mesh: TestMesh;
let app: App;
let dir: string;
let meshPorts: number[];
const running: Running[] = [];
const servers: Server[] = [];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "countersign-main-"));
  mesh = new TestMesh();
  app = await startApp(hello);
  meshPorts = await freePorts(2);
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
spec: {kind: notebook, serviceAccount: notebook, addresses: [127.0.0.1], meshPort: ${meshPorts[0]}}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: serving}
spec: {kind: serving, serviceAccount: scorer, addresses: [127.0.0.1], meshPort: ${meshPorts[1]}, service: scorer, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]}
`,
  );
  mesh.write("policy.yaml", policyYaml("notebooks", "scorer", "notebook"));
  await mesh.start();
});
afterEach(async () => {
  for (const one of running.splice(0)) await one.stop();
  for (const server of servers.splice(0)) server.close();
  await app.close();
  await mesh.close();
  chmodSync(dir, 0o700);
  rmSync(dir, { recursive: true, force: true });
});

async function tokenFile(workload: string): Promise<string> {
  const answer = await mesh.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 600 });
  const file = join(dir, `token-${workload.replace("/", "-")}`);
  writeFileSync(file, String(answer.body["token"]), { mode: 0o600 });
  return file;
}

interface Options {
  readonly token?: string;
  readonly clock?: Clock;
  readonly extra?: readonly string[];
}

async function start(workload: "lab/notebook" | "serving/scorer", options: Options = {}): Promise<Running> {
  const { bootstrap, discovery } = mesh.handle.ports;
  const log: string[] = [];
  const stop = new AbortController();
  const args = [
    ...["--workload", workload, "--state-dir", join(dir, workload.replace("/", "-"))],
    ...["--control-plane", `127.0.0.1:${discovery}`, "--bootstrap", `127.0.0.1:${bootstrap}`],
    ...["--mesh-listen", `127.0.0.1:${meshPorts[workload === "lab/notebook" ? 0 : 1]}`],
    ...["--outbound-proxy", "127.0.0.1:0", "--metrics-listen", "none", "--drain-timeout", "0s"],
    ...["--app-port-map", `8080=127.0.0.1:${app.port}`],
    ...(options.token === undefined ? [] : ["--join-token-file", options.token]),
    ...(options.extra ?? []),
  ];
  const handle = await runSidecar(
    parseSidecarConfig(args),
    { log: createLogger("debug", {}, (line) => log.push(line)), clock: options.clock ?? systemClock },
    stop.signal,
  );
  const one: Running = {
    ...handle,
    log,
    stop: async () => {
      stop.abort();
      await handle.done;
    },
  };
  running.push(one);
  return one;
}

/** Both sidecars, joined and ready. */
async function both(): Promise<{ caller: Running; callee: Running }> {
  const callee = await start("serving/scorer", { token: await tokenFile("serving/scorer") });
  const caller = await start("lab/notebook", { token: await tokenFile("lab/notebook") });
  await Promise.all([caller.ready, callee.ready]);
  return { caller, callee };
}

const PREDICT =
  "POST http://scorer.serving:8080/invocations HTTP/1.1\r\nhost: scorer.serving:8080\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
const predict = (caller: Running): Promise<{ status: number; body: string }> =>
  send(caller.ports.outbound ?? 0, PREDICT);
const reasonOf = (body: string): unknown => (JSON.parse(body) as Record<string, unknown>)["reason"];

function admin(workload: string, path: string): Promise<{ status: number; body: Record<string, unknown> }> {
  const socketPath = join(dir, workload.replace("/", "-"), "admin.sock");
  return new Promise((resolve, reject) => {
    const call = request({ socketPath, path }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => {
        text += chunk.toString();
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }));
    });
    call.on("error", reject);
    call.end();
  });
}

describe("a sidecar", () => {
  test("joins, serves, and goes on serving after a restart with no control plane", async () => {
    const { caller, callee } = await both();
    expect((await predict(caller)).status).toBe(200);
    await mesh.stop();
    await caller.stop();
    await callee.stop();
    const again = await start("serving/scorer");
    const callerAgain = await start("lab/notebook");
    await Promise.all([again.ready, callerAgain.ready]);
    expect((await predict(callerAgain)).status).toBe(200);
    await mesh.start(mesh.samePorts());
    mesh.write("policy.yaml", policyYaml("notebooks", "scorer", "job"));
    await eventually(
      () => predict(callerAgain),
      ({ status }) => status === 403,
    );
  });

  test("fails closed when its certificate has expired, and says so", async () => {
    const { caller, callee } = await both();
    await mesh.stop();
    await caller.stop();
    await callee.stop();
    let offsetMs = 0;
    const clock: Clock = { ...systemClock, nowMs: () => Date.now() + offsetMs };
    const late = await start("lab/notebook", { clock });
    await start("serving/scorer", { clock });
    expect((await predict(late)).status).toBe(200);
    offsetMs = 7 * 3_600_000;
    const answer = await predict(late);
    expect([answer.status, reasonOf(answer.body)]).toEqual([503, "IDENTITY_EXPIRED"]);
  });

  test("is told about on its own socket, which is its owner's alone", async () => {
    const { caller } = await both();
    const denied = await send(caller.ports.outbound ?? 0, PREDICT.replace("/invocations", "/secret"));
    expect(denied.status).toBe(403);
    expect(statSync(join(dir, "serving-scorer", "admin.sock")).mode & 0o777).toBe(0o600);
    expect(statSync(join(dir, "serving-scorer")).mode & 0o777).toBe(0o700);
    const state = await admin("serving/scorer", "/v1/state");
    expect(state.body).toMatchObject({
      ready: true,
      connected: true,
      identity: { spiffeId: "spiffe://test.example/ns/serving/sa/scorer/serving/scorer" },
      table: { policies: ["serving/notebooks"] },
    });
    const id = String((JSON.parse(denied.body) as Record<string, unknown>)["decisionId"]);
    const decision = await admin("serving/scorer", `/v1/decisions/${id}`);
    expect(decision.body).toMatchObject({
      decisionId: id,
      reason: "NO_MATCHING_ALLOW",
      call: { caller: { kind: "notebook", name: "notebook" } },
    });
    expect(JSON.stringify(decision.body["explanation"])).toContain("notebooks");
    expect((await admin("serving/scorer", "/v1/decisions/d-none")).status).toBe(404);
  });

  test("keeps serving under a control plane that lost its CA, and says what to do", async () => {
    const { caller } = await both();
    await mesh.stop();
    rmSync(mesh.stateDir, { recursive: true });
    await mesh.start(mesh.samePorts());
    await eventually(
      () => caller.log.join(""),
      (text) => /"msg":"discovery stream lost"/.test(text) && text.includes("certificate is of another CA"),
    );
    expect((await predict(caller)).status).toBe(200);
  });
});

describe("a sidecar that cannot start says why:", () => {
  const failure = async (promise: Promise<unknown>): Promise<string> => {
    try {
      await promise;
    } catch (error) {
      return `${(error as { code?: string }).code}: ${(error as Error).message}`;
    }
    return "started";
  };

  test("no identity and no token", async () => {
    expect(await failure(start("lab/notebook"))).toMatch(/^bad_config: .*--join-token-file/);
  });

  test("a token file that is not there", async () => {
    expect(await failure(start("lab/notebook", { token: join(dir, "none") }))).toMatch(
      /^bad_config: --join-token-file: cannot read/,
    );
  });

  test.each([
    { name: "a token that is none", text: "hello" },
    { name: "a token that nobody made", text: `cs1.aaaaaaaaaaaaaaaa.${"b".repeat(43)}.${"c".repeat(43)}` },
  ])("$name", async ({ text }) => {
    const file = join(dir, "token");
    writeFileSync(file, text);
    expect(await failure(start("lab/notebook", { token: file }))).toMatch(
      /^(?:join_rejected|bad_token|bad_config|protocol_error): /,
    );
  });

  test("a token that was used", async () => {
    const token = await tokenFile("lab/notebook");
    const first = await start("lab/notebook", { token });
    await first.stop();
    rmSync(join(dir, "lab-notebook"), { recursive: true });
    expect(await failure(start("lab/notebook", { token }))).toMatch(/^join_rejected: /);
  });

  test("the token of another workload", async () => {
    const token = await tokenFile("serving/scorer");
    expect(await failure(start("lab/notebook", { token }))).toMatch(
      /^bad_config: the identity is of workload `serving\/scorer`/,
    );
  });

  test("a state directory in use", async () => {
    const token = await tokenFile("lab/notebook");
    await start("lab/notebook", { token });
    expect(await failure(start("lab/notebook", { token }))).toMatch(
      /^bad_config: process \d+ uses `.*lab-notebook` already/,
    );
  });

  test("a mesh port in use, and the directory is free again afterwards", async () => {
    const server = createServer();
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(meshPorts[0], "127.0.0.1", resolve));
    const token = await tokenFile("lab/notebook");
    expect(await failure(start("lab/notebook", { token }))).toMatch(
      /^io_failed: cannot listen on mesh port `127\.0\.0\.1:\d+`: .*EADDRINUSE/,
    );
    expect(existsSync(join(dir, "lab-notebook", "lock"))).toBe(false);
  });

  test("damaged state: the identity is not used, a table is ignored", async () => {
    const token = await tokenFile("lab/notebook");
    await (await start("lab/notebook", { token })).stop();
    const state = join(dir, "lab-notebook");
    writeFileSync(join(state, "table.bin"), "no table at all");
    await mesh.stop();
    const kept = await start("lab/notebook");
    const early = await predict(kept);
    expect([early.status, reasonOf(early.body)]).toEqual([503, "NOT_READY"]);
    await kept.stop();
    writeFileSync(join(state, "identity.json"), readFileSync(join(state, "identity.json")).subarray(0, 500));
    expect(await failure(start("lab/notebook"))).toMatch(/^bad_config: there is no identity/);
  });
});
