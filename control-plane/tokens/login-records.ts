// Logins that replicas tell each other of: a record per user in the control plane's namespace, sealed as a session handle.
import { hash } from "node:crypto";
import type { CustomObjectsApi } from "@kubernetes/client-node";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { statusOf } from "../kubernetes/client.ts";
import type { LoginRecords } from "./live-logins.ts";

const KIND = { group: "countersign.dev", version: "v1alpha1", plural: "onetimerecords" } as const;
const nameOf = (user: string): string => `live-login-${hash("sha256", user, "hex").slice(0, 40)}`;

interface Stored {
  readonly metadata?: { readonly resourceVersion?: string };
  readonly spec?: { readonly data?: string };
}

const failed = (what: string, cause: unknown): MeshError =>
  new MeshError("io_failed", `the API server did not ${what} a login: ${messageOf(cause)}`, { cause });

export function loginRecords(
  custom: Pick<
    CustomObjectsApi,
    "createNamespacedCustomObject" | "getNamespacedCustomObject" | "replaceNamespacedCustomObject"
  >,
  namespace: string,
): LoginRecords {
  const place = { ...KIND, namespace };
  const read = async (user: string): Promise<Stored | undefined> => {
    try {
      return (await custom.getNamespacedCustomObject({ ...place, name: nameOf(user) })) as Stored;
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw failed("read", error);
    }
  };
  return {
    async put(user, handle, untilMs) {
      const name = nameOf(user);
      const body = (resourceVersion?: string): object => ({
        apiVersion: `${KIND.group}/${KIND.version}`,
        kind: "OneTimeRecord",
        metadata: { name, namespace, ...(resourceVersion === undefined ? {} : { resourceVersion }) },
        spec: { purpose: "live-login", expiresAt: new Date(untilMs).toISOString(), data: handle },
      });
      try {
        await custom.createNamespacedCustomObject({ ...place, body: body() });
        return;
      } catch (error) {
        if (statusOf(error) !== 409) throw failed("store", error);
      }
      const before = await read(user);
      try {
        // Somebody else wrote in between: either login will do.
        await custom.replaceNamespacedCustomObject({
          ...place,
          name,
          body: body(before?.metadata?.resourceVersion),
        });
      } catch (error) {
        if (statusOf(error) !== 409) throw failed("store", error);
      }
    },
    get: async (user) => (await read(user))?.spec?.data,
  };
}
