import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { jsonRpcProblem, problemJson, proxyStatus } from "../../../../sidecar/core/http/problem.ts";
import { REASONS, type Reason } from "../../../../sidecar/core/policy/reason.ts";

const denied = {
  reason: "NO_MATCHING_ALLOW",
  operation: "serving.invoke.predict",
  target: "serving/fraud-scorer",
  caller: "notebook/nb-alice",
  decisionId: "d-1",
} as const;

describe("problemJson", () => {
  test("is the document of a denial", () => {
    const { status, contentType, body } = problemJson({ ...denied, txn: "t-1" });
    expect({ status, contentType }).toEqual({ status: 403, contentType: "application/problem+json" });
    expect(JSON.parse(body)).toEqual({
      type: "https://countersign.dev/errors/denied",
      title: "Forbidden",
      status: 403,
      reason: "NO_MATCHING_ALLOW",
      operation: "serving.invoke.predict",
      target: "serving/fraud-scorer",
      caller: "notebook/nb-alice",
      decisionId: "d-1",
      txn: "t-1",
      hint: REASONS.NO_MATCHING_ALLOW.hint,
      message: `NO_MATCHING_ALLOW: ${REASONS.NO_MATCHING_ALLOW.hint} (decision d-1)`,
    });
  });

  test("says in a sentence what is wrong with a request", () => {
    expect(
      JSON.parse(problemJson({ ...denied, reason: "REQ_MALFORMED", detail: "a space" }).body),
    ).toMatchObject({
      message: "REQ_MALFORMED: a space (decision d-1)",
    });
  });

  test("names policy and rule only when they are given", () => {
    expect(problemJson(denied).body).not.toContain("policy");
    expect(JSON.parse(problemJson({ ...denied, policy: "p", rule: "r" }).body)).toMatchObject({
      policy: "p",
      rule: "r",
    });
  });

  test.each(Object.keys(REASONS) as Reason[])("%s has an error status and a type", (reason) => {
    const { status, body } = problemJson({ reason, decisionId: "d" });
    expect(status).toBeGreaterThanOrEqual(400);
    expect(JSON.parse(body)).toMatchObject({
      type: expect.stringMatching(/^https:\/\/countersign\.dev\/errors\/[a-z-]+$/),
      status,
    });
    expect(proxyStatus(reason, "d")).toMatch(/^countersign-sidecar; error=[a-z_]+; details="[A-Z_]+ d"$/);
  });

  test("any text stays one line of ASCII, bounded, and comes back as it was", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        const { body } = problemJson({ ...denied, operation: text, target: text.repeat(100) });
        expect(body).toMatch(/^[\x20-\x7e]+$/);
        expect(body.length).toBeLessThan(16_384);
        if (text !== "" && text.length <= 512)
          expect(JSON.parse(body)).toMatchObject({ operation: text.toWellFormed() });
      }),
    );
  });
});

test("MCP targets get a JSON-RPC error", () => {
  expect(JSON.parse(jsonRpcProblem(denied).body)).toMatchObject({
    jsonrpc: "2.0",
    id: null,
    error: { code: -32001, message: "Forbidden", data: { reason: "NO_MATCHING_ALLOW" } },
  });
  expect(jsonRpcProblem(denied)).toMatchObject({ status: 403, contentType: "application/json" });
  expect(
    JSON.parse(jsonRpcProblem({ reason: "REQ_MALFORMED", decisionId: "d" }, -32020, 7).body),
  ).toMatchObject({ id: 7, error: { code: -32020, message: "HeaderMismatch" } });
});

test("Proxy-Status cannot be broken out of", () => {
  expect(proxyStatus("UPSTREAM_TIMEOUT", "d-1")).toBe(
    'countersign-sidecar; error=http_response_timeout; details="UPSTREAM_TIMEOUT d-1"',
  );
  expect(proxyStatus("REQ_MALFORMED", "d", 'x"; y\r\nset-cookie: a\\é')).toBe(
    'countersign-sidecar; error=http_request_error; details="REQ_MALFORMED d x\\"; y??set-cookie: a\\\\?"',
  );
});
