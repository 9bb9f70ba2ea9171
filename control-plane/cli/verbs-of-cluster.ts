// Verbs that look at workloads of a running mesh: pods and Services of a cluster, or declared workloads.
import type { MeshOptions } from "./mesh.ts";
import { type JsonOption, onMesh, type Verbs } from "./verb-options.ts";

type Options = MeshOptions & JsonOption & { readonly namespace?: string };

/** Adds `proxy-status`. */
export function addClusterVerbs({ program, output, verb, run }: Verbs): void {
  onMesh(
    verb(
      program,
      "proxy-status",
      "each sidecar: is it connected, has it the table it should have, what did it refuse last",
      `
Exit status 1: a connected sidecar is stale or has refused its configuration.

Example: countersign proxy-status -n ml-serving`,
    ),
  )
    .option("-n, --namespace <name>", "only sidecars of this namespace")
    .action(async (options: Options) => {
      const [{ withMesh }, { showProxies }] = await Promise.all([
        import("./mesh.ts"),
        import("./proxy-status.ts"),
      ]);
      await run(() => withMesh(options, (mesh) => showProxies(mesh, options, output)));
    });
}
