// The command line against a control plane in a cluster: its pod reached through the API server, its certificate verified,
// real tokens and rights. What answers on 16080 runs in this process, behind a pod that relays to it.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { readDirectory } from "../../../control-plane/sources/directory.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";
import type { ClusterState, MeshPod } from "../../../control-plane/sources/store.ts";
import { createTestAuthority } from "../../fakes/authority.ts";
import { echoActions, SecuredManagement } from "../../fakes/secured-management.ts";
import { describeOnCluster } from "../gate.ts";
import { IMAGES } from "../image-files.ts";
import { createNamespace, type KubeObject, kubectl, type TestNamespace } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";

const cli = fileURLToPath(new URL("../../../control-plane/cli/main.ts", import.meta.url));
/** Of this machine, as pods see it. */
const HOST = "10.88.0.1";
const RELAY = `require("net").createServer((a) => {
  const b = require("net").connect(Number(process.env.TO_PORT), process.env.TO_HOST);
  a.pipe(b).pipe(a);
  a.on("error", () => b.destroy());
  b.on("error", () => a.destroy());
}).listen(16080, "::");`;

const CONFIG = `
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: lake.example}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: ml}
spec: {kind: serving, serviceAccount: scorer, service: scorer, addresses: ["10.1.0.1"], ports: [{port: 8080, packs: [openai]}]}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: nb, namespace: lab}
spec: {kind: notebook, serviceAccount: nb, addresses: ["10.1.0.2"]}
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: chat, namespace: ml}
spec: {action: Allow, targets: [{kinds: [serving]}], rules: [{name: notebooks, from: [{workload: {kinds: [notebook], namespaces: [lab]}}], operations: [{op: serving.invoke.chat}]}]}
`;
const TABLE = `
world: {now: "2026-09-15T10:00:00+02:00", workloads: {notebook/nb: {ns: lab}, serving/scorer: {ns: ml, packs: [openai]}}}
policies: [{kind: AccessPolicy, metadata: {name: none, namespace: ml}, spec: {action: Deny, rules: [{name: all}]}}]
vectors:
- {id: v1, from: notebook/nb, to: serving/scorer, req: POST /v1/chat/completions, want: Allow, by: chat/notebooks}
`;

interface Run {
  readonly status: number;
  readonly text: string;
  readonly errors: string;
}

