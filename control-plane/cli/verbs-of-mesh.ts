// Verbs that ask a running control plane, on this machine or in a cluster.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { Mesh, MeshOptions } from "./mesh.ts";
import type { ExitStatus } from "./print.ts";
import { type JsonOption, onMesh, positive, type Verbs, workloadId } from "./verb-options.ts";

type Options = MeshOptions & JsonOption;

/** Adds `status`, `history`, `diff`, `rollback` and `identity`. */
export function addMeshVerbs(verbs: Verbs): void {
  const { program, output, verb, run } = verbs;
  /** Connects when the verb runs, so that its help needs no control plane. */
  const ask = async (options: MeshOptions, work: (mesh: Mesh) => Promise<ExitStatus>): Promise<void> => {
    const { withMesh } = await import("./mesh.ts");
    await run(() => withMesh(options, work));
  };
  onMesh(
    verb(
      program,
      "status",
      "policies and sidecars of a running control plane",
      `
First line: the revision, and whether the mesh is pinned to an earlier one. Then the policies (in how many of their
targets' connected sidecars they are in force), the sidecars, and what is wrong with the configuration, with file and line.

Examples:
  countersign status                                   of the cluster of the current context
  countersign status --state-dir /var/lib/countersign  of a control plane on this machine`,
    ),
  ).action(async (options: Options) => {
    const { showStatus } = await import("./status.ts");
    await ask(options, (mesh) => showStatus(mesh, options.json === true, output));
  });
  onMesh(
    verb(
      program,
      "history",
      "revisions, newest first, and what each changed",
      `
\`+\` added, \`~\` changed, \`-\` removed. A revision that was recorded while the mesh was pinned is "recorded only".

Example: countersign history --limit 5`,
    ),
  )
    .option("--limit <n>", "how many", positive, 20)
    .action(async (options: Options & { limit: number }) => {
      const { showHistory } = await import("./history.ts");
      await ask(options, (mesh) => showHistory(mesh, options.limit, options.json === true, output));
    });
  onMesh(
    verb(
      program,
      "diff",
      "what changed between two revisions: objects, then their fields",
      `
Example: countersign diff 41 43`,
    ),
  )
    .argument("<from>", "the earlier revision", positive)
    .argument("[to]", "the later revision (default: the newest)", positive)
    .action(async (from: number, to: number | undefined, options: Options) => {
      const { showDiff } = await import("./history.ts");
      await ask(options, (mesh) => showDiff(mesh, from, to, options.json === true, output));
    });
  onMesh(
    verb(
      program,
      "rollback",
      "publish an earlier revision again and pin the mesh to it, until --release",
      `
Policies, roles, external services and settings become those of the revision; each sidecar applies them whole or not at
all. Trust bundles, revocations and grants are never rolled back. Waits up to 5 s for the sidecars and says how many have it.

Examples:
  countersign rollback 41
  countersign rollback --release --state-dir /var/lib/countersign`,
    ),
  )
    .argument("[revision]", "a revision of `countersign history`", positive)
    .option("--release", "end the pin: what the directory or the cluster says is in force again")
    .action(async (revision: number | undefined, options: Options & { release?: true }) => {
      if ((revision === undefined) === (options.release === undefined))
        throw new MeshError("bad_config", "name a revision, or give `--release`; see `countersign history`");
      const { rollback } = await import("./history.ts");
      await ask(options, (mesh) => rollback(mesh, revision ?? "release", options.json === true, output));
    });
  addIdentityVerbs(verbs, ask);
}

function addIdentityVerbs(
  { program, output, verb }: Verbs,
  ask: (options: MeshOptions, work: (mesh: Mesh) => Promise<ExitStatus>) => Promise<void>,
): void {
  const identity = program.command("identity").description("identities of workloads").exitOverride();
  onMesh(
    verb(
      identity,
      "export",
      "write an SVID for a client without a sidecar, such as curl",
      `
The workload must be known to the control plane. Whoever has the key is the workload until the certificate ends: keep it
as a secret. Replaces files of an earlier export. Prints a curl command that uses them.

Example: countersign identity export ml-dev/nb-alice --out id --state-dir /var/lib/countersign`,
    ),
  )
    .argument("<workload>", "namespace/name; in a cluster as `countersign authz` names it", workloadId)
    .requiredOption("--out <dir>", "folder for svid.pem, key.pem and bundle.pem (made with mode 0700)")
    .option("--ttl-seconds <n>", "lifetime, at most 86400", positive, 3600)
    .action(async (workload: string, options: Options & { out: string; ttlSeconds: number }) => {
      const { exportIdentity } = await import("./identity.ts");
      await ask(options, (mesh) =>
        exportIdentity(mesh, workload, { ...options, json: options.json === true }, output),
      );
    });
  onMesh(
    verb(
      identity,
      "join-token",
      "make a one-time token with which a sidecar gets its first identity",
      `
Prints the token alone on standard output. It carries the fingerprint of the mesh's root, so that the sidecar knows whom to
trust. Sidecars in pods need none: they show the token of their ServiceAccount.

Example: (umask 077; countersign identity join-token ml-dev/nb-alice --state-dir /var/lib/countersign > token)`,
    ),
  )
    .argument("<workload>", "namespace/name", workloadId)
    .option("--ttl-seconds <n>", "lifetime", positive, 600)
    .action(async (workload: string, options: Options & { ttlSeconds: number }) => {
      const { createToken } = await import("./identity.ts");
      await ask(options, (mesh) =>
        createToken(mesh, workload, { ...options, json: options.json === true }, output),
      );
    });
}
