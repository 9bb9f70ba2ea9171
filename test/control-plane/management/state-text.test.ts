import { expect, test } from "@jest/globals";
import { decodeValue } from "../../../control-plane/management/revision-content.ts";
import { replaceMaps, stateText } from "../../../control-plane/management/state-text.ts";
import { EMPTY_STATE } from "../../../control-plane/sources/cluster-state.ts";
import { readDirectory } from "../../../control-plane/sources/directory.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";

const { state } = readDirectory("crds/examples", loadSchemas());

test.each([
  { name: "examples", value: state },
  { name: "nothing", value: EMPTY_STATE },
  { name: "a pin", value: { pinned: 3, none: undefined, null: null, ...EMPTY_STATE } },
  { name: "odd keys", value: { ...EMPTY_STATE, namespaces: new Map([['a"\\\n', new Map([["x", "y"]])]]) } },
])("pieces join to the document ($name), in both forms", ({ value }) => {
  const plain: unknown = JSON.parse([...stateText(value, "plain")].join(""));
  expect(plain).toEqual(JSON.parse(JSON.stringify(value, replaceMaps)));
  const exact = decodeValue(JSON.parse([...stateText(value, "exact")].join("")));
  expect(exact).toEqual({ state: value });
});

test("no piece is more than one object", () => {
  const largest = Math.max(...[...stateText(state, "exact")].map((piece) => piece.length));
  expect(largest).toBeLessThan(JSON.stringify(state, replaceMaps).length / 2);
});
