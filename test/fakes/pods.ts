// Pods, Services and slices as an API server gives them, with only what a test cares about.
import type { PodFacts } from "../../control-plane/sources/kubernetes/facts.ts";

export function podFactsOf(
  over: Partial<Omit<PodFacts, "labels" | "annotations">> & {
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  } = {},
): PodFacts {
  const name = over.name ?? "p";
  return {
    uid: `uid-${name}`,
    namespace: "ns",
    name,
    serviceAccount: "sa",
    node: "node",
    owner: undefined,
    addresses: ["10.0.0.1"],
    ready: true,
    serving: false,
    injected: true,
    ports: [],
    createdAt: "2026-11-21T08:00:00Z",
    ...over,
    labels: new Map(Object.entries(over.labels ?? {})),
    annotations: new Map(Object.entries(over.annotations ?? {})),
  };
}
