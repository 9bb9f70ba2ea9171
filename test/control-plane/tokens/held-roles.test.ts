import { describe, expect, test } from "@jest/globals";
import { HeldRoles } from "../../../control-plane/tokens/held-roles.ts";
import type { Person } from "../../../control-plane/tokens/session-handle.ts";

const person = (id: string): Person => ({
  ...{ idp: "okta", id, type: "person", email: undefined, username: undefined },
  ...{ groups: [], claims: {}, amr: [], acr: undefined, authTime: undefined },
});

describe("held roles", () => {
  test("tells who lost a role, once, and not who won one", () => {
    const held = new HeldRoles();
    held.minted(person("alice"), ["@b", "ds"], 1_000);
    held.minted(person("bob"), ["ds"], 1_000);
    held.minted(person("nobody"), [], 1_000);
    const now = ({ id }: Person) => (id === "alice" ? ["ds"] : ["admin", "ds"]);
    expect(held.losses(now, 0)).toEqual([{ user: "okta|alice", lost: ["@b"] }]);
    expect(held.losses(now, 0)).toEqual([]);
    expect(held.size).toBe(1);
  });

  test("forgets tokens that have ended, and counts the newest of a user", () => {
    const held = new HeldRoles();
    held.minted(person("alice"), ["ds"], 1_000);
    held.minted(person("alice"), ["ds"], 2_000);
    held.minted(person("bob"), ["ds"], 1_000);
    expect(held.losses(() => [], 1_000)).toEqual([{ user: "okta|alice", lost: ["ds"] }]);
    expect(held.size).toBe(0);
  });

  test("keeps a bounded number of users", () => {
    const held = new HeldRoles();
    for (let i = 0; i < 50_010; i++) held.minted(person(`u${i}`), ["ds"], 1_000);
    expect(held.size).toBe(50_000);
  });
});
