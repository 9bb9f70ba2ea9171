// What the API server has of our objects as far as status is concerned: which there are, their generation and their status.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { type ApiObject, runListWatch } from "../kubernetes/list-watch.ts";
import type { KubernetesRest } from "../kubernetes/rest.ts";
import { fieldsOf, type OwnStatus, readOwnStatus } from "./api-status.ts";

const API = "/apis/countersign.dev/v1alpha1";

const PLURALS: ReadonlyMap<string, string> = new Map([
  ["AccessPolicy", "accesspolicies"],
  ["ClusterAccessPolicy", "clusteraccesspolicies"],
  ["AccessGrant", "accessgrants"],
  ["MeshRole", "meshroles"],
  ["MeshRoleBinding", "meshrolebindings"],
  ["Workload", "workloads"],
  ["ExternalService", "externalservices"],
  ["OperationCatalog", "operationcatalogs"],
  ["IdentityProvider", "identityproviders"],
  ["MeshGateway", "meshgateways"],
  ["RoutePolicy", "routepolicies"],
  ["TrafficPolicy", "trafficpolicies"],
  ["MeshConfig", "meshconfigs"],
]);

/** One of our objects, by its key `Kind/namespace/name` or `Kind/name`. */
export interface StoredStatus {
  readonly kind: string;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly uid: string;
  readonly generation: number;
  readonly own: OwnStatus;
}

export interface StoredStatusesDeps {
  readonly rest: KubernetesRest;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  /** These are another than before, or gone. Called first when every list is in, with all. */
  readonly onChanges: (keys: Iterable<string>) => void;
}

/** Path of the object's status. */
export function statusPath({ kind, namespace, name }: StoredStatus): string {
  const inNamespace = namespace === undefined ? "" : `/namespaces/${encodeURIComponent(namespace)}`;
  return `${API}${inNamespace}/${PLURALS.get(kind)}/${encodeURIComponent(name)}/status`;
}

export class StoredStatuses {
  readonly #deps: StoredStatusesDeps;
  readonly #objects = new Map<string, StoredStatus>();
  #unlisted = PLURALS.size;

  constructor(deps: StoredStatusesDeps) {
    this.#deps = deps;
  }

  get(key: string): StoredStatus | undefined {
    return this.#objects.get(key);
  }

  keys(): IterableIterator<string> {
    return this.#objects.keys();
  }

  /** Whether every list is in. */
  get isComplete(): boolean {
    return this.#unlisted === 0;
  }

  /** What the API server answered to a write: known before the watch says it. */
  wrote(key: string, answer: unknown): void {
    const kind = key.slice(0, key.indexOf("/"));
    const stored = storedStatus(kind, { metadata: { name: "" }, ...fieldsOf(answer) } as ApiObject);
    if (this.#objects.has(key) && stored.uid === this.#objects.get(key)?.uid) this.#objects.set(key, stored);
  }

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([...PLURALS].map(([kind, plural]) => this.#watch(kind, plural, signal)));
  }

  async #watch(kind: string, plural: string, signal: AbortSignal): Promise<void> {
    const { rest, clock, random, log, onChanges } = this.#deps;
    let isListed = false;
    await runListWatch<StoredStatus>(
      {
        rest,
        path: `${API}/${plural}`,
        project: (object) => storedStatus(kind, object),
        // No `isSame`: what a write's answer has said is not what the watch knew last.
        onChanges: (changes) => {
          const keys = changes.map((change) => {
            const key = `${kind}/${change.key}`;
            if (change.kind === "set") this.#objects.set(key, change.value);
            else this.#objects.delete(key);
            return key;
          });
          const wasComplete = this.isComplete;
          if (!isListed) this.#unlisted--;
          isListed = true;
          if (wasComplete) onChanges(keys);
          else if (this.isComplete) onChanges(this.#objects.keys());
        },
        clock,
        random,
        log,
      },
      signal,
    );
  }
}

function storedStatus(kind: string, object: ApiObject): StoredStatus {
  const { name, namespace } = object.metadata;
  const { uid, generation } = fieldsOf(object.metadata);
  return {
    kind,
    name,
    namespace,
    uid: typeof uid === "string" ? uid : "",
    generation: typeof generation === "number" ? generation : 0,
    own: readOwnStatus(object["status"]),
  };
}
