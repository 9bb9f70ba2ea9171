import { describe, expect, test } from "@jest/globals";
import { ChangeActors } from "../../../control-plane/tokens/change-actors.ts";

const BINDING = { kind: "MeshRoleBinding", name: "fraud" };
const value = (group: string, generation = 1) => ({ generation, subjects: [{ group }] });

describe("ChangeActors", () => {
  test("names who asked for exactly this change last, whatever generation it was then", () => {
    const actors = new ChangeActors();
    actors.admitted({ ...BINDING, value: value("ds", 0), actor: "alice" }, 0);
    actors.admitted({ ...BINDING, value: value("other"), actor: "bob" }, 1);
    expect(actors.of("MeshRoleBinding", "fraud", value("ds", 7), 2)).toBe("alice");
    actors.admitted({ ...BINDING, value: value("ds"), actor: "carol" }, 3);
    expect(actors.of("MeshRoleBinding", "fraud", value("ds"), 4)).toBe("carol");
  });

  test.each([
    ["another object", "MeshRoleBinding", "other", value("ds")],
    ["another kind", "MeshRole", "fraud", value("ds")],
    [
      "another content: that write failed, or another replica was asked",
      "MeshRoleBinding",
      "fraud",
      value("x"),
    ],
    ["its removal", "MeshRoleBinding", "fraud", undefined],
  ])("names nobody for %s", (_, kind, name, now) => {
    const actors = new ChangeActors();
    actors.admitted({ ...BINDING, value: value("ds"), actor: "alice" }, 0);
    expect(actors.of(kind, name, now, 1)).toBeUndefined();
  });

  test("names who deleted, and nobody after a minute", () => {
    const actors = new ChangeActors();
    actors.admitted({ ...BINDING, value: undefined, actor: "alice" }, 0);
    expect(actors.of("MeshRoleBinding", "fraud", undefined, 59_999)).toBe("alice");
    expect(actors.of("MeshRoleBinding", "fraud", undefined, 60_000)).toBeUndefined();
  });

  test("keeps so many, and no name without end", () => {
    const actors = new ChangeActors();
    for (let i = 0; i < 2_001; i++)
      actors.admitted({ kind: "MeshRole", name: `r${i}`, value: {}, actor: "a".repeat(1_000) }, 0);
    expect(actors.of("MeshRole", "r0", {}, 1)).toBeUndefined();
    expect(actors.of("MeshRole", "r2000", {}, 1)).toBe("a".repeat(256));
  });
});
