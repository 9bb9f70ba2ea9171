import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { AuditPayload, MAX_BODY_SAMPLE } from "../../../sidecar/audit/payload.ts";
import { REDACTED, redactedField, redactedForm, redactedJson } from "../../../sidecar/audit/redaction.ts";

const NONE = new Set<string>();

describe("redaction", () => {
  test.each([
    ["authorization", "Bearer x", REDACTED],
    ["proxy-authorization", "Basic x", REDACTED],
    ["cookie", "a=b", REDACTED],
    ["set-cookie", "a=b", REDACTED],
    ["workload-proof-token", "e30", REDACTED],
    ["x-api-key", "k", REDACTED],
    ["x-amz-security-token", "k", REDACTED],
    ["mcp-session-id", "s", REDACTED],
    ["referer", "https://a.example/p?token=1", `https://a.example/p?${REDACTED}`],
    ["location", "/next", "/next"],
    ["content-type", "text/plain", "text/plain"],
    ["x-monkey", "banana", "banana"],
    ["x-mine", "v", REDACTED],
  ])("field %s", (name, value, want) => {
    expect(redactedField(name, value, new Set(["x-mine"]))).toBe(want);
  });

  test.each([
    ['{"password":"a","max_tokens":5,"q":"b"}', '{"password":"[redacted]","max_tokens":5,"q":"b"}'],
    ['{"a":{"api_key" : "x\\"y"},"token":"t"}', '{"a":{"api_key" : "[redacted]"},"token":"[redacted]"}'],
    ['{"pass\\u0077ord":"a"}', '{"pass\\u0077ord":"[redacted]"}'],
    ['{"prompt":"say \\"password\\": \\"x\\""}', '{"prompt":"say \\"password\\": \\"x\\""}'],
    ['{"client_secret":"cut off he', '{"client_secret":"[redacted]"'],
    ['{"n":1,"secret":"x","list":["token","y"]}', '{"n":1,"secret":"[redacted]","list":["token","y"]}'],
    ['{"secret":["x" , "y"],"a":"b"}', '{"secret":["[redacted]" , "[redacted]"],"a":"b"}'],
    ['{"secret":"x","a":"b","c":["d"]}', '{"secret":"[redacted]","a":"b","c":["d"]}'],
  ])("JSON %s", (text, want) => {
    expect(redactedJson(text, NONE)).toBe(want);
  });

  test("forms", () => {
    expect(redactedForm("user=a&pass%77ord=b&client_secret=c&x", NONE)).toBe(
      `user=a&pass%77ord=${REDACTED}&client_secret=${REDACTED}&x`,
    );
  });

  test("leaves no secret value behind, however deep it stands and wherever the text is cut", () => {
    const secret = "5ecret-5ecret-5ecret";
    const value = fc.letrec((tie) => ({
      node: fc.oneof(
        { maxDepth: 4 },
        fc.string(),
        fc.integer(),
        fc.dictionary(fc.string({ maxLength: 5 }), tie("node"), { maxKeys: 3 }),
        fc.array(tie("node"), { maxLength: 3 }),
        tie("node").map((rest) => ({ rest, password: secret })),
      ),
    })).node;
    fc.assert(
      fc.property(value, fc.nat(500), (node, cut) => {
        const text = JSON.stringify({ node, password: secret });
        expect(redactedJson(text, NONE)).not.toContain(secret);
        expect(redactedJson(text.slice(0, cut), NONE)).not.toContain(secret.slice(0, 10));
      }),
    );
  });

  test("takes linear time", () => {
    const began = performance.now();
    for (const odd of ['"', '"a":"', '\\"', '"":', `"a"${" ".repeat(50)}`])
      redactedJson(odd.repeat(65_536 / odd.length), NONE);
    expect(performance.now() - began).toBeLessThan(60_000);
  });
});

describe("AuditPayload", () => {
  const fill = (payload: AuditPayload, type: string, body: string): AuditPayload => {
    payload.request.fields = [
      { name: ":method", value: "POST" },
      { name: "content-type", value: type },
      { name: "authorization", value: "Bearer x" },
    ];
    payload.requestBody(Buffer.from(body));
    payload.response.fields = [{ name: "server", value: "s" }];
    return payload;
  };

  test("exists for the levels that need it", () => {
    expect(AuditPayload.of("Metadata", true, NONE)).toBeUndefined();
    expect(AuditPayload.of(undefined, true, NONE)).toBeUndefined();
    expect(AuditPayload.of("Headers", false, NONE)).toBeDefined();
  });

  test("has names of secret fields, and bodies only where the sink may have them", () => {
    const at = (takesBodies: boolean) => {
      const payload = AuditPayload.of("Body", takesBodies, NONE) ?? new AuditPayload(false, NONE);
      return JSON.parse(fill(payload, "application/json", '{"q":"x","password":"p"}').text());
    };
    const fields = [
      ["content-type", "application/json"],
      ["authorization", REDACTED],
    ];
    expect(at(false).request).toEqual({ fields });
    expect(at(true).request).toEqual({
      fields,
      body: '{"q":"x","password":"[redacted]"}',
      encoding: "utf8",
      truncated: false,
    });
  });

  test("holds 16 KiB of a body and says that there was more", () => {
    const payload = fill(new AuditPayload(true, NONE), "text/plain", "x".repeat(10_000));
    payload.requestBody(Buffer.alloc(10_000, 0x79));
    const { request } = JSON.parse(payload.text());
    expect(request.body).toBe("x".repeat(10_000) + "y".repeat(MAX_BODY_SAMPLE - 10_000));
    expect(request.truncated).toBe(true);
  });

  test("writes what is no text as base64", () => {
    const { request } = JSON.parse(
      fill(new AuditPayload(true, NONE), "application/octet-stream", "\u0001").text(),
    );
    expect(request).toMatchObject({ body: "AQ==", encoding: "base64" });
  });
});
