// Things that count once: ID tokens and logout tokens. Marked before the answer, so that no crash, race or second replica
// takes one twice.
import { mkdir, open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { CustomObjectsApi } from "@kubernetes/client-node";
import { MeshError, messageOf, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import { statusOf } from "../kubernetes/client.ts";

export interface OneTimeUses {
  /**
   * Marks a thing as used.
   *
   * @param key base64url digest of it.
   * @param untilMs when it counts no more anyway.
   * @returns false when somebody used it before.
   * @throws MeshError `io_failed`: nobody knows, so it is not used.
   */
  use(key: string, untilMs: number): Promise<boolean>;
}

/** Lower case, as names of objects are: a digest in hexadecimal. */
const nameOf = (key: string): string => `used-token-${Buffer.from(key, "base64url").toString("hex")}`;

const KIND = { group: "countersign.dev", version: "v1alpha1", plural: "onetimerecords" } as const;

/** As `OneTimeRecord`s; the leader deletes those that have expired. */
export function recordedUses(
  custom: Pick<CustomObjectsApi, "createNamespacedCustomObject">,
  namespace: string,
): OneTimeUses {
  return {
    async use(key, untilMs) {
      try {
        await custom.createNamespacedCustomObject({
          ...KIND,
          namespace,
          body: {
            apiVersion: `${KIND.group}/${KIND.version}`,
            kind: "OneTimeRecord",
            metadata: { name: nameOf(key), namespace },
            spec: { purpose: "used-token", expiresAt: new Date(untilMs).toISOString(), data: "{}" },
          },
        });
        return true;
      } catch (cause) {
        if (statusOf(cause) === 409) return false;
        throw new MeshError("io_failed", `the API server did not store a mark: ${messageOf(cause)}`, {
          cause,
        });
      }
    },
  };
}

const PURGE_AFTER_MS = 600_000;

/** As empty files below `{stateDir}/used-tokens`; old ones are deleted now and then. */
export function filedUses(stateDir: string, nowMs: () => number): OneTimeUses {
  const directory = join(stateDir, "used-tokens");
  let purgedAtMs = Number.NEGATIVE_INFINITY;
  const purge = async (): Promise<void> => {
    for (const name of await readdir(directory)) {
      const path = join(directory, name);
      // The time of the file is the end of what it marks.
      const { mtimeMs } = await stat(path);
      if (mtimeMs < nowMs()) await rm(path, { force: true });
    }
  };
  return {
    async use(key, untilMs) {
      try {
        await mkdir(directory, { recursive: true, mode: 0o700 });
        if (nowMs() - purgedAtMs > PURGE_AFTER_MS) {
          purgedAtMs = nowMs();
          await purge();
        }
        const file = await open(join(directory, nameOf(key)), "wx", 0o600);
        try {
          await file.utimes(untilMs / 1000, untilMs / 1000);
          await file.sync();
        } finally {
          await file.close();
        }
        return true;
      } catch (cause) {
        if (systemCodeOf(cause) === "EEXIST") return false;
        throw new MeshError("io_failed", `cannot write a mark below \`${directory}\``, { cause });
      }
    },
  };
}
