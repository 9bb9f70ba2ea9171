// What the chart `countersign` renders, for several sets of values: rights, security contexts, webhooks, refusals. No cluster.
import { describe, expect, test } from "@jest/globals";
import { injectSettings } from "../../control-plane/admission/inject-settings.ts";
import { parseControlPlaneConfig } from "../../control-plane/config.ts";
import { chartFolder, describeWithHelm, type Manifest, render, templateArgs, tryHelm } from "./helm.ts";

type Fields = Readonly<Record<string, unknown>>;
interface PolicyRule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
  readonly resourceNames?: readonly string[];
}
interface Container {
  readonly image: string;
  readonly args?: readonly string[];
  readonly securityContext: Fields;
  readonly resources: { readonly requests: Fields; readonly limits: Fields };
}
interface PodSpec {
  readonly containers: readonly Container[];
  readonly securityContext: Fields;
  readonly hostNetwork?: boolean;
  readonly volumes?: readonly Fields[];
}

const DIGEST = `sha256:${"a".repeat(64)}`;
const VARIANTS: Readonly<Record<string, readonly string[]>> = {
  "the defaults": [],
  "one replica, nothing optional": [
    "--set=replicas=1,drainSeconds=0,rbac.aggregate=false,networkPolicy.enabled=false,monitoring.annotations=false",
  ],
  "the example for high availability": [`--values=${chartFolder("examples/values-ha.yaml")}`],
  everything: [
    `--set=replicas=3,image.registry=registry.example:5000,image.digest=${DIGEST},sidecar.image.digest=${DIGEST}`,
    "--set=issuer.existingSecret=mesh-issuer,priorityClassName=system-cluster-critical,imagePullSecrets[0].name=regcred",
    "--set=monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true,networkPolicy.webhookCIDRs[0]=10.0.0.1/32",
    '--set-json=meshConfig={"trustedSpawners":["jhub/hub"],"protectedLabels":["data-class"]}',
    "--set=tokenIssuer=https://mesh.example",
    '--set-json=extraArgs=["--heartbeat-ms","10000"]',
    "--api-versions=monitoring.coreos.com/v1/PodMonitor",
    "--api-versions=monitoring.coreos.com/v1/ServiceMonitor",
  ],
};

const of = (manifests: readonly Manifest[], kind: string) => manifests.filter((one) => one.kind === kind);
const names = (manifests: readonly Manifest[]) => manifests.map(({ metadata }) => metadata.name);
const only = (manifests: readonly Manifest[], kind: string): Manifest => {
  const [found, ...more] = of(manifests, kind);
  if (found === undefined || more.length > 0) throw new Error(`expected one ${kind}`);
  return found;
};
const rulesOf = (manifest: Manifest) => manifest["rules"] as readonly PolicyRule[];
/** Of Deployments and of bare pods. */
const podSpecs = (manifests: readonly Manifest[]): readonly PodSpec[] =>
  manifests.flatMap(({ kind, ...rest }) => {
    const spec = rest["spec"] as Fields | undefined;
    if (kind === "Pod") return [spec as unknown as PodSpec];
    const template = spec?.["template"] as { readonly spec: PodSpec } | undefined;
    return template === undefined ? [] : [template.spec];
  });

