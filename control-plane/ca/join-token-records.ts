// Join tokens in a cluster: a OneTimeRecord per token. Taking one deletes it, which the API server lets one replica do.
import type { CustomObjectsApi } from "@kubernetes/client-node";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { statusOf } from "../kubernetes/client.ts";
import { type JoinTokenStore, parseStored } from "./join-tokens.ts";

export interface JoinTokenRecordsDeps {
  readonly custom: Pick<
    CustomObjectsApi,
    | "createNamespacedCustomObject"
    | "getNamespacedCustomObject"
    | "deleteNamespacedCustomObject"
    | "listNamespacedCustomObject"
  >;
  /** The control plane's own. */
  readonly namespace: string;
}

const KIND = { group: "countersign.dev", version: "v1alpha1", plural: "onetimerecords" } as const;
const nameOf = (id: string): string => `join-token-${id}`;

const failed = (what: string, cause: unknown): MeshError =>
  new MeshError("io_failed", `the API server did not ${what} a join token: ${messageOf(cause)}`, { cause });

/** What is read of a record. */
interface OneTimeRecord {
  readonly metadata?: { readonly name?: string };
  readonly spec?: { readonly data?: string; readonly expiresAt?: string; readonly purpose?: string };
}

export function recordJoinTokens({ custom, namespace }: JoinTokenRecordsDeps): JoinTokenStore {
  const place = { ...KIND, namespace };
  return {
    async create(token) {
      const expiresAt = new Date(token.expiresAtMs).toISOString();
      try {
        await custom.createNamespacedCustomObject({
          ...place,
          body: {
            apiVersion: `${KIND.group}/${KIND.version}`,
            kind: "OneTimeRecord",
            metadata: { name: nameOf(token.id), namespace },
            spec: { purpose: "join-token", expiresAt, data: JSON.stringify(token) },
          },
        });
      } catch (error) {
        throw failed("store", error);
      }
    },
    async read(id) {
      try {
        const found = (await custom.getNamespacedCustomObject({
          ...place,
          name: nameOf(id),
        })) as OneTimeRecord;
        return parseStored(found.spec?.data ?? "");
      } catch (error) {
        if (statusOf(error) === 404) return undefined;
        throw failed("read", error);
      }
    },
    async take(id) {
      try {
        await custom.deleteNamespacedCustomObject({ ...place, name: nameOf(id) });
        return true;
      } catch (error) {
        if (statusOf(error) === 404) return false;
        throw failed("take", error);
      }
    },
  };
}

/** Deletes records that have expired; the leader does this now and then. @returns how many. */
export async function purgeOneTimeRecords(
  { custom, namespace }: JoinTokenRecordsDeps,
  nowMs: number,
): Promise<number> {
  const place = { ...KIND, namespace };
  const { items = [] } = (await custom.listNamespacedCustomObject(place)) as {
    items?: readonly OneTimeRecord[];
  };
  let purged = 0;
  for (const { metadata, spec } of items) {
    const endsMs = Date.parse(spec?.expiresAt ?? "");
    if (metadata?.name === undefined || !(endsMs <= nowMs)) continue;
    try {
      await custom.deleteNamespacedCustomObject({ ...place, name: metadata.name });
      purged++;
    } catch (error) {
      if (statusOf(error) !== 404) throw error;
    }
  }
  return purged;
}
