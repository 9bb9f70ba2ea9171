import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { parseAllDocuments } from "yaml";
import { injectPod } from "../../../control-plane/admission/inject.ts";
import { applyPatch } from "../../../control-plane/admission/json-patch.ts";
import type { UnknownFields } from "../../../control-plane/admission/review.ts";
import { injectManifests } from "../../../control-plane/cli/inject-manifests.ts";
import { CONTEXT, podOf } from "../admission/pod-fixture.ts";

const OFFLINE = { ...CONTEXT, username: undefined };
const inject = (text: string) => injectManifests(text, OFFLINE);
const read = (text: string) => parseAllDocuments(text).map((document) => document.toJS());
const TEMPLATE = { metadata: { labels: { app: "a" } }, spec: podOf()["spec"] };

describe("injectManifests", () => {
  test.each([
    ["v1", "Pod", podOf()],
    ["apps/v1", "Deployment", { spec: { template: TEMPLATE } }],
    ["apps/v1", "StatefulSet", { spec: { template: TEMPLATE } }],
    ["apps/v1", "DaemonSet", { spec: { template: TEMPLATE } }],
    ["apps/v1", "ReplicaSet", { spec: { template: TEMPLATE } }],
    ["v1", "ReplicationController", { spec: { template: TEMPLATE } }],
    ["batch/v1", "Job", { spec: { template: { spec: TEMPLATE.spec } } }],
    ["batch/v1", "CronJob", { spec: { jobTemplate: { spec: { template: TEMPLATE } } } }],
    ["v1", "PodTemplate", { template: TEMPLATE }],
  ])("%s %s gets its sidecar", (apiVersion, kind, rest) => {
    const { text, injected, problems } = inject(JSON.stringify({ ...rest, apiVersion, kind }));
    expect(problems).toEqual([]);
    expect(injected).toBe(1);
    expect(text.match(/name: countersign-proxy/g)).toHaveLength(1);
    expect(inject(text)).toEqual({ text, injected: 1, problems: [], warnings: [] });
  });

  test.each([
    [
      "another group's kind of the same name",
      "apiVersion: batch.volcano.sh/v1\nkind: Job\nspec: {template: {spec: {}}}\n",
    ],
    ["a kind that is a property of every object", "apiVersion: v1\nkind: constructor\n"],
    ["no kind", "a: 1 # comment\n"],
    ["a list without pods", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret}\n"],
    [
      "a pod that stays out",
      "apiVersion: v1\nkind: Pod\nmetadata: {labels: {countersign.dev/inject: disabled}}\nspec: {containers: [{name: a}]}\n",
    ],
    ["a Deployment without a template", "apiVersion: apps/v1\nkind: Deployment\nspec: {}\n"],
    ["nothing to read", "just a text\n"],
  ])("%s comes out byte for byte", (_, text) => {
    expect(inject(text)).toEqual({ text, injected: 0, problems: [], warnings: [] });
  });

  test("documents keep their order and those without pods their comments", () => {
    const config = "# why\napiVersion: v1\nkind: ConfigMap # kept\nmetadata: {name: c}\n";
    const pod = JSON.stringify({ ...podOf(), kind: "Pod" });
    const { text } = inject(`${config}---\n${pod}\n---\n${config}`);
    expect(text.startsWith(config)).toBe(true);
    expect(text.endsWith(`---\n${config}`)).toBe(true);
    expect(read(text).map(({ kind }) => kind)).toEqual(["ConfigMap", "Pod", "ConfigMap"]);
  });

  test("lists are looked into, however deep", () => {
    const list = (items: unknown[]) => ({ apiVersion: "v1", kind: "List", items });
    const { text, injected } = inject(
      JSON.stringify(list([{ kind: "X", apiVersion: "v1" }, list([podOf(), podOf()])])),
    );
    expect(injected).toBe(2);
    expect(read(text)[0].items[1].items).toHaveLength(2);
  });

  test("texts that YAML takes for something else stay texts, and what kubectl takes for numbers is one", () => {
    const pod = `apiVersion: v1
kind: Pod
metadata: {name: p, labels: {a: "yes", b: "0644", c: "1_000", d: "~", e: "12:30:45"}}
spec: {containers: [{name: app, args: [12:30, 2026-11-21, "off"], tty: yes, mode: 0644}]}
`;
    const [made] = parseAllDocuments(inject(pod).text, { version: "1.1" }).map((document) => document.toJS());
    expect(made.metadata.labels).toEqual({ a: "yes", b: "0644", c: "1_000", d: "~", e: "12:30:45" });
    expect(made.spec.containers[0]).toMatchObject({
      args: ["12:30", "2026-11-21", "off"],
      tty: true,
      mode: 420,
    });
  });

  test("any text of a pod comes through", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "grapheme" }),
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        (value, number) => {
          const pod = podOf({ container: { args: [value], number } });
          const outcome = injectPod(pod, OFFLINE);
          const wanted = outcome.kind === "refused" ? {} : applyPatch(pod, outcome.patch);
          const [document] = parseAllDocuments(inject(JSON.stringify(pod)).text, { version: "1.1" });
          expect(document?.toJS()).toEqual(JSON.parse(JSON.stringify(wanted)) as UnknownFields);
        },
      ),
      { numRuns: 200 },
    );
  });

  test("what cannot be meshed is named with its line and object", () => {
    const bad = `apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: lab}\nspec: {hostPID: true, containers: [{name: a}]}\n`;
    expect(inject(`a: 1\n---\n${bad}`).problems).toEqual([
      expect.stringMatching(/^line 2: Pod lab\/p: the pod cannot be meshed: `hostPID` sees/),
    ]);
  });

  test("warnings name their object too", () => {
    const pod = podOf({ annotations: { "countersign.dev/cpus": "1" } });
    expect(inject(JSON.stringify(pod)).warnings).toEqual([
      "line 1: Pod nb: annotation `countersign.dev/cpus` means nothing to the mesh; did you mean `countersign.dev/cpu`?",
    ]);
  });

  test.each([
    ["broken YAML", "a: [1\n", /^line 1: not YAML: /],
    ["many aliases", `a: &a [1,1]\nb: [${"*a,".repeat(200)}]\n`, /^line 1: too many aliases$/],
    ["too many documents", "---\na: 1\n".repeat(5_002), /^the file has more than 5000 documents$/],
  ])("%s is a problem", (_, text, problem) => {
    expect(inject(text).problems).toEqual([expect.stringMatching(problem)]);
  });

  test("facts about users never count", () => {
    const annotations = { "countersign.dev/run-as": "bob", "countersign.dev/verified-run-as": "bob" };
    expect(inject(JSON.stringify(podOf({ annotations }))).text).not.toContain("verified");
  });
});
