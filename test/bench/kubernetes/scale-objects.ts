// A large cluster in objects alone: pods that no node runs, and policies, in namespaces of their own.

import type { ApiCredentials } from "../../../control-plane/kubernetes/rest.ts";
import { createKubernetesWriter, type KubernetesWriter } from "../../../control-plane/kubernetes/writer.ts";

export interface ScaleSize {
  readonly namespaces: number;
  readonly pods: number;
  readonly policies: number;
  /** Pods of the one workload whose policy is edited. */
  readonly hotPods: number;
}

export interface MadePod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

export const GROUP = "/apis/countersign.dev/v1alpha1";
export const HOT = "hot";
const CONCURRENCY = 24;

export class ScaleObjects {
  readonly writer: KubernetesWriter;
  readonly #prefix: string;
  readonly #size: ScaleSize;
  readonly #signal = new AbortController().signal;

  constructor(credentials: ApiCredentials, prefix: string, size: ScaleSize) {
    this.writer = createKubernetesWriter(credentials, CONCURRENCY);
    this.#prefix = prefix;
    this.#size = size;
  }

  namespace(index: number): string {
    return `${this.#prefix}-${index % this.#size.namespaces}`;
  }

  async make(say: (text: string) => void): Promise<readonly MadePod[]> {
    const { namespaces, pods, policies, hotPods } = this.#size;
    for (let at = 0; at < namespaces; at++)
      await this.#post("/api/v1/namespaces", { metadata: { name: this.namespace(at) } });
    await new Promise((resolve) => setTimeout(resolve, 3_000)); // the default ServiceAccounts
    const made: MadePod[] = [];
    await inParallel(pods, async (at) => {
      const isHot = at < hotPods;
      const workload = isHot ? HOT : `w${at % 1_000}`;
      const namespace = this.namespace(isHot ? 0 : at);
      const { metadata } = (await this.#post(
        `/api/v1/namespaces/${namespace}/pods`,
        podOf(`${workload}-${at}`, workload),
      )) as {
        metadata: { uid: string; name: string };
      };
      made.push({ namespace, name: metadata.name, uid: metadata.uid });
      if (made.length % 1_000 === 0) say(`${made.length} pods`);
    });
    let count = 0;
    await inParallel(policies, async (at) => {
      const target = at === 0 ? HOT : `w${at % 1_000}`;
      const namespace = this.namespace(at === 0 ? 0 : at);
      await this.#post(
        `${GROUP}/namespaces/${namespace}/accesspolicies`,
        policyOf(at === 0 ? HOT : `p${at}`, target, `c${at}`),
      );
      if (++count % 2_000 === 0) say(`${count} policies`);
    });
    return made;
  }

  #post(path: string, body: object): Promise<unknown> {
    return this.writer.send({ method: "POST", path, contentType: "application/json", body }, this.#signal);
  }
}

function podOf(name: string, workload: string): object {
  const container = { image: "countersign.test/app:dev", name: "app", ports: [{ containerPort: 8080 }] };
  return {
    metadata: { name, labels: { "countersign.dev/kind": "serving", "countersign.dev/name": workload } },
    spec: {
      // Nobody schedules them: what a control plane does with 5 000 pods is the same.
      schedulerName: "nobody",
      initContainers: [
        { image: "countersign.test/sidecar:dev", name: "countersign-proxy", restartPolicy: "Always" },
      ],
      containers: [container],
    },
  };
}

/** An Allow on one workload for one caller. */
export function policyOf(name: string, target: string, caller: string): object {
  return {
    apiVersion: "countersign.dev/v1alpha1",
    kind: "AccessPolicy",
    metadata: { name },
    spec: {
      action: "Allow",
      targets: [{ kinds: ["serving"], names: [target] }],
      rules: [
        {
          name: "callers",
          from: [{ workload: { kinds: ["job"], names: [caller] } }],
          operations: [{ op: "serving.invoke" }],
        },
      ],
    },
  };
}

async function inParallel(count: number, work: (at: number) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      while (next < count) await work(next++);
    }),
  );
}