describeWithHelm("the chart countersign", () => {
  describe.each(Object.entries(VARIANTS))("with %s", (_, args) => {
    const manifests = render("countersign", ...args);
    const roles = [...of(manifests, "ClusterRole"), ...of(manifests, "Role")];

    test("passes lint", () => {
      const flags = args.filter((arg) => !arg.startsWith("--api-versions"));
      const { ok, stdout } = tryHelm([
        "lint",
        chartFolder("countersign"),
        "--strict",
        "--kube-version=1.30.0",
        ...flags,
      ]);
      expect(stdout).toContain("0 chart(s) failed");
      expect(ok).toBe(true);
    });

    test("grants no wildcard, and no right that makes others", () => {
      expect(roles.length).toBeGreaterThan(4);
      const rules = roles.flatMap(rulesOf);
      const words = rules.flatMap(({ apiGroups, resources, verbs, resourceNames = [] }) => [
        ...apiGroups,
        ...resources,
        ...verbs,
        ...resourceNames,
      ]);
      expect(words.filter((word) => word.includes("*"))).toEqual([]);
      expect(
        words.filter((word) => ["escalate", "bind", "impersonate", "pods/exec", "nodes"].includes(word)),
      ).toEqual([]);
      expect(rules.filter(({ verbs, resources }) => verbs.length === 0 || resources.length === 0)).toEqual(
        [],
      );
    });

    test("reads one Secret by name, in its own namespace, and cannot list or watch any", () => {
      const touching = (one: Manifest) =>
        rulesOf(one).filter(({ resources }) => resources.includes("secrets"));
      expect(of(manifests, "ClusterRole").flatMap(touching)).toEqual([]);
      const rules = of(manifests, "Role").flatMap(touching);
      expect(rules.map(({ verbs, resourceNames }) => ({ verbs, resourceNames }))).toEqual([
        { verbs: ["get", "update"], resourceNames: ["countersign-ca"] },
        { verbs: ["create"], resourceNames: undefined },
      ]);
    });

    test("what it may change outside our group has a name, or is new", () => {
      const open = of(manifests, "ClusterRole")
        .filter(({ metadata }) => metadata.name === "countersign-control-plane")
        .flatMap(rulesOf)
        .filter(
          ({ apiGroups, resourceNames }) =>
            !apiGroups.includes("countersign.dev") && resourceNames === undefined,
        )
        .filter(({ verbs }) => verbs.some((verb) => !["get", "list", "watch", "create"].includes(verb)));
      // Events are made and counted up; nothing reads them.
      expect(open.flatMap(({ resources }) => resources)).toEqual(["events"]);
    });

    test("pods run without root, capabilities, a writable root or the node's namespaces", () => {
      const specs = podSpecs(manifests);
      expect(specs).toHaveLength(3);
      for (const spec of specs) {
        expect(spec.securityContext).toMatchObject({
          runAsNonRoot: true,
          seccompProfile: { type: "RuntimeDefault" },
        });
        expect(spec.securityContext["runAsUser"]).toBeGreaterThan(1000);
        expect(spec).not.toHaveProperty("hostNetwork");
        expect(spec).not.toHaveProperty("hostPID");
        for (const volume of spec.volumes ?? []) expect(volume).not.toHaveProperty("hostPath");
        for (const { securityContext, resources } of spec.containers) {
          expect(securityContext).toMatchObject({
            allowPrivilegeEscalation: false,
            readOnlyRootFilesystem: true,
            capabilities: { drop: ["ALL"] },
          });
          expect(securityContext).not.toHaveProperty("privileged");
          expect(resources.requests).toHaveProperty("memory");
          expect(resources.limits).toHaveProperty("memory");
        }
      }
    });

    test("pods of `helm test` do not have the sidecar's user", () => {
      const users = podSpecs(
        manifests.filter(({ metadata }) => metadata.namespace === "countersign-test"),
      ).map(({ securityContext }) => securityContext["runAsUser"]);
      expect(users).toEqual([65532, 65532]);
    });

    test("the control plane takes its arguments", () => {
      const [container] = podSpecs(
        of(manifests, "Deployment").filter(({ metadata }) => metadata.name === "countersign"),
      ).flatMap(({ containers }) => containers);
      const [verb, ...flags] = container?.args ?? [];
      expect(verb).toBe("control-plane");
      const config = parseControlPlaneConfig(flags);
      if (!config.ok) throw new Error(config.error);
      expect(config.value.listen).toBe("0.0.0.0");
    });

    test("the webhooks touch nothing unlabelled, fail closed, and carry no caBundle", () => {
      const webhooks = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"].flatMap(
        (kind) => only(manifests, kind)["webhooks"] as readonly Fields[],
      );
      expect(webhooks).toHaveLength(4);
      for (const webhook of webhooks) {
        // What is said about a deletion refuses none, so no deletion waits for it.
        const failurePolicy = String(webhook["name"]).startsWith("deletion.") ? "Ignore" : "Fail";
        expect(webhook).toMatchObject({ failurePolicy, sideEffects: "None" });
        expect(webhook["timeoutSeconds"]).toBeLessThanOrEqual(10);
        expect(webhook["clientConfig"]).not.toHaveProperty("caBundle");
        expect(webhook["clientConfig"]).toMatchObject({
          service: { name: "countersign", namespace: "countersign-system", port: 443 },
        });
      }
    });

    test("hooks are those of `helm test` alone, and are deleted after it", () => {
      const hooks = manifests.flatMap(({ metadata }) => {
        const hook = metadata.annotations?.["helm.sh/hook"];
        return hook === undefined
          ? []
          : [{ hook, policy: metadata.annotations?.["helm.sh/hook-delete-policy"] }];
      });
      expect(hooks).toHaveLength(7);
      expect(new Set(hooks.map((one) => JSON.stringify(one)))).toEqual(
        new Set([JSON.stringify({ hook: "test", policy: "before-hook-creation,hook-succeeded" })]),
      );
    });

    test("every admission policy has a binding that denies, and fails closed", () => {
      const policies = of(manifests, "ValidatingAdmissionPolicy");
      const bindings = of(manifests, "ValidatingAdmissionPolicyBinding");
      expect(names(policies)).toHaveLength(6);
      expect(bindings.map((one) => (one["spec"] as Fields)["policyName"])).toEqual(names(policies));
      for (const policy of policies) expect(policy["spec"]).toMatchObject({ failurePolicy: "Fail" });
      for (const binding of bindings) {
        expect(binding["spec"]).toMatchObject({ validationActions: ["Deny"] });
        expect(binding["spec"]).not.toHaveProperty("matchResources");
      }
      const reading = policies.filter((one) => "paramKind" in (one["spec"] as Fields));
      const given = bindings.filter((one) => "paramRef" in (one["spec"] as Fields));
      expect(names(given)).toEqual(names(reading));
      for (const policy of policies)
        for (const validation of (policy["spec"] as { validations: readonly { message: string }[] })
          .validations)
          expect(validation.message).toMatch(/;| remove /); // what is wrong; what to do
    });
  });

  test("has a disruption budget only where there is more than one replica", () => {
    expect(of(render("countersign", "--set=replicas=1"), "PodDisruptionBudget")).toEqual([]);
    expect(names(of(render("countersign", "--set=replicas=2"), "PodDisruptionBudget"))).toEqual([
      "countersign",
    ]);
  });

  test("leaves monitors out where the Prometheus operator is not installed", () => {
    const on = ["--set=monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true"];
    const kinds = (args: readonly string[]) =>
      render("countersign", ...args)
        .filter(({ apiVersion }) => apiVersion.startsWith("monitoring."))
        .map(({ kind, metadata }) => `${kind}/${metadata.name}`);
    const pod = "--api-versions=monitoring.coreos.com/v1/PodMonitor";
    const service = "--api-versions=monitoring.coreos.com/v1/ServiceMonitor";
    expect(kinds(on)).toEqual([]);
    expect(kinds([pod, service])).toEqual([]);
    expect(kinds([...on, pod, service])).toEqual([
      "PodMonitor/countersign-sidecars",
      "ServiceMonitor/countersign",
    ]);
    expect(kinds(["--set=monitoring.podMonitor.enabled=true", pod]).sort()).toEqual([
      "PodMonitor/countersign",
      "PodMonitor/countersign-sidecars",
    ]);
  });

  test("MeshConfig holds what the values say and nothing else, and is kept", () => {
    const plain = only(render("countersign", "--set=trustDomain=corp.example"), "MeshConfig");
    expect(plain["spec"]).toEqual({ trustDomain: "corp.example" });
    expect(plain.metadata.annotations).toEqual({ "helm.sh/resource-policy": "keep" });
    const more = only(render("countersign", "--set=meshConfig.gateways[0]=edge/gateway"), "MeshConfig");
    expect(more["spec"]).toEqual({ trustDomain: "mesh.local", gateways: ["edge/gateway"] });
  });

  test.each([
    { set: [], image: "countersign.dev/control-plane:0.1.0" },
    { set: ["image.tag=dev"], image: "countersign.dev/control-plane:dev" },
    { set: ["image.registry=registry.example:5000/"], refused: true },
    {
      set: ["image.registry=registry.example:5000", "image.repository=mesh/cp"],
      image: "registry.example:5000/mesh/cp:0.1.0",
    },
    { set: [`image.digest=${DIGEST}`, "image.tag=dev"], image: `countersign.dev/control-plane@${DIGEST}` },
  ])("image by $set", ({ set, image, refused }) => {
    const args = set.map((one) => `--set=${one}`);
    if (refused) return expect(() => render("countersign", ...args)).toThrow("/image/registry");
    const [spec] = podSpecs(of(render("countersign", ...args), "Deployment"));
    expect(spec?.containers[0]?.image).toBe(image);
  });

  test("a sidecar's settings reach the control plane as one JSON object of texts", () => {
    const [spec] = podSpecs(
      of(
        render("countersign", "--set=proxy.resources.requests.cpu=1,proxy.resources.limits.cpu=2"),
        "Deployment",
      ),
    );
    const args = spec?.containers[0]?.args ?? [];
    const defaults = JSON.parse(args[args.indexOf("--sidecar-defaults") + 1] ?? "") as Record<string, string>;
    expect(defaults).toEqual({
      cpu: "1",
      "cpu-limit": "2",
      memory: "64Mi",
      "memory-limit": "256Mi",
      "log-level": "info",
      "pull-policy": "IfNotPresent",
      iptables: "nft",
    });
    const flags = { trustDomain: "mesh.local", namespace: "countersign-system", version: "0.1.0" };
    const settings = injectSettings({ image: "countersign.dev/sidecar:0.1.0", defaults, ...flags });
    expect(settings.ok).toBe(true);
  });

  test("a sidecar's limit that is set to null is none", () => {
    const [spec] = podSpecs(
      of(render("countersign", "--set=proxy.resources.limits.memory=null"), "Deployment"),
    );
    expect(spec?.containers[0]?.args?.join(" ")).toContain('"memory-limit":""');
  });

  test.each([
    { args: ["--set=replica=3"], says: "'replica' not allowed" },
    { args: ["--set=image.repo=x"], says: "'repo' not allowed" },
    { args: ["--set=image.tag=5"], says: "/image/tag': got number, want string" },
    { args: ["--set=replicas=0"], says: "/replicas': minimum: got 0, want 1" },
    { args: ["--set=replicas=two"], says: "/replicas'" },
    { args: ["--set=meshConfig.trustedSpawner=a/b"], says: "'trustedSpawner' not allowed" },
    { args: ["--set=meshConfig.trustDomain=x"], says: "'trustDomain' not allowed" },
    { args: ["--set=meshConfig.trustedSpawners[0]=hub"], says: "/meshConfig/trustedSpawners/0" },
    { args: ["--set=trustDomain=Corp"], says: "/trustDomain" },
    { args: ["--set=webhook.failurePolicy=Ignore"], says: "'webhook' not allowed" },
    { args: ["--set=proxy.logLevel=trace"], says: "must be one of 'debug', 'info'" },
    { args: ["--set=image.digest=sha256:12"], says: "/image/digest" },
    { args: ['--set-json=podLabels={"app.kubernetes.io/name":"x"}'], says: "invalid propertyName" },
    { args: ["--set=test.namespace=countersign-system"], says: "give it one of its own" },
    { args: ["--set=test.namespace=kube-system"], says: "give it one of its own" },
    { args: ["--kube-version=1.29.9"], says: "requires kubeVersion: >=1.30.0-0" },
  ])("refuses $args", ({ args, says }) => {
    const { ok, stderr } = tryHelm(
      templateArgs(
        "countersign",
        args[0]?.startsWith("--kube-version") ? ["--kube-version", "1.29.9"] : args,
      ),
    );
    expect(ok).toBe(false);
    expect(stderr).toContain(says);
  });
});

