import { generateKeyPairSync, sign, verify } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { signEs256, verifyEs256 } from "../../../../sidecar/core/identity/ecdsa.ts";

const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const P1363 = "ieee-p1363";

describe("ES256", () => {
  test("agrees with Node's own conversion, both ways, also where r or s is short", () => {
    // 1 in 128 signatures has a half with a leading zero byte; 1000 meet several.
    for (let i = 0; i < 1000; i++) {
      const data = Buffer.from(`message ${i}`);
      const ours = signEs256(data, privateKey);
      expect(ours).toHaveLength(64);
      expect(verify("sha256", data, { key: publicKey, dsaEncoding: P1363 }, ours)).toBe(true);
      expect(
        verifyEs256(data, publicKey, sign("sha256", data, { key: privateKey, dsaEncoding: P1363 })),
      ).toBe(true);
    }
  });

  test("refuses every other signature without throwing", () => {
    const data = Buffer.from("message");
    const good = signEs256(data, privateKey);
    const order = Buffer.from("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", "hex");
    const edges = [
      Buffer.alloc(32),
      Buffer.alloc(32, 0xff),
      order,
      Buffer.concat([Buffer.alloc(31), Buffer.of(1)]),
      good.subarray(0, 32),
    ];
    for (const r of edges)
      for (const s of edges) expect(verifyEs256(data, publicKey, Buffer.concat([r, s]))).toBe(false);
    for (const length of [0, 63, 65, 72])
      expect(verifyEs256(data, publicKey, Buffer.alloc(length, 1))).toBe(false);
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 64 }), (bytes) => {
        expect(verifyEs256(data, publicKey, Buffer.from(bytes))).toBe(false);
      }),
    );
    expect(verifyEs256(Buffer.from("other"), publicKey, good)).toBe(false);
  });
});
