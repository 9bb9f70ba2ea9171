// Keeps `caBundle` of the two webhook configurations: the roots by which the API server knows our webhooks. Run by the
// leader alone. Only these fields are ours; whoever else writes them is overwritten.
import type { AdmissionregistrationV1Api } from "@kubernetes/client-node";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { CertificateAuthority } from "../ca/root.ts";
import { type ApplyOptions, statusOf } from "../kubernetes/client.ts";
import { type ApiObject, runListWatch } from "../kubernetes/list-watch.ts";
import type { KubernetesRest } from "../kubernetes/rest.ts";
import { fieldsAt, objectsOf } from "./pod-view.ts";

export interface CaBundlesDeps {
  readonly rest: KubernetesRest;
  /** Needs `get, list, watch, patch` on both configurations of this name. */
  readonly admission: Pick<
    AdmissionregistrationV1Api,
    "patchMutatingWebhookConfiguration" | "patchValidatingWebhookConfiguration"
  >;
  readonly apply: ApplyOptions;
  readonly ca: Pick<CertificateAuthority, "roots" | "subscribe">;
  /** Name of both configurations. */
  readonly name: string;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
}

const KINDS = {
  MutatingWebhookConfiguration: "mutatingwebhookconfigurations",
  ValidatingWebhookConfiguration: "validatingwebhookconfigurations",
} as const;
type Kind = keyof typeof KINDS;

/** `caBundle` by webhook, in their order. */
type Bundles = ReadonlyMap<string, string>;

/** A replica takes up a new authority within seconds; for this long a root that left may still be what it shows. */
const RETIRED_MS = 10 * 60_000;
/** Between two writes of one object: doubled each time, so that a quarrel with another writer stays small. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 60_000;
const CALM_MS = 300_000;
const FIELD_MANAGER = "countersign";

/** Runs until the signal aborts; never rejects. */
export async function runCaBundles(deps: CaBundlesDeps, signal: AbortSignal): Promise<void> {
  await new CaBundles(deps, signal).run();
}

class CaBundles {
  readonly #deps: CaBundlesDeps;
  readonly #signal: AbortSignal;
  readonly #seen = new Map<Kind, Bundles>();
  readonly #paces = new Map<Kind, { readonly pauseMs: number; readonly lastMs: number }>();
  /** When each root was last one of the authority's, by its PEM. */
  readonly #roots = new Map<string, number>();
  #wake = new AbortController();

  constructor(deps: CaBundlesDeps, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = signal;
  }

  async run(): Promise<void> {
    const { ca, clock } = this.#deps;
    const unsubscribe = ca.subscribe(() => this.#wake.abort());
    const kinds: readonly Kind[] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
    const watching = kinds.map((kind) => this.#watch(kind));
    while (!this.#signal.aborted) {
      this.#wake = new AbortController();
      const wake = AbortSignal.any([this.#signal, this.#wake.signal]);
      const bundle = this.#bundle();
      let waitMs = LONGEST_PAUSE_MS;
      for (const kind of kinds) {
        const bundles = this.#seen.get(kind);
        if (bundles === undefined || [...bundles.values()].every((one) => one === bundle)) continue;
        const dueMs = this.#dueMs(kind) - clock.monotonicMs();
        if (dueMs > 0) waitMs = Math.min(waitMs, dueMs);
        else waitMs = Math.min(waitMs, await this.#write(kind, [...bundles.keys()], bundle));
      }
      await clock.sleep(waitMs, wake);
    }
    unsubscribe();
    await Promise.all(watching);
  }

  #watch(kind: Kind): Promise<void> {
    const { rest, name, clock, random, log } = this.#deps;
    return runListWatch(
      {
        rest,
        path: `/apis/admissionregistration.k8s.io/v1/${KINDS[kind]}`,
        query: { fieldSelector: `metadata.name=${name}` },
        project: (object) => (object.metadata.name === name ? bundlesOf(object) : undefined),
        onChanges: (changes) => {
          for (const change of changes) {
            if (change.kind === "set") this.#seen.set(kind, change.value);
            else this.#seen.delete(kind);
          }
          this.#wake.abort();
        },
        clock,
        random,
        log,
      },
      this.#signal,
    );
  }

  /** The authority's roots and those that left a moment ago, as the field holds them. */
  #bundle(): string {
    const { ca, clock } = this.#deps;
    const nowMs = clock.monotonicMs();
    const roots = ca.roots.map(String);
    for (const root of roots) this.#roots.set(root, nowMs);
    for (const [root, lastMs] of this.#roots) if (nowMs - lastMs > RETIRED_MS) this.#roots.delete(root);
    const retired = [...this.#roots.keys()].filter((root) => !roots.includes(root));
    return Buffer.from([...roots, ...retired].join("")).toString("base64");
  }

  #dueMs(kind: Kind): number {
    const pace = this.#paces.get(kind);
    return pace === undefined ? 0 : pace.lastMs + pace.pauseMs;
  }

  /** @returns how long to wait at most until the next look. */
  async #write(kind: Kind, webhooks: readonly string[], bundle: string): Promise<number> {
    const { admission, apply, name, clock, log } = this.#deps;
    const lastMs = clock.monotonicMs();
    const before = this.#paces.get(kind);
    const isCalm = before === undefined || lastMs - before.lastMs > CALM_MS;
    const pauseMs = isCalm ? FIRST_PAUSE_MS : Math.min(before.pauseMs * 2, LONGEST_PAUSE_MS);
    this.#paces.set(kind, { pauseMs, lastMs });
    const request = {
      name,
      fieldManager: FIELD_MANAGER,
      force: true,
      body: {
        apiVersion: "admissionregistration.k8s.io/v1",
        kind,
        metadata: { name },
        webhooks: webhooks.map((webhook) => ({ name: webhook, clientConfig: { caBundle: bundle } })),
      },
    };
    try {
      if (kind === "MutatingWebhookConfiguration")
        await admission.patchMutatingWebhookConfiguration(request, apply);
      else await admission.patchValidatingWebhookConfiguration(request, apply);
      log.info("caBundle of the webhooks written", { kind, webhooks: webhooks.length });
      // What was written comes back by the watch; until then the object counts as it was written.
      this.#seen.set(kind, new Map(webhooks.map((webhook) => [webhook, bundle])));
      return LONGEST_PAUSE_MS;
    } catch (error) {
      if (!this.#signal.aborted)
        log.warn("caBundle of the webhooks not written, the API server may trust none of their answers", {
          kind,
          status: statusOf(error),
          reason: messageOf(error).slice(0, 200),
        });
      return pauseMs;
    }
  }
}

function bundlesOf(object: ApiObject): Bundles {
  const bundles = new Map<string, string>();
  for (const webhook of objectsOf(object["webhooks"]) ?? []) {
    const bundle = fieldsAt(webhook, "clientConfig")["caBundle"];
    if (typeof webhook["name"] === "string")
      bundles.set(webhook["name"], typeof bundle === "string" ? bundle : "");
  }
  return bundles;
}
