// From a pod to the pod with its sidecar, or to why not. PURE. The webhook and `countersign inject` both come here.
import { applyPatch, mapPatch } from "./json-patch.ts";
import { INJECTED, OWN_CONTAINERS, OWN_VOLUMES, PROXY_CONTAINER } from "./own-names.ts";
import { podProblems } from "./pod-rules.ts";
import { isOptedOut, type PodSettings, type ProxyResources, readPodSettings } from "./pod-settings.ts";
import { type ContainerView, fieldsAt, objectsOf, type PodView, readPod } from "./pod-view.ts";
import { decodeProbes, rewriteProbes } from "./probe-rewrite.ts";
import { parseQuantity } from "./quantity.ts";
import { isFields, type JsonPatchOperation, type UnknownFields } from "./review.ts";
import { isSameContainer, isSameJson } from "./same-object.ts";
import { relayedPage, rewriteScrape } from "./scrape.ts";
import {
  fromLiteral,
  type InjectSettings,
  initContainer,
  proxyContainer,
  type Relayed,
  sidecarVolumes,
} from "./sidecar-containers.ts";
import { verifiedFacts } from "./user-facts.ts";

export interface InjectContext {
  readonly settings: InjectSettings;
  /** ServiceAccounts as `namespace/name`, whose word on users counts. */
  readonly trustedSpawners: readonly string[];
  /** Who creates the pod, as the API server knows them; undefined: nobody knows (offline). */
  readonly username: string | undefined;
  /** Undefined where they are not known: nothing depends on them but advice. */
  readonly namespaceLabels: ReadonlyMap<string, string> | undefined;
  /** Operation packs that exist; undefined: not known. */
  readonly packs: ReadonlySet<string> | undefined;
}

export type InjectOutcome =
  | {
      readonly kind: "injected" | "left-out";
      /** What makes it so; empty when it is so already. */
      readonly patch: readonly JsonPatchOperation[];
      readonly warnings: readonly string[];
    }
  | { readonly kind: "refused"; readonly reason: string; readonly warnings: readonly string[] };

const DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container";
/** A static pod's mirror: the kubelet runs the pod from a file, and nothing here changes it. */
const MIRROR = "kubernetes.io/config.mirror";
const NODE = "system:node:";
const POD_SECURITY = "pod-security.kubernetes.io/enforce";
const MAX_REASONS = 4;

/**
 * Decides on one pod that the webhook's selectors chose: it gets its sidecar unless its own label says `disabled`. Facts
 * `countersign.dev/verified-*` are written or removed either way.
 *
 * Doing it again on the result changes nothing; a sidecar that somebody changed meanwhile is made anew.
 */
export function injectPod(object: UnknownFields, context: InjectContext): InjectOutcome {
  const read = readPod(object);
  if (!read.ok) return refused([`it cannot be read: ${read.error}`], []);
  const present = read.value;
  const facts = verifiedFacts(present, context.username, context.trustedSpawners);
  const isMirror = present.annotations.has(MIRROR) && context.username?.startsWith(NODE) === true;
  if (isOptedOut(present) || isMirror)
    return {
      kind: "left-out",
      patch: annotationPatch(present, facts.annotations),
      warnings: isMirror ? ["a static pod cannot be meshed: it runs without a sidecar"] : [],
    };
  const before = earlierInjection(present);
  const pod = before?.pod ?? present;
  const { settings, problems, warnings } = readPodSettings(pod, context.packs);
  const probes = rewriteProbes(pod, before?.relayed.probes ?? new Map(), settings.excludeInboundPorts);
  const scrape = rewriteScrape(pod, before?.relayed.appMetrics, settings.excludeInboundPorts);
  const reasons = [
    ...podProblems(pod),
    ...problems,
    ...probes.problems,
    ...resourceProblems(context.settings, settings),
  ];
  const advice = [
    ...warnings,
    ...probes.warnings,
    ...scrape.warnings,
    ...facts.warnings,
    ...namespaceAdvice(context),
  ];
  if (reasons.length > 0) return refused(reasons, advice);
  const annotations = new Map([
    ...facts.annotations,
    ...scrape.annotations,
    ...ownAnnotations(pod, context.settings),
  ]);
  const relayed = { probes: probes.relayed, appMetrics: scrape.appMetrics };
  const own: Own = {
    containers: [
      initContainer(context.settings, settings),
      proxyContainer(context.settings, settings, relayed),
    ],
    volumes: sidecarVolumes(context.settings),
  };
  return {
    kind: "injected",
    patch: [
      ...annotationPatch(present, annotations),
      // Before anything moves: their paths count positions as they are now.
      ...probes.patch,
      ...(before === undefined ? firstPatch(present, own) : repairPatch(present, own, probes.patch)),
    ],
    warnings: advice,
  };
}

/** What a pod gets. */
interface Own {
  readonly containers: readonly UnknownFields[];
  readonly volumes: readonly UnknownFields[];
}

function refused(reasons: readonly string[], warnings: readonly string[]): InjectOutcome {
  const more = reasons.length > MAX_REASONS ? [`and ${reasons.length - MAX_REASONS} more`] : [];
  return {
    kind: "refused",
    reason: `the pod cannot be meshed: ${[...reasons.slice(0, MAX_REASONS), ...more].join("; ")}`,
    warnings,
  };
}

