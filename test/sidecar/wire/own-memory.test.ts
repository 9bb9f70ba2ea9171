import { describe, expect, test } from "@jest/globals";
import { ownCopy, ownMemory } from "../../../sidecar/wire/own-memory.ts";

describe("memory for what may wait", () => {
  test.each([2_048, 16_384, 65_536])("%i bytes share theirs with nobody", (bytes) => {
    expect(ownMemory(bytes).buffer.byteLength).toBe(bytes);
  });

  test("a copy is one of its own", () => {
    const whole = Buffer.alloc(65_536, 7);
    const copy = ownCopy(whole.subarray(10, 5_010));
    whole.fill(0);
    expect(copy.equals(Buffer.alloc(5_000, 7))).toBe(true);
    expect(copy.buffer.byteLength).toBe(5_000);
    expect(ownCopy(Buffer.from("few")).toString()).toBe("few");
  });
});
