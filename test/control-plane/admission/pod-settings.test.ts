import { describe, expect, test } from "@jest/globals";
import { readPodSettings } from "../../../control-plane/admission/pod-settings.ts";
import { readPod } from "../../../control-plane/admission/pod-view.ts";
import { CONTEXT, podOf } from "./pod-fixture.ts";

function read(annotations: Record<string, string>, labels: Record<string, string> = {}) {
  const withPrefix = (map: Record<string, string>) =>
    Object.fromEntries(Object.entries(map).map(([key, value]) => [`countersign.dev/${key}`, value]));
  const pod = readPod(podOf({ annotations: withPrefix(annotations), labels: withPrefix(labels) }));
  if (!pod.ok) throw new Error(pod.error);
  return readPodSettings(pod.value, CONTEXT.packs);
}

describe("annotations", () => {
  test.each([
    ["exclude-inbound-ports", "80,x", "has `x`, expected ports separated by commas"],
    ["exclude-inbound-ports", "0", "has `0`, expected ports separated by commas"],
    ["exclude-outbound-ports", "65536", "has `65536`, expected ports separated by commas"],
    ["exclude-outbound-ports", "80;81", "has `80;81`, expected ports separated by commas"],
    ["exclude-inbound-ports", "16008", "names port 16008; ports 16001 to 16080 belong to the mesh"],
    ["opaque-ports", "-1", "has `-1`, expected ports separated by commas"],
    [
      "opaque-ports",
      Array.from({ length: 65 }, (_, n) => n + 1).join(),
      "has 65 ports, at most 64 are possible",
    ],
    ["log-level", "verbose", "is `verbose`, expected debug, info, warn, error, silent"],
    ["cpu", "much", "is `much`, expected a quantity such as 100m"],
    ["cpu", "0", "is `0`, expected a quantity such as 100m"],
    ["memory-limit", "-1Gi", "is `-1Gi`, expected a quantity such as 64Mi"],
    ["memory", "1e3", "is `1e3`, expected a quantity such as 64Mi"],
    ["packs", "mlflow-scoring", "has `mlflow-scoring`, expected `PORT=pack,pack;PORT=pack`"],
    ["packs", "8080=ray;8080=ray", "names port 8080 twice; write its packs into one list"],
    ["packs", "16020=ray", "names port 16020; ports 16001 to 16080 belong to the mesh"],
    ["packs", "99999=ray", "has `99999=ray`, expected `PORT=pack,pack;PORT=pack`"],
    ["propagation", "trac", "has `trac`, expected trace, session, forward, none; did you mean `trace`?"],
    ["propagation", "none,trace", "has `none` beside others; it stands alone"],
    ["run-as", "", "is not a user: 1 to 256 characters on one line"],
    ["run-as", "a\nb", "is not a user: 1 to 256 characters on one line"],
  ])("%s: %s is refused", (name, value, message) => {
    expect(read({ [name]: value })).toMatchObject({
      problems: [`annotation \`countersign.dev/${name}\` ${message}`],
    });
  });

  test.each([
    ["packs", " 8080 = mlflow-scoring , oip-v2 ; 9000=ray; "],
    ["propagation", "trace, session"],
    ["propagation", "none"],
    ["opaque-ports", ""],
    ["exclude-inbound-ports", " 80 , 81,"],
    ["cpu", "0.5"],
    ["memory", "1Gi"],
    ["run-as", "bob@corp.example"],
  ])("%s: `%s` is understood", (name, value) => {
    expect(read({ [name]: value })).toMatchObject({ problems: [], warnings: [] });
  });

  test.each([
    [
      { "exclude-inbound-port": "80" },
      "annotation `countersign.dev/exclude-inbound-port` means nothing to the mesh; did you mean `countersign.dev/exclude-inbound-ports`?",
    ],
    [{ quux: "1" }, "annotation `countersign.dev/quux` means nothing to the mesh"],
    [
      { inject: "enabled" },
      "`countersign.dev/inject` is an annotation here and means nothing: make it a label",
    ],
    [
      { packs: "8080=mlflow-scorin" },
      "annotation `countersign.dev/packs` names the pack `mlflow-scorin`, which does not exist; did you mean `mlflow-scoring`?",
    ],
  ])("%j gets a warning", (annotations, warning) => {
    expect(read(annotations as Record<string, string>)).toMatchObject({ problems: [], warnings: [warning] });
  });

  test("of others are none of our business", () => {
    const pod = readPod(podOf({ annotations: { "example.dev/packs": "x", packs: "x" } }));
    expect(pod.ok && readPodSettings(pod.value, undefined)).toMatchObject({ problems: [], warnings: [] });
  });
});

describe("labels", () => {
  test.each([
    ["inject", "true", "is `true`, expected enabled or disabled"],
    [
      "kind",
      "notebok",
      "is `notebok`, expected notebook, job, serving, agent, service, gateway; did you mean `notebook`?",
    ],
    ["name", "a/b", "is `a/b`, expected letters, digits, `.`, `_` and `-`"],
    ["env", "", "is ``, expected letters, digits, `.`, `_` and `-`"],
  ])("%s: %s is refused", (name, value, message) => {
    expect(read({}, { [name]: value })).toMatchObject({
      problems: [`label \`countersign.dev/${name}\` ${message}`],
    });
  });

  test("unknown ones get a warning", () => {
    expect(read({}, { knd: "job" }).warnings).toEqual([
      "label `countersign.dev/knd` means nothing to the mesh; did you mean `countersign.dev/kind`?",
    ]);
  });
});