describeWithHelm("which pods the injection webhook is called for", () => {
  interface Requirement {
    readonly key: string;
    readonly operator: "In" | "NotIn";
    readonly values: readonly string[];
  }
  const selects = (selector: unknown, labels: Readonly<Record<string, string>>) =>
    (selector as { matchExpressions: readonly Requirement[] }).matchExpressions.every(
      ({ key, operator, values }) => {
        const has = labels[key] !== undefined && values.includes(labels[key]);
        return operator === "In" ? has : !has;
      },
    );
  const webhooks = only(render("countersign"), "MutatingWebhookConfiguration")[
    "webhooks"
  ] as readonly Fields[];
  const calls = (namespace: string, ofNamespace: string | undefined, ofPod: string | undefined) =>
    webhooks.filter(({ namespaceSelector, objectSelector }) => {
      const label = (value: string | undefined) =>
        value === undefined ? {} : { "countersign.dev/inject": value };
      return (
        selects(namespaceSelector, { "kubernetes.io/metadata.name": namespace, ...label(ofNamespace) }) &&
        selects(objectSelector, label(ofPod))
      );
    }).length;

  test.each([
    { namespace: "ml", ofNamespace: undefined, ofPod: undefined, called: 0 },
    { namespace: "ml", ofNamespace: "enabled", ofPod: undefined, called: 1 },
    { namespace: "ml", ofNamespace: "enabled", ofPod: "enabled", called: 1 },
    { namespace: "ml", ofNamespace: "enabled", ofPod: "disabled", called: 0 },
    // A typo of the pod's must not leave it unmeshed: the webhook refuses it.
    { namespace: "ml", ofNamespace: "enabled", ofPod: "off", called: 1 },
    { namespace: "ml", ofNamespace: "disabled", ofPod: undefined, called: 0 },
    { namespace: "ml", ofNamespace: "disabled", ofPod: "enabled", called: 1 },
    { namespace: "ml", ofNamespace: undefined, ofPod: "enabled", called: 1 },
    { namespace: "ml", ofNamespace: undefined, ofPod: "disabled", called: 0 },
    { namespace: "kube-system", ofNamespace: "enabled", ofPod: "enabled", called: 0 },
    { namespace: "countersign-system", ofNamespace: "enabled", ofPod: "enabled", called: 0 },
  ])("$namespace=$ofNamespace, pod=$ofPod", ({ namespace, ofNamespace, ofPod, called }) => {
    expect(calls(namespace, ofNamespace, ofPod)).toBe(called);
  });
});
