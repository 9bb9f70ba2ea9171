// Keeps the roots of the mesh as ConfigMap `countersign-bundle` in every namespace whose pods need them: by it a new
// sidecar knows the control plane. Edits and deletions by others are repaired. One replica does this, the leader.
import type { CoreV1Api } from "@kubernetes/client-node";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { type ApplyOptions, statusOf } from "./client.ts";
import { type ApiObject, runListWatch } from "./list-watch.ts";
import type { KubernetesRest } from "./rest.ts";

export interface BundleConfigMapsDeps {
  /** Needs `get, list, watch, create, patch, delete` on ConfigMaps of this one name, in all namespaces. */
  readonly core: Pick<CoreV1Api, "patchNamespacedConfigMap" | "deleteNamespacedConfigMap">;
  readonly apply: ApplyOptions;
  readonly rest: KubernetesRest;
  /** PEM; empty: not known yet, nothing is written. */
  readonly roots: () => string;
  /** Namespaces that are in the mesh, and the control plane's own; undefined: not known yet. */
  readonly namespaces: () => ReadonlySet<string> | undefined;
  /** Whether a pod with a sidecar is in the namespace: its ConfigMap stays then, wherever the label went. */
  readonly hasPods: (namespace: string) => boolean;
  /** Calls back whenever one of the three above may have changed; returns how to end that. */
  readonly onChanged: (listener: () => void) => () => void;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
}

export const BUNDLE_NAME = "countersign-bundle";
export const BUNDLE_KEY = "roots.pem";
export const BUNDLE_LABEL = "countersign.dev/bundle";
const FIELD_MANAGER = "countersign";
/** Writes at once. */
const CONCURRENCY = 8;
/** Between two writes of one ConfigMap: doubled each time, so that a quarrel with another writer stays small. */
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 60_000;
/** Left alone for this long, a ConfigMap begins with the shortest pause again. */
const CALM_MS = 300_000;
/** A namespace may be labelled again, and a pod admitted before may still come. */
const REMOVE_AFTER_MS = 60_000;

interface SeenMap {
  readonly pem: string | undefined;
  readonly isOurs: boolean;
  readonly resourceVersion: string;
}

interface Pace {
  readonly writes: number;
  readonly lastMs: number;
}

type Step =
  | { readonly kind: "write"; readonly namespace: string; readonly pem: string }
  | { readonly kind: "remove"; readonly namespace: string; readonly resourceVersion: string };

/** Runs until the signal aborts; never rejects. */
export async function runBundleConfigMaps(deps: BundleConfigMapsDeps, signal: AbortSignal): Promise<void> {
  await new BundleKeeper(deps, signal).run();
}

function project(object: ApiObject): SeenMap | undefined {
  const { metadata } = object;
  // A server that does not know the field selector would send other objects, too.
  if (metadata.name !== BUNDLE_NAME) return undefined;
  return {
    // What else stands in it is nobody's harm: sidecars read this key alone.
    pem: textAt(object["data"], BUNDLE_KEY),
    isOurs: textAt("labels" in metadata ? metadata["labels"] : undefined, BUNDLE_LABEL) === "true",
    resourceVersion: metadata.resourceVersion ?? "",
  };
}

function textAt(map: unknown, key: string): string | undefined {
  if (typeof map !== "object" || map === null) return undefined;
  const value: unknown = Object.entries(map).find(([name]) => name === key)?.[1];
  return typeof value === "string" ? value : undefined;
}

class BundleKeeper {
  readonly #deps: BundleConfigMapsDeps;
  readonly #signal: AbortSignal;
  readonly #seen = new Map<string, SeenMap>();
  readonly #paces = new Map<string, Pace>();
  readonly #leftSinceMs = new Map<string, number>();
  #listed = false;
  #wake = new AbortController();

  constructor(deps: BundleConfigMapsDeps, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = signal;
  }

