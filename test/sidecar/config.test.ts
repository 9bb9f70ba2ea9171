import { readFileSync } from "node:fs";
import { describe, expect, test } from "@jest/globals";
import { parseSidecarConfig, SIDECAR_FLAGS } from "../../sidecar/config.ts";

const NEEDED = ["--workload", "ml/things", "--state-dir", "/s"];

const POD = ["--state-dir", "/s", "--service-account-token-file", "/t", "--trust-bundle-file", "/b"];

describe("parseSidecarConfig", () => {
  test.each<[string, readonly string[], string | undefined]>([
    ["behind the discovery port", ["--control-plane", "cp.example:16012"], "cp.example:16013"],
    ["of an IPv6 address, too", ["--control-plane", "[::1]:17012"], "[::1]:17013"],
    ["as given", ["--control-plane", "a:1", "--token-service", "b:2"], "b:2"],
    ["off", ["--control-plane", "a:1", "--token-service", "none"], undefined],
    ["not known without a control plane", [], undefined],
  ])("the token service is %s", (_name, args, address) => {
    expect(parseSidecarConfig([...NEEDED, ...args]).tokenService).toBe(address);
  });

  test("needs no workload in a pod, where the environment gives the rest", () => {
    const env = { COUNTERSIGN_NODE: "trainer-0", COUNTERSIGN_TRUST_DOMAIN: "lake.example" };
    expect(parseSidecarConfig(POD, env)).toMatchObject({
      workload: undefined,
      node: "trainer-0",
      proof: {
        kind: "service-account-token",
        file: "/t",
        trustBundleFile: "/b",
        trustDomain: "lake.example",
      },
    });
    expect(parseSidecarConfig(NEEDED).proof).toBeUndefined();
  });

  test("has defaults for everything but workload and state directory", () => {
    expect(parseSidecarConfig(NEEDED)).toMatchObject({
      meshListen: { kind: "tcp", host: "127.0.0.1", port: 16008 },
      outboundProxy: { kind: "tcp", host: "127.0.0.1", port: 16001 },
      metricsListen: { kind: "tcp", port: 16020 },
      adminSocket: "/s/admin.sock",
      audit: "allow",
    });
  });

  test("prefers flags over the environment", () => {
    const env = { COUNTERSIGN_APP: "10.0.0.1", COUNTERSIGN_LOG_LEVEL: "debug" };
    expect(parseSidecarConfig([...NEEDED, "--log-level=warn"], env)).toMatchObject({
      appHost: "10.0.0.1",
      logLevel: "warn",
    });
  });

  test("reads local services, port maps and durations", () => {
    const config = parseSidecarConfig([
      ...NEEDED,
      "--local-service",
      "9000=ml/a:8080",
      "--local-service",
      "unix:/tmp/a.sock=ml/a:8080",
      "--app-port-map",
      "8080=unix:/tmp/app.sock",
      "--drain-timeout",
      "2m",
      "--outbound-proxy",
      "none",
    ]);
    expect(config.localServices).toEqual([
      { listen: { kind: "tcp", host: "127.0.0.1", port: 9000 }, service: "ml/a", port: 8080 },
      { listen: { kind: "unix", path: "/tmp/a.sock" }, service: "ml/a", port: 8080 },
    ]);
    expect(config.appPorts.get(8080)).toEqual({ kind: "unix", path: "/tmp/app.sock" });
    expect(config.timeouts.drainMs).toBe(120_000);
    expect(config.outboundProxy).toBeUndefined();
  });

  test.each([
    { args: ["--mesh-listn", "x"], message: /unknown setting `--mesh-listn`; did you mean `--mesh-listen`/ },
    { args: ["--workload", "things"], message: /--workload `things` is not a workload/ },
    {
      args: [...NEEDED, "--mesh-listen", "nowhere"],
      message: /--mesh-listen `nowhere` has no port; it takes HOST:PORT/,
    },
    { args: [...NEEDED, "--mesh-listen", "h:99999"], message: /`99999` is not a port/ },
    { args: [...NEEDED, "--audit", "alow"], message: /did you mean `allow`/ },
    { args: [...NEEDED, "--idle-timeout", "5"], message: /not a duration/ },
    { args: [...NEEDED, "--app"], message: /--app has no value/ },
    { args: [...NEEDED, "--app", "a", "--app", "b"], message: /given twice/ },
    { args: ["--workload", "a/b"], message: /--state-dir is required|--state-dir.*required/ },
    { args: ["--state-dir", "/s"], message: /--workload is required without --service-account-token-file/ },
    {
      args: [...POD, "--join-token-file", "/j"],
      message: /--join-token-file and --service-account-token-file are two proofs/,
    },
    {
      args: ["--state-dir", "/s", "--service-account-token-file", "/t"],
      message: /--trust-bundle-file is required with --service-account-token-file/,
    },
    {
      args: [...NEEDED, "--trust-bundle-file", "/b"],
      message: /--trust-bundle-file goes with --service-account-token-file/,
    },
    { args: [...NEEDED, "--trust-domain", "a.b"], message: /--trust-domain goes with/ },
    { args: [...POD, "--trust-domain", "A B"], message: /--trust-domain `A B` is not a trust domain/ },
    { args: [...POD, "--node", "a b"], message: /--node cannot be `a b`/ },
    { args: [...NEEDED, "--outbound-proxy", `unix:/${"x".repeat(120)}`], message: /107 bytes/ },
  ])("refuses $args", ({ args, message }) => {
    expect(() =>
      parseSidecarConfig(
        args[0] === "--workload" && args[1] === "things" ? [...args, "--state-dir", "/s"] : args,
      ),
    ).toThrow(message);
  });
});

test("the README lists every flag as the help does, and no other", () => {
  const readme = readFileSync(new URL("../../sidecar/README.md", import.meta.url), "utf8");
  const rows = readme.split("\n").filter((line) => line.startsWith("| `--"));
  expect(rows).toEqual(
    Object.entries(SIDECAR_FLAGS).map(
      ([flag, { value, help, repeat }]) =>
        `| \`${flag} ${value.replaceAll("|", "\\|")}\` | ${help}${repeat ? "; may be repeated" : ""} |`,
    ),
  );
});
