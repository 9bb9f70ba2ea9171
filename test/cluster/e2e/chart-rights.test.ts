// The chart's roles on a real API server: what the control plane's account may do and what not, and what the cluster's own
// roles `view`, `edit` and `admin` get by aggregation. Under names of the test's own.
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type Manifest, render } from "../../charts/helm.ts";
import { describeOnCluster } from "../gate.ts";
import { apply, createNamespace, kubectl, type TestNamespace, tryKubectl, waitFor } from "../kube.ts";

describeOnCluster("the chart's roles on a real API server", { testMs: 60_000, suiteMs: 180_000 }, () => {
  const id = `r${process.pid.toString(36)}${Math.random().toString(36).slice(2, 5)}`;
  let system: TestNamespace;
  let team: TestNamespace;
  let roles: readonly { readonly kind: string; readonly name: string }[] = [];
  const controlPlane = () => `system:serviceaccount:${system.name}:countersign`;

  /** A role or binding under another name, so that no installed release is touched. */
  const renamed = (manifest: Manifest): Record<string, unknown> => {
    const { metadata, ...rest } = manifest;
    const roleRef = rest["roleRef"] as { name: string } | undefined;
    return {
      ...rest,
      metadata: { ...metadata, name: `${id}-${metadata.name}` },
      ...(roleRef === undefined ? {} : { roleRef: { ...roleRef, name: `${id}-${roleRef.name}` } }),
    };
  };

  beforeAll(async () => {
    system = await createNamespace("rights-system");
    team = await createNamespace("rights-team");
    const manifests = ["rbac", "rbac-people"].flatMap((file) =>
      render("countersign", `--show-only=templates/${file}.yaml`, `--namespace=${system.name}`),
    );
    roles = manifests
      .filter(({ kind }) => kind.startsWith("ClusterRole"))
      .map(({ kind, metadata }) => ({ kind, name: `${id}-${metadata.name}` }));
    await apply(manifests.map(renamed));
    const bind = (role: string, user: string, namespace: string) => ({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { name: user, namespace },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: role },
      subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "User", name: user }],
    });
    await apply([
      ...["view", "edit", "admin"].map((role) => bind(role, `${id}-${role}`, team.name)),
      bind(`${id}-countersign-management-view`, `${id}-reader`, system.name),
      bind(`${id}-countersign-management`, `${id}-operator`, system.name),
    ]);
    const aggregated = [
      "auth",
      "can-i",
      "create",
      "accesspolicies.countersign.dev",
      "--namespace",
      team.name,
    ];
    await waitFor(
      async () => (await tryKubectl([...aggregated, `--as=${id}-admin`])).code === 0,
      20_000,
      "the roles to be aggregated",
    );
  });
  afterAll(async () => {
    for (const { kind, name } of roles) await tryKubectl(["delete", kind, name, "--ignore-not-found"]);
    await Promise.all([system?.delete(), team?.delete()]);
  });

  /** `verb resource[.group][:subresource][/name]`, and where: the control plane's namespace, a team's, or all. */
  const RIGHT =
    /^(?<verb>\w+) (?<resource>\w+)(?:\.(?<group>[a-z0-9.]+))?(?::(?<subresource>[a-z-]+))?(?:\/(?<name>.+))?$/;
  /** Asks the API server itself: `kubectl auth can-i` does not know resources that exist in RBAC alone. */
  const may = async (user: string, where: "system" | "team" | "all", right: string) => {
    const resourceAttributes = RIGHT.exec(right)?.groups;
    if (resourceAttributes === undefined) throw new Error(`\`${right}\` is no right`);
    const namespace = where === "all" ? "" : where === "system" ? system.name : team.name;
    const review = {
      apiVersion: "authorization.k8s.io/v1",
      kind: "SubjectAccessReview",
      spec: { user, resourceAttributes: { ...resourceAttributes, namespace } },
    };
    const allowed = ["create", "--filename=-", "--output=jsonpath={.status.allowed}"];
    return (await kubectl(allowed, { stdin: JSON.stringify(review) })) === "true" ? "yes" : "no";
  };

  describe("the control plane", () => {
    test.each([
      ["all", "list pods"],
      ["all", "watch namespaces"],
      ["all", "list services"],
      ["all", "watch endpointslices.discovery.k8s.io"],
      ["all", "list jobs.batch"],
      ["all", "watch accesspolicies.countersign.dev"],
      ["all", "patch accesspolicies.countersign.dev:status"],
      ["all", "patch meshconfigs.countersign.dev:status"],
      ["all", "create tokenreviews.authentication.k8s.io"],
      ["all", "create subjectaccessreviews.authorization.k8s.io"],
      ["team", "create events.events.k8s.io"],
      ["team", "patch configmaps/countersign-bundle"],
      ["team", "delete configmaps/countersign-bundle"],
      ["all", "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/countersign"],
      ["all", "patch validatingwebhookconfigurations.admissionregistration.k8s.io/countersign"],
      ["all", "update clustertrustbundles.certificates.k8s.io/countersign.dev:mesh.local:roots"],
      ["system", "get secrets/countersign-ca"],
      ["system", "update secrets/countersign-ca"],
      ["system", "create secrets"],
      ["system", "update leases.coordination.k8s.io/countersign-leader"],
      ["system", "create meshrevisions.countersign.dev"],
      ["system", "delete onetimerecords.countersign.dev"],
      ["system", "create revocations.countersign.dev"],
    ] as const)("may: %s %s", async (where, right) => {
      expect(await may(controlPlane(), where, right)).toBe("yes");
    });

    test.each([
      ["system", "list secrets"],
      ["system", "watch secrets"],
      ["system", "get secrets/other"],
      ["system", "delete secrets/countersign-ca"],
      ["system", "patch secrets/countersign-ca"],
      ["team", "get secrets/countersign-ca"],
      ["team", "create secrets"],
      ["all", "list configmaps"],
      ["team", "get configmaps/kube-root-ca.crt"],
      ["team", "patch configmaps/other"],
      ["team", "create configmaps"],
      ["team", "patch pods"],
      ["team", "create pods"],
      ["team", "create pods:exec"],
      ["team", "create serviceaccounts:token"],
      ["all", "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/other"],
      ["all", "create mutatingwebhookconfigurations.admissionregistration.k8s.io"],
      ["all", "delete validatingwebhookconfigurations.admissionregistration.k8s.io/countersign"],
      ["all", "patch validatingadmissionpolicies.admissionregistration.k8s.io"],
      ["all", "create accesspolicies.countersign.dev"],
      ["all", "patch meshconfigs.countersign.dev"],
      ["all", "patch namespaces"],
      ["all", "list nodes"],
      ["team", "create meshrevisions.countersign.dev"],
      ["team", "update leases.coordination.k8s.io/countersign-leader"],
      ["all", "attest signers.certificates.k8s.io/other.example/x"],
      ["all", "create clusterrolebindings.rbac.authorization.k8s.io"],
    ] as const)("may not: %s %s", async (where, right) => {
      expect(await may(controlPlane(), where, right)).toBe("no");
    });

    test("makes, finds and deletes the trust bundle by its name, and no other ConfigMap", async () => {
      const configMap = (name: string) =>
        tryKubectl(
          ["apply", "--server-side", "--filename=-", "--namespace", team.name, `--as=${controlPlane()}`],
          {
            stdin: JSON.stringify({
              apiVersion: "v1",
              kind: "ConfigMap",
              metadata: { name },
              data: { a: "b" },
            }),
          },
        );
      expect(await configMap("countersign-bundle")).toMatchObject({ code: 0 });
      expect((await configMap("other")).stderr).toContain("forbidden");
      const byName = [
        "get",
        "configmaps",
        "--all-namespaces",
        "--field-selector=metadata.name=countersign-bundle",
      ];
      expect(await kubectl([...byName, `--as=${controlPlane()}`])).toContain(team.name);
    });
  });

  describe("people", () => {
    test.each([
      ["view", "list accesspolicies.countersign.dev", "yes"],
      ["view", "get workloads.countersign.dev", "yes"],
      ["view", "create accesspolicies.countersign.dev", "no"],
      ["view", "create externalservices.countersign.dev", "no"],
      ["edit", "list accesspolicies.countersign.dev", "yes"],
      ["edit", "create externalservices.countersign.dev", "yes"],
      ["edit", "create accesspolicies.countersign.dev", "no"],
      ["edit", "patch accessgrants.countersign.dev", "no"],
      ["admin", "create accesspolicies.countersign.dev", "yes"],
      ["admin", "delete accesspolicies.countersign.dev", "yes"],
      ["admin", "create accessgrants.countersign.dev", "yes"],
      ["admin", "approve accessgrants.countersign.dev", "yes"],
      ["admin", "patch accesspolicies.countersign.dev:status", "no"],
      ["admin", "create workloads.countersign.dev", "no"],
      ["admin", "bind meshroles.countersign.dev", "no"],
      ["admin", "create meshrolebindings.countersign.dev", "no"],
      ["admin", "create clusteraccesspolicies.countersign.dev", "no"],
      ["admin", "patch meshconfigs.countersign.dev", "no"],
      ["admin", "get management.countersign.dev", "no"],
    ] as const)("`%s` of a namespace: %s: %s", async (role, right, answer) => {
      expect(await may(`${id}-${role}`, "team", right)).toBe(answer);
    });

    test.each([
      ["reader", "get management.countersign.dev", "yes"],
      ["reader", "update management.countersign.dev:rollback", "no"],
      ["operator", "get management.countersign.dev", "yes"],
      ["operator", "update management.countersign.dev", "yes"],
      ["operator", "update management.countersign.dev:rollback", "yes"],
      ["operator", "update management.countersign.dev:join-tokens", "yes"],
      ["operator", "update management.countersign.dev:identities", "yes"],
      ["operator", "update management.countersign.dev:ca", "yes"],
      ["operator", "update management.countersign.dev:revocations", "yes"],
      ["operator", "get secrets/countersign-ca", "no"],
    ] as const)("the management API's %s: %s: %s", async (who, right, answer) => {
      expect(await may(`${id}-${who}`, "system", right)).toBe(answer);
    });
  });
});
