// `countersign ca`, `revoke` and `revocations`: verbs about what a running control plane issues.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { RotationVerb } from "./ca.ts";
import type { Mesh, MeshOptions } from "./mesh.ts";
import type { ExitStatus } from "./print.ts";
import { type JsonOption, onMesh, type Verbs, workloadId } from "./verb-options.ts";

type Options = MeshOptions & JsonOption;

interface RevokeOptions {
  readonly pod?: string;
  readonly user?: string;
  readonly session?: string;
  readonly reason: string;
}

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
      "refuse what a workload, pod, user or session was issued until now, as after a key was stolen",
      `
Every callee refuses its certificates and tokens with REVOKED, the control plane does not renew them. Sidecars in pods join
again by themselves with their ServiceAccount token, others need a new join token. It does not keep the workload out: for
that write a Deny. Never undone by a rollback.

Of a user all sessions end, and what was issued on their behalf; whoever may sign in at the identity provider may do so again.

Examples:
  countersign revoke ml-dev/nb-alice --reason INC-42
  countersign revoke --pod ml-dev/nb-alice-0 --reason "copied volume"
  countersign revoke --user "okta-main|00u8xk2l9" --reason "lost laptop"
  countersign revoke --session BDp8kX2pQvOe3m1zR4sTuw --reason INC-43`,
    ),
  )
    .argument("[workload]", "namespace/name; in a cluster as `countersign authz` names it", workloadId)
    .option("--pod <pod>", "one pod instead: namespace/name, or the UID of one that is gone")
    .option("--user <user>", "a user instead: identity-provider|id")
    .option("--session <sid>", "one session instead, by the `sid` of audit events")
    .requiredOption("--reason <text>", "why, for the audit and those who ask later")
    .action(async (workload: string | undefined, options: Options & RevokeOptions) => {
      const { pod, user, session, reason } = options;
      if ([workload, pod, user, session].filter((subject) => subject !== undefined).length !== 1)
        throw new MeshError("bad_config", "name a workload, or one of `--pod`, `--user` and `--session`");
      const { revoke } = await import("./revoke.ts");
      const asked = { workload, pod, user, session, reason };
      await ask(options, (mesh) => revoke(mesh, asked, options.json === true, output));
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
