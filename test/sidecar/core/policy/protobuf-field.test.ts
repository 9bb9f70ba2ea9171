import { describe, expect, test } from "@jest/globals";
import { isGrpcProtobuf, scanField } from "../../../../sidecar/core/policy/protobuf-field.ts";
import { run } from "../../../fuzz/sidecar/core/policy/protobuf-field.fuzz.ts";

describe("scanField", () => {
  test("finds the last occurrence, skips groups and scalars", () => {
    const message = Buffer.from([0x0a, 1, 0x61, 0x08, 0x96, 0x01, 0x13, 0x0a, 1, 0x7a, 0x14, 0x0a, 1, 0x62]);
    expect(scanField(message, 1)).toEqual(Buffer.from("b"));
    expect(scanField(message, 3)).toBeUndefined();
  });

  test.each([
    [[0x80]],
    [[0x08, 0x80]],
    [[0x0d, 1]],
    [[0x14]],
    [[0x13, 0x1c]],
    [[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]],
    [Array.from({ length: 40 }, () => 0x13)],
  ])("%j is malformed", (bytes) => {
    expect(scanField(Buffer.from(bytes), 1)).toBe("malformed");
  });

  test("the fuzz target runs", async () => {
    expect((await run({ seconds: 0.2, seed: 5 })).cases).toBeGreaterThan(0);
  });
});

test("only plain gRPC framing with protobuf is read", () => {
  expect(
    [
      "application/grpc",
      "application/grpc+proto; x=1",
      "application/grpc+json",
      "application/grpc-web",
      "application/grpc-web-text",
      undefined,
    ].map(isGrpcProtobuf),
  ).toEqual([true, true, false, false, false, false]);
});
