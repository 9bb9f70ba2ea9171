// From pods to workloads: pods of one SPIFFE ID with the same facts are one workload; PURE. What moves all the time
// (addresses, readiness, the number of pods) is not part of it, so that it costs no compile.
import { createHash } from "node:crypto";
import type { PortProtocol, ProgramPort } from "../../../sidecar/core/policy/rule.ts";
import type { MeshPod, Workload } from "../store.ts";
import { type ClassifyContext, classify, protocolOf } from "./classify.ts";
import type { PodFacts } from "./facts.ts";

/** TCP port of a pod's sidecar. */
export const POD_MESH_PORT = 16008;

/** Differ from pod to pod of one workload; no policy can select by them. */
const VOLATILE_LABELS: ReadonlySet<string> = new Set([
  "pod-template-hash",
  "pod-template-generation",
  "controller-revision-hash",
  "controller-uid",
  "job-name",
  "statefulset.kubernetes.io/pod-name",
  "apps.kubernetes.io/pod-index",
  "batch.kubernetes.io/controller-uid",
  "batch.kubernetes.io/job-name",
  "batch.kubernetes.io/job-completion-index",
]);

/** A port that a Service sends to, of one pod. */
export interface TargetPort {
  readonly port: number;
  readonly protocol: PortProtocol;
}

export interface PodInput extends ClassifyContext {
  readonly pods: Iterable<PodFacts>;
  /** Ports that Services send to, by pod UID: a container need not declare them. */
  readonly targetPorts: ReadonlyMap<string, readonly TargetPort[]>;
  /** By node. */
  readonly zones?: ReadonlyMap<string, string>;
  readonly previous: {
    readonly workloads: ReadonlyMap<string, Workload>;
    readonly pods: ReadonlyMap<string, MeshPod>;
  };
}

export interface PodProblem {
  /** `namespace/name` of the pod. */
  readonly pod: string;
  readonly message: string;
}

export interface PodState {
  /** By `namespace/serviceAccount/kind/name`, with `~hash` behind it for those that are not like the identity's oldest pod. */
  readonly workloads: ReadonlyMap<string, Workload>;
  readonly pods: ReadonlyMap<string, MeshPod>;
  readonly problems: readonly PodProblem[];
}

interface Group {
  readonly workload: Workload;
  readonly hash: string;
  readonly members: PodFacts[];
  /** Of its oldest member: what groups of one identity are ordered by. */
  oldest: string;
}

/** Problems beyond these are not reported. */
const MAX_PROBLEMS = 100;

export function meshPods(input: PodInput): PodState {
  const identities = new Map<string, Map<string, Group>>();
  const pods = new Map<string, MeshPod>();
  const problems: PodProblem[] = [];
  for (const pod of input.pods) {
    const id = `${pod.namespace}/${pod.name}`;
    if (!pod.injected) {
      pods.set(pod.uid, meshPod(pod, undefined, input));
      continue;
    }
    const { workload, content, identity, problems: own } = readPod(pod, input);
    for (const message of own) if (problems.length < MAX_PROBLEMS) problems.push({ pod: id, message });
    const groups = identities.get(identity) ?? new Map<string, Group>();
    identities.set(identity, groups);
    const group = groups.get(content) ?? { workload, hash: hashOf(content), members: [], oldest: "~" };
    groups.set(content, group);
    group.members.push(pod);
    const age = `${pod.createdAt} ${pod.name}`;
    if (age < group.oldest) group.oldest = age;
  }
  const workloads = new Map<string, Workload>();
  for (const [identity, groups] of [...identities].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const ordered = [...groups.values()].sort((a, b) => (a.oldest < b.oldest ? -1 : 1));
    for (const [at, { workload, hash, members }] of ordered.entries()) {
      const key = at === 0 ? identity : `${identity}~${hash}`;
      const before = input.previous.workloads.get(key);
      const isSame = before === workload || (before && contentOf(before) === contentOf(workload));
      workloads.set(key, isSame && before ? before : workload);
      for (const pod of members) pods.set(pod.uid, meshPod(pod, key, input));
    }
  }
  return { workloads, pods, problems };
}

