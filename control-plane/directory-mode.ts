// A mesh configured by a directory of YAML files: one control plane, everything that lasts in its state directory.
import { stat } from "node:fs/promises";
import { MeshError } from "../sidecar/core/runtime/errors.ts";
import { fileJoinTokens } from "./ca/join-token-files.ts";
import { openCertificateAuthority } from "./ca/root.ts";
import { openHistory } from "./management/history.ts";
import type { Deps, Mode } from "./mode.ts";
import { openRevocationFile } from "./revocations/revocation-file.ts";
import { runDirectorySource } from "./sources/directory.ts";
import { loadSchemas } from "./sources/schema.ts";
import { createTokenAuditFile } from "./tokens/audit.ts";
import { filedUses } from "./tokens/one-time-use.ts";

/** @throws MeshError `bad_config` when the directory is not there. */
export async function openDirectoryMode(
  options: { readonly configDir: string; readonly stateDir: string },
  { log, clock }: Deps,
): Promise<Mode> {
  const { configDir, stateDir } = options;
  await checkConfigDir(configDir);
  return {
    runSource: (onState, signal) => ({
      done: runDirectorySource(
        { dir: configDir, stateDir, clock, schemas: loadSchemas(), log, onState },
        signal,
      ),
      isCurrent: () => false,
    }),
    trustDomain: undefined,
    openAuthority: (trustDomain) => openCertificateAuthority({ stateDir, trustDomain, clock }),
    numbersRevisions: false,
    isLeader: () => true,
    allProxies: (own) => own,
    statusDir: stateDir,
    joinTokens: fileJoinTokens(stateDir),
    oneTimeUses: filedUses(stateDir, clock.nowMs),
    loginRecords: undefined,
    openTokenAudit: () => createTokenAuditFile(stateDir),
    openHistory: () => openHistory(stateDir, log),
    openRevocations: (list) => openRevocationFile(stateDir, list),
    attestor: () => undefined,
    serve: async () => [],
  };
}

async function checkConfigDir(dir: string): Promise<void> {
  const isDirectory = await stat(dir).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isDirectory)
    throw new MeshError(
      "bad_config",
      `\`${dir}\` is not a directory; give \`--config-dir\` the one with the mesh's YAML files`,
    );
}
