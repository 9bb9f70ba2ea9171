import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { fieldsOf } from "../../../control-plane/cli/answers.ts";
import { checkAuthority, isNearEnd } from "../../../control-plane/cli/check-after.ts";
import { customResources } from "../../../control-plane/cli/check-before.ts";
import {
  checkPods,
  checkPolicies,
  checkSidecars,
  stateOf,
} from "../../../control-plane/cli/check-workloads.ts";
import type { Cluster } from "../../../control-plane/cli/cluster.ts";
import { failed, ok, runChecks, some } from "../../../control-plane/cli/findings.ts";
import { MeshError } from "../../../sidecar/core/runtime/errors.ts";

test("the custom resources that are looked for are those of crds/", () => {
  const plurals = ["crds", "crds/records"].flatMap((folder) =>
    readdirSync(folder)
      .filter((file) => file.endsWith(".yaml"))
      .map((file) => /plural: (\S+)/.exec(readFileSync(join(folder, file), "utf8"))?.[1]),
  );
  expect([...customResources()].sort()).toEqual(plurals.sort());
});

test("what cannot be found out is a finding, a bug is not", async () => {
  const away = () => Promise.reject(new MeshError("io_failed", "away"));
  const results = await runChecks([
    { name: "a", needed: true, run: away },
    { name: "b", needed: false, run: away },
    { name: "c", needed: true, run: async () => [ok("c", "fine"), failed("c", "bad", "do")] },
  ]);
  expect(results.map(({ check, outcome }) => `${check} ${outcome}`)).toEqual([
    ...["a failed", "b warning", "c ok", "c failed"],
  ]);
  const bug = { name: "d", needed: true, run: () => Promise.reject(new TypeError("bug")) };
  await expect(runChecks([bug])).rejects.toThrow("bug");
});

test("five of many are named", () => {
  expect(some(["a", "b"])).toBe("a, b");
  expect(some(["1", "2", "3", "4", "5", "6", "7"])).toBe("1, 2, 3, 4, 5 and 2 more");
});

describe("pods", () => {
  const sidecar = { name: "countersign-proxy" };
  test.each([
    { name: "native sidecar", pod: { spec: { initContainers: [sidecar] } }, state: "meshed" },
    { name: "no sidecar", pod: { spec: { containers: [{ name: "app" }] } }, state: "unmeshed" },
    {
      name: "kept out",
      pod: { metadata: { labels: { "countersign.dev/inject": "disabled" } } },
      state: "aside",
    },
    { name: "ended", pod: { status: { phase: "Failed" } }, state: "aside" },
    { name: "going", pod: { metadata: { deletionTimestamp: "2026-01-01T00:00:00Z" } }, state: "aside" },
    { name: "nothing that is a pod", pod: {}, state: "unmeshed" },
  ])("$name is $state", ({ pod, state }) => {
    expect(stateOf(fieldsOf(pod))).toBe(state);
  });
});

test("a namespace that is labelled in vain is told of", async () => {
  const get = async (path: string, query: Readonly<Record<string, string>>): Promise<unknown> => ({
    items:
      path === "/api/v1/namespaces" && query["labelSelector"]?.includes("notin") === true
        ? [{ metadata: { name: "lab", labels: { "countersign.dev/inject": "true" } } }]
        : [],
  });
  // Only `rest.get` is asked.
  const cluster = { kubernetes: { rest: { get } }, context: "c" } as unknown as Cluster;
  const [first] = await checkPods(cluster, "image");
  expect(first).toMatchObject({ check: "namespace labels", outcome: "warning" });
  expect(first?.detail).toContain("lab (`true`)");
});

describe("the authority", () => {
  const nowMs = Date.parse("2026-11-21T00:00:00Z");
  test.each([
    { days: 60, rotation: null, outcomes: ["ok"] },
    { days: 10, rotation: null, outcomes: ["warning"] },
    { days: 0.5, rotation: null, outcomes: ["failed"] },
    { days: -3, rotation: null, outcomes: ["failed"] },
    { days: 60, rotation: { overdue: true, waiting: 3 }, outcomes: ["warning"] },
    { days: 60, rotation: { overdue: false, waiting: 3 }, outcomes: ["ok"] },
  ])("$days days left, rotation $rotation", ({ days, rotation, outcomes }) => {
    const issuingNotAfter = new Date(nowMs + days * 86_400_000).toISOString();
    const found = checkAuthority(fieldsOf({ issuingNotAfter, rotation }), nowMs);
    expect(found.map(({ outcome }) => outcome)).toEqual(outcomes);
  });

  test("that does not tell is an error", () => {
    expect(() => checkAuthority({}, nowMs)).toThrow("does not tell");
  });
});

test.each([
  { hours: 5, expected: false },
  { hours: 1, expected: false },
  { hours: 0.9, expected: true },
  { hours: -1, expected: true },
])("a certificate of ten hours with $hours left is near its end: $expected", ({ hours, expected }) => {
  const nowMs = Date.parse("2026-11-21T00:00:00Z");
  const at = (ms: number) => new Date(nowMs + ms * 3_600_000).toUTCString();
  expect(isNearEnd({ validFrom: at(hours - 10), validTo: at(hours) }, nowMs)).toBe(expected);
});

describe("sidecars and policies", () => {
  test.each([
    { sidecars: [], outcomes: ["ok"] },
    { sidecars: [{ state: "synced" }], outcomes: ["ok"] },
    { sidecars: [{ state: "stale" }, { state: "disconnected" }], outcomes: ["warning", "warning"] },
    { sidecars: [{ state: "stale", nack: "x" }], outcomes: ["failed"] },
  ])("$sidecars gives $outcomes", ({ sidecars, outcomes }) => {
    expect(checkSidecars({ sidecars }).map(({ outcome }) => outcome)).toEqual(outcomes);
  });

  test("policies that are not accepted fail by name, a pin is worth a word", () => {
    const row = (status: string, message = "") =>
      fieldsOf({
        object: "AccessPolicy/ml/a",
        status: { conditions: [{ type: "Accepted", status, message }] },
      });
    expect(checkPolicies({ pinned: null }, [row("True")])).toEqual([ok("policies", "1 accepted")]);
    const bad = checkPolicies({ pinned: 3 }, [row("False", "spec.x: unknown"), row("True")]);
    expect(bad.map(({ outcome }) => outcome)).toEqual(["failed", "warning"]);
    expect(bad[0]?.detail).toBe("AccessPolicy ml/a is not accepted: spec.x: unknown");
    const many = checkPolicies(
      {},
      Array.from({ length: 14 }, () => row("False", "x")),
    );
    expect(many).toHaveLength(11);
    expect(many[10]?.detail).toBe("4 more are not accepted");
  });
});