/** What one pod comes to by itself. */
interface ReadPod {
  /** Of all that it depends on beside the pod's own facts. */
  readonly signature: string;
  readonly workload: Workload;
  readonly content: string;
  readonly identity: string;
  readonly problems: readonly string[];
}

/** Facts of a pod that did not change are the same object, and reading one takes ten times as long as finding it here. */
const read = new WeakMap<PodFacts, ReadPod>();

function readPod(pod: PodFacts, input: PodInput): ReadPod {
  const targetPorts = input.targetPorts.get(pod.uid) ?? [];
  const job = pod.labels.get("batch.kubernetes.io/job-name") ?? pod.labels.get("job-name") ?? "";
  const ports = targetPorts.map(({ port, protocol }) => `${port}${protocol}`).join();
  const signature = `${ports} ${input.cronJobs.get(`${pod.namespace}/${job}`) ?? ""} ${input.gateways.join()}`;
  const known = read.get(pod);
  if (known?.signature === signature) return known;
  const found = classify(pod, input);
  const workload = workloadOf(pod, found, targetPorts);
  const fresh = {
    signature,
    workload,
    content: contentOf(workload),
    identity: `${pod.namespace}/${pod.serviceAccount}/${workload.kind}/${workload.name}`,
    problems: found.problems,
  };
  read.set(pod, fresh);
  return fresh;
}

/** @returns the one of before where it says the same. */
function meshPod(pod: PodFacts, workload: string | undefined, { previous, zones }: PodInput): MeshPod {
  const before = previous.pods.get(pod.uid);
  const zone = zones?.get(pod.node);
  const { uid, namespace, name, serviceAccount, node, addresses, ready, serving, injected } = pod;
  const inject = pod.labels.get("countersign.dev/inject");
  const isSame =
    before !== undefined &&
    before.workload === workload &&
    before.ready === ready &&
    before.serving === serving &&
    before.injected === injected &&
    before.inject === inject &&
    before.node === node &&
    before.zone === zone &&
    before.addresses.length === addresses.length &&
    before.addresses.every((address, at) => address === addresses[at]);
  // Of one UID the rest cannot change.
  if (isSame) return before;
  return {
    uid,
    namespace,
    name,
    serviceAccount,
    node,
    zone,
    addresses,
    ready,
    serving,
    injected,
    inject,
    workload,
  };
}

function workloadOf(
  pod: PodFacts,
  found: ReturnType<typeof classify>,
  targetPorts: readonly TargetPort[],
): Workload {
  const ports = new Map<number, ProgramPort>();
  const declare = (port: number, protocol: PortProtocol): void => {
    // Who says nothing takes nothing back.
    if (protocol === "auto" && ports.has(port)) return;
    if (port >= 1 && port <= 65_535 && !(port >= 16_001 && port <= 16_080))
      ports.set(port, { port, protocol, packs: found.packs.get(port) ?? found.defaultPacks });
  };
  for (const port of found.packs.keys()) declare(port, "auto");
  for (const { name, port } of pod.ports) declare(port, protocolOf(name, undefined));
  for (const { port, protocol } of targetPorts) declare(port, protocol);
  return {
    name: found.name,
    namespace: pod.namespace,
    kind: found.kind,
    serviceAccount: pod.serviceAccount,
    labels: new Map([...pod.labels].filter(([key]) => !VOLATILE_LABELS.has(key)).sort(byKey)),
    addresses: [],
    meshPort: POD_MESH_PORT,
    service: undefined,
    ports: [...ports.values()].sort((a, b) => a.port - b.port),
    propagation: found.propagation,
    owner: found.owner,
    env: found.env,
    runAs: found.runAs,
    generation: 0,
  };
}

const byKey = (a: readonly [string, unknown], b: readonly [string, unknown]): number =>
  a[0] < b[0] ? -1 : 1;

const contentOf = (workload: Workload): string =>
  JSON.stringify({ ...workload, labels: [...workload.labels] });

const hashOf = (content: string): string => createHash("sha256").update(content).digest("hex").slice(0, 8);
