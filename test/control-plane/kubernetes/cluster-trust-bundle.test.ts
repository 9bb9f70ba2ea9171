// The ClusterTrustBundle of a cluster that has that API: against a fake alone, the test cluster does not serve it.
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import {
  type ClusterTrustBundleDeps,
  clusterTrustBundleOf,
  runClusterTrustBundle,
} from "../../../control-plane/kubernetes/cluster-trust-bundle.ts";
import { ApiError } from "../../../control-plane/kubernetes/rest.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";

let served: string | undefined;
let object: Record<string, unknown> | undefined;
let version: number;
let calls: string[];
let failure: Error | undefined;
let clock: FakeClock;
let stop: AbortController;
let done: Promise<void>;
let roots: string;
let changed: () => void;
let log: string[];

const custom: ClusterTrustBundleDeps["custom"] = {
  getClusterCustomObject: async () => {
    if (failure !== undefined) throw failure;
    if (object === undefined) throw Object.assign(new Error("not found"), { code: 404 });
    return object;
  },
  createClusterCustomObject: async ({ body, version: api, plural }) => {
    calls.push(`create ${api} ${plural}`);
    object = { ...body, metadata: { ...body.metadata, resourceVersion: String(++version) } };
    return object;
  },
  replaceClusterCustomObject: async ({ body, version: api, name }) => {
    calls.push(`replace ${api} ${name}`);
    if (body.metadata.resourceVersion !== String(version)) throw new Error("conflict");
    object = { ...body, metadata: { ...body.metadata, resourceVersion: String(++version) } };
    return object;
  },
};

beforeEach(() => {
  served = "v1beta1";
  object = undefined;
  version = 0;
  calls = [];
  failure = undefined;
  clock = new FakeClock(0);
  stop = new AbortController();
  roots = "ROOT A\n";
  log = [];
  changed = () => {};
  done = Promise.resolve();
});
afterEach(async () => {
  stop.abort();
  await done;
});

function run(): void {
  done = runClusterTrustBundle(
    {
      custom,
      rest: {
        get: async (path) => {
          if (path !== `/apis/certificates.k8s.io/${served}`) throw new ApiError(404, "NotFound", "no");
          return { resources: [{ name: "certificatesigningrequests" }, { name: "clustertrustbundles" }] };
        },
        watch: async () => {},
      },
      trustDomain: "lake.example",
      roots: () => roots,
      onChanged: (listener) => {
        changed = listener;
        return () => {};
      },
      clock,
      random: () => 0,
      log: createLogger("debug", {}, (line) => log.push(line)),
    },
    stop.signal,
  );
}

async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
}

describe("the ClusterTrustBundle", () => {
  test("is named for its signer, as the API demands", () => {
    const { name, signerName } = clusterTrustBundleOf("lake.example");
    expect(name).toBe("countersign.dev:lake.example:roots");
    expect(name.startsWith(`${signerName.replaceAll("/", ":")}:`)).toBe(true);
  });

  test.each(["v1", "v1beta1", "v1alpha1"])("is made where the API server has it in %s", async (api) => {
    served = api;
    run();
    await settle();
    expect(calls).toEqual([`create ${api} clustertrustbundles`]);
    expect(object).toMatchObject({
      apiVersion: `certificates.k8s.io/${api}`,
      spec: { signerName: "countersign.dev/lake.example", trustBundle: "ROOT A\n" },
    });
  });

  test("follows the roots, and is left alone while nothing changes", async () => {
    run();
    await settle();
    clock.advance(600_000);
    await settle();
    expect(calls).toHaveLength(1);
    roots = "ROOT A\nROOT B\n";
    changed();
    await settle();
    expect(calls).toEqual([
      "create v1beta1 clustertrustbundles",
      "replace v1beta1 countersign.dev:lake.example:roots",
    ]);
    expect(object).toMatchObject({ spec: { trustBundle: roots } });
  });

  test("is not asked for where there is no such API, and made once there is", async () => {
    served = undefined;
    run();
    await settle();
    expect(calls).toEqual([]);
    expect(log).toEqual([]);
    served = "v1";
    clock.advance(600_000);
    await settle();
    expect(calls).toEqual(["create v1 clustertrustbundles"]);
  });

  test("is tried again with back-off when it is refused", async () => {
    failure = Object.assign(new Error("user may not attest"), { code: 403 });
    run();
    await settle();
    changed();
    await settle();
    expect(log).toHaveLength(1);
    expect(log[0]).toContain("may not attest");
    failure = undefined;
    clock.advance(500);
    await settle();
    expect(calls).toEqual(["create v1beta1 clustertrustbundles"]);
  });
});
