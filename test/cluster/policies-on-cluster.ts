// The chart's admission policies on a cluster that others use too: bound to namespaces with a label of ours, with settings
// of a kind of ours, so that they hold for one test and nobody else.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Manifest, render } from "../charts/helm.ts";
import { apply, kubectl, tryKubectl } from "./kube.ts";

const MESH_CONFIG_CRD = join(import.meta.dirname, "../../crds/meshconfigs.yaml");

export interface PoliciesOnCluster {
  /** Label that puts a namespace under the policies. */
  readonly label: Readonly<Record<string, string>>;
  /** The settings' resource, for kubectl. */
  readonly settings: string;
  /** Name of the CRD of the settings. */
  readonly crd: string;
  /** A policy's name on the cluster. */
  policy(name: string): string;
  /** Sets `spec` of the settings. */
  configure(spec: Readonly<Record<string, unknown>>): Promise<void>;
  remove(): Promise<void>;
}

type Spec = Readonly<Record<string, unknown>>;

/** Installs them; they hold within about two seconds. */
export async function installPolicies(id: string): Promise<PoliciesOnCluster> {
  const group = `${id}.test`;
  const crd = `meshconfigs.${group}`;
  const label = { "countersign.test/policies": id };
  const rename = (name: string) => `${id}-${name}`;
  await apply(readFileSync(MESH_CONFIG_CRD, "utf8").replaceAll("countersign.dev", group));
  await kubectl(["wait", "crd", crd, "--for=condition=Established", "--timeout=90s"]);
  const rendered = render("countersign", "--show-only=templates/admission-policies.yaml");
  const policies = rendered.map((one) => confined(one, { group, label, rename }));
  const configure = (spec: Spec) =>
    apply([{ apiVersion: `${group}/v1alpha1`, kind: "MeshConfig", metadata: { name: "default" }, spec }]);
  await configure({});
  await apply(policies);
  return {
    label,
    settings: crd,
    crd,
    policy: rename,
    configure,
    async remove() {
      for (const kind of ["ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"]) {
        const names = rendered
          .filter((one) => one.kind === kind)
          .map(({ metadata }) => rename(metadata.name));
        await tryKubectl(["delete", kind, ...names, "--ignore-not-found"]);
      }
      // The policy that keeps the settings is gone for the API server a moment later.
      for (let tries = 0; tries < 30; tries++)
        if ((await tryKubectl(["delete", "crd", crd, "--ignore-not-found", "--wait=false"])).code === 0)
          return;
      throw new Error(`the CRD ${crd} cannot be deleted`);
    },
  };
}

interface Confinement {
  readonly group: string;
  readonly label: Readonly<Record<string, string>>;
  readonly rename: (name: string) => string;
}

function confined(manifest: Manifest, { group, label, rename }: Confinement): Record<string, unknown> {
  const metadata = { name: rename(manifest.metadata.name) };
  const spec = manifest["spec"] as Spec;
  if (manifest.kind === "ValidatingAdmissionPolicyBinding")
    return {
      ...manifest,
      metadata,
      spec: {
        ...spec,
        policyName: rename(String(spec["policyName"])),
        matchResources: { namespaceSelector: { matchLabels: label } },
      },
    };
  const own = JSON.stringify(spec).replaceAll("meshconfigs.countersign.dev", `meshconfigs.${group}`);
  const moved = JSON.parse(own) as { paramKind?: object; matchConstraints: { resourceRules: Spec[] } };
  const resourceRules = moved.matchConstraints.resourceRules.map((rule) =>
    JSON.stringify(rule["resources"]) === '["meshconfigs"]' ? { ...rule, apiGroups: [group] } : rule,
  );
  return {
    ...manifest,
    metadata,
    spec: {
      ...moved,
      ...(moved.paramKind === undefined
        ? {}
        : { paramKind: { ...moved.paramKind, apiVersion: `${group}/v1alpha1` } }),
      matchConstraints: { ...moved.matchConstraints, resourceRules },
    },
  };
}
