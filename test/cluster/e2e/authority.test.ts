// The certificate authority in a Secret of a real API server: two processes with the rights of the chart and no more begin
// with one authority, follow each other, and one goes on where the other was killed.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, expect, test } from "@jest/globals";
import { parse, stringify } from "yaml";
import { describeOnCluster } from "../gate.ts";
import { createNamespace, kubectl, type TestNamespace, tryKubectl, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";

const holder = fileURLToPath(new URL("./hold-authority.ts", import.meta.url));
const SECRET = "countersign-ca";

interface Shown {
  readonly roots?: readonly string[];
  readonly sequence?: number;
  readonly stage?: string;
  readonly issuing?: string;
  readonly error?: string;
}

class Replica {
  readonly process: ChildProcess;
  readonly shown: Shown[] = [];

  constructor(
    kubeconfig: string,
    namespace: string,
    role: "leader" | "follower",
    trustDomain = "lake.example",
  ) {
    this.process = spawn(process.execPath, [holder, kubeconfig, namespace, trustDomain, role], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const { stdout } = this.process;
    if (stdout === null) throw new Error("the process has no output");
    createInterface({ input: stdout }).on("line", (line) => this.shown.push(JSON.parse(line)));
  }

  get last(): Shown {
    return this.shown.at(-1) ?? {};
  }

  tell(line: "lead" | "rotate"): void {
    this.process.stdin?.write(`${line}\n`);
  }

  until(condition: (shown: Shown) => boolean, what: string): Promise<void> {
    return waitFor(async () => condition(this.last), 40_000, what);
  }
}

describeOnCluster("certificate authority in a Secret", { testMs: 90_000, suiteMs: 240_000 }, () => {
  let dir: string;
  const namespaces: TestNamespace[] = [];
  let replicas: Replica[] = [];

  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), "countersign-authority-"));
  });
  afterEach(() => {
    for (const replica of replicas.splice(0)) replica.process.kill("SIGKILL");
  });
  afterAll(async () => {
    rmSync(dir, { recursive: true, force: true });
    for (const namespace of namespaces) await namespace.delete();
  });

  /** A namespace with an account that may get and replace this one Secret, and make it: what the chart grants. */
  async function prepared(): Promise<{ readonly namespace: string; readonly kubeconfig: string }> {
    const namespace = await createNamespace("authority");
    namespaces.push(namespace);
    const name = "control-plane";
    await namespace.apply([
      { apiVersion: "v1", kind: "ServiceAccount", metadata: { name } },
      {
        apiVersion: "rbac.authorization.k8s.io/v1",
        kind: "Role",
        metadata: { name },
        rules: [
          { apiGroups: [""], resources: ["secrets"], resourceNames: [SECRET], verbs: ["get", "update"] },
          { apiGroups: [""], resources: ["secrets"], verbs: ["create"] },
        ],
      },
      {
        apiVersion: "rbac.authorization.k8s.io/v1",
        kind: "RoleBinding",
        metadata: { name },
        roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name },
        subjects: [{ kind: "ServiceAccount", name, namespace: namespace.name }],
      },
    ]);
    const token = (await kubectl(["create", "token", name, "-n", namespace.name])).trim();
    const config = parse(await kubectl(["config", "view", "--raw", "--kubeconfig", adminKubeconfig()]));
    config.users = config.users.map((user: { name: string }) => ({ name: user.name, user: { token } }));
    const kubeconfig = join(dir, `${namespace.name}.conf`);
    writeFileSync(kubeconfig, stringify(config), { mode: 0o600 });
    return { namespace: namespace.name, kubeconfig };
  }

  const start = (
    at: Awaited<ReturnType<typeof prepared>>,
    ...roles: readonly ("leader" | "follower")[]
  ): Replica[] => {
    replicas = roles.map((role) => new Replica(at.kubeconfig, at.namespace, role));
    return replicas;
  };
  const filesIn = async (namespace: string): Promise<readonly string[]> =>
    Object.keys(
      JSON.parse(await kubectl(["get", "secret", SECRET, "-n", namespace, "-o", "json"])).data,
    ).sort();

  test("replicas that start at once end with one authority; another trust domain is refused", async () => {
    const at = await prepared();
    const three = start(at, "leader", "follower", "follower");
    for (const one of three) await one.until(({ roots }) => roots?.length === 1, "an authority");
    expect(new Set(three.map(({ last }) => JSON.stringify(last))).size).toBe(1);
    expect(await filesIn(at.namespace)).toEqual([
      ...["authority.json", "issuing.pem", "root.pem"],
      ...[expect.stringMatching(/^session-/), expect.stringMatching(/^tts-/)],
      "wit.pem",
    ]);
    const may = await tryKubectl([
      "auth",
      "can-i",
      "list",
      "secrets",
      "-n",
      at.namespace,
      "--kubeconfig",
      at.kubeconfig,
    ]);
    expect(may.stdout.trim()).toBe("no");

    const stranger = new Replica(at.kubeconfig, at.namespace, "leader", "pond.example");
    replicas.push(stranger);
    const [code] = await once(stranger.process, "exit");
    expect(code).toBe(1);
    expect(stranger.last.error).toMatch(
      /secret `.*\/countersign-ca` is of trust domain `lake.example`, not `pond.example`/,
    );
  });

  test("a rotation reaches every replica, and goes on when its leader is killed", async () => {
    const at = await prepared();
    const [leader, follower] = start(at, "leader", "follower");
    if (leader === undefined || follower === undefined) throw new Error("two were started");
    for (const one of [leader, follower]) await one.until(({ stage }) => stage === "none", "an authority");
    const [old] = leader.last.roots ?? [];
    leader.tell("rotate");
    await follower.until(({ stage, roots }) => stage === "distribute" && roots?.length === 2, "the new root");
    // In the middle of it, before anything is signed by the new root.
    leader.process.kill("SIGKILL");
    follower.tell("lead");
    await follower.until(
      ({ stage, sequence }) => stage === "none" && (sequence ?? 0) > 2,
      "the end of the rotation",
    );
    expect(follower.last.roots).toHaveLength(1);
    expect(follower.last.roots).not.toContain(old);
    expect((await filesIn(at.namespace)).filter((name) => name.startsWith("root"))).toHaveLength(1);
    const late = new Replica(at.kubeconfig, at.namespace, "follower");
    replicas.push(late);
    await late.until(({ roots }) => roots !== undefined, "an authority");
    expect(late.last).toEqual(follower.last);
  });

  test("a Secret that somebody removes is put back by the leader as it was", async () => {
    const at = await prepared();
    const [leader] = start(at, "leader");
    await leader?.until(({ stage }) => stage === "none", "an authority");
    const before = leader?.last;
    await kubectl(["delete", "secret", SECRET, "-n", at.namespace]);
    await waitFor(
      async () => (await tryKubectl(["get", "secret", SECRET, "-n", at.namespace])).code === 0,
      20_000,
      "the Secret",
    );
    const late = new Replica(at.kubeconfig, at.namespace, "follower");
    replicas.push(late);
    await late.until(({ roots }) => roots !== undefined, "an authority");
    expect(late.last).toEqual(before);
  });
});
