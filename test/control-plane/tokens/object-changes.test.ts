import { expect, test } from "@jest/globals";
import { objectChanges } from "../../../control-plane/tokens/object-changes.ts";

type Held = Parameters<typeof objectChanges>[0];

const held = (roles: object, bindings: object, policies: object): Held =>
  ({
    roles: new Map(Object.entries(roles)),
    bindings: new Map(Object.entries(bindings)),
    policies: new Map(Object.entries(policies)),
  }) as unknown as Held; // compared as a whole

test("names what was added, changed and removed, and nothing that was only read again", () => {
  const before = held(
    { ds: { rules: [1] }, old: {} },
    { fraud: { subjects: ["a"] }, same: { x: 1 } },
    { "AccessPolicy/ml/p": { rules: [] }, "ClusterAccessPolicy/all": { rules: [1] } },
  );
  const now = held(
    { ds: { rules: [2] } },
    { fraud: { subjects: ["b"] }, same: { x: 1 }, new: {} },
    { "AccessPolicy/ml/p": { rules: [] }, "ClusterAccessPolicy/all": { rules: [2] } },
  );
  expect(objectChanges(before, now)).toEqual([
    { action: "roles.change", kind: "MeshRole", name: "ds", what: "changed", value: { rules: [2] } },
    { action: "roles.change", kind: "MeshRole", name: "old", what: "removed", value: undefined },
    {
      action: "roles.change",
      kind: "MeshRoleBinding",
      name: "fraud",
      what: "changed",
      value: { subjects: ["b"] },
    },
    { action: "roles.change", kind: "MeshRoleBinding", name: "new", what: "added", value: {} },
    {
      action: "policies.change",
      kind: "ClusterAccessPolicy",
      name: "all",
      what: "changed",
      value: { rules: [2] },
    },
  ]);
  expect(objectChanges(now, now)).toEqual([]);
});
