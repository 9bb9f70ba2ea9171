// What `check` and `lint` say of a directory beyond what is refused: each thing once, with its line.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "@jest/globals";
import { runVerb } from "../../../control-plane/cli/verbs.ts";

let folder: string | undefined;
afterEach(() => {
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  folder = undefined;
});

const HEAD = "apiVersion: countersign.dev/v1alpha1\nkind:";
const MESH = `${HEAD} MeshConfig
metadata: {name: default}
spec: {trustDomain: lake.example}
---
${HEAD} Workload
metadata: {name: scorer, namespace: ml}
spec: {kind: serving, serviceAccount: scorer, service: scorer, ports: [{port: 8080, packs: [oip-v2]}]}
`;
const POLICY = `${HEAD} AccessPolicy
metadata: {name: callers, namespace: ml}
spec:
  action: Allow
  targets: [{names: [scorer]}]
  rules:
    - name: everybody
      from: [{any: true}]
      operations: [{op: serving}]
    - name: scorers
      from: [{workload: {serviceAccounts: [ml/scorre]}}]
      operations: [{op: serving.invoke}]
      when: {notAfter: "2020-01-01T00:00:00Z"}
    - name: readers
      from: [{any: true}]
      operations: [{op: mlflow.read}]
`;

async function run(...verb: string[]): Promise<{ status: number; lines: string[] }> {
  folder ??= mkdtempSync(join(tmpdir(), "countersign-check-"));
  writeFileSync(join(folder, "mesh.yaml"), MESH);
  writeFileSync(join(folder, "policy.yaml"), POLICY);
  let text = "";
  const status = await runVerb([...verb, folder], {
    out: (part) => {
      text += part;
    },
    err: (part) => {
      text += part;
    },
  });
  return { status, lines: text.replaceAll(`${folder}/`, "").trimEnd().split("\n") };
}

test("everything that is probably not meant is said once, with its line", async () => {
  const { status, lines } = await run("check");
  expect(lines.toSorted()).toEqual([
    "3 objects accepted, 0 errors, 4 warnings",
    "warning: policy.yaml:11: AccessPolicy ml/callers: spec.rules[1]: never decides: `everybody` before it matches every call that it matches",
    "warning: policy.yaml:12: AccessPolicy ml/callers: spec.rules[1].from[0].workload.serviceAccounts[0]: no workload that is known now runs as `ml/scorre`; did you mean `ml/scorer`",
    "warning: policy.yaml:14: AccessPolicy ml/callers: spec.rules[1].when.notAfter: `notAfter` has passed, the rule does not match any more",
    "warning: policy.yaml:17: AccessPolicy ml/callers: spec.rules[2].operations[0].op: no pack of its targets defines `mlflow.read`: nothing matches; its targets have `oip-v2`",
  ]);
  expect(status).toBe(0);
});

test("lint, and check with --lint, fail on it", async () => {
  expect((await run("lint")).status).toBe(1);
  expect((await run("check", "--lint")).status).toBe(1);
});
