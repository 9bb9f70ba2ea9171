import { describe, expect, test } from "@jest/globals";
import { injectSettings } from "../../../control-plane/admission/inject-settings.ts";

const FLAGS = {
  image: "registry.example:5000/team/sidecar:1.2@sha256:0123",
  defaults: {},
  trustDomain: "corp.example",
  namespace: "mesh",
  version: "1.2.3",
};

describe("injectSettings", () => {
  test("fills in what the chart leaves out", () => {
    expect(injectSettings(FLAGS)).toEqual({
      ok: true,
      value: {
        image: FLAGS.image,
        imagePullPolicy: "IfNotPresent",
        trustDomain: "corp.example",
        controlPlane: "countersign.mesh.svc:16012",
        bootstrap: "countersign.mesh.svc:16011",
        resources: { cpu: "50m", memory: "64Mi", cpuLimit: undefined, memoryLimit: "256Mi" },
        logLevel: "info",
        legacyIptables: false,
        version: "1.2.3",
      },
    });
  });

  test("takes what is given, and an empty limit as none", () => {
    const defaults = {
      cpu: "1",
      "memory-limit": "",
      "log-level": "debug",
      "pull-policy": "Always",
      iptables: "legacy",
    };
    expect(injectSettings({ ...FLAGS, defaults })).toMatchObject({
      value: {
        resources: { cpu: "1", memoryLimit: undefined },
        logLevel: "debug",
        imagePullPolicy: "Always",
        legacyIptables: true,
      },
    });
  });

  test.each([
    [{ memry: "1" }, "`--sidecar-defaults` has `memry`; did you mean `memory`?"],
    [{ cpu: "much" }, "`--sidecar-defaults`: `cpu` is `much`, expected a quantity"],
    [{ cpu: "" }, "`--sidecar-defaults`: `cpu` is ``, expected a quantity"],
    [
      { "log-level": "loud" },
      "`--sidecar-defaults`: `log-level` is none of debug, info, warn, error, silent",
    ],
    [{ "pull-policy": "x" }, "`--sidecar-defaults`: `pull-policy` is none of Always, IfNotPresent, Never"],
    [{ iptables: "x" }, "`--sidecar-defaults`: `iptables` is neither nft nor legacy"],
  ])("refuses %j", (defaults, error) => {
    expect(injectSettings({ ...FLAGS, defaults: defaults as unknown as Record<string, string> })).toEqual({
      ok: false,
      error,
    });
  });

  test("refuses what is no image", () => {
    expect(injectSettings({ ...FLAGS, image: "a b" })).toEqual({
      ok: false,
      error: "`--sidecar-image`: `a b` is not an image",
    });
  });
});
