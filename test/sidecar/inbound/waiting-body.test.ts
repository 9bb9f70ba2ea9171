import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { WaitingBody, WaitingBytes } from "../../../sidecar/inbound/waiting-body.ts";

describe("a body that waits", () => {
  test("holds what was added, in order, in little more than twice its bytes", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 3_000 }), { maxLength: 40 }), (pieces) => {
        const budget = new WaitingBytes(1_000_000);
        const body = new WaitingBody(budget);
        for (const piece of pieces) expect(body.add(Buffer.from(piece))).toBe(true);
        const all = Buffer.concat(pieces);
        expect(body.bytes.equals(all)).toBe(true);
        expect(budget.taken).toBeLessThanOrEqual(Math.max(1_024, 2 * all.length));
        expect(body.release().equals(all)).toBe(true);
        expect([budget.taken, body.length]).toEqual([0, 0]);
      }),
    );
  });

  test("is refused when all of them take too much, and has room when others are gone", () => {
    const budget = new WaitingBytes(10_000);
    const first = new WaitingBody(budget);
    const second = new WaitingBody(budget);
    expect(first.add(Buffer.alloc(6_000))).toBe(true);
    expect(second.add(Buffer.alloc(6_000))).toBe(false);
    expect(budget.taken).toBe(6_000);
    second.release();
    first.release();
    expect(budget.taken).toBe(0);
    expect(new WaitingBody(budget).add(Buffer.alloc(10_000))).toBe(true);
  });

  test("gives its room back once", () => {
    const budget = new WaitingBytes(10_000);
    const body = new WaitingBody(budget);
    body.add(Buffer.from("abc"));
    body.release();
    body.release();
    expect(budget.taken).toBe(0);
  });
});
