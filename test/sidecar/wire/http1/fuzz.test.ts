// The fuzz targets of this folder, for a moment each; `npm run fuzz` runs them long.
import { expect, test } from "@jest/globals";
import * as bytes from "../../../fuzz/sidecar/wire/http1/bytes.fuzz.ts";
import * as chunked from "../../../fuzz/sidecar/wire/http1/chunked.fuzz.ts";
import * as parser from "../../../fuzz/sidecar/wire/http1/parser.fuzz.ts";

test.each([
  { name: "messages with mutations", target: parser },
  { name: "hostile bytes", target: bytes },
  { name: "chunked bodies beside another reader", target: chunked },
])("a short run finds nothing in $name", async ({ target }) => {
  expect((await target.run({ seconds: 0.5, seed: 1 })).cases).toBeGreaterThan(0);
});
