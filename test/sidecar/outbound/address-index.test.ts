import { describe, expect, test } from "@jest/globals";
import type { MeshEndpoint, MeshService, SidecarTable } from "../../../sidecar/discovery/table.ts";
import { addressIndex, addressKey } from "../../../sidecar/outbound/address-index.ts";

const http = (port: number, targetPort?: number) => ({
  port,
  protocol: "http" as const,
  packs: [],
  ...(targetPort === undefined ? {} : { targetPort }),
});

function tableOf(
  services: readonly (MeshService & { readonly endpoints: readonly MeshEndpoint[] })[],
): SidecarTable {
  // The index looks at nothing else.
  return {
    services: new Map(services.map((service) => [service.id, service])),
    endpoints: new Map(services.map(({ id, endpoints }) => [id, endpoints])),
  } as unknown as SidecarTable;
}

const endpoint = (address: string, ...ports: number[]): MeshEndpoint => ({
  address,
  meshPort: 16_008,
  spiffeId: `spiffe://td/ns/ml/sa/default/serving/${address}`,
  ports: ports.map((port) => http(port)),
});

describe("addressIndex", () => {
  const index = addressIndex(
    tableOf([
      {
        id: "ml/scorer",
        hosts: ["scorer.ml"],
        addresses: ["10.96.0.7", "FD00:0::7"],
        ports: [http(80, 8080)],
        endpoints: [endpoint("10.1.0.1", 8080, 9090), endpoint("10.1.0.2", 8080)],
      },
      {
        id: "ml/ring",
        hosts: ["ring.ml"],
        addresses: [],
        ports: [http(8080)],
        endpoints: [endpoint("10.1.0.1", 8080), endpoint("fd01::0:5", 7000)],
      },
      {
        id: "ml/default:job:alone",
        hosts: [],
        addresses: [],
        ports: [http(7077)],
        endpoints: [endpoint("10.1.0.9", 7077)],
      },
    ]),
  );
  const at = (address: string, port: number) => index.get(addressKey(address, port));

  test.each([
    { name: "a cluster IP", address: "10.96.0.7", port: 80, service: "ml/scorer", target: 8080 },
    {
      name: "one of IPv6, however it is written",
      address: "fd00::7",
      port: 80,
      service: "ml/scorer",
      target: 8080,
    },
  ])("$name means the service, and the port behind it", ({ address, port, service, target }) => {
    expect(at(address, port)).toMatchObject({ service: { id: service }, port: { targetPort: target } });
    expect(at(address, port)?.endpoint).toBeUndefined();
  });

  test.each([
    { name: "of a headless Service", address: "fd01::5", port: 7000, service: "ml/ring" },
    { name: "of several Services", address: "10.1.0.1", port: 8080, service: "ml/scorer" },
    { name: "by a port that no Service names", address: "10.1.0.1", port: 9090, service: "ml/scorer" },
    { name: "that no Service selects", address: "10.1.0.9", port: 7077, service: "ml/default:job:alone" },
  ])("a pod $name means that pod alone", ({ address, port, service }) => {
    const found = at(address, port);
    expect(found).toMatchObject({ service: { id: service }, port: { port } });
    expect(addressKey(found?.endpoint?.address ?? "", 0)).toBe(addressKey(address, 0));
  });

  test.each([
    { name: "the port of the pods at a cluster IP", address: "10.96.0.7", port: 8080 },
    { name: "the port of the Service at a pod", address: "10.1.0.2", port: 80 },
    { name: "an address nobody has", address: "10.1.0.3", port: 8080 },
  ])("$name means nothing", ({ address, port }) => {
    expect(at(address, port)).toBeUndefined();
  });
});
