// The secured management port against the real API server: real ServiceAccount tokens, audiences and RBAC.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { MESH_AUDIENCE, SecuredManagement } from "../../fakes/secured-management.ts";
import { describeOnCluster } from "../gate.ts";
import { createNamespace, type KubeObject, kubectl, type TestNamespace, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";

const READ = { path: "/v1/status" };
const ROLLBACK = { method: "POST", path: "/v1/rollback", body: '{"revision": 3}' };
const EXPORT = { method: "POST", path: "/v1/identity-export", body: '{"workload": "ml/a"}' };

function role(name: string, rules: readonly KubeObject[], account: string, namespace: string): KubeObject[] {
  return [
    { apiVersion: "rbac.authorization.k8s.io/v1", kind: "Role", metadata: { name }, rules },
    {
      ...{ apiVersion: "rbac.authorization.k8s.io/v1", kind: "RoleBinding", metadata: { name } },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name },
      subjects: [{ kind: "ServiceAccount", name: account, namespace }],
    },
  ];
}

describeOnCluster("management over the network", { testMs: 30_000, suiteMs: 120_000 }, () => {
  let namespace: TestNamespace;
  let management: SecuredManagement;

  const token = async (account: string, audience?: string): Promise<string> => {
    const more = audience === undefined ? [] : ["--audience", audience];
    const made = await kubectl(["create", "token", account, "--namespace", namespace.name, ...more]);
    return made.trim();
  };
  const statuses = async (held: { readonly token: string }): Promise<number[]> => {
    const found: number[] = [];
    for (const call of [READ, ROLLBACK, EXPORT])
      found.push((await management.call({ ...call, ...held })).status);
    return found;
  };

  beforeAll(async () => {
    namespace = await createNamespace("management");
    const group = { apiGroups: ["countersign.dev"] };
    await namespace.apply(
      ["viewer", "operator", "nobody"].map((name) => ({
        ...{ apiVersion: "v1", kind: "ServiceAccount", metadata: { name } },
      })),
    );
    await namespace.apply([
      ...role("view", [{ ...group, resources: ["management"], verbs: ["get"] }], "viewer", namespace.name),
      ...role(
        "operate",
        [
          { ...group, resources: ["management"], verbs: ["get"] },
          { ...group, resources: ["management/rollback"], verbs: ["update"] },
        ],
        "operator",
        namespace.name,
      ),
    ]);
    const { authentication, authorization } = await loadKubernetes({
      kubeconfig: adminKubeconfig(),
      context: undefined,
    });
    management = await SecuredManagement.start({
      ...{ tokens: authentication, rights: authorization, namespace: namespace.name },
    });
  });
  afterAll(async () => {
    await management?.close();
    await namespace?.delete();
  });

  test.each([
    { account: "viewer", audience: MESH_AUDIENCE, expected: [200, 403, 403] },
    { account: "viewer", audience: undefined, expected: [200, 403, 403] },
    { account: "operator", audience: MESH_AUDIENCE, expected: [200, 200, 403] },
    { account: "operator", audience: undefined, expected: [200, 200, 403] },
    { account: "operator", audience: "vault", expected: [401, 401, 401] },
    { account: "operator", audience: "countersign.dev/other.example", expected: [401, 401, 401] },
    { account: "nobody", audience: MESH_AUDIENCE, expected: [403, 403, 403] },
  ])(
    "an account `$account` with a token for $audience gets $expected",
    async ({ account, audience, expected }) => {
      expect(await statuses({ token: await token(account, audience) })).toEqual(expected);
    },
  );

  test("a forged token, one with another's signature and one of a deleted account get nothing", async () => {
    const good = await token("operator", MESH_AUDIENCE);
    const other = await token("nobody", MESH_AUDIENCE);
    const [head, , signature] = good.split(".");
    const [, claims] = other.split(".");
    expect(await statuses({ token: `${head}.${claims}.${signature}` })).toEqual([401, 401, 401]);
    expect(await statuses({ token: good.slice(0, -4) })).toEqual([401, 401, 401]);
    await namespace.apply([{ apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "leaver" } }]);
    const left = await token("leaver", MESH_AUDIENCE);
    expect(await statuses({ token: left })).toEqual([403, 403, 403]);
    await kubectl(["delete", "serviceaccount", "leaver", "--namespace", namespace.name]);
    // The API server itself remembers a good token for ten seconds.
    await waitFor(
      async () => {
        management.clock.advance(11_000);
        return (await statuses({ token: left })).every((status) => status === 401);
      },
      20_000,
      "the token of a deleted account to end",
    );
  });

  test("what a denial says to grant is enough", async () => {
    const held = { token: await token("nobody", MESH_AUDIENCE) };
    const denied = await management.call({ ...READ, ...held });
    const detail = String(denied.body["detail"]);
    const [, command = ""] = /kubectl (create clusterrolebinding .*)$/.exec(detail) ?? [];
    expect(command).toContain(`--serviceaccount=${namespace.name}:nobody`);
    // The chart makes this role; here a role of the test's own stands for it.
    const name = `countersign-test-${namespace.name}`;
    await kubectl([
      "create",
      "clusterrole",
      name,
      "--verb=get",
      "--resource=management.countersign.dev",
    ]).catch(async () => {
      // kubectl asks whether the resource exists, which no virtual one does.
      await namespace.apply([
        {
          ...{ apiVersion: "rbac.authorization.k8s.io/v1", kind: "ClusterRole", metadata: { name } },
          rules: [{ apiGroups: ["countersign.dev"], resources: ["management"], verbs: ["get"] }],
        },
      ]);
    });
    const args = command
      .replace("--clusterrole=countersign-management-view", `--clusterrole=${name}`)
      .replace(/clusterrolebinding \S+/, `clusterrolebinding ${name}`)
      .split(" ");
    try {
      await kubectl(args);
      management.clock.advance(1_000);
      expect((await management.call({ ...READ, ...held })).status).toBe(200);
      expect((await management.call({ ...ROLLBACK, ...held })).status).toBe(403);
    } finally {
      await kubectl(["delete", "clusterrole,clusterrolebinding", name, "--ignore-not-found"]);
    }
  });

  test("the audit names the account, and never the token", async () => {
    management.records.length = 0;
    const held = { token: await token("operator", MESH_AUDIENCE) };
    await management.call({ ...ROLLBACK, ...held });
    expect(management.records).toMatchObject([
      { user: `system:serviceaccount:${namespace.name}:operator`, action: "rollback", outcome: "done" },
    ]);
    expect(management.records[0]?.groups).toBeGreaterThan(1);
    expect(JSON.stringify(management.records)).not.toContain(held.token.slice(-40));
  });
});

describeOnCluster("management without an API server", { testMs: 30_000, suiteMs: 60_000 }, () => {
  test("an API server that cannot be reached lets nobody in", async () => {
    const folder = mkdtempSync(join(tmpdir(), "countersign-away-"));
    const kubeconfig = join(folder, "config");
    const away = readFileSync(adminKubeconfig(), "utf8").replace(/https:\/\/[^"\s]+/, "https://127.0.0.1:1");
    writeFileSync(kubeconfig, away);
    const { authentication, authorization } = await loadKubernetes({ kubeconfig, context: undefined });
    const management = await SecuredManagement.start({ tokens: authentication, rights: authorization });
    try {
      const answer = await management.call({ ...ROLLBACK, token: "any" });
      expect(answer.status).toBe(503);
      expect(answer.body["detail"]).toContain("did not answer the TokenReview");
    } finally {
      await management.close();
      rmSync(folder, { recursive: true });
    }
  });
});
