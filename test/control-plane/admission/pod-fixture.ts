// Pods and settings that the tests of admission share.

import { type InjectContext, injectPod } from "../../../control-plane/admission/inject.ts";
import { applyPatch } from "../../../control-plane/admission/json-patch.ts";
import type { UnknownFields } from "../../../control-plane/admission/review.ts";
import type { InjectSettings } from "../../../control-plane/admission/sidecar-containers.ts";

export const SETTINGS: InjectSettings = {
  image: "registry.example/countersign/sidecar@sha256:aa",
  imagePullPolicy: "IfNotPresent",
  trustDomain: "corp.example",
  controlPlane: "countersign.countersign-system.svc:16012",
  bootstrap: "countersign.countersign-system.svc:16011",
  resources: { cpu: "50m", memory: "64Mi", cpuLimit: undefined, memoryLimit: "256Mi" },
  logLevel: "info",
  legacyIptables: false,
  version: "1.2.3",
};

export const CONTEXT: InjectContext = {
  settings: SETTINGS,
  trustedSpawners: ["hub/jupyterhub"],
  username: "alice",
  namespaceLabels: new Map(),
  packs: new Set(["mlflow-scoring", "oip-v2", "ray"]),
};

export interface PodParts {
  readonly labels?: UnknownFields;
  readonly annotations?: UnknownFields;
  readonly spec?: UnknownFields;
  /** Of the container `app`. */
  readonly container?: UnknownFields;
}

export function podOf({ labels, annotations, spec, container }: PodParts = {}): UnknownFields {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: "nb",
      ...(labels === undefined ? {} : { labels }),
      ...(annotations === undefined ? {} : { annotations }),
    },
    spec: {
      containers: [
        { name: "app", image: "example/app", ports: [{ name: "http", containerPort: 8080 }], ...container },
      ],
      ...spec,
    },
  };
}

/** The pod after injection. */
export function injected(pod: UnknownFields, context: InjectContext = CONTEXT): Pod {
  const outcome = injectPod(pod, context);
  if (outcome.kind === "refused") throw new Error(outcome.reason);
  return applyPatch(pod, outcome.patch) as unknown as Pod;
}

export function reasonOf(pod: UnknownFields, context: InjectContext = CONTEXT): string {
  const outcome = injectPod(pod, context);
  return outcome.kind === "refused" ? outcome.reason.replace("the pod cannot be meshed: ", "") : outcome.kind;
}

interface Container {
  readonly name: string;
  readonly image: string;
  readonly args: readonly string[];
  readonly restartPolicy?: string;
  readonly securityContext: UnknownFields & {
    readonly capabilities: { readonly add?: readonly string[]; readonly drop: readonly string[] };
  };
  readonly resources: UnknownFields;
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
  readonly [field: string]: unknown;
}

/** An injected pod, as far as tests look into it. */
export interface Pod {
  readonly metadata: { readonly annotations: Readonly<Record<string, string>> };
  readonly spec: {
    readonly initContainers: readonly Container[];
    readonly containers: readonly Container[];
    readonly volumes: readonly ({ readonly name: string } & UnknownFields)[];
  };
}

export function flag(pod: Pod, name: string, container = "countersign-proxy"): string | undefined {
  const args = pod.spec.initContainers.find((one) => one.name === container)?.args ?? [];
  return args.includes(name) ? args[args.indexOf(name) + 1] : undefined;
}
