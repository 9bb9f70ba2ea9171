// Verbs that look at a running mesh, against a management API that answers what a test tells it to.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "@jest/globals";
import { type Fields, fieldsOf } from "../../../control-plane/cli/answers.ts";
import { createWhyUnknown, describePod, describeService } from "../../../control-plane/cli/describe.ts";
import { withMesh } from "../../../control-plane/cli/mesh.ts";
import type { Output } from "../../../control-plane/cli/print.ts";
import { durationText } from "../../../control-plane/cli/proxy-status.ts";
import { mergeSidecars, readStatus } from "../../../control-plane/cli/sidecars.ts";
import { runVerb } from "../../../control-plane/cli/verbs.ts";
import { workloadNamed } from "../../../control-plane/cli/workload-names.ts";
import { readState } from "../../../control-plane/cli/world.ts";
import { objectText } from "../../../control-plane/management/revision-content.ts";
import { compile } from "../../../control-plane/policy/compile.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { EMPTY_STATE } from "../../../control-plane/sources/cluster-state.ts";
import { readDirectory } from "../../../control-plane/sources/directory.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";
import type { ClusterState, MeshPod } from "../../../control-plane/sources/store.ts";
import { type FakeApi, startFakeApi } from "../../fakes/management-api.ts";
import { workload } from "../../fakes/resources.ts";

let api: FakeApi | undefined;
let folder: string | undefined;
afterEach(async () => {
  await api?.close();
  api = undefined;
  if (folder !== undefined) rmSync(folder, { recursive: true });
  folder = undefined;
});

function capture(): Output & { text: string; errors: string } {
  const written = {
    ...{ text: "", errors: "" },
    out: (text: string) => {
      written.text += text;
    },
    err: (text: string) => {
      written.errors += text;
    },
  };
  return written;
}

async function run(...args: string[]): Promise<{ status: number; text: string; errors: string }> {
  const output = capture();
  const status = await runVerb(args, output);
  return { status, text: output.text, errors: output.errors };
}

const POD: MeshPod = {
  ...{ uid: "u1", namespace: "ml", name: "scorer-0", serviceAccount: "scorer", node: "n1" },
  ...{ addresses: ["10.0.0.1"], ready: true, injected: true, workload: "ml/scorer/serving/scorer" },
};
const STATE: ClusterState = {
  ...EMPTY_STATE,
  workloads: new Map([
    [
      "ml/scorer/serving/scorer",
      workload("scorer", "ml", { ports: [{ port: 8080, protocol: "http", packs: [] }] }),
    ],
    ["ml/scorer/serving/scorer~1a2b", workload("scorer", "ml", { labels: new Map([["track", "canary"]]) })],
    ["lab/nb/notebook/nb", workload("nb", "lab", { kind: "notebook", ports: [], owner: "alice" })],
    ["prod/scorer/serving/scorer", workload("scorer", "prod")],
  ]),
  pods: new Map([
    ["u1", POD],
    ["u2", { ...POD, uid: "u2", name: "bare", injected: false, workload: undefined }],
  ]),
  services: new Map([
    [
      "ml/scorer",
      {
        ...{ namespace: "ml", name: "scorer", addresses: ["10.96.0.1"] },
        ports: [{ port: 80, targetPort: 8080, protocol: "http", packs: [] }],
        members: ["ml/scorer/serving/scorer"],
        endpoints: [{ address: "10.0.0.1", meshPort: 16008, workload: "ml/scorer/serving/scorer" }],
      },
    ],
    ["ml/empty", { namespace: "ml", name: "empty", addresses: [], ports: [], members: [], endpoints: [] }],
  ]),
};
const SIDECAR = {
  ...{
    workload: "ml/scorer/serving/scorer",
    instance: "i1",
    pod: "u1",
    node: "n1",
    softwareVersion: "0.1.0",
  },
  ...{ state: "synced", digest: "aaaaaaaa11", expectedDigest: "aaaaaaaa11", sinceMs: 1_000 },
};

