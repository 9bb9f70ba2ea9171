import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { formatAuthority, parseAuthority, sameAuthority } from "../../../../sidecar/core/http/authority.ts";

describe("parseAuthority", () => {
  test.each([
    ["Fraud-Scorer.ML", "fraud-scorer.ml", 80],
    ["a.b.svc.cluster.local.:8080", "a.b.svc.cluster.local", 8080],
    ["my_service", "my_service", 80],
    ["127.0.0.1:5000", "127.0.0.1", 5000],
    ["[::1]", "::1", 80],
    ["[0:0:0:0:0:0:0:1]:8443", "::1", 8443],
    ["[2001:DB8::1]:1", "2001:db8::1", 1],
    ["h:65535", "h", 65_535],
  ])("%j is %s port %i", (text, host, port) => {
    expect(parseAuthority(text, 80)).toEqual({ ok: true, value: { host, port } });
  });

  test.each([
    "",
    ":80",
    "h:",
    "h:0",
    "h:080",
    "h:65536",
    "h:8x",
    "h:-1",
    "a@b",
    "a b",
    "a/b",
    "a%2eb",
    "a..b",
    ".a",
    "a,b",
    "::1",
    "[::1",
    "[::1]x",
    "[::1%25eth0]",
    "[zz]",
    "[]",
    "127.1",
    "0x7f000001",
    "2130706433",
    "127.0.0.01",
    "256.0.0.1",
    "1.2.3.4.5",
    "h\u0000",
    "é",
    "h:80:80",
    `${"a".repeat(64)}.b`,
    "a".repeat(300),
  ])("%j is refused", (text) => {
    expect(parseAuthority(text, 80).ok).toBe(false);
  });

  test("never throws; what it gives parses to itself", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.domain(),
          fc.ipV6().map((each) => `[${each}]`),
          fc.ipV4(),
        ),
        (text) => {
          const parsed = parseAuthority(text, 80);
          if (parsed.ok) expect(parseAuthority(formatAuthority(parsed.value, 80), 80)).toEqual(parsed);
        },
      ),
    );
  });

  test("compares after normalising, and fails closed", () => {
    expect(sameAuthority("A.b:80", "a.B", 80)).toBe(true);
    expect(sameAuthority("a:81", "a", 80)).toBe(false);
    expect(sameAuthority("a@b", "a@b", 80)).toBe(false);
  });
});
