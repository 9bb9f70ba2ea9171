// The verb that puts sidecars into files.
import type { JsonOption, Verbs } from "./verb-options.ts";

interface InjectFlags extends JsonOption {
  readonly filename: readonly string[];
  readonly image?: string;
  readonly trustDomain: string;
  readonly controlPlaneNamespace: string;
  readonly set: readonly string[];
}

/** Adds `inject`. */
export function addInjectionVerbs({ program, output, verb, run }: Verbs): void {
  verb(
    program,
    "inject",
    "put the sidecar into the pods and templates of YAML files, as the webhook does in a cluster",
    `
Reads Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs, PodTemplates and lists of them; labels and
annotations of the pods count as they do for the webhook (\`countersign.dev/inject: disabled\` leaves one out). Other
documents come out unchanged; comments and layout of those that change are lost. What is injected already is brought up to date.
Facts about users never count here: nobody vouches for them. In a namespace that the webhook looks after, it has the last word.

Prints everything or, with exit status 1, nothing: a pod cannot be meshed, or a file is not YAML.

Examples:
  countersign inject -f deployment.yaml | kubectl apply -f -
  helm template scorer ./chart | countersign inject -f - --trust-domain corp.example | kubectl apply -f -`,
  )
    .option("-f, --filename <files...>", "files; - is standard input", ["-"])
    .option("--image <image>", "the sidecar's image (default: that of this version)")
    .option("--trust-domain <name>", "trust domain of the mesh", "mesh.local")
    .option("--control-plane-namespace <name>", "where the control plane runs", "countersign-system")
    .option(
      "--set <name=value...>",
      "cpu, memory, cpu-limit, memory-limit, log-level, pull-policy (Always, …), iptables (nft, legacy)",
      [],
    )
    .action(async (flags: InjectFlags) => {
      const { DEFAULT_IMAGE, injectFiles } = await import("./inject.ts");
      await run(() =>
        injectFiles(
          {
            files: flags.filename,
            image: flags.image ?? DEFAULT_IMAGE,
            trustDomain: flags.trustDomain,
            controlPlaneNamespace: flags.controlPlaneNamespace,
            set: flags.set,
            json: flags.json === true,
          },
          output,
        ),
      );
    });
}
