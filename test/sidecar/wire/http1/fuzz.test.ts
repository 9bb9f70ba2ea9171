import { expect, test } from "@jest/globals";
import { run } from "../../../fuzz/sidecar/wire/http1/parser.fuzz.ts";

test("a short run of the fuzz target finds nothing", async () => {
  expect((await run({ seconds: 0.5, seed: 1 })).cases).toBeGreaterThan(0);
});
