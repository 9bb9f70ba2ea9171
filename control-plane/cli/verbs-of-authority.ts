// `countersign ca`, `revoke` and `revocations`: verbs about what a running control plane issues.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { RotationVerb } from "./ca.ts";
import type { Mesh, MeshOptions } from "./mesh.ts";
import type { ExitStatus } from "./print.ts";
import { type JsonOption, onMesh, type Verbs, workloadId } from "./verb-options.ts";

type Options = MeshOptions & JsonOption;

const CHANGES: readonly (readonly [RotationVerb, string, string])[] = [
  [
    "rotate",
    "replace the root of the mesh, in stages, without a failed call",
    `
distribute: the new root joins the trust bundle; waits until every sidecar has acknowledged it. sign: certificates come
from below the new root and sidecars renew; waits until every certificate is below it. retire: the old root leaves. Each
stage is stored, so a restart goes on where it was. Returns at once; see \`countersign ca status\`.

Join tokens that were not redeemed and exported identities end with the old root: make new ones afterwards.

Example: countersign ca rotate`,
  ],
  [
    "abort",
    "go back to the old root, by the way that is safe from where the rotation is",
    `
Before anything was signed the new root just leaves. Later the rotation runs backwards: sidecars renew below the old root
before the new one leaves.

Example: countersign ca abort`,
  ],
  [
    "force",
    "give up the sidecars that the rotation waits for",
    `
For sidecars that never answer: \`countersign ca status\` names them. Calls from and to them may fail until they have renewed
or started again.

Example: countersign ca force`,
  ],
];

/** Adds `ca status`, `ca rotate`, `ca abort`, `ca force`, `revoke` and `revocations`. */
export function addAuthorityVerbs(verbs: Verbs): void {
  const { program, output, verb, run } = verbs;
  const ask = async (options: MeshOptions, work: (mesh: Mesh) => Promise<ExitStatus>): Promise<void> => {
    const { withMesh } = await import("./mesh.ts");
    await run(() => withMesh(options, work));
  };
  const ca = program
    .command("ca")
    .description("the certificate authority of the mesh, and the rotation of its root")
    .exitOverride();
  onMesh(
    verb(
      ca,
      "status",
      "roots, issuing certificate, and how far a rotation has come",
      `
Example: countersign ca status --state-dir /var/lib/countersign`,
    ),
  ).action(async (options: Options) => {
    const { showAuthority } = await import("./ca.ts");
    await ask(options, (mesh) => showAuthority(mesh, options.json === true, output));
  });
  for (const [name, description, more] of CHANGES) {
    onMesh(verb(ca, name, description, more)).action(async (options: Options) => {
      const { changeRotation } = await import("./ca.ts");
      await ask(options, (mesh) => changeRotation(mesh, name, options.json === true, output));
    });
  }
  addRevocationVerbs(verbs, ask);
}

function addRevocationVerbs(
  { program, output, verb }: Verbs,
  ask: (options: MeshOptions, work: (mesh: Mesh) => Promise<ExitStatus>) => Promise<void>,
): void {
  onMesh(
    verb(
      program,
      "revoke",
      "refuse what a workload or a pod was issued until now, as after a key was stolen",
      `
Every callee refuses its certificates and tokens with REVOKED, the control plane does not renew them. Sidecars in pods join
again by themselves with their ServiceAccount token, others need a new join token. It does not keep the workload out: for
that write a Deny. Never undone by a rollback.

Examples:
  countersign revoke ml-dev/nb-alice --reason INC-42
  countersign revoke --pod ml-dev/nb-alice-0 --reason "copied volume"`,
    ),
  )
    .argument("[workload]", "namespace/name; in a cluster as `countersign authz` names it", workloadId)
    .option("--pod <pod>", "one pod instead: namespace/name, or the UID of one that is gone")
    .requiredOption("--reason <text>", "why, for the audit and those who ask later")
    .action(async (workload: string | undefined, options: Options & { pod?: string; reason: string }) => {
      const { pod, reason } = options;
      if ((workload === undefined) === (pod === undefined))
        throw new MeshError("bad_config", "name a workload, or a pod with `--pod`");
      const { revoke } = await import("./revoke.ts");
      await ask(options, (mesh) => revoke(mesh, { workload, pod, reason }, options.json === true, output));
    });
  onMesh(
    verb(
      program,
      "revocations",
      "what is revoked",
      `
Example: countersign revocations --state-dir /var/lib/countersign`,
    ),
  ).action(async (options: Options) => {
    const { showRevocations } = await import("./revoke.ts");
    await ask(options, (mesh) => showRevocations(mesh, options.json === true, output));
  });
}
