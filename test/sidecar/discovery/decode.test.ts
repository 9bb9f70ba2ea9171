import { describe, expect, test } from "@jest/globals";
import { messageCodec } from "../../../proto/load.ts";
import type { WorkloadProgram } from "../../../sidecar/core/policy/rule.ts";
import { encodeProgram } from "../../../sidecar/core/policy/wire.ts";
import { decodeResource } from "../../../sidecar/discovery/decode.ts";

const service = messageCodec<object, object>("countersign.mesh.v1.Service");

describe("a host outside the mesh", () => {
  const external = messageCodec<object, object>("countersign.mesh.v1.External");
  const program: WorkloadProgram = {
    id: "external:lab/out",
    spiffeId: "",
    kind: "external",
    name: "out",
    namespace: "lab",
    labels: new Map(),
    ports: [{ port: 8001, protocol: "http", packs: [] }],
    defaultAction: "Deny",
    maxHops: 5,
    trustDomain: "corp.example",
    policies: [],
    features: [],
  };
  const decode = (plaintext: string) =>
    decodeResource(
      "external",
      "lab/out",
      external.encode({ id: "lab/out", hosts: ["a.example"], program: encodeProgram(program), plaintext }),
    );

  test("is spoken to over TLS, or in plaintext that is known", () => {
    const decoded = decode("");
    expect(decoded).toMatchObject({ ok: true, value: { value: { hosts: ["a.example"] } } });
    expect(JSON.stringify(decoded)).not.toContain("plaintext");
    expect(decode("h2c")).toMatchObject({ ok: true, value: { value: { plaintext: "h2c" } } });
    const unknown = decode("quic");
    expect(unknown.ok ? "accepted" : unknown.error).toContain("`quic` is not known");
  });
});

describe("a service with addresses", () => {
  const decode = (body: object) =>
    decodeResource(
      "service",
      "ml/scorer",
      service.encode({ id: "ml/scorer", hosts: ["scorer.ml"], ...body }),
    );

  test("keeps cluster IPs and the port of the application behind a port", () => {
    const decoded = decode({
      addresses: ["10.96.0.7", "fd00::7"],
      ports: [
        { port: 80, protocol: "http", packs: [], targetPort: 8080 },
        { port: 90, protocol: "tcp", packs: [] },
      ],
    });
    expect(decoded).toEqual({
      ok: true,
      value: {
        kind: "service",
        value: {
          id: "ml/scorer",
          hosts: ["scorer.ml"],
          addresses: ["10.96.0.7", "fd00::7"],
          ports: [
            { port: 80, protocol: "http", packs: [], targetPort: 8080 },
            { port: 90, protocol: "tcp", packs: [] },
          ],
        },
      },
    });
  });

  test("may have no host: pods that no Service selects are reached by their addresses", () => {
    const decoded = decode({ hosts: [], ports: [{ port: 8080, protocol: "http", packs: [] }] });
    expect(decoded).toMatchObject({ ok: true, value: { value: { hosts: [], addresses: [] } } });
  });

  test.each([
    { body: { addresses: ["scorer.ml"] }, says: "is not an IP address" },
    { body: { addresses: [""] }, says: "is not an IP address" },
    { body: { ports: [{ port: 80, protocol: "http", targetPort: 70_000 }] }, says: "target port `70000`" },
  ])("refuses $body", ({ body, says }) => {
    const decoded = decode(body);
    expect(decoded.ok ? "accepted" : decoded.error).toContain(says);
  });
});
