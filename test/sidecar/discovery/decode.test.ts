import { describe, expect, test } from "@jest/globals";
import { messageCodec } from "../../../proto/load.ts";
import { decodeResource } from "../../../sidecar/discovery/decode.ts";

const service = messageCodec<object, object>("countersign.mesh.v1.Service");

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
