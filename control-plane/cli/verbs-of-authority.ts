// `countersign ca`: verbs about the certificate authority of a running control plane.
import type { RotationVerb } from "./ca.ts";
import type { Mesh, MeshOptions } from "./mesh.ts";
import type { ExitStatus } from "./print.ts";
import { type JsonOption, onMesh, type Verbs } from "./verb-options.ts";

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

/** Adds `ca status`, `ca rotate`, `ca abort` and `ca force`. */
export function addAuthorityVerbs({ program, output, verb, run }: Verbs): void {
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
}
