import { describe, expect, test } from "@jest/globals";
import { createSessionId, GatewayCookies } from "../../../../sidecar/gateway/session/cookies.ts";

const cookies = new GatewayCookies("countersign");
const ID = "A".repeat(43);
const OTHER = "B".repeat(43);

describe("cookies of a request", () => {
  test.each([
    ["none", undefined, { id: undefined, isOdd: false, forwarded: undefined }],
    ["ours alone", `__Host-countersign=${ID}`, { id: ID, isOdd: false, forwarded: undefined }],
    [
      "ours among others",
      `a=1; __Host-countersign=${ID}; b="x"`,
      { id: ID, isOdd: false, forwarded: 'a=1; b="x"' },
    ],
    ["the same twice", `__Host-countersign=${ID}; __Host-countersign=${ID}`, { id: ID, isOdd: false }],
    [
      "two that differ",
      `__Host-countersign=${ID}; a=1; __Host-countersign=${OTHER}`,
      { id: undefined, isOdd: true, forwarded: "a=1" },
    ],
    ["too short", "__Host-countersign=abc", { id: undefined, isOdd: true, forwarded: undefined }],
    ["too long", `__Host-countersign=${ID}A`, { id: undefined, isOdd: true }],
    [
      "with characters that we never give",
      `__Host-countersign=${"A".repeat(42)}+`,
      { id: undefined, isOdd: true },
    ],
    ["quoted", `__Host-countersign="${ID}"`, { id: undefined, isOdd: true }],
    ["without a value", "__Host-countersign", { id: undefined, isOdd: true, forwarded: undefined }],
    ["in other letters", `__host-Countersign=${ID}; a=1`, { id: undefined, isOdd: true, forwarded: "a=1" }],
    [
      "without the prefix",
      `countersign=${ID}`,
      { id: undefined, isOdd: false, forwarded: `countersign=${ID}` },
    ],
    [
      "whose name only begins like ours",
      `__Host-countersigned=${ID}`,
      { id: undefined, isOdd: false, forwarded: `__Host-countersigned=${ID}` },
    ],
    ["with spaces", `  __Host-countersign = ${ID} ;a=1;;`, { id: ID, isOdd: false, forwarded: "a=1" }],
    // Sent so by a browser that does not see the prefix; whoever trims it away takes a sibling host's cookie for ours.
    ...["\u00a0", "\ufeff", "\u0085", "\u2000", "\u000b"].map(
      (space) =>
        [
          `behind ${escape(space)}`,
          `${space}__Host-countersign=${ID}`,
          { id: undefined, isOdd: false, forwarded: `${space}__Host-countersign=${ID}` },
        ] as const,
    ),
    [
      "with a value behind a space of no header",
      `__Host-countersign=\u00a0${ID}`,
      { id: undefined, isOdd: true },
    ],
    ["more than anybody needs", Array(300).fill("a=1").join(";"), { id: undefined, isOdd: true }],
  ])("%s", (_name, field, expected) => {
    expect(cookies.read(field)).toMatchObject(expected);
  });

  test("what a sign-in under way keeps is ours too", () => {
    const reading = cookies.read(`__Host-countersign-login-x=sealed; a=1; __Host-countersign=${ID}`);
    expect(reading).toMatchObject({ id: ID, isOdd: false, forwarded: "a=1" });
    expect([...reading.own]).toEqual([["login-x", "sealed"]]);
  });

  test("a cookie of a sign-in that comes twice is odd, and of two that differ neither counts", () => {
    const reading = cookies.read("__Host-countersign-login-x=1; __Host-countersign-login-x=2");
    expect(reading).toMatchObject({ isOdd: true });
    expect(reading.own.get("login-x")).toBe("");
  });
});

test("what is set comes back, and is bound to the host, TLS and our scripts' absence", () => {
  const id = createSessionId();
  const set = cookies.setSession(id);
  expect(set).toBe(`__Host-countersign=${id}; Path=/; Secure; HttpOnly; SameSite=Lax`);
  expect(cookies.read(set.split(";")[0])).toMatchObject({ id });
  expect(cookies.clearSession()).toContain("Max-Age=0");
  expect(cookies.set("login-a", "b", 600)).toBe(
    "__Host-countersign-login-a=b; Path=/; Max-Age=600; Secure; HttpOnly; SameSite=Lax",
  );
});

test("no two ids are alike", () => {
  const ids = new Set(Array.from({ length: 1_000 }, () => createSessionId()));
  expect(ids.size).toBe(1_000);
  for (const id of ids) expect(id).toMatch(/^[A-Za-z0-9_-]{43}$/);
});
