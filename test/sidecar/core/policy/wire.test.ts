import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { messageCodec } from "../../../../proto/load.ts";
import type { WorkloadProgram } from "../../../../sidecar/core/policy/rule.ts";
import { createProgramEncoder, decodeProgram, encodeProgram } from "../../../../sidecar/core/policy/wire.ts";
import { Dice, randomProgram } from "../../../conformance/random-world.ts";

/** Clauses without any field cannot be sent (they would match everything), so such worlds are left out. */
function sendable(seed: number): WorkloadProgram | undefined {
  const program = randomProgram(new Dice(seed));
  try {
    encodeProgram(program);
    return program;
  } catch {
    return undefined;
  }
}

const withoutUndefined = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (_key, part: unknown) => (part instanceof Map ? [...part] : part)));

const bare: WorkloadProgram = {
  id: "a/b",
  spiffeId: "spiffe://t/ns/a/sa/s/job/b",
  kind: "job",
  name: "b",
  namespace: "a",
  labels: new Map([
    ["z", "1"],
    ["a", "2"],
  ]),
  ports: [{ port: 8080, protocol: "http", packs: [] }],
  defaultAction: "Deny",
  maxHops: 5,
  trustDomain: "t",
  policies: [
    {
      id: "p",
      name: "p",
      cluster: true,
      source: "policy",
      action: "Deny",
      enforcement: "Enforce",
      ports: [1, 65535],
      rules: [{ name: "r", when: { notAfterMs: -5, cel: "true" }, operations: [{ access: ["read"] }] }],
    },
  ],
  features: ["cel"],
};

describe("encodeProgram and decodeProgram", () => {
  test("give back what they got, with equal bytes for equal programs", () => {
    let tried = 0;
    for (let seed = 0; seed < 400; seed++) {
      const program = sendable(seed);
      if (program === undefined) continue;
      tried += 1;
      const bytes = encodeProgram(program);
      const decoded = decodeProgram(bytes);
      if (!decoded.ok) throw new Error(`seed ${seed}: ${decoded.error}`);
      expect(withoutUndefined(decoded.value)).toEqual(withoutUndefined(program));
      expect(encodeProgram(decoded.value).equals(bytes)).toBe(true);
    }
    expect(tried).toBeGreaterThan(50);
  });

  test("write the messages of policy.proto", () => {
    const message = messageCodec<object, Record<string, unknown>>(
      "countersign.mesh.v1.WorkloadProgram",
    ).decode(encodeProgram(bare));
    expect(message).toMatchObject({
      id: "a/b",
      labels: { a: "2", z: "1" },
      defaultAction: "DEFAULT_ACTION_DENY",
      maxHops: 5,
    });
    expect(message["ports"]).toMatchObject([{ port: 8080, protocol: "PROTOCOL_HTTP" }]);
    expect(message["policies"]).toMatchObject([
      {
        id: "p",
        cluster: true,
        source: "SOURCE_POLICY",
        action: "ACTION_DENY",
        ports: [1, 65535],
        rules: [
          { name: "r", when: { notAfterMs: -5, cel: "true" }, operations: [{ access: ["ACCESS_READ"] }] },
        ],
      },
    ]);
  });

  test("do not depend on the order of labels", () => {
    const turned = { ...bare, labels: new Map([...bare.labels].reverse()) };
    expect(encodeProgram(turned).equals(encodeProgram(bare))).toBe(true);
  });

  test("give the same bytes through an encoder that keeps policies", () => {
    const encode = createProgramEncoder();
    expect(encode(bare).equals(encodeProgram(bare))).toBe(true);
    expect(encode({ ...bare, maxHops: 4 }).equals(encodeProgram({ ...bare, maxHops: 4 }))).toBe(true);
  });

  const policy = bare.policies[0]!;
  const withPolicy = (change: object): WorkloadProgram => ({ ...bare, policies: [{ ...policy, ...change }] });
  test.each([
    {
      name: "a feature it lacks",
      bytes: encodeProgram({ ...bare, features: ["telepathy"] }),
      error: "`telepathy`",
    },
    {
      name: "an unknown field",
      bytes: Buffer.concat([encodeProgram(bare), Buffer.from([0xf8, 0x01, 0x01])]),
      error: "field 31",
    },
    {
      name: "a field given twice",
      bytes: Buffer.concat([encodeProgram(bare), Buffer.from([0x48, 0x05])]),
      error: "given twice",
    },
    { name: "a wrong wire type", bytes: Buffer.from([0x08, 0x01]), error: "wire type" },
    {
      name: "an unknown enum value",
      bytes: Buffer.concat([
        encodeProgram({ ...bare, defaultAction: "Deny" }).subarray(0, 0),
        Buffer.from([0x40, 0x09]),
      ]),
      error: "value that this build does not know",
    },
    { name: "a cut message", bytes: encodeProgram(bare).subarray(0, -1), error: "message ends" },
    { name: "nothing", bytes: Buffer.alloc(0), error: "missing" },
    {
      name: "an Allow without from",
      bytes: encodeProgram(withPolicy({ action: "Allow" })),
      error: "allows without",
    },
    { name: "a grant that denies", bytes: encodeProgram(withPolicy({ source: "grant" })), error: "derived" },
  ])("refuse $name", ({ bytes, error }) => {
    const decoded = decodeProgram(bytes);
    expect(decoded.ok ? "accepted" : decoded.error).toContain(error);
  });

  test.each([
    { name: "an empty from", rule: { name: "r", from: [] } },
    { name: "an empty clause", rule: { name: "r", from: [{}] } },
    { name: "an empty workload", rule: { name: "r", from: [{ workload: {} }] } },
    { name: "an empty when", rule: { name: "r", when: {} } },
  ])("do not send $name, which would match everything", ({ rule }) => {
    expect(() => encodeProgram(withPolicy({ rules: [rule] }))).toThrow("is empty");
  });

  test("never throw on arbitrary bytes", () => {
    const start = encodeProgram(bare);
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 64 }),
        fc.nat(start.length - 1),
        fc.nat(255),
        (noise, at, value) => {
          expect(typeof decodeProgram(noise).ok).toBe("boolean");
          const changed = Buffer.from(start);
          changed[at] = value;
          expect(typeof decodeProgram(changed).ok).toBe("boolean");
        },
      ),
      { numRuns: 2000 },
    );
  });
});
