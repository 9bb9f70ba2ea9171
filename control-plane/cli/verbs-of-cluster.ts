// Verbs that look at workloads of a running mesh: pods and Services of a cluster, or declared workloads.
import type { MeshOptions } from "./mesh.ts";
import { type JsonOption, onCluster, onMesh, type Verbs } from "./verb-options.ts";

type Options = MeshOptions & JsonOption & { readonly namespace?: string };

/** Adds `describe`, `authz` and `proxy-status`. */
export function addClusterVerbs(verbs: Verbs): void {
  addDescribe(verbs);
  const { program, output, verb, run } = verbs;
  onMesh(
    verb(
      program,
      "authz",
      "the policies that bind a workload, and whom they let in",
      `
A workload is named kind/name, namespace/name, namespace/kind/name, pod/name, or by the key that is printed. Callers and callees
are those that policy allows in some circumstances; \`countersign explain\` decides one call.

Examples:
  countersign authz serving/fraud-scorer -n ml-serving
  countersign authz pod/nb-alice-0 -n ml-dev --json
  countersign authz serving/fraud-scorer --config-dir policies`,
    ),
  )
    .argument("<workload>", "for example serving/fraud-scorer")
    .option("-n, --namespace <name>", "where a name that several namespaces have is looked for")
    .option("--config-dir <dir>", "policies and workloads as files, instead of a running mesh")
    .action(async (workload: string, options: Options & { configDir?: string }) => {
      const [{ withMesh }, { worldOfDirectory, worldOfMesh }, { showAuthz }] = await Promise.all([
        import("./mesh.ts"),
        import("./world.ts"),
        import("./authz.ts"),
      ]);
      const { configDir } = options;
      await run(() =>
        configDir === undefined
          ? withMesh(options, async (mesh) => showAuthz(await worldOfMesh(mesh), workload, options, output))
          : showAuthz(worldOfDirectory(configDir), workload, options, output),
      );
    });
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

function addDescribe({ program, output, verb, run }: Verbs): void {
  const describe = program
    .command("describe")
    .description("what the mesh knows of a pod or Service of a cluster")
    .exitOverride();
  const described = async (
    options: Options,
    what: (
      modules: typeof import("./describe.ts"),
      mesh: import("./mesh.ts").Mesh,
      namespace: string,
    ) => Promise<import("./print.ts").ExitStatus>,
  ): Promise<void> => {
    const [{ withMesh }, modules, { openCluster }] = await Promise.all([
      import("./mesh.ts"),
      import("./describe.ts"),
      import("./cluster.ts"),
    ]);
    const namespace = options.namespace ?? (await openCluster(options)).namespace;
    await run(() => withMesh(options, (mesh) => what(modules, mesh, namespace)));
  };
  onCluster(
    verb(
      describe,
      "pod",
      "is it meshed, who is it, which policies bind it, whom may it call",
      `
Exit status 1: it is not meshed (and why), or its sidecar is not in step.

Example: countersign describe pod nb-alice-0 -n ml-dev`,
    ),
  )
    .argument("<name>", "name of the pod")
    .option("-n, --namespace <name>", "namespace of the pod (default: that of the context)")
    .action((name: string, options: Options) =>
      described(options, async ({ describePod, createWhyUnknown }, mesh, namespace) => {
        const { openCluster, readApi } = await import("./cluster.ts");
        const cluster = await openCluster(options);
        const why = createWhyUnknown((path, what) => readApi(cluster, path, what));
        return describePod(mesh, { ...options, namespace, name }, why, output);
      }),
    );
  onCluster(
    verb(
      describe,
      "svc",
      "where it leads, and which policies bind what is behind it",
      `
Exit status 1: no meshed pod is behind it.

Example: countersign describe svc fraud-scorer -n ml-serving`,
    ),
  )
    .alias("service")
    .argument("<name>", "name of the Service")
    .option("-n, --namespace <name>", "namespace of the Service (default: that of the context)")
    .action((name: string, options: Options) =>
      described(options, ({ describeService }, mesh, namespace) =>
        describeService(mesh, { ...options, namespace, name }, output),
      ),
    );
}
