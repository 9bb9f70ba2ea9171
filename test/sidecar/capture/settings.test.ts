import { describe, expect, test } from "@jest/globals";
import { parseCaptureInit, parsePortList } from "../../../sidecar/capture/settings.ts";

describe("parseCaptureInit", () => {
  test("takes flags before the environment, and defaults", () => {
    expect(
      parseCaptureInit(["--exclude-outbound-ports", "6379, 5432,6379", "--iptables=legacy"], {
        COUNTERSIGN_EXCLUDE_OUTBOUND_PORTS: "1",
        COUNTERSIGN_EXCLUDE_INBOUND_PORTS: "9100",
      }),
    ).toEqual({
      proxyUid: 61_600,
      excludeOutboundPorts: [5432, 6379],
      excludeInboundPorts: [9100],
      backends: ["legacy"],
      print: false,
    });
    expect(parseCaptureInit([], {}).backends).toEqual(["nft", "legacy"]);
  });

  test.each([
    { args: ["--exclude-outbound-port", "1"], says: "did you mean `--exclude-outbound-ports`" },
    { args: ["--exclude-outbound-ports"], says: "has no value" },
    { args: ["--exclude-outbound-ports", "0"], says: "`0` is not a port" },
    { args: ["--exclude-outbound-ports", "80-90"], says: "`80-90` is not a port" },
    { args: ["--exclude-outbound-ports", "1\n-j ACCEPT"], says: "is not a port" },
    { args: ["--exclude-inbound-ports", "16008"], says: "a port of the mesh itself" },
    { args: ["--proxy-uid", "0"], says: "other than root" },
    { args: ["--proxy-uid", "-1"], says: "other than root" },
    { args: ["--iptables", "ebtables"], says: "not auto, nft or legacy" },
    { args: ["--print", "--print"], says: "given twice" },
  ])("refuses $args", ({ args, says }) => {
    expect(() => parseCaptureInit(args, {})).toThrow(says);
  });

  test("bounds the lists", () => {
    const many = Array.from({ length: 65 }, (_, at) => String(at + 1)).join(",");
    expect(() => parsePortList("--exclude-inbound-ports", many)).toThrow("at most 64");
  });
});
