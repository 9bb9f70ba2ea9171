import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { openHistory } from "../../../control-plane/management/history.ts";
import {
  fieldDiff,
  Overlay,
  objectText,
  parseObject,
  restoredContent,
} from "../../../control-plane/management/revision-content.ts";
import type { AccessPolicy } from "../../../control-plane/policy/access-policy.ts";
import type { ClusterState } from "../../../control-plane/sources/store.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { CONFIG, clusterState, workload } from "../../fakes/resources.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cs-history-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

const policy = (name: string, generation = 1): AccessPolicy => ({
  kind: "AccessPolicy",
  name,
  namespace: "ns",
  generation,
  action: "Allow",
  enforcement: "Enforce",
  targets: [{ selector: { matchLabels: new Map([["a", "b"]]) } }],
  rules: [
    { name: "r", from: [{ any: true }], with: { headers: { set: new Map([["x-a", "1"]]), remove: [] } } },
  ],
});
const withPolicies = (...policies: AccessPolicy[]): ClusterState =>
  clusterState([workload("a")], {
    policies: new Map(policies.map((one) => [`AccessPolicy/ns/${one.name}`, one])),
  });
const edit = { reason: "edit", applied: true } as const;

describe("history", () => {
  test("numbers revisions, keeps them over a restart, and says what changed", async () => {
    const history = await openHistory(dir, silentLogger);
    expect(history.record(withPolicies(policy("p")), { ...edit, reason: "start" }, 1000)).toMatchObject({
      sequence: 1,
      changeCount: 3,
    });
    expect(history.record(withPolicies(policy("p", 2), policy("q")), edit, 2000).changes).toEqual([
      { object: "AccessPolicy/ns/p", change: "changed" },
      { object: "AccessPolicy/ns/q", change: "added" },
    ]);
    await history.flush();
    const again = await openHistory(dir, silentLogger);
    expect(again.list()).toEqual(history.list());
    expect(again.isUnchanged(withPolicies(policy("p", 2), policy("q")))).toBe(true);
    expect(again.isUnchanged(withPolicies(policy("p", 2)))).toBe(false);
    expect(again.record(withPolicies(), edit, 3000).sequence).toBe(3);
    expect(await again.diff(1, 2)).toMatchObject([
      { object: "AccessPolicy/ns/p", fields: [{ path: "generation", from: 1, to: 2 }] },
      { object: "AccessPolicy/ns/q", change: "added" },
    ]);
  });

  test("gives back equal objects, and the very same where nothing changed", async () => {
    const history = await openHistory(dir, silentLogger);
    const state = withPolicies(policy("p"));
    history.record(state, edit, 1000);
    const live = withPolicies(state.policies.get("AccessPolicy/ns/p")!, policy("q"));
    const objects = await history.objects(1, live);
    expect(objects.get("AccessPolicy/ns/p")).toBe(state.policies.get("AccessPolicy/ns/p"));
    const cold = await (await openHistory(dir, silentLogger)).objects(1);
    expect(objectText(cold.get("AccessPolicy/ns/p") as object)).toBe(objectText(policy("p")));
    expect(cold.get("MeshConfig/default")).toEqual(CONFIG);
    await expect(history.objects(7)).rejects.toMatchObject({ code: "not_found" });
    await expect(history.objects(0)).rejects.toMatchObject({ code: "not_found" });
  });

  test("keeps the last revisions, their objects, and the one it is pinned to", async () => {
    const history = await openHistory(dir, silentLogger, 3);
    history.record(withPolicies(policy("p", 1)), edit, 1);
    await history.flush();
    await history.pin(1);
    for (let at = 2; at <= 7; at++) history.record(withPolicies(policy("p", at)), edit, at);
    await history.flush();
    const files = readdirSync(join(dir, "revisions")).filter((name) => /^\d/.test(name));
    expect(files).toEqual(["0000000001.json", "0000000005.json", "0000000006.json", "0000000007.json"]);
    expect(readdirSync(join(dir, "revisions", "objects")).length).toBeLessThan(8);
    const again = await openHistory(dir, silentLogger, 3);
    expect(again.pinned).toBe(1);
    expect(again.lastSequence).toBe(7);
    expect((await again.objects(1)).get("AccessPolicy/ns/p")).toMatchObject({ generation: 1 });
  });

  test("a damaged revision is skipped and its number not used again; a damaged pin stops the start", async () => {
    const history = await openHistory(dir, silentLogger);
    history.record(withPolicies(policy("p")), edit, 1);
    await history.flush();
    writeFileSync(join(dir, "revisions", "0000000002.json"), "{");
    const again = await openHistory(dir, silentLogger);
    expect(again.lastSequence).toBe(2);
    await expect(again.objects(2)).rejects.toMatchObject({ code: "io_failed" });
    writeFileSync(join(dir, "revisions", "pin.json"), "x");
    await expect(openHistory(dir, silentLogger)).rejects.toMatchObject({ code: "bad_config" });
  });
});

describe("overlay", () => {
  test("restores policies and configuration but never whom to trust, grants or where workloads are", async () => {
    const history = await openHistory(dir, silentLogger);
    const then = {
      ...withPolicies(policy("p")),
      config: { ...CONFIG, trustDomain: "old.example", maxHops: 2, externalRoots: "withdrawn" },
    };
    history.record(then, edit, 1);
    const grant = { name: "g" } as never;
    const now = {
      ...clusterState([workload("a", "ns", { addresses: ["10.0.0.9"], ports: [] }), workload("b")]),
      grants: new Map([["ns/g", grant]]),
    };
    const overlay = new Overlay(restoredContent(await history.objects(1, now)));
    const merged = overlay.apply(now);
    expect(merged.config).toMatchObject({ trustDomain: "test.example", maxHops: 2 });
    expect(merged.config.externalRoots).toBeUndefined();
    expect([...merged.policies.keys()]).toEqual(["AccessPolicy/ns/p"]);
    expect(merged.grants).toBe(now.grants);
    expect(merged.workloads.get("ns/a")).toMatchObject({ addresses: ["10.0.0.9"], ports: [{ port: 8080 }] });
    expect(merged.workloads.get("ns/b")).toBe(now.workloads.get("ns/b"));
    const next = overlay.apply({ ...now });
    expect(next.workloads).toBe(merged.workloads);
    expect(next.policies).toBe(merged.policies);
    expect(next.config).toBe(merged.config);
  });

  test("text of objects does not depend on the order of names, and survives the way back", () => {
    expect(objectText({ b: 1, a: new Map([["x", [1, { c: 2 }]]]) })).toBe(
      objectText({ a: new Map([["x", [1, { c: 2 }]]]), b: 1 }),
    );
    expect(parseObject(objectText(policy("p")))).toEqual(policy("p"));
  });

  test("field diff names paths", () => {
    expect(fieldDiff({ rules: [{ op: "a" }], x: 1 }, { rules: [{ op: "b" }], y: 2 })).toEqual([
      { path: "rules[0].op", from: "a", to: "b" },
      { path: "x", from: 1, to: undefined },
      { path: "y", from: undefined, to: 2 },
    ]);
  });
});
