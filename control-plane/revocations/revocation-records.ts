// Revocations of a mesh in a cluster: a Revocation record each, in the control plane's namespace, followed by every
// replica.
import type { CustomObjectsApi } from "@kubernetes/client-node";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { statusOf } from "../kubernetes/client.ts";
import { type ApiObject, runListWatch } from "../kubernetes/list-watch.ts";
import type { KubernetesRest } from "../kubernetes/rest.ts";
import { parseRevocation, type Revocation } from "./revocation.ts";
import type { RevocationList, RevocationStore } from "./store.ts";

export interface RevocationRecordsDeps {
  readonly custom: Pick<CustomObjectsApi, "createNamespacedCustomObject" | "deleteNamespacedCustomObject">;
  readonly rest: KubernetesRest;
  /** The control plane's own. */
  readonly namespace: string;
  readonly clock: Clock;
  readonly log: Logger;
}

const KIND = { group: "countersign.dev", version: "v1alpha1", plural: "revocations" } as const;

/** Opens the store once all its records have been read; follows them until `signal` aborts. */
export async function openRevocationRecords(
  deps: RevocationRecordsDeps,
  list: RevocationList,
  signal: AbortSignal,
): Promise<RevocationStore> {
  const { custom, rest, namespace, clock, log } = deps;
  const place = { ...KIND, namespace };
  const records = new Map<string, Revocation>();
  const listed = Promise.withResolvers<void>();
  void runListWatch<Revocation>(
    {
      rest,
      path: `/apis/${KIND.group}/${KIND.version}/namespaces/${namespace}/${KIND.plural}`,
      project: (object) => revocationOf(object, log),
      isSame: (before, after) => before.id === after.id,
      onChanges: (changes) => {
        for (const change of changes)
          if (change.kind === "set") records.set(change.key, change.value);
          else records.delete(change.key);
        list.replace(records.values());
        listed.resolve();
      },
      clock,
      random: Math.random,
      log,
    },
    signal,
  ).then(() => listed.resolve());
  await listed.promise;
  return {
    list: () => list.all,
    async add({ id, spiffeId, pod, user, session, beforeMs, reason, expiresAtMs }) {
      const subjects = Object.entries({ spiffeId, pod, user, session });
      const subject = Object.fromEntries(subjects.filter(([, name]) => name !== undefined && name !== ""));
      const spec = { ...subject, before: timeOf(beforeMs), expiresAt: timeOf(expiresAtMs), reason };
      try {
        await custom.createNamespacedCustomObject({
          ...place,
          body: {
            apiVersion: `${KIND.group}/${KIND.version}`,
            kind: "Revocation",
            metadata: { name: id, namespace },
            spec,
          },
        });
      } catch (cause) {
        throw new MeshError("io_failed", `the API server did not store the revocation: ${messageOf(cause)}`, {
          cause,
        });
      }
    },
    async purge(nowMs) {
      const expired = list.all.filter(({ expiresAtMs }) => expiresAtMs <= nowMs);
      for (const { id } of expired)
        try {
          await custom.deleteNamespacedCustomObject({ ...place, name: id });
        } catch (error) {
          if (statusOf(error) !== 404) throw error;
        }
      return expired.length;
    },
  };
}

const timeOf = (ms: number): string => new Date(ms).toISOString();

function revocationOf({ metadata, spec }: ApiObject, log: Logger): Revocation | undefined {
  const { before, expiresAt, ...rest } = (spec ?? {}) as Record<string, unknown>;
  const revocation = parseRevocation({
    ...rest,
    id: metadata.name,
    beforeMs: Date.parse(String(before)),
    expiresAtMs: Date.parse(String(expiresAt)),
  });
  if (revocation === undefined)
    log.error("revocation not understood, it revokes nothing", { revocation: metadata.name });
  return revocation;
}