const serve = async (sidecars: readonly object[], state: ClusterState = STATE): Promise<FakeApi> => {
  await api?.close();
  api = await startFakeApi({
    "GET /v1/status": { body: { revision: 7, pinned: null, problems: ["a\u001b[31mb"], sidecars } },
    "GET /v1/state": { body: { pods: Object.fromEntries(state.pods) } },
    "GET /v1/state?form=exact": { body: objectText({ state }) },
  });
  return api;
};

describe("the state of a running control plane", () => {
  test("is the same on both sides, and compiles to the same programs", () => {
    const { state } = readDirectory("crds/examples", loadSchemas());
    expect(state.policies.size).toBeGreaterThan(3);
    const read = readState(JSON.parse(objectText({ state })));
    expect(read).toEqual(state);
    const packs = loadBuiltInPacks();
    expect(compile(read, packs).programs).toEqual(compile(state, packs).programs);
  });

  test.each([
    { name: "nothing", answer: {} },
    { name: "no maps", answer: { state: { ...EMPTY_STATE, workloads: {} } } },
    { name: "a map less", answer: { state: { revision: 1, config: {}, policies: { $map: [] } } } },
    { name: "a list", answer: [] },
  ])("of another version ($name) is said to be one", ({ answer }) => {
    expect(() => readState(answer)).toThrow("use the command line of the control plane's version");
  });
});

describe("names of workloads", () => {
  test.each([
    { text: "notebook/nb", key: "lab/nb/notebook/nb" },
    { text: "nb", key: "lab/nb/notebook/nb" },
    { text: "lab/nb", key: "lab/nb/notebook/nb" },
    { text: "prod/serving/scorer", key: "prod/scorer/serving/scorer" },
    { text: "serving/scorer", namespace: "prod", key: "prod/scorer/serving/scorer" },
    { text: "ml/scorer/serving/scorer~1a2b", key: "ml/scorer/serving/scorer~1a2b" },
    { text: "ml/scorer/serving/scorer", key: "ml/scorer/serving/scorer" },
    { text: "pod/scorer-0", key: "ml/scorer/serving/scorer" },
    { text: "pod/ml/scorer-0", key: "ml/scorer/serving/scorer" },
  ])("$text in $namespace is $key", ({ text, namespace, key }) => {
    expect(workloadNamed(text, STATE, "--to", namespace)[0]).toBe(key);
  });

  test.each([
    {
      text: "serving/scorer",
      says: "may be any of `ml/scorer/serving/scorer`, `ml/scorer/serving/scorer~1a2b`",
    },
    { text: "notebok/nb", says: "did you mean `notebook/nb`?" },
    { text: "pod/bare", says: "there is no such workload" },
    { text: "", says: "there is no such workload" },
  ])("$text is refused", ({ text, says }) => {
    expect(() => workloadNamed(text, STATE, "--to")).toThrow(says);
  });
});

describe("proxy-status", () => {
  test("names the pod of each sidecar and ends with 1 when one is behind", async () => {
    const { stateDir } = await serve([
      SIDECAR,
      { ...SIDECAR, instance: "i2", pod: "u9", state: "stale", digest: "bb", nack: "no\nfeature" },
      { ...SIDECAR, workload: "lab/nb/notebook/nb", pod: "", state: "disconnected" },
    ]);
    const { status, text } = await run("proxy-status", "--state-dir", stateDir);
    expect(status).toBe(1);
    expect(text).toContain("revision 7; 3 sidecars, 2 connected, 1 behind");
    expect(text).toMatch(/ml\/scorer-0 +ml\/scorer\/serving\/scorer +synced/);
    expect(text).toMatch(/stale .*bb +aaaaaaaa +0\.1\.0 +no feature/);
    const lab = await run("proxy-status", "-n", "lab", "--json", "--state-dir", stateDir);
    expect(lab.status).toBe(0);
    expect(JSON.parse(lab.text).sidecars).toHaveLength(1);
  });

  test.each([
    { ms: -5, text: "0s" },
    { ms: 119_000, text: "119s" },
    { ms: 120_000, text: "2m" },
    { ms: 7_200_000, text: "2h" },
    { ms: 172_800_000, text: "2d" },
  ])("$ms ms are $text", ({ ms, text }) => {
    expect(durationText(ms)).toBe(text);
  });
});

