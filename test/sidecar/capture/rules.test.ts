import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  type CaptureSettings,
  captureRules,
  isCaptureInForce,
  NO_JUMPS,
  PROXY_UID,
  presentJumps,
} from "../../../sidecar/capture/rules.ts";

const settings: CaptureSettings = {
  proxyUid: PROXY_UID,
  excludeOutboundPorts: [],
  excludeInboundPorts: [],
};

describe("captureRules", () => {
  test("is one transaction that touches chains of ours alone", () => {
    expect(
      captureRules({ ...settings, excludeOutboundPorts: [5432], excludeInboundPorts: [9100] }, "ipv4"),
    ).toBe(
      `*nat
:COUNTERSIGN_OUTPUT - [0:0]
:COUNTERSIGN_INBOUND - [0:0]
-A COUNTERSIGN_OUTPUT -d 127.0.0.1/32 -p tcp --dport 16079 -j REDIRECT --to-ports 16001
-A COUNTERSIGN_OUTPUT -m owner --uid-owner 61600 -j RETURN
-A COUNTERSIGN_OUTPUT -d 127.0.0.1/32 -p tcp --dport 16078 -j REDIRECT --to-ports 16001
-A COUNTERSIGN_OUTPUT -o lo -j RETURN
-A COUNTERSIGN_OUTPUT -p tcp --dport 53 -j RETURN
-A COUNTERSIGN_OUTPUT -p tcp --dport 5432 -j RETURN
-A COUNTERSIGN_OUTPUT -p tcp -j REDIRECT --to-ports 16001
-A COUNTERSIGN_INBOUND -i lo -j RETURN
-A COUNTERSIGN_INBOUND -p tcp --dport 16008 -j RETURN
-A COUNTERSIGN_INBOUND -p tcp --dport 16020 -j RETURN
-A COUNTERSIGN_INBOUND -p tcp --dport 9100 -j RETURN
-A COUNTERSIGN_INBOUND -p tcp -j REDIRECT --to-ports 16006
-I OUTPUT -p tcp -j COUNTERSIGN_OUTPUT
-I PREROUTING -p tcp -j COUNTERSIGN_INBOUND
COMMIT
`,
    );
  });

  test("differs between the families in the loopback address alone", () => {
    expect(captureRules(settings, "ipv6")).toBe(
      captureRules(settings, "ipv4").replaceAll("127.0.0.1/32", "::1/128"),
    );
  });

  test("ends both chains with a redirect of everything else, whatever is excluded", () => {
    const port = fc.integer({ min: 1, max: 65_535 });
    fc.assert(
      fc.property(fc.array(port), fc.array(port), (outbound, inbound) => {
        const lines = captureRules(
          { ...settings, excludeOutboundPorts: outbound, excludeInboundPorts: inbound },
          "ipv6",
        ).split("\n");
        const last = (chain: string) => lines.findLast((line) => line.startsWith(`-A ${chain} `));
        expect(last("COUNTERSIGN_OUTPUT")).toBe("-A COUNTERSIGN_OUTPUT -p tcp -j REDIRECT --to-ports 16001");
        expect(last("COUNTERSIGN_INBOUND")).toBe(
          "-A COUNTERSIGN_INBOUND -p tcp -j REDIRECT --to-ports 16006",
        );
        expect(lines.filter((line) => line.includes("--dport"))).toHaveLength(
          5 + outbound.length + inbound.length,
        );
      }),
    );
  });

  test("takes out the jumps that are there, so that there is one of each, first", () => {
    const text = captureRules(settings, "ipv4", { output: 2, prerouting: 1 });
    expect(text.match(/^-D OUTPUT -p tcp -j COUNTERSIGN_OUTPUT$/gm)).toHaveLength(2);
    expect(text.match(/^-D PREROUTING -p tcp -j COUNTERSIGN_INBOUND$/gm)).toHaveLength(1);
    expect(text.indexOf("-D")).toBeLessThan(text.indexOf("-I"));
  });
});

describe("listings", () => {
  const listing = `-P PREROUTING ACCEPT
-N COUNTERSIGN_INBOUND
-A PREROUTING -p tcp -j COUNTERSIGN_INBOUND
-A OUTPUT -p tcp -j COUNTERSIGN_OUTPUT
-A OUTPUT -j OTHER
-A COUNTERSIGN_INBOUND -p tcp -j REDIRECT --to-ports 16006
-A COUNTERSIGN_OUTPUT -p tcp -j REDIRECT --to-ports 16001
`;
  test.each([
    { name: "ours", text: listing, jumps: { output: 1, prerouting: 1 }, inForce: true },
    { name: "nothing", text: "-P OUTPUT ACCEPT\n", jumps: NO_JUMPS, inForce: false },
    {
      name: "another rule before ours",
      text: listing.replace("-A OUTPUT", "-A OUTPUT -p tcp -j ACCEPT\n-A OUTPUT"),
      jumps: { output: 1, prerouting: 1 },
      inForce: false,
    },
    {
      name: "an emptied chain",
      text: listing.replace(/^-A COUNTERSIGN_OUTPUT.*\n/m, ""),
      jumps: { output: 1, prerouting: 1 },
      inForce: false,
    },
    {
      name: "no inbound jump",
      text: listing.replace(/^-A PREROUTING.*\n/m, ""),
      jumps: { output: 1, prerouting: 0 },
      inForce: false,
    },
  ])("$name: counts the jumps and says whether capture is in force", ({ text, jumps, inForce }) => {
    expect(presentJumps(text)).toEqual(jumps);
    expect(isCaptureInForce(text)).toBe(inForce);
  });
});
