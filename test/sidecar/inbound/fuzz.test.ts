import { expect, test } from "@jest/globals";
import { run as runMeshPort } from "../../fuzz/sidecar/inbound/mesh-port.fuzz.ts";
import { run as runPair } from "../../fuzz/sidecar/inbound/pair.fuzz.ts";

test.each([
  { name: "a pair of sidecars", run: runPair },
  { name: "the mesh port", run: runMeshPort },
])("whatever bytes come to $name, only what is allowed arrives", async ({ run }) => {
  expect((await run({ seconds: 1, seed: 5 })).cases).toBeGreaterThan(0);
});
