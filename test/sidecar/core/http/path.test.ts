import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  foldCase,
  normalizePath,
  splitTarget,
  withoutTrailingSlash,
} from "../../../../sidecar/core/http/path.ts";
import { run } from "../../../fuzz/sidecar/core/http/path.fuzz.ts";

const accepted: readonly (readonly [raw: string, path: string])[] = [
  ["/", "/"],
  ["/a", "/a"],
  ["/a/", "/a/"],
  ["/v2/models/m/infer", "/v2/models/m/infer"],
  ["/v1/models/m:predict", "/v1/models/m:predict"],
  ["/V2/Models", "/V2/Models"],
  ["/a.b/.hidden/c..d", "/a.b/.hidden/c..d"],
  ["/a./b..", "/a./b.."],
  ["/...", "/..."],
  ["/a%20b", "/a b"],
  ["/%41%62", "/Ab"],
  ["/%7Euser", "/~user"],
  ["/caf%C3%A9", "/café"],
  ["/%F0%9F%98%80", "/😀"],
  ["/a%2Eb", "/a.b"],
  ["/%2e%2e%2e", "/..."],
  ["/a+b", "/a+b"],
  ["/a%2Bb", "/a+b"],
  ["/a!$&'()*,:=@b", "/a!$&'()*,:=@b"],
  ["/a|b{c}", "/a|b{c}"],
  ["*", "*"],
];

const refused: readonly string[] = [
  "",
  "a",
  "http://x/a",
  "//",
  "//a",
  "/a//b",
  "/a//",
  "/.",
  "/..",
  "/./a",
  "/../a",
  "/a/.",
  "/a/..",
  "/a/./b",
  "/a/../b",
  "/v2/models/x/../fraud-scorer/infer",
  "/%2e",
  "/%2E%2E/a",
  "/%2e%2e",
  "/.%2e/a",
  "/%2e./a",
  "/a/%2e%2E/b",
  "/a%2Fb",
  "/a%2fb",
  "/fraud%2Fscorer",
  "/%2f",
  "/a\\b",
  "/a%5Cb",
  "/a%5cb",
  "/..%5c..",
  "/a%00b",
  "/%00",
  "/a%0Ab",
  "/a%0d%0ax",
  "/a%1fb",
  "/a%7Fb",
  "/a%C2%85b",
  "/a%3Fb",
  "/a%23b",
  "/a#b",
  "/a?b",
  "/a;b",
  "/a;x=1/b",
  "/a%3Bb",
  "/a%3bx=1",
  "/..;/a",
  "/a%25b",
  "/%252e%252e/a",
  "/%252F",
  "/%",
  "/a%",
  "/a%2",
  "/a%zz",
  "/a%2g",
  "/%u002e%u002e/a",
  "/%-1",
  "/% 1",
  "/%c0%ae%c0%ae/a",
  "/%c0%af",
  "/%e0%80%af",
  "/%f0%80%80%af",
  "/%C3",
  "/%80",
  "/%ff",
  "/%ed%a0%80",
  "/%f4%90%80%80",
  "/a b",
  "/a\tb",
  "/a\u0000b",
  "/a\u007fb",
  "/caf\u00c3\u00a9",
  "/\u00e9",
  "/a\r\nb",
];

describe("normalizePath", () => {
  test.each(accepted)("accepts %j as %j", (raw, path) => {
    expect(normalizePath(raw)).toMatchObject({ ok: true, value: { path, looseFrom: -1 } });
  });

  test.each(refused)("refuses %j", (raw) => {
    expect(normalizePath(raw).ok).toBe(false);
    if (raw !== "/a%25b" && raw !== "/a%23b" && raw !== "/a%3Bb" && raw !== "/a%3bx=1")
      expect(normalizePath(raw, true).ok).toBe(false);
  });

  test.each([
    ["/files/100%25", "/files/100%", 1],
    ["/files/a%23b%3Bc/d", "/files/a#b;c/d", 1],
    ["/f/a/b%3b", "/f/a/b;", 2],
  ])("lets file names carry what a tail may have: %j", (raw, path, looseFrom) => {
    expect(normalizePath(raw, true)).toMatchObject({ ok: true, value: { path, looseFrom } });
  });

  test("says what is wrong in one line without control characters", () => {
    for (const raw of refused) {
      const result = normalizePath(raw);
      expect(result.ok ? "" : result.error).toMatch(/^[\x20-\x7e]+$/);
    }
  });

  test("never throws, and what it accepts has no dot, empty or separator-bearing segment", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(..."/.%2eEfF5cC0aA;?#\\ab\u0000\u00e9:~ ") }),
        fc.boolean(),
        (text, loose) => {
          const result = normalizePath(`/${text}`, loose);
          if (!result.ok) return;
          for (const [at, segment] of result.value.segments.entries()) {
            expect(segment === "." || segment === "..").toBe(false);
            if (at < result.value.segments.length - 1) expect(segment).not.toBe("");
            expect(segment).not.toMatch(loose ? /[/\\?\u0000-\u001f]/ : /[/\\?#%;\u0000-\u001f]/);
          }
        },
      ),
    );
  });

  test("decodes what encodeURIComponent encoded, once", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", minLength: 1 }), (text) => {
        const result = normalizePath(`/${encodeURIComponent(text.toWellFormed())}`);
        if (result.ok) expect(result.value.segments).toEqual([text.toWellFormed()]);
      }),
    );
  });

  test("the fuzz target runs", async () => {
    expect((await run({ seconds: 0.2, seed: 7 })).cases).toBeGreaterThan(0);
  });
});

describe("folding", () => {
  test.each([
    ["ABC", "abc"],
    ["\u212A", "k"],
    ["\u017F", "s"],
    ["É", "é"],
  ])("%j folds to %j", (text, folded) => {
    expect(foldCase(text)).toBe(folded);
  });

  test("removes one trailing slash, never the root", () => {
    expect(["/", "/a/", "/a"].map(withoutTrailingSlash)).toEqual(["/", "/a", "/a"]);
  });

  test("splits at the first question mark", () => {
    expect(splitTarget("/a?b?c")).toEqual({ path: "/a", query: "b?c" });
    expect(splitTarget("/a")).toEqual({ path: "/a", query: undefined });
    expect(splitTarget("/a?")).toEqual({ path: "/a", query: "" });
  });
});
