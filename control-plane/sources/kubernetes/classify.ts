// What a pod is: kind, name and the facts that travel with it (DOMAIN 1.7); PURE. Kind and name are asserted by whoever
// may create pods in the namespace; facts about users count only as the admission webhook wrote them.
import { WORKLOAD_KINDS, type WorkloadKind } from "../../../sidecar/core/policy/call.ts";
import type { PortProtocol } from "../../../sidecar/core/policy/rule.ts";
import type { Workload } from "../store.ts";
import type { PodFacts } from "./facts.ts";

export interface Classified {
  readonly kind: WorkloadKind;
  readonly name: string;
  readonly env: string | undefined;
  readonly owner: string | undefined;
  readonly runAs: string | undefined;
  /** By port, from the annotation; it replaces what the kind implies. */
  readonly packs: ReadonlyMap<number, readonly string[]>;
  /** For ports that `packs` does not name. */
  readonly defaultPacks: readonly string[];
  readonly propagation: Workload["propagation"];
  /** What was asked for and is not granted, one line each. */
  readonly problems: readonly string[];
}

export interface ClassifyContext {
  /** The CronJob that made a Job, by `namespace/job`. */
  readonly cronJobs: ReadonlyMap<string, string>;
  /** ServiceAccounts, `namespace/name`, that may be gateways. */
  readonly gateways: readonly string[];
}

const KIND = "countersign.dev/kind";
const NAME = "countersign.dev/name";
const ENV = "countersign.dev/env";
/** What a SPIFFE ID can carry; every Kubernetes name and label value that is not empty does. */
const SEGMENT = /^[A-Za-z0-9._-]+$/;

interface Recognised {
  readonly kind: WorkloadKind;
  readonly name: string | undefined;
  readonly packs: readonly string[];
}

/** First match wins; a job's name is that of what made it, so that every run is the same workload. */
function recognise({ labels, name }: PodFacts, cronJob: (job: string) => string | undefined): Recognised {
  const label = (key: string): string | undefined => labels.get(key) || undefined;
  if (label("component") === "singleuser-server") return { kind: "notebook", name, packs: ["jupyter"] };
  const notebook = label("notebook-name");
  if (notebook !== undefined) return { kind: "notebook", name: notebook, packs: ["jupyter"] };
  const inferenceService = label("serving.kserve.io/inferenceservice");
  if (inferenceService !== undefined)
    return { kind: "serving", name: inferenceService, packs: ["oip-v2", "kserve-v1", "openai"] };
  const seldon = label("seldon-deployment-id");
  if (seldon !== undefined) return { kind: "serving", name: seldon, packs: ["oip-v2"] };
  if (label("ray.io/serve") !== undefined)
    return { kind: "serving", name: label("ray.io/cluster"), packs: ["ray", "openai"] };
  const named = [
    "spark-app-name",
    "workflows.argoproj.io/workflow",
    "dag_id",
    "jobset.sigs.k8s.io/jobset-name",
  ]
    .map(label)
    .find((one) => one !== undefined);
  if (named !== undefined) return { kind: "job", name: named, packs: [] };
  const job = label("batch.kubernetes.io/job-name") ?? label("job-name");
  if (job !== undefined) return { kind: "job", name: cronJob(job) ?? job, packs: [] };
  return { kind: "service", name: undefined, packs: [] };
}

/** Name of what the pod's author made: a Deployment's pods belong to a ReplicaSet that has its hash behind the name. */
function ownerName({ owner, labels, name }: PodFacts): string {
  if (owner === undefined) return name;
  const hash = labels.get("pod-template-hash");
  if (owner.kind === "ReplicaSet" && hash !== undefined && owner.name.endsWith(`-${hash}`))
    return owner.name.slice(0, -hash.length - 1);
  return owner.name;
}

