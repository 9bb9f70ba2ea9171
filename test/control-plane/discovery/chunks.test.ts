import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { encodeDelta } from "../../../control-plane/discovery/chunks.ts";
import { tableDelta } from "../../../control-plane/discovery/delta.ts";
import { buildPack, createTable } from "../../../control-plane/resources/build.ts";
import type { ControlPlaneMessage__Output } from "../../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import { messageCodec } from "../../../proto/load.ts";

const codec = messageCodec<object, ControlPlaneMessage__Output>("countersign.mesh.v1.ControlPlaneMessage");

test("chunks hold every resource once, in order, each below the limit; the last alone carries the digest", () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.integer({ min: 0, max: 2_000 }), { maxLength: 30 }),
      fc.integer({ min: 3_000, max: 10_000 }),
      (sizes, limit) => {
        const table = createTable(sizes.map((size) => buildPack(`p${size}`, "x".repeat(size))));
        const head = { nonce: 7, revision: 1042, base: "", digest: table.digest };
        const chunks = encodeDelta(head, tableDelta(undefined, table), limit);
        const decoded = chunks.map((bytes) => {
          expect(bytes.length).toBeLessThanOrEqual(limit);
          return codec.decode(bytes).delta;
        });
        expect(decoded.flatMap((delta) => delta?.upsert.map(({ name }) => name))).toEqual(
          sizes.map((size) => `p${size}`),
        );
        decoded.forEach((delta, at) => {
          const last = at === decoded.length - 1;
          expect(delta).toMatchObject({ nonce: 7, revision: 1042, last });
          expect(delta?.digest.toString("hex")).toBe(last ? table.digest : "");
        });
      },
    ),
    { numRuns: 50 },
  );
});

test("removals are split too", () => {
  const remove = Array.from({ length: 12_000 }, (_, at) => ({ type: "service", name: `ns/s${at}` }));
  const chunks = encodeDelta({ nonce: 1, revision: 2, base: "00", digest: "11" }, { upsert: [], remove });
  expect(chunks).toHaveLength(3);
  expect(chunks.flatMap((bytes) => codec.decode(bytes).delta?.remove ?? [])).toHaveLength(12_000);
});
