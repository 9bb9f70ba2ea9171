// What the chart `countersign-gateway` renders: ports, Secrets, no rights, hardening, scaling. No cluster.
import { expect, test } from "@jest/globals";
import { parseSidecarConfig } from "../../sidecar/config.ts";
import { chartFolder, describeWithHelm, type Manifest, render, tryHelm } from "./helm.ts";

interface Container {
  readonly name: string;
  readonly args: readonly string[];
  readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly volumeMounts: readonly { readonly mountPath: string }[];
  readonly env: readonly { readonly name: string; readonly value?: string }[];
}
interface Rendered {
  readonly replicas?: number;
  readonly template: {
    readonly metadata: { readonly labels: Readonly<Record<string, string>> };
    readonly spec: {
      readonly containers: readonly [Container];
      readonly volumes: readonly Readonly<Record<string, unknown>>[];
      readonly automountServiceAccountToken: boolean;
    };
  };
}

const only = (manifests: readonly Manifest[], kind: string): Manifest => {
  const [found, ...more] = manifests.filter((one) => one.kind === kind);
  if (found === undefined || more.length > 0) throw new Error(`expected one ${kind}`);
  return found;
};
const deployment = (manifests: readonly Manifest[]) => only(manifests, "Deployment")["spec"] as Rendered;
const kinds = (manifests: readonly Manifest[]) => manifests.map(({ kind }) => kind).sort();

describeWithHelm("the chart countersign-gateway", () => {
  const chart = "countersign-gateway";

  test("helm finds nothing to complain about, and unknown values are refused", () => {
    expect(tryHelm(["lint", "--strict", chartFolder(chart)]).ok).toBe(true);
    expect(
      tryHelm(["template", "x", chartFolder(chart), "--kube-version=1.30.0", "--set=listeners=1"]).ok,
    ).toBe(false);
    expect(
      tryHelm(["template", "x", chartFolder(chart), "--kube-version=1.30.0", "--set=secrets={../x}"]).ok,
    ).toBe(false);
  });

  test("has no rights, and no more than it needs", () => {
    const manifests = render(chart);
    expect(kinds(manifests)).toEqual([
      "Deployment",
      "NetworkPolicy",
      "PodDisruptionBudget",
      "Service",
      "ServiceAccount",
    ]);
    const { spec, metadata } = deployment(manifests).template;
    expect(metadata.labels).toMatchObject({
      "countersign.dev/kind": "gateway",
      "countersign.dev/name": "countersign",
      "countersign.dev/inject": "disabled",
    });
    expect(spec.automountServiceAccountToken).toBe(false);
    const [container] = spec.containers;
    expect(container.name).toBe("countersign-proxy");
    expect(container.securityContext).toMatchObject({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
    });
  });

  test("its arguments are settings of a sidecar", () => {
    const [container] = deployment(render(chart, "--set=trustDomain=lake.example")).template.spec.containers;
    const config = parseSidecarConfig(
      container.args.slice(1).map((arg) => arg.replace("$(POD_NAME)", "pod-1")),
    );
    expect(config.gateway).toMatchObject({ address: "::", secretsDir: "/var/run/countersign/secrets" });
    expect(config.proof).toMatchObject({ kind: "service-account-token", trustDomain: "lake.example" });
    expect(config.controlPlane).toBe("countersign.countersign-system.svc:16012");
  });

  test("Secrets lie where the gateway looks for them, and ports have their names", () => {
    const manifests = render(
      chart,
      "--set=secrets={people-tls,okta}",
      "--set=redirectPort=0",
      "--set=ports.admin=9443",
    );
    const [container] = deployment(manifests).template.spec.containers;
    const paths = container.volumeMounts.map(({ mountPath }) => mountPath);
    expect(paths).toEqual(
      expect.arrayContaining([
        "/var/run/countersign/secrets/people-tls",
        "/var/run/countersign/secrets/okta",
      ]),
    );
    expect(container.ports.map(({ name, containerPort }) => [name, containerPort])).toEqual([
      ["admin", 9443],
      ["https", 8443],
      ["metrics", 16020],
    ]);
    const { ports } = only(manifests, "Service")["spec"] as { ports: { name: string; port: number }[] };
    expect(ports.map(({ name, port }) => [name, port])).toEqual([
      ["admin", 9443],
      ["https", 443],
    ]);
  });

  test("scales by CPU where that is asked for", () => {
    const manifests = render(chart, "--set=autoscaling.enabled=true");
    expect(kinds(manifests)).toContain("HorizontalPodAutoscaler");
    expect(deployment(manifests).replicas).toBeUndefined();
    expect(kinds(render(chart, "--set=replicas=1"))).not.toContain("PodDisruptionBudget");
  });

  test.each([
    { name: chart, only: [] },
    { name: "countersign", only: ["--show-only=templates/deployment.yaml"] },
  ])("$name takes a company's authorities", ({ name, only }) => {
    const { spec } = deployment(render(name, "--set=rootsConfigMap=company-roots", ...only)).template;
    const { containers, volumes } = spec;
    const mounted = containers[0].volumeMounts.find(
      ({ mountPath }) => mountPath === "/var/run/countersign/roots",
    );
    expect(mounted).toMatchObject({ name: "roots", readOnly: true });
    expect(volumes).toContainEqual({ name: "roots", configMap: { name: "company-roots" } });
    const extraRoots = ({ env }: Container) => env.find((one) => one.name === "NODE_EXTRA_CA_CERTS")?.value;
    expect(extraRoots(containers[0])).toBe("/var/run/countersign/roots/ca.crt");
    expect(extraRoots(deployment(render(name, ...only)).template.spec.containers[0])).toBeUndefined();
  });

  test("labels of pods that it selects them by are its own", () => {
    const set = '--set-json=podLabels={"app.kubernetes.io/instance":"other"}';
    expect(tryHelm(["template", "x", chartFolder(chart), "--kube-version=1.30.0", set]).ok).toBe(false);
  });
});
