import { expect, test } from "@jest/globals";
import { roleChanges } from "../../../control-plane/tokens/role-changes.ts";

type Held = Parameters<typeof roleChanges>[0];

const held = (roles: object, bindings: object): Held =>
  ({ roles: new Map(Object.entries(roles)), bindings: new Map(Object.entries(bindings)) }) as unknown as Held; // compared as a whole

test("names what was added, changed and removed, and nothing that was only read again", () => {
  const before = held({ ds: { rules: [1] }, old: {} }, { fraud: { subjects: ["a"] }, same: { x: 1 } });
  const now = held({ ds: { rules: [2] } }, { fraud: { subjects: ["b"] }, same: { x: 1 }, new: {} });
  expect(roleChanges(before, now)).toEqual([
    "MeshRole `ds` changed",
    "MeshRole `old` removed",
    "MeshRoleBinding `fraud` changed",
    "MeshRoleBinding `new` added",
  ]);
  expect(roleChanges(now, now)).toEqual([]);
});
