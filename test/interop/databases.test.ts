// PostgreSQL and Redis over the opaque TCP path: who may connect is all that policy says of them.
import { execFileSync } from "node:child_process";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess, startProgram } from "../demo/process.ts";
import { canTest, leaveOut } from "../left-out.ts";
import { type Mesh, startMesh } from "./mesh.ts";
import { pythonEnvironment } from "./python.ts";

const POSTGRES_PORT = 5432;
const REDIS_PORT = 6379;
const RULES = `  - name: databases
    from: [{workload: {names: [friend]}}]
    operations: [{any: true}]`;

/** Folder with PostgreSQL's own programs: on the PATH, or where Debian keeps them apart by version. */
function postgresFolder(): string | undefined {
  const debian = "/usr/lib/postgresql";
  const versions = existsSync(debian)
    ? readdirSync(debian).map((version) => join(debian, version, "bin"))
    : [];
  const folders = [...versions, ...(process.env["PATH"] ?? "").split(":")];
  const found = folders.find((folder) =>
    ["postgres", "initdb"].every((name) => existsSync(join(folder, name))),
  );
  if (found === undefined)
    leaveOut("PostgreSQL across the mesh: needs postgres (Debian's package postgresql)");
  return found;
}

const python = await pythonEnvironment("databases across the mesh");
const postgres = postgresFolder();
const canRedis = canTest("Redis across the mesh", { "redis-server": "Debian's package redis-server" });

/** PostgreSQL does not run as root: then as nobody, who owns its folder. */
function asNobody(dir: string): string[] {
  if (process.getuid?.() !== 0) return [];
  const [uid, gid] = ["-u", "-g"].map((flag) =>
    Number(execFileSync("id", [flag, "nobody"], { encoding: "utf8" })),
  );
  chownSync(dir, uid ?? -1, gid ?? -1);
  return ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups", "--"];
}

async function startPostgres(bin: string, dir: string, port: number): Promise<RunningProcess> {
  const prefix = asNobody(dir);
  const data = join(dir, "data");
  const [first = "", ...rest] = [
    ...[...prefix, join(bin, "initdb"), "-D", data, "-A", "trust", "-U", "postgres"],
    ...["--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C"],
  ];
  execFileSync(first, rest, { cwd: dir, stdio: "pipe" });
  const [program = "", ...args] = [
    ...[...prefix, join(bin, "postgres"), "-D", data, "-p", String(port), "-k", dir],
    ...["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
  ];
  const server = startProgram("postgres", program, args);
  await until("PostgreSQL", () =>
    server.errors().includes("ready to accept connections") ? true : undefined,
  );
  return server;
}

describe("databases", () => {
  let dir: string;
  let mesh: Mesh;
  const servers: RunningProcess[] = [];

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "countersign-databases-"));
    const [postgresPort = 0, redisPort = 0] = await freePorts(2);
    if (postgres !== undefined) servers.push(await startPostgres(postgres, dir, postgresPort));
    if (canRedis) {
      const args = ["--port", String(redisPort), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
      servers.push(startProgram("redis", "redis-server", args));
    }
    mesh = await startMesh({
      kind: "service",
      ports: [
        { port: POSTGRES_PORT, protocol: "tcp", app: postgresPort },
        { port: REDIS_PORT, protocol: "tcp", app: redisPort },
      ],
      rules: RULES,
    });
  });
  afterAll(async () => {
    await mesh?.close();
    await Promise.all(servers.map((server) => server.stop()));
    rmSync(dir, { recursive: true, force: true });
  });

  (python && postgres ? test : test.skip)(
    "PostgreSQL: bulk, pipelines, a cancelled query, a notification after silence",
    async () => {
      const dsn = (caller: "friend" | "stranger"): string =>
        `host=127.0.0.1 port=${mesh.port(caller, POSTGRES_PORT)} user=postgres dbname=postgres`;
      const result = await python?.run("postgres_session", [dsn("friend"), dsn("stranger")], {
        timeoutMs: 110_000,
      });
      expect(result).toEqual({
        answer: 42,
        inserted: [5000, 12_497_500],
        violation: true,
        copiedOut: 103_888_896,
        same: true,
        cancelled: true,
        notified: "after silence",
        stranger: expect.stringMatching(/closed the connection|reset/),
      });
      await mesh.untilRecorded({ caller: "notebook/stranger", effect: "Deny", reason: "NO_MATCHING_ALLOW" });
      const sessions = mesh.recorded().filter((one) => one.caller === "notebook/friend");
      expect(sessions.some((one) => one.requestBytes > 100e6 && one.responseBytes > 200e6)).toBe(true);
    },
  );

  (python && canRedis ? test : test.skip)(
    "Redis: pipelines, large values, a pop and a message after silence",
    async () => {
      const ports = [mesh.port("friend", REDIS_PORT), mesh.port("stranger", REDIS_PORT)].map(String);
      expect(await python?.run("redis_session", ports)).toEqual({
        ping: true,
        pipelined: true,
        large: true,
        popped: "job",
        news: "after silence",
        stranger: "ConnectionError",
      });
    },
  );
});
