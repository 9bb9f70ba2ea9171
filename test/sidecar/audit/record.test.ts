import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { auditDecision, auditEdge, auditEvent } from "../../../sidecar/audit/record.ts";
import { JsonTexts } from "../../../sidecar/telemetry/json-texts.ts";

test("an event is JSON, whatever stands in the request", () => {
  const texts = new JsonTexts();
  fc.assert(
    fc.property(
      fc.string({ unit: "binary" }),
      fc.string({ unit: "binary" }),
      fc.option(fc.string(), { nil: undefined }),
      (path, agent, resource) => {
        const edge = auditEdge({
          source: { spiffeId: "spiffe://td/x", cluster: agent },
          target: path,
          targetNamespace: "ns",
          targetKind: "serving",
          operation: "op",
          caller: agent,
          callerSpiffeId: "id",
          runAs: resource,
          via: [{ kind: "gateway", name: path, operation: "o" }],
        });
        const line = auditEvent(
          {
            traceparent: undefined,
            edge,
            decision: auditDecision(
              { allowed: true, reason: "ALLOWED", policy: path, rule: undefined, would: undefined },
              3,
            ),
            decisionId: "d-1",
            requestId: agent,
            resourceType: "model",
            resourceName: resource,
            method: "GET",
            pathTemplate: path,
            requestBytes: 1,
            contentType: agent,
            sourceIp: undefined,
            userAgent: agent,
            statusCode: 0,
            responseBytes: 2,
            durationMs: 1.23456,
            upstreamMs: -1,
            errorMessage: path,
          },
          { id: "e", time: "2026-09-15T08:00:03.412Z", proxySeq: 9 },
          texts,
        );
        expect(line).not.toContain("\n");
        expect(JSON.parse(line)).toMatchObject({
          specversion: "1.0",
          data: {
            resource: { type: "model", name: resource ?? null },
            identityMetadata: { hops: 2, runAs: resource ?? null, origin: `gateway/${path}` },
            request: { pathTemplate: path, userAgent: agent, sourceIp: null },
            response: { statusCode: null, durationMs: 1.23, upstreamMs: null, errorMessage: path },
            integrity: { proxySeq: 9 },
          },
        });
      },
    ),
  );
});

test("an edge that remembers its last event writes what a new edge writes", () => {
  const texts = new JsonTexts();
  const newEdge = () =>
    auditEdge({
      source: { spiffeId: "spiffe://td/x", cluster: "c" },
      target: "serving/s",
      targetNamespace: "ns",
      targetKind: "serving",
      operation: "op",
      caller: "notebook/n",
      callerSpiffeId: "id",
      runAs: undefined,
      via: [],
    });
  const edge = newEdge();
  const some = fc.constantFrom(undefined, "a", "\u00e9", '"');
  const oneOf = fc.constantFrom("GET", "POST");
  const call = fc.record({
    traceparent: some,
    decision: fc.constantFrom('{"effect":"Allow"}', '{"effect":"Deny"}'),
    decisionId: fc.constantFrom("d-1", "d-2"),
    requestId: some,
    resourceType: fc.constantFrom(undefined, "model"),
    resourceName: some,
    method: oneOf,
    pathTemplate: fc.constantFrom("/a", "/b"),
    requestBytes: fc.nat(2),
    contentType: some,
    sourceIp: some,
    userAgent: some,
    statusCode: fc.constantFrom(0, 200),
    responseBytes: fc.nat(2),
    durationMs: fc.nat(2),
    upstreamMs: fc.constantFrom(-1, 1),
    errorMessage: some,
  });
  const stamp = { id: "e", time: "t", proxySeq: 1 };
  fc.assert(
    fc.property(call, fc.integer({ min: 1, max: 3 }), (one, times) => {
      for (let i = 0; i < times; i++) {
        const line = auditEvent({ ...one, edge }, stamp, texts);
        expect(line).toBe(auditEvent({ ...one, edge: newEdge() }, stamp, new JsonTexts()));
      }
    }),
  );
});
