// What gRPC says in fields: deadlines, status messages, details.
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  encodeGrpcMessage,
  formatGrpcTimeout,
  grpcStatusOf,
  isGrpc,
  parseGrpcTimeout,
} from "../../../../sidecar/core/http/grpc.ts";
import { grpcCodeOf, grpcStatusFields } from "../../../../sidecar/core/http/grpc-status.ts";
import { REASONS, type Reason } from "../../../../sidecar/core/policy/reason.ts";

describe("isGrpc", () => {
  test.each([
    ["application/grpc", true],
    ["application/grpc+proto", true],
    ["application/grpc+json", true],
    ["application/grpc; charset=utf-8", true],
    ["Application/GRPC", true],
    ["application/grpc-web", false],
    ["application/grpc-web+proto", false],
    ["application/grpc-web-text", false],
    ["application/grpcx", false],
    ["application/json", false],
    ["application/grpc, text/plain", false],
    [undefined, false],
  ])("%s is %s", (type, expected) => {
    expect(isGrpc(type)).toBe(expected);
  });
});

describe("grpc-timeout", () => {
  test.each([
    ["1H", 3_600_000],
    ["2M", 120_000],
    ["3S", 3_000],
    ["100m", 100],
    ["1500u", 1.5],
    ["1000000n", 1],
    ["0m", 0],
    ["99999999H", 86_400_000],
    ["", undefined],
    ["100", undefined],
    ["m", undefined],
    ["-1m", undefined],
    ["1.5S", undefined],
    ["123456789m", undefined],
    ["1 m", undefined],
    ["1s", undefined],
  ])("%s is %s ms", (text, ms) => {
    expect(parseGrpcTimeout(text)).toBe(ms);
  });

  test("what is written is read back, never longer and by less than a millisecond shorter", () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 86_400_000, noNaN: true }), (ms) => {
        const text = formatGrpcTimeout(ms);
        const back = parseGrpcTimeout(text) ?? -1;
        expect(text).toMatch(/^[0-9]{1,8}[HMSmun]$/);
        expect(back).toBeLessThanOrEqual(ms + 1e-6);
        expect(back).toBeGreaterThan(ms - 1);
      }),
    );
  });
});

describe("grpc-message", () => {
  test("is visible ASCII, and decodes to the text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        const encoded = encodeGrpcMessage(text);
        expect(encoded).toMatch(/^[\x20-\x7e]*$/);
        expect(decodeURIComponent(encoded.replace(/%(?![0-9A-F]{2})/g, "%25"))).toBe(text.toWellFormed());
      }),
    );
  });
});

describe("grpcStatusOf", () => {
  test.each([
    [[{ name: "grpc-status", value: "0" }], 0],
    [[{ name: "grpc-status", value: "16" }], 16],
    [[{ name: "grpc-status", value: "17" }], 2],
    [[{ name: "grpc-status", value: "x" }], 2],
    [[], 2],
  ])("%j is %i", (fields, code) => {
    expect(grpcStatusOf(fields)).toBe(code);
  });
});

describe("the status of a refusal", () => {
  test.each([
    ["NO_MATCHING_ALLOW", 7],
    ["AUTHN_PROOF_INVALID", 3],
    ["LOGIN_REQUIRED", 16],
    ["RATE_LIMITED", 8],
    ["NOT_READY", 14],
    ["UPSTREAM_TIMEOUT", 4],
    ["UNSUPPORTED", 12],
    ["ALLOWED", 13],
  ] as const)("%s is %i", (reason, code) => {
    expect(grpcCodeOf(reason)).toBe(code);
  });

  test("every reason gives fields that stay on their line", () => {
    for (const reason of Object.keys(REASONS) as Reason[]) {
      const fields = grpcStatusFields(
        { reason, decisionId: "d-1", detail: "line\r\nbreak ü", operation: "a.b" },
        1_500,
      );
      for (const [, value] of fields) expect(value).toMatch(/^[\x20-\x7e]+$/);
    }
  });

  test("an ended deadline has no details, as where the client ends it itself", () => {
    const fields = grpcStatusFields({ reason: "UPSTREAM_TIMEOUT", decisionId: "d-1" });
    expect(fields.map(([name]) => name)).toEqual(["grpc-status", "grpc-message"]);
  });

  test("the details are a google.rpc.Status with ErrorInfo and RetryInfo", () => {
    const fields = new Map(
      grpcStatusFields({ reason: "RATE_LIMITED", decisionId: "d-9", operation: "x.y" }, 1_500),
    );
    const status = messages(Buffer.from(fields.get("grpc-status-details-bin") ?? "", "base64"));
    expect(status.get(1)).toEqual([8]);
    const details = (status.get(3) ?? []).map((each) => messages(each as Buffer));
    const [info, retry] = details;
    expect(String(info?.get(1)?.[0])).toBe("type.googleapis.com/google.rpc.ErrorInfo");
    const body = messages(info?.get(2)?.[0] as Buffer);
    expect([String(body.get(1)?.[0]), String(body.get(2)?.[0])]).toEqual(["RATE_LIMITED", "countersign.dev"]);
    const metadata = (body.get(3) ?? []).map((each) => [...messages(each as Buffer).values()].map(String));
    expect(metadata).toEqual([
      ["decisionId", "d-9"],
      ["operation", "x.y"],
    ]);
    expect(String(retry?.get(1)?.[0])).toBe("type.googleapis.com/google.rpc.RetryInfo");
    const delay = messages(messages(retry?.get(2)?.[0] as Buffer).get(1)?.[0] as Buffer);
    expect([delay.get(1), delay.get(2)]).toEqual([[1], [500_000_000]]);
  });
});

/** Fields of a protobuf message by number; varints and bytes only. */
function messages(bytes: Buffer): Map<number, (number | Buffer)[]> {
  const found = new Map<number, (number | Buffer)[]>();
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] ?? 0;
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const number = varint();
    let value: number | Buffer = number;
    if ((tag & 7) === 2) {
      value = bytes.subarray(at, at + number);
      at += number;
    }
    found.set(tag >>> 3, [...(found.get(tag >>> 3) ?? []), value]);
  }
  return found;
}
