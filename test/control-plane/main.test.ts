import { existsSync, readFileSync, statSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { parse } from "yaml";
import { parseControlPlaneConfig } from "../../control-plane/config.ts";
import { runControlPlane } from "../../control-plane/main.ts";
import { createCertificateRequest, createKeys } from "../../sidecar/certs/key-and-csr.ts";
import { systemClock } from "../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../sidecar/core/runtime/log.ts";
import { join as joinMesh } from "../../sidecar/discovery/bootstrap.ts";
import { eventually, MESH_YAML, policyYaml, TestMesh } from "../fakes/mesh.ts";

let mesh: TestMesh;
beforeEach(() => {
  mesh = new TestMesh();
  mesh.write("mesh.yaml", MESH_YAML);
  mesh.write("notebooks.yaml", policyYaml("notebooks", "scorer", "notebook"));
});
afterEach(() => mesh.close());

const status = (
  path: string,
): {
  status: {
    conditions: { type: string; status: string; message?: string }[];
    proxies: Record<string, unknown>;
  };
} => parse(readFileSync(join(mesh.stateDir, "status", path), "utf8"));
const programmed = (path: string): string | undefined => {
  if (!existsSync(join(mesh.stateDir, "status", path))) return undefined;
  return status(path).status.conditions.find(({ type }) => type === "Programmed")?.message;
};

describe("control plane", () => {
  test("a joined sidecar gets its table, an edit changes it, and status says so", async () => {
    await mesh.start();
    const notebook = await mesh.sidecar("lab/notebook");
    const scorer = await mesh.sidecar("serving/scorer");
    await notebook.until(({ tables }) => tables.length === 1);
    await scorer.until(({ tables }) => tables.length === 1);
    expect(notebook.table.program.id).toBe("lab/notebook");
    expect([...notebook.table.services.keys()]).toEqual(["serving/scorer"]);
    expect(notebook.table.endpoints.get("serving/scorer")).toEqual([
      {
        address: "127.0.0.1",
        meshPort: 17002,
        spiffeId: "spiffe://test.example/ns/serving/sa/scorer/serving/scorer",
        ports: [{ port: 8080, protocol: "http", packs: ["mlflow-scoring"] }],
      },
    ]);
    expect([...notebook.table.packs.keys()]).toEqual(["mlflow-scoring"]);
    expect(scorer.table.program.policies.map(({ name }) => name)).toEqual(["notebooks"]);
    expect(scorer.table.settings).toMatchObject({ trustDomain: "test.example", mtls: "Strict" });

    mesh.write("jobs.yaml", policyYaml("jobs", "scorer", "job"));
    await scorer.until(({ tables }) => tables.length === 2);
    expect(scorer.table.program.policies.map(({ name }) => name)).toEqual(["jobs", "notebooks"]);
    expect(scorer.table.trustBundle).toBe(scorer.tables[0]?.trustBundle);
    // The notebook's table does not depend on it: it got nothing.
    expect(notebook.tables).toHaveLength(1);
    await eventually(
      () => programmed("AccessPolicy/serving/jobs.yaml"),
      (message) => message === "1/1 proxies",
    );
    const summary = await eventually(
      () => mesh.api("GET", "/v1/status"),
      ({ body }) =>
        JSON.stringify(body["proxies"]) ===
        JSON.stringify({ total: 2, synced: 2, stale: 0, disconnected: 0, nacked: 0 }),
    );
    expect(summary.body["revision"]).toBe(2);
  });

  test("a route and traffic settings reach whoever calls the service, and their status says so", async () => {
    await mesh.start();
    const notebook = await mesh.sidecar("lab/notebook");
    const scorer = await mesh.sidecar("serving/scorer");
    await notebook.until(({ tables }) => tables.length === 1);
    await scorer.until(({ tables }) => tables.length === 1);
    expect(notebook.table.routes.size).toBe(0);
    const object = (kind: string, name: string, spec: string): string =>
      `apiVersion: countersign.dev/v1alpha1\nkind: ${kind}\nmetadata: {name: ${name}, namespace: serving}\nspec: ${spec}\n`;
    mesh.write(
      "canary.yaml",
      object("RoutePolicy", "canary", "{service: scorer, rules: [{backends: [{service: tracking}]}]}"),
    );
    await notebook.until(({ tables }) => tables.length === 2);
    expect(notebook.table.routes.get("serving/scorer")?.rules[0]?.backends).toEqual([
      { service: "serving/tracking", port: undefined, weight: 1 },
    ]);
    // It is told of the backend, which decides for itself whom it answers.
    expect([...notebook.table.services.keys()].sort()).toEqual(["serving/scorer", "serving/tracking"]);
    await eventually(
      () => programmed("RoutePolicy/serving/canary.yaml"),
      (message) => message === "1/1 proxies",
    );
    mesh.write("traffic.yaml", object("TrafficPolicy", "t", "{lb: roundRobin, timeouts: {connect: 500ms}}"));
    await notebook.until(({ tables }) => tables.length === 3);
    expect(notebook.table.routes.get("serving/scorer")?.traffic).toMatchObject({
      lb: { kind: "roundRobin" },
      timeouts: { connectMs: 500 },
    });
    // Nobody else got anything.
    expect(scorer.tables).toHaveLength(1);
    mesh.write(
      "canary.yaml",
      object("RoutePolicy", "canary", "{service: scorer, rules: [{backends: [{service: nobody}]}]}"),
    );
    await notebook.until(({ tables }) => tables.length === 4);
    const refs = await eventually(
      () =>
        status("RoutePolicy/serving/canary.yaml").status.conditions.find(
          ({ type }) => type === "ResolvedRefs",
        ),
      (condition) => condition?.status === "False",
    );
    expect(refs?.message).toContain("there is no service `serving/nobody`");
  });

  test("resolve: unknown, denied and allowed destinations", async () => {
    await mesh.start();
    const notebook = await mesh.sidecar("lab/notebook");
    await notebook.until(({ tables, client }) => tables.length === 1 && client.connected);
    const { client } = notebook;
    expect(await client.resolve("nowhere.lab", 80)).toEqual({
      kind: "refused",
      reason: "UNKNOWN_DESTINATION",
    });
    expect(await client.resolve("tracking.serving", 5000)).toEqual({
      kind: "refused",
      reason: "DEFAULT_DENY",
    });
    expect(await client.resolve("Scorer.Serving", 8080)).toMatchObject({
      kind: "service",
      service: { id: "serving/scorer" },
    });
    const scorer = await mesh.sidecar("serving/scorer");
    await scorer.until((one) => one.tables.length === 1 && one.client.connected);
    expect(await scorer.client.resolve("scorer", 8080)).toEqual({
      kind: "refused",
      reason: "NO_MATCHING_ALLOW",
    });
    // A policy that comes later ends the refusal at once.
    mesh.write("tracking.yaml", policyYaml("tracking", "tracking", "notebook", "mlflow.read"));
    await notebook.until(({ tables }) => tables.length === 2);
    expect(await client.resolve("tracking.serving", 5000)).toMatchObject({
      kind: "service",
      service: { id: "serving/tracking" },
    });
    expect(client.clockOffsetMs()).toBeGreaterThan(-1000);
  });

  test("a sidecar that refuses keeps its table; status names it; the next revision is tried again", async () => {
    await mesh.start();
    const scorer = await mesh.sidecar("serving/scorer");
    await scorer.until(({ tables }) => tables.length === 1);
    const before = scorer.table;
    let refusals = 0;
    scorer.onTable = () => {
      refusals += 1;
      return { ok: false, error: "cannot index this" };
    };
    mesh.write("jobs.yaml", policyYaml("jobs", "scorer", "job"));
    await scorer.until(() => refusals === 1);
    expect(scorer.store.table).toBe(before);
    await eventually(
      () => programmed("AccessPolicy/serving/jobs.yaml"),
      (message) => message === "0/1 proxies",
    );
    expect(status("AccessPolicy/serving/jobs.yaml").status.proxies).toMatchObject({
      nacked: 1,
      nacks: ["serving/scorer@node-1: cannot index this"],
    });
    scorer.onTable = () => ({ ok: true, value: undefined });
    mesh.write("agents.yaml", policyYaml("agents", "scorer", "agent"));
    await scorer.until(({ tables }) => tables.length === 2);
    await eventually(
      () => programmed("AccessPolicy/serving/jobs.yaml"),
      (message) => message === "1/1 proxies",
    );
  });

  test("a sidecar that lacks a feature refuses what needs it", async () => {
    const hours = policyYaml("hours", "scorer", "job").replace(
      "operations:",
      "when: {schedule: {timeZone: UTC, days: [Mon]}}, operations:",
    );
    mesh.write("hours.yaml", hours);
    await mesh.start();
    const scorer = await mesh.sidecar("serving/scorer", { features: [] });
    const { body } = await eventually(
      () => mesh.api("GET", "/v1/status"),
      (answer) => JSON.stringify(answer.body["proxies"]).includes('"nacked":1'),
    );
    expect(JSON.stringify(body["sidecars"])).toContain("needs feature `schedule`, which this build lacks");
    expect(scorer.store.table).toBeUndefined();
  });

  test("survives a restart: same identity, same revision, nothing is sent again, sidecar serves meanwhile", async () => {
    await mesh.start();
    const state = join(mesh.dir, "sidecar");
    const scorer = await mesh.sidecar("serving/scorer", { stateDir: state });
    await scorer.until(({ tables, client }) => tables.length === 1 && client.connected);
    const ports = mesh.samePorts();
    expect(JSON.parse(readFileSync(join(mesh.stateDir, "ports.json"), "utf8"))).toMatchObject(
      mesh.handle.ports,
    );
    await mesh.stop();
    expect(existsSync(join(mesh.stateDir, "ports.json"))).toBe(false);
    await scorer.until(({ client }) => !client.connected);
    expect(scorer.store.table).toBe(scorer.table);
    await mesh.start(ports);
    await scorer.until(({ client }) => client.connected);
    mesh.write("jobs.yaml", policyYaml("jobs", "scorer", "job"));
    await scorer.until(({ tables }) => tables.length >= 2);
    expect(scorer.tables).toHaveLength(2);
    expect(scorer.table.revision).toBe(2);
    await scorer.stop();
    // A restarted sidecar has its last good table before it has spoken to anybody, and is sent nothing.
    expect(statSync(join(state, "table.bin")).mode & 0o777).toBe(0o600);
    const again = await mesh.sidecar("serving/scorer", { stateDir: state, identity: scorer.identity });
    expect(again.store.table?.digest).toBe(scorer.table.digest);
    await again.until(({ client }) => client.connected);
    await eventually(
      () => mesh.api("GET", "/v1/status"),
      ({ body }) => JSON.stringify(body["proxies"]).includes('"synced":1'),
    );
    expect(again.tables).toHaveLength(0);
  });

  test("rollback pins an earlier revision until it is released, across a restart", async () => {
    await mesh.start();
    const scorer = await mesh.sidecar("serving/scorer");
    await scorer.until(({ tables }) => tables.length === 1);
    const names = (): string[] => scorer.table.program.policies.map(({ name }) => name);
    mesh.write("jobs.yaml", policyYaml("jobs", "scorer", "job"));
    await scorer.until(({ tables }) => tables.length === 2);
    expect((await mesh.api("GET", "/v1/diff?from=1&to=2")).body["objects"]).toMatchObject([
      { object: "AccessPolicy/serving/jobs", change: "added" },
    ]);

    const rolledBack = await mesh.api("POST", "/v1/rollback", { revision: 1 });
    expect(rolledBack).toMatchObject({
      status: 200,
      body: { sequence: 3, reason: "rollback", rollbackTo: 1 },
    });
    await scorer.until(({ tables }) => tables.length === 3);
    expect(names()).toEqual(["notebooks"]);
    expect(scorer.table.digest).toBe(scorer.tables[0]?.digest);

    mesh.write("agents.yaml", policyYaml("agents", "scorer", "agent"));
    await eventually(
      () => mesh.api("GET", "/v1/history"),
      ({ body }) => JSON.stringify(body).includes("serving/agents"),
    );
    expect(scorer.tables).toHaveLength(3);
    expect((await mesh.api("GET", "/v1/status")).body["pinned"]).toBe(1);

    const ports = mesh.samePorts();
    await mesh.stop();
    await mesh.start(ports);
    await scorer.until(({ client }) => client.connected);
    expect((await mesh.api("GET", "/v1/status")).body["pinned"]).toBe(1);
    expect(scorer.tables).toHaveLength(3);

    expect((await mesh.api("POST", "/v1/rollback/release")).status).toBe(200);
    await scorer.until(({ tables }) => tables.length === 4);
    expect(names()).toEqual(["agents", "jobs", "notebooks"]);
    expect((await mesh.api("POST", "/v1/rollback/release")).status).toBe(400);
    expect((await mesh.api("POST", "/v1/rollback", { revision: 99 })).status).toBe(404);
    const audit = readFileSync(join(mesh.stateDir, "audit", "management.jsonl"), "utf8")
      .trim()
      .split("\n");
    expect(audit.map((line) => JSON.parse(line).action)).toEqual([
      "create-join-token",
      "rollback",
      "release",
      "release",
      "rollback",
    ]);
  });

  test("renews an identity over the stream, and refuses a request that is not in order", async () => {
    await mesh.start();
    const scorer = await mesh.sidecar("serving/scorer");
    await scorer.until(({ client }) => client.connected);
    const keys = createKeys();
    const renewed = await scorer.client.requestCertificate(createCertificateRequest(keys));
    expect(renewed.spiffeId).toBe(scorer.identity.spiffeId);
    expect(renewed.notAfterMs).toBeGreaterThan(Date.now());
    const bad = { ...createCertificateRequest(keys), tokenKeyProof: Buffer.alloc(64) };
    await expect(scorer.client.requestCertificate(bad)).rejects.toMatchObject({ code: "csr_rejected" });
  });

  test("a join token works once, for the server it was made by", async () => {
    await mesh.start();
    const { body } = await mesh.api("POST", "/v1/join-tokens", { workload: "lab/notebook", ttlSeconds: 600 });
    const input = {
      address: `127.0.0.1:${mesh.handle.ports.bootstrap}`,
      proof: { kind: "join-token", token: String(body["token"]) } as const,
      request: createCertificateRequest(createKeys()),
      timeoutMs: 60_000,
    };
    const pinned = String(body["token"]).replace(/.{43}$/, "A".repeat(43));
    await expect(joinMesh({ ...input, proof: { ...input.proof, token: pinned } })).rejects.toMatchObject({
      code: "join_rejected",
    });
    await expect(joinMesh(input)).resolves.toMatchObject({
      spiffeId: "spiffe://test.example/ns/lab/sa/notebook/notebook/notebook",
    });
    await expect(joinMesh(input)).rejects.toMatchObject({ code: "join_rejected" });
    expect((await mesh.api("POST", "/v1/join-tokens", { workload: "lab/nobody" })).status).toBe(404);
  });

  test("a second control plane on the same state directory, and a missing directory, are told apart clearly", async () => {
    await mesh.start();
    const flags = ["--config-dir", mesh.configDir, "--state-dir", mesh.stateDir, "--port-base", "0"];
    const start = (args: readonly string[]): Promise<unknown> => {
      const config = parseControlPlaneConfig(args);
      if (!config.ok) throw new Error(config.error);
      return runControlPlane(
        config.value,
        { log: silentLogger, clock: systemClock },
        new AbortController().signal,
      );
    };
    await expect(start(flags)).rejects.toMatchObject({
      code: "bad_config",
      message: expect.stringContaining("stop it or use another"),
    });
    const other = ["--state-dir", `${mesh.dir}/other`, "--port-base", "0"];
    await expect(start([...other, "--config-dir", `${mesh.dir}/none`])).rejects.toMatchObject({
      code: "bad_config",
      message: expect.stringContaining("is not a directory"),
    });
    const taken = ["--discovery-port", String(mesh.handle.ports.discovery)];
    await expect(start([...other, "--config-dir", mesh.configDir, ...taken])).rejects.toMatchObject({
      code: "bad_config",
      message: expect.stringContaining("cannot listen"),
    });
    // What failed left no lock behind.
    expect(existsSync(`${mesh.dir}/other/lock`)).toBe(false);
  });

  test("answers metrics and health", async () => {
    await mesh.start();
    const base = `http://127.0.0.1:${mesh.handle.ports.metrics}`;
    expect((await fetch(`${base}/readyz`)).status).toBe(200);
    expect((await fetch(`${base}/livez`)).status).toBe(200);
    const text = await (await fetch(`${base}/metrics`)).text();
    for (const name of [
      "countersign_proxies{",
      "countersign_proxy_nacks_total",
      "countersign_config_push_seconds",
      "countersign_config_revision_info",
      "countersign_event_loop_lag_seconds",
    ]) {
      expect(text).toContain(name);
    }
    expect((await mesh.api("GET", "/v1/nothing")).status).toBe(404);
    expect((await mesh.api("GET", "/v1/rollback")).status).toBe(405);
    expect((await mesh.api("POST", "/v1/rollback", { revsion: 1 })).body["detail"]).toContain("revision");
    expect(statSync(mesh.handle.managementSocket).mode & 0o777).toBe(0o600);
  });

  test("hostile bytes and foreign certificates get nothing, and everybody else is served on", async () => {
    await mesh.start();
    const scorer = await mesh.sidecar("serving/scorer");
    await scorer.until(({ tables }) => tables.length === 1);
    const { bootstrap, discovery, metrics } = mesh.handle.ports;
    const garbage = [
      Buffer.from("GET / HTTP/1.1\r\n\r\n"),
      Buffer.alloc(70_000, 0xff),
      Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
      Buffer.from("16030100050100000100", "hex"),
    ];
    for (const where of [
      { port: bootstrap },
      { port: discovery },
      { port: metrics },
      { path: mesh.handle.managementSocket },
    ]) {
      for (const bytes of garbage) await sendBytes(where, bytes);
    }
    // Raw gRPC frames over good TLS without a client certificate: bootstrap answers with an error, discovery not at all.
    for (const port of [bootstrap, discovery])
      await sendBytes({ port }, Buffer.concat([garbage[2]!, Buffer.alloc(5_000, 7)]), true);
    const other = new TestMesh();
    try {
      other.write("mesh.yaml", MESH_YAML);
      await other.start();
      const foreign = await other.identity("serving/scorer");
      const intruder = await mesh.sidecar("serving/scorer", {
        identity: { ...foreign, bundle: scorer.identity.bundle },
      });
      // And one of ours that is sent to the wrong control plane does not talk to it.
      const lured = await other.sidecar("serving/scorer", { identity: scorer.identity });
      mesh.write("jobs.yaml", policyYaml("jobs", "scorer", "job"));
      await scorer.until(({ tables }) => tables.length === 2);
      expect([intruder.client.connected, intruder.tables.length]).toEqual([false, 0]);
      expect([lured.client.connected, lured.tables.length]).toEqual([false, 0]);
    } finally {
      await other.close();
    }
    expect((await mesh.api("GET", "/v1/status")).body["proxies"]).toMatchObject({ total: 1 });
    expect((await mesh.api("POST", "/v1/rollback", { revision: "x".repeat(70_000) })).status).toBe(413);
  });

  test("a workload that is removed or renamed to another account loses its stream", async () => {
    await mesh.start();
    const notebook = await mesh.sidecar("lab/notebook");
    const scorer = await mesh.sidecar("serving/scorer");
    await notebook.until(({ client, tables }) => client.connected && tables.length === 1);
    await scorer.until(({ client, tables }) => client.connected && tables.length === 1);
    mesh.write("mesh.yaml", MESH_YAML.replace("serviceAccount: notebook", "serviceAccount: someone"));
    await notebook.until(({ client }) => !client.connected);
    expect(scorer.client.connected).toBe(true);
    mesh.write("mesh.yaml", MESH_YAML);
    await notebook.until(({ client }) => client.connected);
  });
});

/** Sends bytes and waits until the other side closes, at most 300 ms: an answer is not asked for. */
function sendBytes(where: { port: number } | { path: string }, bytes: Buffer, isTls = false): Promise<void> {
  return new Promise((resolve) => {
    const socket =
      isTls && "port" in where
        ? connectTls({ ...where, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["h2"] })
        : "port" in where
          ? connect({ ...where, host: "127.0.0.1" })
          : connect(where);
    socket.on("error", () => {});
    socket.on("close", () => resolve());
    socket.on("data", () => {});
    socket.setTimeout(300, () => socket.destroy());
    socket.write(bytes);
  });
}
