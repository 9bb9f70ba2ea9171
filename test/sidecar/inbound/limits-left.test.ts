import { describe, expect, test } from "@jest/globals";
import type { LimitKind } from "../../../sidecar/balance/limit-counters.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { limitsLeft } from "../../../sidecar/inbound/limits-left.ts";

type Counter = readonly [policy: string, rule: string, kind: LimitKind, left: number];

// What is read of a policy: its rules, and what they count calls by.
const policies = [
  {
    id: "lab/chat",
    rules: [
      { name: "ask", with: { rateLimit: { key: ["user"] }, tokenLimit: { key: ["user", "target"] } } },
      { name: "free", with: undefined },
    ],
  },
] as unknown as readonly ProgramPolicy[];

const ASK = ["lab/chat", "ask", "user"];
const ASK_TOKENS = ["lab/chat", "ask", "user+target-tokens"];

describe("what is left of limits", () => {
  test.each<{ name: string; counters: readonly Counter[]; requests: number; tokens: number }>([
    { name: "is all of it while nobody calls", counters: [], requests: 1, tokens: 1 },
    {
      name: "is that of the caller that has least",
      counters: [
        ["lab/chat", "ask", "requests", 0.5],
        ["lab/chat", "ask", "requests", 0.25],
        ["lab/chat", "ask", "requests", 0.75],
      ],
      requests: 0.25,
      tokens: 1,
    },
    {
      name: "is counted for requests and tokens apart",
      counters: [
        ["lab/chat", "ask", "tokens", 0],
        ["lab/chat", "ask", "requests", 0.5],
      ],
      requests: 0.5,
      tokens: 0,
    },
    {
      name: "leaves out rules that the table does not have any more",
      counters: [["lab/gone", "ask", "requests", 0]],
      requests: 1,
      tokens: 1,
    },
  ])("$name", ({ counters, requests, tokens }) => {
    expect(limitsLeft(policies, counters)).toEqual([
      [ASK, requests],
      [ASK_TOKENS, tokens],
    ]);
  });
});