export function classify(pod: PodFacts, context: ClassifyContext): Classified {
  const problems: string[] = [];
  const found = recognise(pod, (job) => context.cronJobs.get(`${pod.namespace}/${job}`));
  const asked = pod.labels.get(KIND);
  let kind = found.kind;
  if (asked !== undefined) {
    const known = WORKLOAD_KINDS.find((one) => one === asked);
    if (known === undefined)
      problems.push(
        `label \`${KIND}\` is \`${asked}\`, expected ${WORKLOAD_KINDS.join(", ")}; it is ignored`,
      );
    else if (known === "gateway" && !context.gateways.includes(`${pod.namespace}/${pod.serviceAccount}`))
      problems.push(
        `kind \`gateway\` is reserved for the ServiceAccounts in \`MeshConfig.spec.gateways\`; add \`${pod.namespace}/${pod.serviceAccount}\` there, or choose another kind`,
      );
    else kind = known;
  }
  const name = pod.labels.get(NAME) || found.name || ownerName(pod);
  const owner = pod.annotations.get("countersign.dev/verified-owner") || undefined;
  const runAs = pod.annotations.get("countersign.dev/verified-run-as") || undefined;
  return {
    kind,
    name: SEGMENT.test(name) ? name : pod.name,
    env: pod.labels.get(ENV) || undefined,
    owner,
    runAs,
    packs: readPacks(pod, problems),
    defaultPacks: asked === undefined ? found.packs : [],
    propagation: readPropagation(pod, (owner ?? runAs) !== undefined, problems),
    problems,
  };
}

/** `8080=mlflow-scoring,oip-v2;9000=ray` */
function readPacks({ annotations }: PodFacts, problems: string[]): Map<number, readonly string[]> {
  const packs = new Map<number, readonly string[]>();
  for (const entry of (annotations.get("countersign.dev/packs") ?? "").split(";")) {
    if (entry.trim() === "") continue;
    const match = /^(\d{1,5})=([a-z0-9][a-z0-9.,-]*)$/.exec(entry.replaceAll(" ", ""));
    const port = Number(match?.[1]);
    if (match?.[2] === undefined || port < 1 || port > 65_535)
      problems.push(
        `annotation \`countersign.dev/packs\` has \`${entry.slice(0, 80)}\`, expected \`PORT=pack,pack\`; it is ignored`,
      );
    else
      packs.set(
        port,
        match[2].split(",").filter((one) => one !== ""),
      );
  }
  return packs;
}

/** @param actsForUser a trusted spawner named a user: its calls are that user's unless the pod says otherwise. */
function readPropagation(
  { annotations }: PodFacts,
  actsForUser: boolean,
  problems: string[],
): Workload["propagation"] {
  const modes: Workload["propagation"][number][] = [];
  for (const part of (annotations.get("countersign.dev/propagation") ?? "").split(",")) {
    const mode = part.trim();
    if (mode === "") continue;
    if (mode === "trace" || mode === "session" || mode === "forward" || mode === "none") modes.push(mode);
    else
      problems.push(
        `annotation \`countersign.dev/propagation\` has \`${mode.slice(0, 80)}\`, expected forward, trace, session or none; it is ignored`,
      );
  }
  if (modes.includes("none")) return ["none"];
  if (modes.length > 0) return [...new Set(modes)];
  return actsForUser ? ["trace", "session"] : ["trace"];
}

const PROTOCOL_WORDS: ReadonlyMap<string, PortProtocol> = new Map([
  ...["http", "ws", "sse", "grpc-web"].map((word) => [word, "http"] as const),
  ...["h2c", "http2"].map((word) => [word, "h2c"] as const),
  ["grpc", "grpc"],
  ...["tls", "https", "wss"].map((word) => [word, "tls"] as const),
  ...["tcp", "redis", "postgres", "postgresql", "mysql", "kafka", "mongo", "mongodb", "amqp", "mqtt"].map(
    (word) => [word, "tcp"] as const,
  ),
]);

/**
 * Protocol of a port by `appProtocol`, else by its name or the first part of it (`http-metrics`); `auto` where neither says
 * anything that is known.
 */
export function protocolOf(name: string, appProtocol: string | undefined): PortProtocol {
  const said = appProtocol?.toLowerCase().replace(/^kubernetes\.io\//, "") ?? "";
  const lower = name.toLowerCase();
  const [first = ""] = lower.split("-");
  return (
    PROTOCOL_WORDS.get(said) ??
    PROTOCOL_WORDS.get(lower.startsWith("grpc-web") ? "grpc-web" : first) ??
    "auto"
  );
}
