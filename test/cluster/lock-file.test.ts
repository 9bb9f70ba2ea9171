// Which folders of node_modules belong to a package.
import { expect, test } from "@jest/globals";
import { packagesOf } from "./lock-file.ts";

const lock = {
  packages: {
    "": { dependencies: { a: "1" } },
    "node_modules/a": { dependencies: { b: "1", "@x/c": "2" } },
    "node_modules/a/node_modules/b": { dependencies: { d: "1" } },
    "node_modules/b": {},
    "node_modules/@x/c": { dependencies: { a: "1", b: "2" } },
    "node_modules/d": {},
    "node_modules/e": {},
  },
};

test("a package has what it needs, from where Node would find it", () => {
  expect([...packagesOf(lock, "a")].sort()).toEqual([
    "node_modules/@x/c",
    "node_modules/a",
    "node_modules/b",
    "node_modules/d",
  ]);
});

test("a package that is not locked is refused", () => {
  expect(() => packagesOf(lock, "z")).toThrow("no `z`");
});
