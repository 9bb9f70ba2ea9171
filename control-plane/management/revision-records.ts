// MeshRevision objects of the control plane's namespace: how a history reads and writes them, and how it hears of those
// of other replicas.
import type { CustomObjectsApi } from "@kubernetes/client-node";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { statusOf } from "../kubernetes/client.ts";
import { runListWatch } from "../kubernetes/list-watch.ts";
import type { KubernetesRest } from "../kubernetes/rest.ts";
import { ClusterHistory, type RevisionStore } from "./cluster-history.ts";

const GROUP = "countersign.dev";
const VERSION = "v1alpha1";
const PLURAL = "meshrevisions";

export interface RevisionRecordsDeps {
  readonly custom: Pick<
    CustomObjectsApi,
    | "createNamespacedCustomObject"
    | "getNamespacedCustomObject"
    | "replaceNamespacedCustomObject"
    | "deleteNamespacedCustomObject"
  >;
  readonly rest: KubernetesRest;
  readonly namespace: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** Another replica pinned the mesh, or released it. */
  readonly onPinned: () => void;
}

type Spec = Readonly<Record<string, unknown>>;

function revisionStore({ custom, namespace }: RevisionRecordsDeps): RevisionStore {
  const place = { group: GROUP, version: VERSION, namespace, plural: PLURAL };
  const body = (name: string, spec: Spec, resourceVersion?: string): object => ({
    apiVersion: `${GROUP}/${VERSION}`,
    kind: "MeshRevision",
    metadata: { name, namespace, ...(resourceVersion === undefined ? {} : { resourceVersion }) },
    spec,
  });
  const read = async (name: string): Promise<{ spec: Spec; resourceVersion: string } | undefined> => {
    try {
      const found = (await custom.getNamespacedCustomObject({ ...place, name })) as {
        spec?: Spec;
        metadata?: { resourceVersion?: string };
      };
      return { spec: found.spec ?? {}, resourceVersion: found.metadata?.resourceVersion ?? "" };
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  };
  const create = async (name: string, spec: Spec): Promise<void> => {
    try {
      await custom.createNamespacedCustomObject({ ...place, body: body(name, spec) });
    } catch (error) {
      if (statusOf(error) !== 409) throw error;
    }
  };
  return {
    create,
    async put(name, spec) {
      const before = await read(name);
      if (before === undefined) return create(name, spec);
      await custom.replaceNamespacedCustomObject({
        ...place,
        name,
        body: body(name, spec, before.resourceVersion),
      });
    },
    read: async (name) => (await read(name))?.spec,
    async delete(name) {
      try {
        await custom.deleteNamespacedCustomObject({ ...place, name });
      } catch (error) {
        if (statusOf(error) !== 404) throw error;
      }
    },
  };
}

/** Opens the history once all its records have been read; follows those of other replicas until `signal` aborts. */
export async function openClusterHistory(
  deps: RevisionRecordsDeps,
  signal: AbortSignal,
): Promise<ClusterHistory> {
  const { rest, namespace, clock, log, onPinned } = deps;
  const history = new ClusterHistory(revisionStore(deps), log);
  const listed = Promise.withResolvers<void>();
  let isListed = false;
  void runListWatch<Spec>(
    {
      rest,
      path: `/apis/${GROUP}/${VERSION}/namespaces/${namespace}/${PLURAL}`,
      // Content is read when somebody goes back; a hundred of them would be a hundred megabytes.
      project: ({ spec }) => {
        const { content: _content, ...kept } = (spec ?? {}) as Record<string, unknown>;
        return kept;
      },
      onChanges: (changes) => {
        let pinned = false;
        for (const change of changes) {
          const name = change.key.slice(change.key.indexOf("/") + 1);
          pinned = history.noticed(name, change.kind === "set" ? change.value : undefined) || pinned;
        }
        if (isListed && pinned) onPinned();
        isListed = true;
        listed.resolve();
      },
      clock,
      random: Math.random,
      log,
    },
    signal,
  ).then(() => listed.resolve());
  await listed.promise;
  return history;
}