describeOnCluster("the command line on a cluster", { testMs: 60_000, suiteMs: 240_000 }, () => {
  let namespace: TestNamespace;
  let management: SecuredManagement;
  let folder = "";
  let state: ClusterState;

  const run = (kubeconfig: string, ...args: string[]): Promise<Run> =>
    new Promise((resolve) => {
      const env = { ...process.env, KUBECONFIG: kubeconfig, HOME: folder };
      execFile(
        process.execPath,
        ["--disable-warning=ExperimentalWarning", cli, ...args],
        { env, timeout: 40_000 },
        (error, text, errors) => {
          const status = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
          resolve({ status, text, errors: status < 0 ? `${errors} (ended by ${error?.signal})` : errors });
        },
      );
    });
  const here = () => ["--control-plane-namespace", namespace.name];
  const admin = (...args: string[]) => run(adminKubeconfig(), ...args, ...here());

  /** A kubeconfig whose user is an account with a token. */
  const kubeconfigOf = async (account: string): Promise<string> => {
    const token = (await kubectl(["create", "token", account, "--namespace", namespace.name])).trim();
    const config = JSON.parse(readFileSync(adminKubeconfig(), "utf8")) as { users: { user: object }[] };
    const path = join(folder, `${account}.json`);
    writeFileSync(path, JSON.stringify({ ...config, users: [{ name: "admin", user: { token } }] }));
    return path;
  };

  const account = (name: string): KubeObject => ({
    apiVersion: "v1",
    kind: "ServiceAccount",
    metadata: { name },
  });
  const grant = (name: string, to: string, rules: readonly KubeObject[]): KubeObject[] => [
    { apiVersion: "rbac.authorization.k8s.io/v1", kind: "Role", metadata: { name }, rules },
    {
      ...{ apiVersion: "rbac.authorization.k8s.io/v1", kind: "RoleBinding", metadata: { name } },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name },
      subjects: [{ kind: "ServiceAccount", name: to, namespace: namespace.name }],
    },
  ];

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "countersign-cli-"));
    writeFileSync(join(folder, "config.yaml"), CONFIG);
    writeFileSync(join(folder, "table.yaml"), TABLE);
    namespace = await createNamespace("cli");
    const read = readDirectory(join(folder, "config.yaml"), loadSchemas());
    expect(read.report.problems).toEqual([]);
    const pod = (uid: string, name: string, workload: string | undefined): [string, MeshPod] => [
      uid,
      {
        ...{ uid, name, namespace: "ml", serviceAccount: "default", node: "n", addresses: ["10.1.0.1"] },
        ...{ ready: true, injected: workload !== undefined, workload },
      },
    ];
    state = {
      ...read.state,
      pods: new Map([pod("u1", "scorer-0", "ml/scorer"), pod("u2", "bare", undefined)]),
    };
    const { authentication, authorization } = await loadKubernetes({
      kubeconfig: adminKubeconfig(),
      context: undefined,
    });
    const sidecar = {
      ...{ workload: "ml/scorer", instance: "u1", pod: "u1", node: "n", softwareVersion: "0.1.0" },
      ...{ state: "synced", digest: "aaaaaaaa", expectedDigest: "aaaaaaaa", sinceMs: Date.now() - 300_000 },
    };
    management = await SecuredManagement.start({
      ...{ host: "0.0.0.0", tokens: authentication, rights: authorization, namespace: namespace.name },
      actions: {
        ...echoActions,
        status: () => ({
          revision: 7,
          pinned: null,
          workloads: 2,
          problems: [],
          sidecars: [sidecar],
          proxies: { total: 1, synced: 1 },
        }),
        state: () => state,
        caStatus: () => ({
          issuingNotAfter: new Date(Date.now() + 80 * 86_400_000 - 60_000).toISOString(),
          rotation: null,
        }),
        rollback: async (revision) => ({ sequence: 8, rollbackTo: revision, changes: [], changeCount: 0 }),
      },
    });
    await namespace.apply([
      ...["countersign-operator", "viewer", "stranger", "reader"].map(account),
      ...grant("operate", "countersign-operator", [
        {
          apiGroups: ["countersign.dev"],
          resources: ["management", "management/rollback"],
          verbs: ["get", "update"],
        },
      ]),
      ...grant("view", "viewer", [
        { apiGroups: [""], resources: ["services", "pods", "configmaps"], verbs: ["get", "list"] },
        { apiGroups: [""], resources: ["pods/portforward"], verbs: ["create", "get"] },
        { apiGroups: ["countersign.dev"], resources: ["management"], verbs: ["get"] },
      ]),
      ...grant("read", "reader", [
        { apiGroups: [""], resources: ["services", "pods", "configmaps"], verbs: ["get", "list"] },
      ]),
      {
        ...{ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "countersign-bundle" } },
        data: { "roots.pem": management.material().rootsPem },
      },
      {
        ...{ apiVersion: "v1", kind: "Service", metadata: { name: "countersign" } },
        spec: { selector: { app: "relay" }, ports: [{ port: 16_080 }] },
      },
      {
        ...{ apiVersion: "v1", kind: "Pod", metadata: { name: "relay", labels: { app: "relay" } } },
        spec: {
          terminationGracePeriodSeconds: 1,
          containers: [
            {
              ...{
                name: "relay",
                image: IMAGES.app,
                imagePullPolicy: "IfNotPresent",
                command: ["node", "-e", RELAY],
              },
              env: [
                { name: "TO_HOST", value: HOST },
                { name: "TO_PORT", value: String(management.server.port) },
              ],
            },
          ],
        },
      },
    ]);
    await namespace.waitFor("pod/relay", "condition=Ready", 60_000);
  }, 120_000);
  afterAll(async () => {
    await management?.close();
    await namespace?.delete();
    rmSync(folder, { recursive: true, force: true });
  });

  test.each([
    {
      name: "status",
      args: ["status"],
      status: 0,
      says: "revision 7, follows the cluster; 2 workloads, 1/1 connected sidecars",
    },
    { name: "proxy-status", args: ["proxy-status"], status: 0, says: "ml/scorer-0  ml/scorer  synced  5m" },
    {
      name: "authz",
      args: ["authz", "serving/scorer"],
      status: 0,
      says: "AccessPolicy ml/chat  Allow   notebooks",
    },
    {
      name: "describe pod",
      args: ["describe", "pod", "scorer-0", "-n", "ml"],
      status: 0,
      says: "yes: sidecar 0.1.0, synced for 5m",
    },
    {
      name: "describe pod that is not meshed",
      args: ["describe", "pod", "relay", "-n", "@"],
      status: 1,
      says: "NO: its namespace is not in the mesh; put it there with: kubectl label namespace",
    },
    {
      name: "describe svc",
      args: ["describe", "svc", "scorer", "-n", "ml"],
      status: 0,
      says: "may be called by",
    },
    {
      name: "explain, allowed",
      args: [
        "explain",
        "--from",
        "notebook/nb",
        "--to",
        "pod/ml/scorer-0",
        "--request",
        "POST /v1/chat/completions",
      ],
      ...{ status: 0, says: "ALLOWED ALLOWED by ml/chat/notebooks" },
    },
    {
      name: "explain, denied",
      args: [
        "explain",
        "--from",
        "notebook/nb",
        "--to",
        "serving/scorer",
        "--request",
        "POST /v1/embeddings",
      ],
      ...{ status: 1, says: "DENIED NO_MATCHING_ALLOW" },
    },
    { name: "lint", args: ["lint"], status: 0, says: "1 object in force, 0 errors, 0 warnings" },
    {
      name: "rollback",
      args: ["rollback", "3"],
      status: 0,
      says: "rolled back: revision 8 is revision 3 again",
    },
  ])("$name: a client certificate is exchanged for the operator's token", async ({ args, status, says }) => {
    // "@" is the test's own namespace, whose name is not known before.
    const result = await admin(...args.map((one) => (one === "@" ? namespace.name : one)));
    expect(result.errors).toBe("");
    expect(result.text).toContain(says);
    expect(result.status).toBe(status);
  });

  test("tests a decision table with the policies in force", async () => {
    const table = join(folder, "table.yaml");
    expect((await run("", "policy", "test", table)).status).toBe(1);
    const live = await admin("policy", "test", table, "--live");
    expect(live.text).toContain("1 vector, all as they say");
    expect(live.status).toBe(0);
  });

  test.each(["status", "proxy-status", "lint", "history"])("%s --json is one JSON document", async (verb) => {
    const { text, status } = await admin(verb, "--json");
    expect(status).toBe(0);
    expect(() => JSON.parse(text)).not.toThrow();
  });

  test("a kubeconfig's own token is used, and what it may not do says what to grant", async () => {
    const kubeconfig = await kubeconfigOf("viewer");
    const seen = await run(kubeconfig, "status", ...here());
    expect(seen.text).toContain("revision 7");
    const denied = await run(kubeconfig, "rollback", "3", ...here());
    expect(denied.status).toBe(1);
    expect(denied.errors).toContain(
      `grant it with: kubectl create clusterrolebinding countersign-viewer --clusterrole=countersign-management --serviceaccount=${namespace.name}:viewer`,
    );
    expect(management.records.at(-1)).toMatchObject({ action: "rollback", outcome: "forbidden" });
  });

  test.each([
    { who: "stranger", says: "you may not read the Service of the control plane" },
    { who: "reader", says: "--verb=create --resource=pods/portforward" },
  ])("an account that may do less is told what is missing ($who)", async ({ who, says }) => {
    const result = await run(await kubeconfigOf(who), "status", ...here());
    expect(result.errors).toContain(says);
    expect(result.status).toBe(3);
  });

  test.each([
    {
      name: "an account that is not there",
      args: ["status", "--account", "nobody"],
      status: 3,
      says: "there is no such account",
    },
    {
      name: "a namespace without control plane",
      args: ["status", "--control-plane-namespace", "default"],
      status: 3,
      says: "is not installed in namespace `default`",
    },
    {
      name: "a context that is not there",
      args: ["status", "--context", "nope"],
      status: 2,
      says: "has no context `nope`; it has `countersign-test`",
    },
    {
      name: "a workload that is misspelled",
      args: ["authz", "serving/scorre"],
      status: 2,
      says: "did you mean `serving/scorer`?",
    },
    {
      name: "a pod that is not there",
      args: ["describe", "pod", "nope", "-n", "default"],
      status: 2,
      says: "there is no pod `nope` in namespace `default`",
    },
    {
      name: "a Service that is not there",
      args: ["describe", "svc", "nope", "-n", "ml"],
      status: 2,
      says: "known in `ml`: `ml/scorer`",
    },
  ])("$name is said plainly", async ({ args, status, says }) => {
    const result = args.includes("--control-plane-namespace")
      ? await run(adminKubeconfig(), ...args)
      : await admin(...args);
    expect(result.errors).toContain(says);
    expect(result.status).toBe(status);
  });

  test("no kubeconfig, and an API server that is away", async () => {
    const none = await run("", "status");
    expect(none.errors).toContain("there is no kubeconfig: give `--kubeconfig` or set KUBECONFIG");
    expect(none.status).toBe(2);
    const path = join(folder, "away.json");
    writeFileSync(
      path,
      readFileSync(adminKubeconfig(), "utf8").replace(/https:\/\/[^"\s]+/, "https://127.0.0.1:1"),
    );
    const away = await run(path, "status");
    expect(away.errors).toContain("the API server cannot be reached");
    expect(away.status).toBe(3);
    const check = await run(path, "check");
    expect(check.text).toMatch(/^failed {3}API server/);
    expect(check.status).toBe(1);
  });

  test("check after installation names each thing that is missing", async () => {
    const { text, status, errors } = await admin("check");
    expect(errors).toBe("");
    expect(text).toContain("1 of 1 pods");
    expect(text).toMatch(/failed {3}leader +nobody leads/);
    expect(text).toMatch(/ok +sidecars +1 connected and up to date/);
    expect(text).toMatch(/ok +authority +the issuing certificate lasts 79 days/);
    expect(text).toMatch(/(ok|failed) +trust bundle +(1 root|missing or old in)/);
    expect(text).toContain("installed: ");
    expect(status).toBe(1);
    const json = JSON.parse((await admin("check", "--json")).text) as { installed: boolean; failed: number };
    expect(json.installed).toBe(true);
    expect(json.failed).toBeGreaterThan(0);
  });

  test("check before installation says that this cluster is ready", async () => {
    const { text, status } = await admin("check", "--pre");
    expect(text).toMatch(/^ok +API server +Kubernetes v1\.\d+/);
    expect(text).toMatch(/ok +native sidecars/);
    expect(text).toMatch(/ok +rights to install/);
    expect(text).toContain("not installed yet: ");
    const stranger = await run(await kubeconfigOf("stranger"), "check", "--pre");
    expect(stranger.text).toMatch(/failed +rights to install +you may not create customresourcedefinitions/);
    expect(stranger.status).toBe(1);
    expect([0, 1]).toContain(status);
  });

  test("a control plane with another authority is not talked to", async () => {
    const other = await createTestAuthority(Date.now(), "lake.example");
    const own = management.material().rootsPem;
    const bundle = (roots: string): KubeObject => ({
      ...{ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "countersign-bundle" } },
      data: { "roots.pem": roots },
    });
    try {
      await namespace.apply([bundle(other.ca.roots.map(String).join(""))]);
      const result = await admin("status");
      expect(result.errors).toMatch(/cannot ask the control plane in pod `relay`: .*certificate/);
      expect(result.status).toBe(3);
      // The right roots, for a certificate that is not the control plane's: of another trust domain.
      const elsewhere = await createTestAuthority(Date.now(), "other.example");
      await namespace.apply([bundle(elsewhere.ca.roots.map(String).join("") + own)]);
      const impostor = await admin("status");
      expect(impostor.status).toBe(3);
      expect(impostor.errors).toContain("the server's certificate is not the control plane's");
      await elsewhere.close();
    } finally {
      await namespace.apply([bundle(own)]);
      await other.close();
    }
  });

  test("a pod that is not ready is named with its reason", async () => {
    const broken = await createNamespace("cli-broken");
    try {
      await broken.apply([
        {
          ...{ apiVersion: "v1", kind: "Service", metadata: { name: "countersign" } },
          spec: { selector: { app: "cp" }, ports: [{ port: 16_080 }] },
        },
        {
          ...{ apiVersion: "v1", kind: "Pod", metadata: { name: "cp", labels: { app: "cp" } } },
          spec: {
            containers: [{ name: "cp", image: "countersign.test/none:dev", imagePullPolicy: "Never" }],
          },
        },
      ]);
      let result = await run(adminKubeconfig(), "status", "--control-plane-namespace", broken.name);
      for (let tries = 0; tries < 10 && !result.errors.includes("ErrImageNeverPull"); tries++)
        result = await run(adminKubeconfig(), "status", "--control-plane-namespace", broken.name);
      expect(result.errors).toMatch(/no pod of the control plane in `\S+` is ready; cp: ErrImageNeverPull/);
      expect(result.status).toBe(3);
    } finally {
      await broken.delete();
    }
  });
});
