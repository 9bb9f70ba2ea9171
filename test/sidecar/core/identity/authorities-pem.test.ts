import { beforeAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { parseAuthorities } from "../../../../sidecar/core/identity/authorities-pem.ts";
import { edgeCertificate } from "../../../fakes/edge-certificate.ts";
import { plainAuthority } from "../../../fakes/plain-authority.ts";

let first: string;
let second: string;
let leaf: string;

beforeAll(async () => {
  const nowMs = Date.UTC(2026, 10, 21);
  first = (await plainAuthority("one", undefined, nowMs)).certificate.toString();
  second = (await plainAuthority("two", undefined, nowMs)).certificate.toString();
  leaf = (await edgeCertificate(["a.example"], nowMs)).cert;
});

describe("parseAuthorities", () => {
  test("reads each once, whatever stands between them", () => {
    const one = parseAuthorities(first);
    const all = parseAuthorities(`# Our root\r\n${first}\n\n# The next\n${second}${first}\n`);
    expect(all).toMatchObject({ ok: true, value: [expect.any(String), expect.any(String)] });
    if (one.ok && all.ok) expect(all.value[0]).toBe(one.value[0]);
    // What comes out goes in again.
    if (all.ok) expect(parseAuthorities(all.value.join(""))).toEqual(all);
  });

  test.each([
    { name: "nothing", text: () => "", says: "holds no certificate" },
    { name: "words", text: () => "our root", says: "holds no certificate" },
    {
      name: "a private key",
      text: () => `${first}\n-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n`,
      says: "private key",
    },
    { name: "half a certificate", text: () => first.slice(0, first.length / 2), says: "in the middle" },
    {
      name: "a certificate of garbage",
      text: () => "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
      says: "certificate 1 cannot be read",
    },
    {
      name: "a server's certificate",
      text: () => `${first}\n${leaf}`,
      says: "certificate 2 (`CN=a.example`)",
    },
    { name: "too many", text: () => `${first}\n`.repeat(65), says: "more than 64" },
    { name: "too much", text: () => `${first}${"x".repeat(65_536)}`, says: "longer than 65536" },
  ])("refuses $name", ({ text, says }) => {
    expect(parseAuthorities(text())).toEqual({ ok: false, error: expect.stringContaining(says) });
  });

  test("never throws, and says what is wrong in one line", () => {
    fc.assert(
      fc.property(fc.nat(first.length), fc.string({ maxLength: 20 }), (at, more) => {
        const result = parseAuthorities(`${first.slice(0, at)}${more}${first.slice(at)}`);
        if (!result.ok) expect(result.error).not.toContain("\n");
      }),
    );
  });
});