describe("sidecars of several replicas", () => {
  const one = (over: Fields): Fields => ({ ...SIDECAR, ...over });
  test("a connected one beats what another replica remembers, and the newer memory counts", () => {
    const merged = mergeSidecars([
      [one({ state: "disconnected", sinceMs: 9 }), one({ instance: "b", state: "disconnected", sinceMs: 5 })],
      [one({ state: "synced", sinceMs: 3 }), one({ instance: "b", state: "disconnected", sinceMs: 7 })],
      [one({ state: "disconnected", sinceMs: 99 })],
    ]);
    expect(merged.map(({ instance, state, sinceMs }) => [instance, state, sinceMs])).toEqual([
      ["i1", "synced", 3],
      ["b", "disconnected", 7],
    ]);
  });

  test("are counted once", async () => {
    const status = await readStatus({
      source: "cluster",
      manage: async () => ({}),
      close: () => {},
      manageEach: async () => [
        { replica: "a", answer: { revision: 7, sidecars: [one({ state: "stale", nack: "x" })] } },
        { replica: "b", answer: { revision: 6, sidecars: [one({ instance: "b" })] } },
      ],
    });
    expect(status["revision"]).toBe(7);
    expect(status["proxies"]).toEqual({ total: 2, synced: 1, stale: 1, disconnected: 0, nacked: 1 });
  });
});

describe("authz, explain and lint of a running mesh", () => {
  test("authz shows policies, callers and the default", async () => {
    const { stateDir } = await serve([]);
    const { status, text } = await run("authz", "nb", "--state-dir", stateDir);
    expect(status).toBe(0);
    expect(text).toContain("notebook/nb in lab");
    expect(text).toContain(
      "0 policies bind it; what none of them decides is denied; callers without mesh identity are refused",
    );
    const json = JSON.parse((await run("authz", "nb", "--json", "--state-dir", stateDir)).text);
    expect(json).toMatchObject({ key: "lab/nb/notebook/nb", policies: [], callers: [] });
  });

  test("authz of a directory", async () => {
    folder = mkdtempSync(join(tmpdir(), "countersign-authz-"));
    writeFileSync(
      join(folder, "a.yaml"),
      `{apiVersion: countersign.dev/v1alpha1, kind: Workload, metadata: {name: b, namespace: ml}, spec: {kind: serving, serviceAccount: b, addresses: ["10.1.0.1"], ports: [{port: 8080}]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: Workload, metadata: {name: a, namespace: lab}, spec: {kind: job, serviceAccount: a, addresses: ["10.1.0.2"]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: AccessPolicy, metadata: {name: p, namespace: ml}, spec: {action: Allow, rules: [{name: jobs, from: [{workload: {kinds: [job]}}], operations: [{any: true}]}]}}
`,
    );
    const { text, status } = await run("authz", "serving/b", "--config-dir", folder);
    expect(status).toBe(0);
    expect(text).toMatch(/AccessPolicy ml\/p +Allow +jobs/);
    expect(text).toMatch(/may be called by [^\n]+\n {2}job\/a in lab/);
  });

  test("explain names a pod, and says what is refused and not considered", async () => {
    const { stateDir } = await serve([]);
    const call = ["--from", "notebook/nb", "--to", "pod/ml/scorer-0", "--request", "GET /x"];
    const { status, text, errors } = await run("explain", ...call, "--state-dir", stateDir);
    expect(status).toBe(1);
    expect(text).toContain("DENIED DEFAULT_DENY");
    expect(errors).toContain("1 problem: what is refused was not considered; see `countersign status`");
    expect(errors).not.toContain("\u001b");
    const both = await run("explain", ...call, "--state-dir", stateDir, "--config-dir", ".");
    expect(both.status).toBe(2);
  });

  test("lint counts what is refused as an error", async () => {
    const { stateDir } = await serve([]);
    const { status, text } = await run("lint", "--state-dir", stateDir);
    expect(status).toBe(1);
    expect(text).toContain("0 objects in force, 1 error, ");
  });
});

