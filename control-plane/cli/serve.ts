// The two verbs that run a process until a signal: `control-plane` and `sidecar`. Kept free of other imports, because a
// sidecar's start-up time and memory are part of what we promise.
import { systemClock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { createLogger, type LogLevel } from "../../sidecar/core/runtime/log.ts";
import { trimWhileBusy } from "../../sidecar/core/runtime/malloc-trim.ts";
import { boundYoungGeneration } from "../../sidecar/core/runtime/young-generation.ts";
import { EXIT, type ExitStatus, type Output } from "./print.ts";

const CONTROL_PLANE_HELP = `usage: countersign control-plane --config-dir DIR --state-dir DIR [options]
       countersign control-plane --kubernetes --state-dir DIR [options]

Watches a directory of YAML objects, or a cluster, compiles its policies, signs identities and serves sidecars.

  --config-dir DIR        AccessPolicy, Workload, MeshConfig … as YAML; read, watched, never written
  --kubernetes            a cluster: policies are custom resources, pods are workloads; the chart runs it so
  --state-dir DIR         keys, history, status, join tokens, management socket; made with mode 0700 (required).
                          On a cluster only sockets: everything that lasts is a Kubernetes object
  --listen ADDRESS        where bootstrap and discovery listen (default 127.0.0.1)
  --metrics-listen ADDR   where metrics and health listen (default 127.0.0.1)
  --port-base N           moves the ports 16011 to 16014 to N+11 to N+14; 0: the system chooses, see
                          DIR/ports.json (default 16000)
  --bootstrap-port N, --discovery-port N, --token-port N, --metrics-port N
                          one port alone
  --token-issuer URL      where the keys of the token service are public (default https://{trust domain})
  --cluster NAME          name of this cluster in audit events (default local)
  --heartbeat-ms N        how often sidecars hear from it (default 5000)
  --log-level LEVEL       debug, info, warn, error or silent (default info)

With --kubernetes:
  --kubeconfig FILE, --context NAME
                          which cluster, as whom (default KUBECONFIG, the pod's ServiceAccount, ~/.kube/config)
  --namespace NAME        where Secret, Lease and records are kept (default countersign-system)
  --replica NAME          name of this replica, unique among them (default: host name)
  --trust-domain NAME     trust domain; it cannot change later (default: that of the MeshConfig)
  --sidecar-image IMAGE   what the webhook puts into pods (default: pods are not injected)
  --sidecar-defaults JSON cpu, memory, cpu-limit, memory-limit and log-level of injected sidecars
  --issuer-dir DIR        tls.crt, tls.key and ca.crt of an issuing certificate made elsewhere
  --webhook-port N, --management-port N
                          one port alone (default 16017, 16080)

Ends with 0 after SIGTERM or SIGINT, 2 for a wrong option, 3 when it cannot start.
`;

const LOG_LEVELS: readonly string[] = ["debug", "info", "warn", "error", "silent"];

/** Takes `--log-level X` out of the arguments. */
function logLevelOf(args: readonly string[]): { level: LogLevel; rest: string[] } {
  const rest: string[] = [];
  let level = "info";
  for (let index = 0; index < args.length; index++) {
    const arg = args[index] ?? "";
    if (arg === "--log-level") level = args[++index] ?? "";
    else if (arg.startsWith("--log-level=")) level = arg.slice("--log-level=".length);
    else rest.push(arg);
  }
  if (!LOG_LEVELS.includes(level))
    throw new MeshError("bad_config", `\`--log-level\` is \`${level}\`, expected ${LOG_LEVELS.join(", ")}`);
  // Checked against the list above, which holds every LogLevel.
  return { level: level as LogLevel, rest };
}

/** Aborts on the first SIGTERM or SIGINT; a second one ends the process at once. */
function untilSignal(): AbortSignal {
  const controller = new AbortController();
  const onSignal = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort();
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  return controller.signal;
}

function failed(output: Output, error: unknown): ExitStatus {
  const usage = error instanceof MeshError && error.code === "bad_config";
  output.err(`countersign: ${messageOf(error)}\n`);
  return usage ? EXIT.usage : EXIT.unreachable;
}

export async function runControlPlaneVerb(args: readonly string[], output: Output): Promise<ExitStatus> {
  if (args.includes("--help") || args.includes("-h")) {
    output.out(CONTROL_PLANE_HELP);
    return EXIT.ok;
  }
  try {
    const { level, rest } = logLevelOf(args);
    const [{ parseControlPlaneConfig }, { runControlPlane }] = await Promise.all([
      import("../config.ts"),
      import("../main.ts"),
    ]);
    const config = parseControlPlaneConfig(rest);
    if (!config.ok) throw new MeshError("bad_config", config.error);
    const log = createLogger(level, { process: "control-plane" });
    const signal = untilSignal();
    trimWhileBusy(signal);
    const handle = await runControlPlane(config.value, { log, clock: systemClock }, signal);
    await handle.done;
    return EXIT.ok;
  } catch (error) {
    return failed(output, error);
  }
}

export async function runSidecarVerb(args: readonly string[], output: Output): Promise<ExitStatus> {
  const { parseSidecarConfig, SIDECAR_FLAGS } = await import("../../sidecar/config.ts");
  if (args.includes("--help") || args.includes("-h")) {
    output.out("usage: countersign sidecar --workload NAMESPACE/NAME --state-dir DIR [options]\n\n");
    output.out("Stands beside one workload: takes its calls, decides on calls to it, proves who it is.\n\n");
    for (const [flag, { value, help, repeat }] of Object.entries(SIDECAR_FLAGS))
      output.out(`  ${`${flag} ${value}`.padEnd(48)} ${help}${repeat ? "; may be repeated" : ""}\n`);
    output.out(
      "\nEach option may also come from the environment (`--state-dir` as COUNTERSIGN_STATE_DIR).\n",
    );
    output.out("Ends with 0 after SIGTERM or SIGINT, 2 for a wrong option, 3 when it cannot start.\n");
    return EXIT.ok;
  }
  try {
    const config = parseSidecarConfig(args, process.env);
    const signal = untilSignal();
    trimWhileBusy(signal);
    boundYoungGeneration(signal, [...process.execArgv, process.env["NODE_OPTIONS"] ?? ""]);
    const { runSidecar } = await import("../../sidecar/main.ts");
    const log = createLogger(config.logLevel, { process: "sidecar", workload: config.workload });
    const handle = await runSidecar(config, { log, clock: systemClock }, signal);
    await handle.done;
    return EXIT.ok;
  } catch (error) {
    return failed(output, error);
  }
}
