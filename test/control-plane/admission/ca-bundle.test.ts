import type { X509Certificate } from "node:crypto";
import { afterEach, describe, expect, test } from "@jest/globals";
import { runCaBundles } from "../../../control-plane/admission/ca-bundle.ts";
import { createKubernetesRest, type KubernetesRest } from "../../../control-plane/kubernetes/rest.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { FakeKubeApi } from "../../fakes/kube-api.ts";

const log = createLogger("silent");
const NAME = "countersign";
const encoded = (...roots: readonly string[]): string => Buffer.from(roots.join("")).toString("base64");

interface Patch {
  readonly name: string;
  readonly fieldManager?: string;
  readonly force?: boolean;
  readonly body: {
    readonly kind: Kind;
    readonly webhooks: readonly {
      readonly name: string;
      readonly clientConfig: { readonly caBundle: string };
    }[];
  };
}

let ending: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ending.splice(0)) await end();
  ending = [];
});

type Kind = "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration";

async function start(initialRoots: readonly string[]) {
  const apis = {
    MutatingWebhookConfiguration: await FakeKubeApi.start(),
    ValidatingWebhookConfiguration: await FakeKubeApi.start(),
  };
  const rests = {
    MutatingWebhookConfiguration: createKubernetesRest(apis.MutatingWebhookConfiguration.credentials),
    ValidatingWebhookConfiguration: createKubernetesRest(apis.ValidatingWebhookConfiguration.credentials),
  };
  const restOf = (path: string): KubernetesRest =>
    path.endsWith("/mutatingwebhookconfigurations")
      ? rests.MutatingWebhookConfiguration
      : rests.ValidatingWebhookConfiguration;
  const clock = new FakeClock(0);
  const stop = new AbortController();
  const patches: Patch[] = [];
  const stored = new Map<Kind, string | undefined>();
  let roots = initialRoots;
  let changed = (): void => {};
  let isRefusing = false;
  const store = (kind: Kind, caBundle: string | undefined): void => {
    stored.set(kind, caBundle);
    apis[kind].set("", NAME, {
      webhooks: ["a.example", "b.example"].map((name) => ({ name, clientConfig: { service: {}, caBundle } })),
    });
  };
  const patch = async (request: unknown): Promise<never> => {
    const given = request as Patch;
    patches.push(given);
    if (isRefusing) throw Object.assign(new Error("refused"), { code: 403 });
    store(given.body.kind, given.body.webhooks[0]?.clientConfig.caBundle);
    return {} as never;
  };
  const done = runCaBundles(
    {
      rest: {
        get: (path, query, signal) => restOf(path).get(path, query, signal),
        watch: (path, query, options) => restOf(path).watch(path, query, options),
      },
      admission: { patchMutatingWebhookConfiguration: patch, patchValidatingWebhookConfiguration: patch },
      apply: {},
      ca: {
        // Only their PEM is looked at.
        get roots() {
          return roots.map((root) => ({ toString: () => root }) as X509Certificate);
        },
        subscribe: (listener) => {
          changed = () => listener({ bundle: true, issuing: true });
          return () => {};
        },
      },
      name: NAME,
      clock,
      random: () => 0.5,
      log,
    },
    stop.signal,
  );
  ending.push(async () => {
    stop.abort();
    await Promise.all(Object.values(apis).map((api) => api.close()));
    await done;
  });
  /** Lets work be done and pauses end until it holds. */
  const passUntil = async (condition: () => boolean): Promise<void> => {
    while (!condition()) {
      clock.advance(50);
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  return {
    ...{ clock, patches, store, passUntil },
    storeBoth: (caBundle: string | undefined) => {
      store("MutatingWebhookConfiguration", caBundle);
      store("ValidatingWebhookConfiguration", caBundle);
    },
    watching: () => passUntil(() => Object.values(apis).every(({ watches }) => watches === 1)),
    bothHold: (caBundle: string) => passUntil(() => [...stored.values()].every((one) => one === caBundle)),
    refuse: (refusing: boolean) => {
      isRefusing = refusing;
    },
    rotate: (next: readonly string[]) => {
      roots = next;
      changed();
    },
  };
}

describe("runCaBundles", () => {
  test("fills in what the chart leaves out, and names nothing else of the objects", async () => {
    const started = await start(["old\n"]);
    started.storeBoth(undefined);
    await started.bothHold(encoded("old\n"));
    const expected = (kind: Kind) => ({
      name: NAME,
      fieldManager: "countersign",
      force: true,
      body: {
        apiVersion: "admissionregistration.k8s.io/v1",
        kind,
        metadata: { name: NAME },
        webhooks: ["a.example", "b.example"].map((name) => ({
          name,
          clientConfig: { caBundle: encoded("old\n") },
        })),
      },
    });
    expect(started.patches).toHaveLength(2);
    expect(started.patches).toEqual(
      expect.arrayContaining([
        expected("MutatingWebhookConfiguration"),
        expected("ValidatingWebhookConfiguration"),
      ]),
    );
  });

  test("writes nothing where it stands already, and back what somebody overwrote", async () => {
    const started = await start(["old\n"]);
    started.storeBoth(encoded("old\n"));
    await started.watching();
    expect(started.patches).toEqual([]);
    started.store("ValidatingWebhookConfiguration", encoded("mallory\n"));
    await started.bothHold(encoded("old\n"));
    expect(started.patches.map(({ body }) => body.kind)).toEqual(["ValidatingWebhookConfiguration"]);
  });

  test("holds old and new while roots change, and the old one for ten minutes more", async () => {
    const started = await start(["old\n"]);
    started.storeBoth(encoded("old\n"));
    await started.watching();
    started.rotate(["old\n", "new\n"]);
    await started.bothHold(encoded("old\n", "new\n"));
    started.rotate(["new\n"]);
    const retiredMs = started.clock.nowMs();
    await started.bothHold(encoded("new\n", "old\n"));
    await started.bothHold(encoded("new\n"));
    expect(started.clock.nowMs() - retiredMs).toBeGreaterThan(600_000 - 1_000);
    expect(started.clock.nowMs() - retiredMs).toBeLessThan(720_000);
  });

  test("tries again, more and more slowly, when the API server refuses", async () => {
    const started = await start(["old\n"]);
    started.refuse(true);
    started.storeBoth(undefined);
    await started.passUntil(() => started.patches.length >= 10);
    // 100, 200, 400, 800 ms between five writes of each.
    expect(started.clock.nowMs()).toBeGreaterThanOrEqual(1_500);
    started.refuse(false);
    await started.bothHold(encoded("old\n"));
  });
});
