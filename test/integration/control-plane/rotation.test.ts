// Rotation of the WIT key over a running mesh: the bundle reaches sidecars as a resource before the key is used, and
// proofs made with the old and the new key verify throughout.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { verifyWit } from "../../../sidecar/core/identity/token.ts";
import { parseTrustBundle } from "../../../sidecar/core/identity/trust-bundle.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import { must } from "../../fakes/authority.ts";
import { MESH_YAML, policyYaml, TestMesh, type TestSidecar } from "../../fakes/mesh.ts";

const DAY = 86_400_000;
let mesh: TestMesh;
beforeEach(() => {
  mesh = new TestMesh();
  mesh.write("mesh.yaml", MESH_YAML);
  mesh.write("notebooks.yaml", policyYaml("notebooks", "scorer", "notebook"));
});
afterEach(() => mesh.close());

/** Makes every key of the authority older, and the control plane start again with that. */
async function age(days: number): Promise<void> {
  await mesh.stop();
  const file = join(mesh.stateDir, "ca", "authority.json");
  const about = JSON.parse(readFileSync(file, "utf8"));
  for (const key of about.witKeys) key.signsFromMs -= days * DAY;
  writeFileSync(file, JSON.stringify(about));
  await mesh.start(mesh.samePorts());
}

const bundleOf = (sidecar: TestSidecar) => must(parseTrustBundle(sidecar.table.trustBundle));
const accepts = (sidecar: TestSidecar, identity: WorkloadIdentity): boolean =>
  verifyWit(identity.wit, { bundle: bundleOf(sidecar), peerSpiffeId: identity.spiffeId, nowMs: Date.now() })
    .ok;

test("proofs verify before, during and after a rotation, and no revision is spent on it", async () => {
  await mesh.start();
  const notebook = await mesh.sidecar("lab/notebook");
  const scorer = await mesh.sidecar("serving/scorer");
  await scorer.until(({ tables }) => tables.length === 1);
  const old = notebook.identity;
  expect(accepts(scorer, old)).toBe(true);

  await age(29.5);
  await scorer.until((one) => bundleOf(one).sequence === 2);
  expect(bundleOf(scorer).witKeys.size).toBe(2);
  expect(accepts(scorer, old)).toBe(true);
  const between = await mesh.identity("lab/notebook");
  expect(accepts(scorer, between)).toBe(true);

  await age(1.5);
  const renewed = await mesh.identity("lab/notebook");
  const kids = [old, renewed].map(({ wit }) => Buffer.from(wit.split(".")[0] ?? "", "base64url").toString());
  expect(kids[0]).not.toBe(kids[1]);
  for (const identity of [old, between, renewed]) expect(accepts(scorer, identity)).toBe(true);
  const status = await mesh.api("GET", "/v1/status");
  expect(status.body["revision"]).toBe(1);
});

test("a key that nobody signs with any more leaves the bundle of connected sidecars", async () => {
  await mesh.start();
  const scorer = await mesh.sidecar("serving/scorer");
  await age(29.5);
  await scorer.until(({ tables }) => tables.length > 0 && bundleOf(scorer).witKeys.size === 2);
  await age(10);
  await scorer.until((one) => bundleOf(one).witKeys.size === 1);
  expect(accepts(scorer, await mesh.identity("lab/notebook"))).toBe(true);
});
