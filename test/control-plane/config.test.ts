import { describe, expect, test } from "@jest/globals";
import { parseControlPlaneConfig } from "../../control-plane/config.ts";

const base = ["--config-dir", "/c", "--state-dir=/s"];

describe("parseControlPlaneConfig", () => {
  test("defaults to the documented ports on loopback", () => {
    expect(parseControlPlaneConfig(base)).toMatchObject({
      ok: true,
      value: {
        source: { configDir: "/c" },
        stateDir: "/s",
        listen: "127.0.0.1",
        ports: { bootstrap: 16011, discovery: 16012, tokens: 16013, metrics: 16014 },
      },
    });
  });

  test.each([
    [["--port-base", "17000"], { bootstrap: 17011, discovery: 17012, tokens: 17013, metrics: 17014 }],
    [["--port-base", "0"], { bootstrap: 0, discovery: 0, tokens: 0, metrics: 0 }],
    [["--port-base=0", "--metrics-port", "9"], { bootstrap: 0, discovery: 0, tokens: 0, metrics: 9 }],
  ])("%j chooses ports", (extra, ports) => {
    expect(parseControlPlaneConfig([...base, ...extra])).toMatchObject({ value: { ports } });
  });

  test.each([
    [["--state-dir", "/s"], "`--config-dir` is missing"],
    [["--config-dir", "/c"], "`--state-dir` is missing"],
    [[...base, "--prot-base", "1"], "unknown argument `--prot-base`"],
    [[...base, "--port-base", "99999"], "expected 0 to 65535"],
    [[...base, "--port-base"], "needs a value"],
    [[...base, "--cluster", "a", "--cluster", "b"], "given twice"],
    [[...base, "--heartbeat-ms", "1"], "expected 100"],
    [["file.yaml"], "unknown argument"],
  ])("%j is refused", (args, message) => {
    expect(parseControlPlaneConfig(args)).toMatchObject({
      ok: false,
      error: expect.stringContaining(message),
    });
  });

  test("reads a cluster instead of a directory", () => {
    const parsed = parseControlPlaneConfig([
      ...["--kubernetes", "--state-dir", "/s", "--namespace", "mesh", "--trust-domain", "lake.example"],
      ...[
        "--sidecar-image",
        "x/y:1",
        "--sidecar-defaults",
        '{"cpu":"10m"}',
        "--replica",
        "r1",
        "--address",
        "10.0.0.1",
      ],
    ]);
    expect(parsed).toMatchObject({
      ok: true,
      value: {
        source: {
          cluster: {
            namespace: "mesh",
            trustDomain: "lake.example",
            sidecarImage: "x/y:1",
            sidecarDefaults: { cpu: "10m" },
            replica: "r1",
            address: "10.0.0.1",
            webhookPort: 16017,
            managementPort: 16080,
            reportPort: 16015,
          },
        },
      },
    });
  });

  test.each([
    [["--state-dir", "/s"], "or `--kubernetes`"],
    [["--state-dir", "/s", "--config-dir", "/c", "--kubernetes"], "exclude each other"],
    [["--state-dir", "/s", "--config-dir", "/c", "--namespace", "x"], "goes with `--kubernetes`"],
    [["--state-dir", "/s", "--kubernetes", "--trust-domain", "Nope!"], "`--trust-domain` is `Nope!`"],
    [["--state-dir", "/s", "--kubernetes", "--sidecar-defaults", "[1]"], "is not a JSON object of texts"],
  ])("%j is refused: %s", (args, message) => {
    expect(parseControlPlaneConfig(args)).toEqual({ ok: false, error: expect.stringContaining(message) });
  });
});
