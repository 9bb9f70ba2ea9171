// Heads of requests that applications send over HTTP/2: what they say, and which are refused.
import { describe, expect, test } from "@jest/globals";
import { readHttp2Head } from "../../../sidecar/outbound/app-http2-head.ts";
import { createField } from "../../../sidecar/wire/field.ts";

const BASE: readonly (readonly [string, string])[] = [
  [":method", "POST"],
  [":scheme", "http"],
  [":path", "/a?b"],
  [":authority", "things.ml:8080"],
];

function read(
  changes: Record<string, string | undefined>,
  more: readonly (readonly [string, string])[] = [],
) {
  const pairs = BASE.flatMap(([name, value]) => {
    const changed = name in changes ? changes[name] : value;
    return changed === undefined ? [] : [createField(name, changed)];
  });
  return readHttp2Head([...pairs, ...more.map(([name, value]) => createField(name, value))]);
}

describe("readHttp2Head", () => {
  test("takes the head apart", () => {
    const { head, malformed } = read({}, [["x", "1"]]);
    expect(malformed).toBe("");
    expect(head).toMatchObject({
      method: "POST",
      target: "/a?b",
      authority: "things.ml:8080",
      upgrade: undefined,
    });
    expect(head.fields).toHaveLength(5);
  });

  test.each([
    { name: "Host alone", changes: { ":authority": undefined }, host: "things.ml:8080" },
    { name: "Host that says the same", changes: {}, host: "THINGS.ml:8080" },
    { name: "https as the scheme", changes: { ":scheme": "https" }, host: undefined },
  ])("accepts $name", ({ changes, host }) => {
    expect(read(changes, host === undefined ? [] : [["host", host]]).malformed).toBe("");
  });

  test.each([
    { name: "no authority", changes: { ":authority": undefined }, more: [] },
    { name: "user information", changes: { ":authority": "a@things.ml" }, more: [] },
    { name: "a port of letters", changes: { ":authority": "things.ml:x" }, more: [] },
    { name: "a Host that differs", changes: {}, more: [["host", "other.ml"]] },
    {
      name: "two Hosts",
      changes: {},
      more: [
        ["host", "things.ml:8080"],
        ["host", "things.ml:8080"],
      ],
    },
    { name: "another scheme", changes: { ":scheme": "ftp" }, more: [] },
    { name: "a method with a space", changes: { ":method": "GE T" }, more: [] },
    { name: "a long method", changes: { ":method": "G".repeat(33) }, more: [] },
    { name: "a target with a space", changes: { ":path": "/a b" }, more: [] },
    { name: "a target with a fragment", changes: { ":path": "/a#b" }, more: [] },
    { name: "a long target", changes: { ":path": `/${"a".repeat(8_192)}` }, more: [] },
  ] as { name: string; changes: Record<string, string | undefined>; more: [string, string][] }[])(
    "refuses $name",
    ({ changes, more }) => {
      expect(read(changes, more).malformed).not.toBe("");
    },
  );
});
