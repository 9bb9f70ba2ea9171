// The alerts of both charts: rules that Prometheus takes, on metrics and labels that there are.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { parse, stringify } from "yaml";
import { canTest } from "../left-out.ts";
import { chartFolder, describeWithHelm, render, tryHelm } from "./helm.ts";

const CHARTS = ["countersign", "countersign-gateway"] as const;
const OPERATOR = "--api-versions=monitoring.coreos.com/v1/PrometheusRule";
const fileOf = (chart: string): string => chartFolder(`${chart}/files/rules.yaml`);

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: { readonly summary: string; readonly description: string };
}
const rulesOf = (chart: string): readonly Rule[] => {
  const { groups } = parse(readFileSync(fileOf(chart), "utf8")) as {
    readonly groups: readonly { readonly rules: readonly Rule[] }[];
  };
  return groups.flatMap(({ rules }) => rules);
};

/** Names and labels of the tables in the READMEs, which a test holds equal to the code. */
const METRICS = new Map(
  ["sidecar", "control-plane"].flatMap((folder) => {
    const readme = readFileSync(join(import.meta.dirname, "../..", folder, "README.md"), "utf8");
    return Array.from(
      readme.matchAll(/^\| `(countersign_\w+)` +\| \w+ +\| ([^|]*)\|/gm),
      ([, name = "", labels = ""]) => [`${folder} ${name}`, new Set(labels.match(/\w+/g))] as const,
    );
  }),
);
/** What Prometheus adds. */
const TARGET_LABELS = ["namespace", "pod"];

describe.each(CHARTS)("the alerts of the chart %s", (chart) => {
  const rules = rulesOf(chart);

  test("say what is wrong and what to do, each under a name of its own", () => {
    expect(rules.length).toBeGreaterThan(3);
    expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
    for (const { alert, labels, annotations } of rules) {
      expect(alert).toMatch(/^Countersign[A-Z][A-Za-z]+$/);
      expect(["page", "ticket"]).toContain(labels.severity);
      expect(annotations.summary).not.toBe("");
      expect(annotations.description).not.toBe("");
    }
  });

  test("ask for metrics and labels that there are", () => {
    for (const { alert, expr } of rules)
      for (const [, name = "", selector = ""] of expr.matchAll(/(countersign_\w+)(?:\{([^}]*)\})?/g)) {
        const known = ["sidecar", "control-plane"].flatMap((folder) => {
          const labels = METRICS.get(`${folder} ${name.replace(/_count$/, "")}`);
          return labels === undefined ? [] : [labels];
        });
        expect([alert, name, known.length > 0]).toEqual([alert, name, true]);
        const asked = [
          ...Array.from(selector.matchAll(/(\w+)(?:=|!=|=~|!~)"/g), ([, label = ""]) => label),
          ...Array.from(expr.matchAll(/by \(([^)]*)\)/g), ([, list = ""]) => list.split(/, */)).flat(),
        ];
        for (const label of asked)
          expect([
            alert,
            label,
            TARGET_LABELS.includes(label) || known.some((labels) => labels.has(label)),
          ]).toEqual([alert, label, true]);
      }
  });

  const isThere = canTest("promtool's check of the alerts", { promtool: "Debian's prometheus" });
  (isThere ? test : test.skip)("are rules that promtool accepts", () => {
    const checked = spawnSync("promtool", ["check", "rules", fileOf(chart)], { encoding: "utf8" });
    expect([checked.status, checked.stderr]).toEqual([0, ""]);
    expect(checked.stdout).toContain(`${rules.length} rules found`);
  });
});

describe("what the alerts do", () => {
  const isThere = canTest("what the alerts do", { promtool: "Debian's prometheus" });
  const life = "21600-60x180";
  const SERIES = [
    // A day of next to none, then ten a second; one that is new; one that was so yesterday.
    ['countersign_decisions_total{callee="scorer",decision="deny"}', "0+1x1500 1500+600x60"],
    ['countersign_decisions_total{callee="new",decision="deny"}', "_x1500 0+600x60"],
    ['countersign_decisions_total{callee="busy",decision="deny"}', "0+600x1560"],
    ['countersign_decisions_total{callee="open",decision="allow"}', "_x1500 0+600x60"],
    ['countersign_svid_expiry_seconds{pod="good"}', Array(9).fill(life).join(" ")],
    ['countersign_svid_expiry_seconds{pod="stuck"}', `${Array(7).fill(life).join(" ")} 21600-60x320`],
    ['countersign_svid_expiry_seconds{pod="dead"}', "0x1560"],
  ];

  (isThere ? test : test.skip)(
    "is to fire for what is wrong, and for nothing else",
    () => {
      const dir = mkdtempSync(join(tmpdir(), "countersign-rules-"));
      try {
        // Texts are not compared.
        const bare = rulesOf("countersign").map(({ annotations: _, ...rule }) => rule);
        writeFileSync(join(dir, "rules.yaml"), stringify({ groups: [{ name: "a", rules: bare }] }));
        const fires = (alertname: string, label: string, values: readonly string[]) => ({
          ...{ eval_time: "1550m", alertname },
          exp_alerts: values.map((value) => ({ exp_labels: { severity: "page", [label]: value } })),
        });
        const tests = [
          {
            interval: "1m",
            input_series: SERIES.map(([series, values]) => ({ series, values })),
            alert_rule_test: [
              fires("CountersignDeniedSpike", "callee", ["new", "scorer"]),
              fires("CountersignCertificateAge", "pod", ["stuck"]),
              fires("CountersignIdentityExpired", "pod", ["dead"]),
            ],
          },
        ];
        const file = join(dir, "tests.yaml");
        writeFileSync(file, stringify({ rule_files: ["rules.yaml"], evaluation_interval: "5m", tests }));
        const { status, stderr, stdout } = spawnSync("promtool", ["test", "rules", file], {
          encoding: "utf8",
        });
        expect([status, stderr, stdout]).toEqual([0, "", expect.stringContaining("SUCCESS")]);
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    },
    60_000,
  );
});

describeWithHelm("a PrometheusRule", () => {
  test.each(CHARTS)("of the chart %s is there when it is asked for and the operator is there", (chart) => {
    const found = (args: readonly string[]) =>
      render(chart, ...args).filter(({ kind }) => kind === "PrometheusRule");
    expect(found([OPERATOR])).toEqual([]);
    expect(found(["--set=monitoring.rules.enabled=true"])).toEqual([]);
    const [rule, ...more] = found([
      "--set=monitoring.rules.enabled=true,monitoring.rules.labels.release=prometheus",
      OPERATOR,
    ]);
    expect(more).toEqual([]);
    expect(rule?.metadata.labels).toMatchObject({ release: "prometheus" });
    // Whole and as they are: Helm does not read the placeholders in them.
    expect(rule?.["spec"]).toEqual(parse(readFileSync(fileOf(chart), "utf8")));
  });

  test("takes no labels that are none", () => {
    const args = ["--kube-version=1.30.0", "--set=monitoring.rules.labels=x"];
    for (const chart of CHARTS)
      expect(tryHelm(["template", "x", chartFolder(chart), ...args]).ok).toBe(false);
  });
});
