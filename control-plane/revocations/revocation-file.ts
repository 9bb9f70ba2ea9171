// Revocations of a mesh that a directory configures: one file of the state directory.
import { join } from "node:path";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { readPrivateFile, writePrivateFile } from "../ca/files.ts";
import { parseRevocation, type Revocation } from "./revocation.ts";
import type { RevocationList, RevocationStore } from "./store.ts";

/** @throws MeshError `bad_config` for a file that cannot be used: what it revokes would be let in. */
export async function openRevocationFile(stateDir: string, list: RevocationList): Promise<RevocationStore> {
  const path = join(stateDir, "revocations.json");
  list.replace(parseFile(await readPrivateFile(path), path));
  let turn: Promise<unknown> = Promise.resolve();
  const write = (change: (all: readonly Revocation[]) => readonly Revocation[]): Promise<void> => {
    const run = turn.then(async () => {
      const next = change(list.all);
      await writePrivateFile(path, `${JSON.stringify({ revocations: next })}\n`);
      list.replace(next);
    });
    turn = run.catch(() => {});
    return run;
  };
  return {
    list: () => list.all,
    // People sign out all day: what has expired leaves with the next one.
    add: (revocation) =>
      write((all) => [...all.filter(({ expiresAtMs }) => expiresAtMs > revocation.beforeMs), revocation]),
    async purge(nowMs) {
      const expired = list.all.filter(({ expiresAtMs }) => expiresAtMs <= nowMs).length;
      if (expired > 0) await write((all) => all.filter(({ expiresAtMs }) => expiresAtMs > nowMs));
      return expired;
    },
  };
}

function parseFile(text: string | undefined, path: string): readonly Revocation[] {
  if (text === undefined) return [];
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    // Told below: not JSON is no list either.
  }
  const entries =
    typeof document === "object" && document !== null && "revocations" in document
      ? document.revocations
      : undefined;
  const revocations = Array.isArray(entries) ? entries.map(parseRevocation) : [undefined];
  const known = revocations.filter((one) => one !== undefined);
  if (known.length < revocations.length)
    throw new MeshError(
      "bad_config",
      `\`${path}\` is damaged; restore it, or delete it and revoke again what must stay revoked`,
    );
  return known;
}