describe("describe", () => {
  const pod = async (name: string, sidecars: readonly object[], json = false) => {
    const { stateDir } = await serve(sidecars);
    const output = capture();
    const status = await withMesh({ stateDir }, (mesh) =>
      describePod(mesh, { namespace: "ml", name, json }, async () => "because", output),
    );
    return { status, text: output.text };
  };

  test.each([
    { name: "in step", sidecars: [SIDECAR], status: 0, says: "yes: sidecar 0.1.0, synced" },
    {
      name: "away",
      sidecars: [{ ...SIDECAR, state: "disconnected" }],
      status: 1,
      says: "it goes on with its last good table",
    },
    {
      name: "refusing",
      sidecars: [{ ...SIDECAR, state: "stale", nack: "x\ny" }],
      status: 1,
      says: "it refused its configuration: x y",
    },
    { name: "never seen", sidecars: [], status: 1, says: "has not connected yet" },
  ])("a pod whose sidecar is $name", async ({ sidecars, status, says }) => {
    const result = await pod("scorer-0", sidecars);
    expect(result.text).toContain(says);
    expect(result.text).toContain("services  ml/scorer");
    expect(result.status).toBe(status);
  });

  test.each([
    { name: "bare", says: "NO: because" },
    { name: "nope", says: "NO: because" },
  ])("a pod that is not meshed ($name)", async ({ name, says }) => {
    const result = await pod(name, []);
    expect(result.text).toContain(says);
    expect(result.status).toBe(1);
    const json = JSON.parse((await pod(name, [], true)).text);
    expect(json.meshed).toBe(false);
  });

  test.each([
    { name: "scorer", status: 0, says: "80 -> 8080 http" },
    { name: "empty", status: 1, says: "NO: no meshed pod is behind it" },
  ])("Service $name", async ({ name, status, says }) => {
    const { stateDir } = await serve([]);
    const output = capture();
    const found = await withMesh({ stateDir }, (mesh) =>
      describeService(mesh, { namespace: "ml", name }, output),
    );
    expect(output.text).toContain(says);
    expect(found).toBe(status);
  });

  const object = (labels: object, more: object = {}): Fields => fieldsOf({ metadata: { labels }, ...more });
  const IN = { "countersign.dev/inject": "enabled" };
  test.each([
    {
      name: "kept out",
      pod: object({ "countersign.dev/inject": "disabled" }),
      scope: object(IN),
      says: "keeps it out",
    },
    {
      name: "on the node's network",
      pod: object({}, { spec: { hostNetwork: true } }),
      scope: object(IN),
      says: "hostNetwork",
    },
    {
      name: "ended",
      pod: object({}, { status: { phase: "Succeeded" } }),
      scope: object(IN),
      says: "it has ended",
    },
    { name: "older than the label", pod: object({}), scope: object(IN), says: "make it anew" },
    { name: "labelled itself", pod: object(IN), scope: object({}), says: "make it anew" },
    {
      name: "elsewhere",
      pod: object({}),
      scope: object({}),
      says: "kubectl label namespace ml countersign.dev/inject=enabled",
    },
  ])("says why the mesh does not know a pod that is $name", async ({ pod: found, scope, says }) => {
    const why = createWhyUnknown(async (path) => (path.includes("/pods/") ? found : scope));
    expect(await why("ml", "p")).toContain(says);
  });

  test("a name cannot leave its place in the path", async () => {
    const paths: string[] = [];
    const why = createWhyUnknown(async (path) => {
      paths.push(path);
      return undefined;
    });
    await expect(why("a/../b", "../../secrets/x")).rejects.toThrow("there is no pod");
    expect(paths).toEqual([
      "/api/v1/namespaces/a%2F..%2Fb/pods/..%2F..%2Fsecrets%2Fx",
      "/api/v1/namespaces/a%2F..%2Fb",
    ]);
  });
});
