import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { runVerb } from "../../../control-plane/cli/verbs.ts";

const OBJECTS = `
{apiVersion: countersign.dev/v1alpha1, kind: IdentityProvider, metadata: {name: okta}, spec: {type: oidc, issuer: "https://okta.example", clientID: c}}
---
{apiVersion: countersign.dev/v1alpha1, kind: Workload, metadata: {name: scorer, namespace: ml}, spec: {kind: serving, serviceAccount: s, addresses: [127.0.0.1], service: scorer, ports: [{port: 8080, packs: [mlflow-scoring]}]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: Workload, metadata: {name: scorer, namespace: ops}, spec: {kind: serving, serviceAccount: s, addresses: [127.0.0.1], service: scorer, ports: [{port: 8080, packs: [mlflow-scoring]}]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: MeshRole, metadata: {name: querier}, spec: {rules: [{operations: [{op: serving.invoke}], targets: [{kinds: [serving]}]}]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: MeshRoleBinding, metadata: {name: scientists}, spec: {roles: [ds, querier], namespaces: [ml], subjects: [{idp: okta, group: science}]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: MeshRoleBinding, metadata: {name: contractors}, spec: {roles: [contractor], subjects: [{idp: okta, claim: "claims.contract == true"}]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: AccessPolicy, metadata: {name: callers, namespace: ml}, spec: {action: Allow, targets: [{names: [scorer]}], rules: [{name: people, from: [{workload: {kinds: [notebook], namespaces: [dev]}, user: {roles: [ds]}}], operations: [{op: serving.metadata}], when: {authn: {maxAge: 8h}}}, {name: machines, from: [{workload: {kinds: [job], namespaces: [dev]}}], operations: [{any: true}]}]}}
---
{apiVersion: countersign.dev/v1alpha1, kind: ClusterAccessPolicy, metadata: {name: no-contractors}, spec: {action: Deny, rules: [{name: r, from: [{user: {roles: [contractor]}}]}]}}
`;

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "countersign-roles-"));
  writeFileSync(join(folder, "all.yaml"), OBJECTS);
});
afterAll(() => rmSync(folder, { recursive: true }));

async function roles(...args: string[]): Promise<{ status: number; text: string; errors: string }> {
  const written = { text: "", errors: "" };
  const status = await runVerb(["roles", ...args, "--config-dir", folder], {
    out: (text) => {
      written.text += text;
    },
    err: (text) => {
      written.errors += text;
    },
  });
  return { status, ...written };
}

describe("countersign roles", () => {
  test("shows every way from a group to a permission, where each holds", async () => {
    const { status, text } = await roles("okta|alice", "--group", "science");
    expect(status).toBe(0);
    expect(text).toMatch(/^ds +scientists +group `science` of okta +ml$/m);
    expect(text).toContain(
      "Allow serving.metadata\n    on      ml/scorer\n    by      policy ml/callers/people, because of role ds\n",
    );
    expect(text).toContain(
      "Allow serving.invoke\n    on      ml/scorer\n    by      role querier/rule-0, because of binding scientists\n",
    );
    expect(text).toContain("only    signed in with maxAge 480m");
    expect(text).not.toContain("machines");
  });

  test("shows what is denied, too, and with --all what holds for everybody", async () => {
    const { text } = await roles("okta|bob", "--claim", "contract=true", "--all", "--group", "none");
    expect(text).toContain("Deny any operation\n    on      ml/scorer, ops/scorer\n");
    expect(text).toContain("because of role contractor");
    expect(text).toContain("because of everybody");
  });

  test("says which roles groups may give while they are not known, and that nobody signs in so", async () => {
    const { status, text } = await roles("entra|x");
    expect(status).toBe(1);
    expect(text).toContain("no IdentityProvider is named `entra`");
    expect((await roles("okta|x")).text).toContain("groups may give besides: ds, querier;");
  });

  test("answers in JSON", async () => {
    const { text } = await roles("okta|alice", "--group", "science", "--json");
    expect(JSON.parse(text)).toMatchObject({
      user: "okta|alice",
      roles: ["@scientists", "ds", "querier"],
      unknown: [],
      permissions: [{ policy: "policy ml/callers" }, { policy: "role querier", targets: ["ml/scorer"] }],
    });
  });

  test.each([
    [["alice"], "no user"],
    [["okta|"], "no user"],
    [["okta|a", "--claim", "x"], "name=value"],
    [["okta|a", "--type", "robot"], "servicePrincipal"],
  ])("refuses %j", async (args, says) => {
    const { status, errors } = await roles(...args);
    expect(status).toBe(2);
    expect(errors).toContain(says);
  });
});
