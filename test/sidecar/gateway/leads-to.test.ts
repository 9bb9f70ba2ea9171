import { describe, expect, test } from "@jest/globals";
import type { ServiceRoute } from "../../../sidecar/core/traffic/route.ts";
import type { MeshEndpoint } from "../../../sidecar/discovery/table.ts";
import { leadsTo } from "../../../sidecar/gateway/leads-to.ts";

const id = (name: string): string => `spiffe://lake.example/ns/ml/sa/${name}/serving/${name}`;
const endpoint = (name: string): MeshEndpoint => ({
  ...{ address: "127.0.0.1", meshPort: 1, spiffeId: id(name), ports: [] },
});
const route = (backends: readonly (string | undefined)[], mirror: string): ServiceRoute =>
  ({
    service: "ml/scorer",
    rules: [
      {
        backends: backends.map((service) => ({ service, port: undefined, weight: 1 })),
        mirrors: [{ service: mirror, port: undefined, share: 1, allMethods: false }],
      },
    ],
  }) as unknown as ServiceRoute; // nothing else of it is read

const TABLE = {
  endpoints: new Map([
    ["ml/scorer", [endpoint("scorer")]],
    ["ml/scorer-v2", [endpoint("scorer-v2")]],
    ["ml/scorer-v3", [endpoint("scorer-v3")]],
    ["ml/other", [endpoint("other")]],
  ]),
  routes: new Map([["ml/scorer", route(["ml/scorer-v2", undefined], "ml/scorer-v3")]]),
};

describe("leadsTo", () => {
  test.each([
    ["its own endpoint", "ml/scorer", "scorer", true],
    ["what its routes send calls to", "ml/scorer", "scorer-v2", true],
    ["not what gets copies", "ml/scorer", "scorer-v3", false],
    ["not another service's", "ml/scorer", "other", false],
    ["not back", "ml/scorer-v2", "scorer", false],
    ["not from a service that is not known", "ml/nobody", "scorer", false],
  ])("%s", (_, service, name, expected) => {
    expect(leadsTo(TABLE, service, id(name))).toBe(expected);
  });

  test("nowhere without a table", () => {
    expect(leadsTo(undefined, "ml/scorer", id("scorer"))).toBe(false);
  });
});
