import { describe, expect, test } from "@jest/globals";
import type { WinningRule } from "../../../sidecar/core/policy/decide.ts";
import { changeHeaders } from "../../../sidecar/inbound/header-changes.ts";

const winner = (
  policy: string,
  set: Record<string, string>,
  remove: readonly string[] = [],
): WinningRule => ({
  policy,
  policyName: policy,
  rule: "r",
  ruleIndex: 0,
  with: { headers: { set: new Map(Object.entries(set)), remove } },
});

describe("changeHeaders", () => {
  const lines = "host: a\r\nx-team: mine\r\nx_team: other\r\n";
  test.each([
    { name: "nothing without winners", winners: [], want: lines },
    {
      name: "a field that is set, in every spelling",
      winners: [winner("a", { "x-team": "1" })],
      want: "host: a\r\nx-team: 1\r\n",
    },
    { name: "a field that is removed", winners: [winner("a", {}, ["x-team"])], want: "host: a\r\n" },
    {
      name: "setting before removing in one rule",
      winners: [winner("a", { "x-team": "1" }, ["x-team"])],
      want: "host: a\r\nx-team: 1\r\n",
    },
    {
      name: "the first of two that set",
      winners: [winner("a", { "x-team": "1" }), winner("b", { x_team: "2", "x-b": "3" })],
      want: "host: a\r\nx-team: 1\r\nx-b: 3\r\n",
    },
    {
      name: "the first, which removes, before the second, which sets",
      winners: [winner("a", {}, ["x-team"]), winner("b", { "x-team": "2" })],
      want: "host: a\r\n",
    },
    {
      name: "the first, which sets, before the second, which removes",
      winners: [winner("a", { "x-team": "1" }), winner("b", {}, ["x-team"])],
      want: "host: a\r\nx-team: 1\r\n",
    },
  ])("applies $name", ({ winners, want }) => {
    expect(changeHeaders(lines, winners)).toBe(want);
  });
});
