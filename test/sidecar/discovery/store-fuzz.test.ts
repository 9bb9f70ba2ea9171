import { expect, test } from "@jest/globals";
import { run } from "../../fuzz/sidecar/discovery/store.fuzz.ts";

test("no bytes bring the store down or put anything in force that was not announced", async () => {
  expect((await run({ seconds: 0.8, seed: 1 })).cases).toBeGreaterThan(100);
});