/** A pod that was injected already, as it was before, and what its sidecar relays since then. */
function earlierInjection(
  present: PodView,
): { readonly pod: PodView; readonly relayed: Relayed } | undefined {
  const isOwn = ({ list, name }: ContainerView): boolean =>
    list === "initContainers" && OWN_CONTAINERS.includes(name);
  const own = present.containers.filter(isOwn);
  if (!present.annotations.has(INJECTED) || own.length !== OWN_CONTAINERS.length) return undefined;
  if (new Set(own.map(({ name }) => name)).size !== own.length) return undefined;
  const proxy = own.find(({ name }) => name === PROXY_CONTAINER);
  return {
    pod: {
      ...present,
      containers: present.containers.filter((container) => !isOwn(container)),
      volumes: present.volumes.filter((volume) => !isOwnVolume(volume)),
    },
    relayed: {
      probes: decodeProbes(fromLiteral(flagValue(proxy?.fields["args"], "--probes") ?? "")),
      appMetrics: relayedPage(flagValue(proxy?.fields["args"], "--app-metrics")),
    },
  };
}

const isOwnVolume = ({ name }: UnknownFields): boolean =>
  typeof name === "string" && OWN_VOLUMES.includes(name);

function flagValue(args: unknown, flag: string): string | undefined {
  if (!Array.isArray(args) || !args.includes(flag)) return undefined;
  const value: unknown = args[args.indexOf(flag) + 1];
  return typeof value === "string" ? value : undefined;
}

function annotationPatch(
  { object }: PodView,
  changes: ReadonlyMap<string, string | undefined>,
): readonly JsonPatchOperation[] {
  const metadata = object["metadata"];
  const map = fieldsAt(object, "metadata")["annotations"];
  const patch = mapPatch("/metadata/annotations", isFields(map) ? map : undefined, changes);
  return isFields(metadata) || patch.length === 0
    ? patch
    : [{ op: "add", path: "/metadata", value: {} }, ...patch];
}

function ownAnnotations(pod: PodView, settings: InjectSettings): ReadonlyMap<string, string> {
  const first = pod.containers.find(({ list }) => list === "containers");
  const own = new Map([[INJECTED, settings.version]]);
  if (first !== undefined && !pod.annotations.has(DEFAULT_CONTAINER)) own.set(DEFAULT_CONTAINER, first.name);
  return own;
}

function firstPatch(present: PodView, own: Own): readonly JsonPatchOperation[] {
  const has = (list: string): boolean => (objectsOf(present.spec[list]) ?? []).length > 0;
  return [
    ...(has("initContainers")
      ? own.containers.map((value, index) => added(`/spec/initContainers/${index}`, value))
      : [added("/spec/initContainers", own.containers)]),
    ...(has("volumes")
      ? own.volumes.map((value) => added("/spec/volumes/-", value))
      : [added("/spec/volumes", own.volumes)]),
  ];
}

const added = (path: string, value: unknown): JsonPatchOperation => ({ op: "add", path, value });

/** What brings an injected pod back to what it should be; nothing when it is. */
function repairPatch(
  present: PodView,
  own: Own,
  probes: readonly JsonPatchOperation[],
): readonly JsonPatchOperation[] {
  const patch: JsonPatchOperation[] = [];
  const spec = fieldsAt(applyPatch(present.object, probes), "spec");
  const initContainers = objectsOf(spec["initContainers"]) ?? [];
  if (!own.containers.every((wanted, index) => isSameContainer(initContainers[index] ?? {}, wanted))) {
    const others = initContainers.filter(({ name }) => !OWN_CONTAINERS.some((one) => one === name));
    patch.push({ op: "replace", path: "/spec/initContainers", value: [...own.containers, ...others] });
  }
  const isThere = (wanted: UnknownFields): boolean => {
    const found = present.volumes.filter(({ name }) => name === wanted["name"]);
    return found.length === 1 && isSameJson(found[0], wanted);
  };
  if (!own.volumes.every(isThere)) {
    const others = present.volumes.filter((volume) => !isOwnVolume(volume));
    patch.push(added("/spec/volumes", [...others, ...own.volumes]));
  }
  return patch;
}

/** A request above the limit: the API server refuses it too, but names a container that the author did not write. */
function resourceProblems({ resources }: InjectSettings, pod: PodSettings): string[] {
  const merged: ProxyResources = { ...resources, ...pod.resources };
  return (["cpu", "memory"] as const).flatMap((name) => {
    const limit = merged[`${name}Limit`];
    const isAbove =
      limit !== undefined && (parseQuantity(merged[name]) ?? 0) > (parseQuantity(limit) ?? Infinity);
    return isAbove
      ? [
          `the sidecar's ${name} request \`${merged[name]}\` is above its limit \`${limit}\`; set the annotation \`countersign.dev/${name}-limit\` too`,
        ]
      : [];
  });
}

function namespaceAdvice({ namespaceLabels }: InjectContext): string[] {
  const level = namespaceLabels?.get(POD_SECURITY);
  return level === "baseline" || level === "restricted"
    ? [
        `the namespace enforces pod security \`${level}\`, which refuses the init step's NET_ADMIN; label it \`${POD_SECURITY}: privileged\``,
      ]
    : [];
}