  async run(): Promise<void> {
    const { rest, clock, random, log, onChanged } = this.#deps;
    const wake = (): void => this.#wake.abort();
    const end = onChanged(wake);
    const watching = runListWatch(
      {
        rest,
        path: "/api/v1/configmaps",
        // By name and not by label: RBAC can permit just that, and an edit that takes the label away is seen.
        query: { fieldSelector: `metadata.name=${BUNDLE_NAME}` },
        project,
        onChanges: (changes) => {
          for (const change of changes) {
            const namespace = change.key.slice(0, change.key.indexOf("/"));
            if (change.kind === "set") this.#seen.set(namespace, change.value);
            else this.#seen.delete(namespace);
          }
          this.#listed = true;
          wake();
        },
        clock,
        random,
        log,
      },
      this.#signal,
    );
    while (!this.#signal.aborted) {
      this.#wake = new AbortController();
      const { due, nextMs } = this.#plan();
      if (due.length > 0) await this.#carryOut(due);
      else await clock.sleep(nextMs, AbortSignal.any([this.#signal, this.#wake.signal]));
    }
    end();
    await watching;
  }

  /** What is to be done now, and when to look again if nothing happens. */
  #plan(): { readonly due: readonly Step[]; readonly nextMs: number } {
    const { clock, roots, namespaces } = this.#deps;
    const wanted = this.#listed ? namespaces() : undefined;
    const pem = roots();
    if (wanted === undefined || pem === "") return { due: [], nextMs: LONGEST_PAUSE_MS };
    const nowMs = clock.monotonicMs();
    const due: Step[] = [];
    let nextMs = LONGEST_PAUSE_MS;
    const consider = (step: Step, readyMs: number): void => {
      if (readyMs <= nowMs) due.push(step);
      else nextMs = Math.min(nextMs, readyMs - nowMs);
    };
    for (const namespace of wanted) {
      this.#leftSinceMs.delete(namespace);
      const seen = this.#seen.get(namespace);
      if (seen?.pem === pem && seen.isOurs) continue;
      consider({ kind: "write", namespace, pem }, this.#readyMs(namespace));
    }
    for (const [namespace, { isOurs, resourceVersion }] of this.#seen) {
      if (wanted.has(namespace) || !isOurs || this.#deps.hasPods(namespace)) {
        this.#leftSinceMs.delete(namespace);
        continue;
      }
      const sinceMs = this.#leftSinceMs.get(namespace) ?? nowMs;
      this.#leftSinceMs.set(namespace, sinceMs);
      consider(
        { kind: "remove", namespace, resourceVersion },
        Math.max(sinceMs + REMOVE_AFTER_MS, this.#readyMs(namespace)),
      );
    }
    return { due, nextMs };
  }

  #readyMs(namespace: string): number {
    const pace = this.#paces.get(namespace);
    if (pace === undefined) return 0;
    return pace.lastMs + Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(pace.writes - 1, 20));
  }

  #count(namespace: string): void {
    const nowMs = this.#deps.clock.monotonicMs();
    const before = this.#paces.get(namespace);
    const isCalm = before === undefined || nowMs - before.lastMs > CALM_MS;
    this.#paces.set(namespace, { writes: isCalm ? 1 : before.writes + 1, lastMs: nowMs });
    if (this.#paces.size > 10_000)
      for (const [key, { lastMs }] of this.#paces) if (nowMs - lastMs > CALM_MS) this.#paces.delete(key);
  }

  async #carryOut(steps: readonly Step[]): Promise<void> {
    let next = 0;
    const worker = async (): Promise<void> => {
      for (let step = steps[next++]; step !== undefined && !this.#signal.aborted; step = steps[next++]) {
        this.#count(step.namespace);
        try {
          await (step.kind === "write" ? this.#write(step) : this.#remove(step));
        } catch (error) {
          this.#tell(step, error);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(CONCURRENCY, steps.length) }, worker));
  }

  async #write({ namespace, pem }: Step & { readonly kind: "write" }): Promise<void> {
    const { core, apply, log } = this.#deps;
    const before = this.#seen.get(namespace);
    try {
      const written = await core.patchNamespacedConfigMap(
        {
          name: BUNDLE_NAME,
          namespace,
          fieldManager: FIELD_MANAGER,
          force: true,
          body: {
            apiVersion: "v1",
            kind: "ConfigMap",
            metadata: { name: BUNDLE_NAME, namespace, labels: { [BUNDLE_LABEL]: "true" } },
            data: { [BUNDLE_KEY]: pem },
          },
        },
        apply,
      );
      const resourceVersion = written.metadata?.resourceVersion ?? "";
      this.#seen.set(namespace, { pem, isOurs: true, resourceVersion });
    } catch (error) {
      if (statusOf(error) !== 422 || before === undefined) throw error;
      // Somebody made it immutable: it cannot be changed, but made anew, in the next round.
      await this.#delete(namespace, before.resourceVersion);
      this.#seen.delete(namespace);
      return;
    }
    const message = before === undefined ? "trust bundle put into a namespace" : "trust bundle replaced";
    log.info(message, { namespace });
  }

  async #remove(step: Step & { readonly kind: "remove" }): Promise<void> {
    await this.#delete(step.namespace, step.resourceVersion);
    this.#seen.delete(step.namespace);
    this.#leftSinceMs.delete(step.namespace);
    this.#deps.log.info("trust bundle removed from a namespace that left the mesh", {
      namespace: step.namespace,
    });
  }

  async #delete(namespace: string, resourceVersion: string): Promise<void> {
    try {
      await this.#deps.core.deleteNamespacedConfigMap({
        name: BUNDLE_NAME,
        namespace,
        body: { preconditions: { resourceVersion } },
      });
    } catch (error) {
      if (statusOf(error) !== 404) throw error;
    }
  }

  #tell(step: Step, error: unknown): void {
    const { log } = this.#deps;
    const { namespace } = step;
    const status = statusOf(error);
    const [text = ""] = messageOf(error).split("\nHeaders:");
    // The namespace is on its way out, or somebody was faster: the watch tells what came of it.
    if (status === 404 || status === 409 || /is being terminated/.test(text)) {
      log.debug("trust bundle not written", { namespace, status });
      return;
    }
    const reason = text.replaceAll("\n", " ").slice(0, 300);
    if (status === 403)
      log.error("trust bundle not written: give the control plane the ClusterRole of the chart", {
        namespace,
        reason,
      });
    else log.warn("trust bundle not written, trying again", { namespace, reason });
  }
}
