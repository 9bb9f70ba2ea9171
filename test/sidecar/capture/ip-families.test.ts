import { describe, expect, test } from "@jest/globals";
import { hasIpv6 } from "../../../sidecar/capture/ip-families.ts";

const LO = "00000000000000000000000000000001 01 80 10 80       lo\n";
const ETH0 = "fe800000000000000000000000000001 02 40 20 80     eth0\n";

describe("hasIpv6", () => {
  test.each([
    { name: "a kernel without IPv6", files: {}, has: false },
    { name: "loopback alone", files: { "/proc/net/if_inet6": LO }, has: false },
    { name: "an address", files: { "/proc/net/if_inet6": LO + ETH0 }, has: true },
    {
      name: "an interface that may get one",
      files: {
        "/proc/net/if_inet6": LO,
        "/proc/sys/net/ipv6/conf": "all\ndefault\neth0\nlo",
        "/proc/sys/net/ipv6/conf/eth0/disable_ipv6": "0\n",
      },
      has: true,
    },
    {
      name: "turned off everywhere",
      files: {
        "/proc/net/if_inet6": "",
        "/proc/sys/net/ipv6/conf": "all\ndefault\neth0\nlo",
        "/proc/sys/net/ipv6/conf/eth0/disable_ipv6": "1\n",
      },
      has: false,
    },
  ])("$name: $has", ({ files, has }) => {
    expect(hasIpv6((path) => (files as Record<string, string>)[path])).toBe(has);
  });
});
