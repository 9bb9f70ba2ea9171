// The fuzz targets of this folder, for a moment each; `npm run fuzz` runs them long.
import { expect, test } from "@jest/globals";
import * as connection from "../../../fuzz/sidecar/wire/http2/connection.fuzz.ts";
import * as hpack from "../../../fuzz/sidecar/wire/http2/hpack.fuzz.ts";

test.each([
  { name: "mutated sessions", target: connection },
  { name: "mutated header blocks", target: hpack },
])("survives $name", async ({ target }) => {
  expect((await target.run({ seconds: 0.5, seed: 1 })).cases).toBeGreaterThan(10);
});
