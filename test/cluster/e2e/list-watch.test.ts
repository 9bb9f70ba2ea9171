// The list-and-watch loop on a real API server: pages, events, watches that the server ends.
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { parse } from "yaml";
import { type Change, runListWatch } from "../../../control-plane/kubernetes/list-watch.ts";
import {
  type ApiCredentials,
  createKubernetesRest,
  type KubernetesRest,
} from "../../../control-plane/kubernetes/rest.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { describeOnCluster } from "../gate.ts";
import { createNamespace, kubectl, type TestNamespace, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";

const MAPS = 25;

/** The admin of the test cluster, as its kubeconfig names files. */
function adminCredentials(): ApiCredentials {
  const config = parse(readFileSync(adminKubeconfig(), "utf8"));
  const cluster = config.clusters[0].cluster;
  const user = config.users[0].user;
  const file = (path: string) => readFileSync(path);
  return {
    getCurrentCluster: () => ({ server: cluster.server }),
    applyToHTTPSOptions: async (options) =>
      void Object.assign(options, {
        ca: file(cluster["certificate-authority"]),
        cert: file(user["client-certificate"]),
        key: file(user["client-key"]),
      }),
  };
}

const configMap = (name: string, value: string) => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name },
  data: { value },
});

describeOnCluster("list and watch", { testMs: 90_000, suiteMs: 180_000 }, () => {
  let namespace: TestNamespace;
  let stop: AbortController;
  let done: Promise<void>;
  const seen = new Map<string, string>();
  const calls: (readonly Change<string>[])[] = [];
  const paths: string[] = [];

  beforeAll(async () => {
    namespace = await createNamespace("watch");
    await namespace.apply(Array.from({ length: MAPS }, (_, index) => configMap(`m${index}`, "first")));
    const rest = createKubernetesRest(adminCredentials());
    const spied: KubernetesRest = {
      get: (path, query, signal) => {
        paths.push(`list ${query["continue"] === undefined ? "" : "more"}`);
        return rest.get(path, query, signal);
      },
      watch: (path, query, options) => {
        paths.push("watch");
        return rest.watch(path, query, options);
      },
    };
    stop = new AbortController();
    done = runListWatch(
      {
        rest: spied,
        path: `/api/v1/namespaces/${namespace.name}/configmaps`,
        query: { fieldSelector: "metadata.name!=kube-root-ca.crt" },
        project: (object) => (object["data"] as { readonly value?: string } | undefined)?.value,
        isSame: (a, b) => a === b,
        onChanges: (changes) => {
          calls.push(changes);
          for (const change of changes)
            if (change.kind === "set") seen.set(change.key, change.value);
            else seen.delete(change.key);
        },
        clock: systemClock,
        random: Math.random,
        log: silentLogger,
        // Short watches: the loop has to go on by itself several times in this test.
        limits: { pageSize: 10, watchSeconds: 2 },
      },
      stop.signal,
    );
  });
  afterAll(async () => {
    stop?.abort();
    await done;
    await namespace?.delete();
  });

  test("lists in pages and tells all of it at once", async () => {
    await waitFor(async () => seen.size === MAPS, 20_000);
    expect(calls[0]).toHaveLength(MAPS);
    expect(paths.slice(0, 4)).toEqual(["list ", "list more", "list more", "watch"]);
  });

  test("follows changes, over the ends of watches too, without listing again", async () => {
    const key = (name: string) => `${namespace.name}/${name}`;
    for (let round = 0; round < 3; round++) {
      await namespace.apply([configMap("m0", `round ${round}`), configMap(`new${round}`, "x")]);
      await waitFor(
        async () => seen.get(key("m0")) === `round ${round}` && seen.has(key(`new${round}`)),
        20_000,
      );
      await new Promise((resolve) => setTimeout(resolve, 2_500));
    }
    await kubectl(["delete", "configmap", "m1", "--namespace", namespace.name]);
    await waitFor(async () => !seen.has(key("m1")), 20_000);
    expect(paths.filter((one) => one.startsWith("list"))).toHaveLength(3);
    expect(paths.filter((one) => one === "watch").length).toBeGreaterThan(2);
  });
});
