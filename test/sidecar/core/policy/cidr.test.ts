import { describe, expect, test } from "@jest/globals";
import { cidrContains, parseCidr, parseIp } from "../../../../sidecar/core/policy/cidr.ts";

describe("cidrContains", () => {
  test.each([
    ["10.0.0.0/8", "10.255.255.255", true],
    ["10.0.0.0/8", "11.0.0.0", false],
    ["10.0.0.0/8", "::ffff:10.1.2.3", true],
    ["::ffff:10.0.0.0/104", "10.1.2.3", true],
    ["0.0.0.0/0", "255.255.255.255", true],
    ["0.0.0.0/0", "::1", false],
    ["::/0", "1.2.3.4", false],
    ["2001:db8::/32", "2001:db8:ffff::1", true],
    ["2001:db8::/32", "2001:db9::", false],
    ["192.168.1.7/32", "192.168.1.7", true],
  ])("%s holds %s: %s", (block, address, want) => {
    const cidr = parseCidr(block);
    const ip = parseIp(address);
    expect(cidr !== undefined && ip !== undefined && cidrContains(cidr, ip)).toBe(want);
  });
});

describe("parseIp", () => {
  test.each([
    "",
    "1.2.3",
    "01.2.3.4",
    "1.2.3.256",
    "1.2.3.4.5",
    ":::",
    "1::2::3",
    "12345::",
    "::1%eth0",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1.2.3.4::",
    "g::",
  ])("refuses `%s`", (text) => {
    expect(parseIp(text)).toBeUndefined();
  });
  test.each(["1.2.3.4/33", "1.2.3.4/-1", "::/129", "::ffff:1.2.3.4/95", "1.2.3.4", "1.2.3.4/08"])(
    "refuses the block `%s`",
    (text) => {
      expect(parseCidr(text)).toBeUndefined();
    },
  );
});
