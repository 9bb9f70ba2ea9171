import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { type EdgeEvent, edgeEvent } from "../../../sidecar/audit/edge-event.ts";

const SOURCE = {
  ...{ spiffeId: "spiffe://td/ns/edge/sa/gw/gateway/people", cluster: "eu1" },
  ...{ namespace: "edge", name: "people", revision: 7 },
};
const STAMP = { id: "e", time: "2026-11-21T08:00:03.412Z", proxySeq: 9 };
const LOGIN: EdgeEvent = {
  ...{ action: "login", allowed: true, reason: "ALLOWED", detail: undefined, decisionId: "g-1", idp: "acme" },
  ...{ session: "s-1", status: 303 },
  user: { id: "acme|alice", roles: ["fraud-ds"], email: "alice@acme.example" },
  request: {
    ...{ method: "GET", host: "nb.acme.example", path: "/.countersign/callback/acme" },
    ...{ sourceIp: "203.0.113.7", userAgent: undefined },
  },
};

test("says who signed in, from where and to which session, in the shape of the event of a call", () => {
  const event = JSON.parse(edgeEvent(LOGIN, { source: SOURCE, stamp: STAMP, repeated: 1 }));
  expect(event).toMatchObject({
    ...{ specversion: "1.0", type: "dev.countersign.edge.v1", subject: "gateway/people", time: STAMP.time },
    data: {
      ...{ version: "1", cluster: "eu1", namespace: "edge", serviceName: "gateway", actionName: "login" },
      userIdentity: { id: "acme|alice", type: "person", roles: ["fraud-ds"], email: "alice@acme.example" },
      ...{ idp: "acme", session: "s-1", decisionId: "g-1", repeated: 1 },
      decision: { effect: "Allow", reason: "ALLOWED", revision: 7 },
      request: { sourceIp: "203.0.113.7", userAgent: null, pathTemplate: "/.countersign/callback/acme" },
      response: { statusCode: 303, errorMessage: null },
      integrity: { proxySeq: 9 },
    },
  });
});

test("is one line of JSON of bounded length, whatever a stranger sends", () => {
  const any = fc.string({ unit: "binary", maxLength: 5_000 });
  fc.assert(
    fc.property(any, any, any, (path, agent, detail) => {
      const request = { method: path, host: agent, path, sourceIp: agent, userAgent: agent };
      const line = edgeEvent(
        { ...LOGIN, detail, request, user: undefined, session: path, idp: agent },
        { source: SOURCE, stamp: STAMP, repeated: 3 },
      );
      expect(line).not.toContain("\n");
      expect(line.length).toBeLessThan(20_000);
      expect(JSON.parse(line)).toMatchObject({ data: { repeated: 3, userIdentity: null } });
    }),
  );
});
