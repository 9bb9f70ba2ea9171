// The built command line as a process of its own, on the demo's configuration and on broken input.
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";

const root = fileURLToPath(new URL("../..", import.meta.url));
const cli = join(root, "dist/control-plane/cli/main.js");
let folder = "";
let config = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "countersign-cli-"));
  config = join(folder, "config");
  cpSync(join(root, "test/demo/config"), config, { recursive: true });
  const values = new Map([
    ["windowFrom", "01:00"],
    ["windowTo", "05:00"],
  ]);
  for (const file of readdirSync(config)) {
    const path = join(config, file);
    const text = readFileSync(path, "utf8").replace(
      /\{\{([\w-]+)\}\}/g,
      (_, key: string) => values.get(key) ?? "16108",
    );
    writeFileSync(path, text);
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(...args: string[]): Promise<{ status: number; text: string; errors: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [cli, ...args], { cwd: root, timeout: 100_000 }, (error, text, errors) => {
      const status = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
      resolve({ status, text, errors });
    });
  });
}

describe("countersign", () => {
  test("prints help and says how it exits", async () => {
    const { status, text } = await run("--help");
    expect(status).toBe(0);
    expect(text).toContain("Exit status: 0");
    expect((await run()).status).toBe(2);
  });

  test("accepts the README's example for one machine without a warning", async () => {
    const readme = readFileSync(join(root, "README.md"), "utf8");
    const yaml = /<!-- one machine:.*?-->[\s\S]*?<<'YAML'\n([\s\S]*?)\nYAML\n/.exec(readme)?.[1] ?? "";
    const file = join(folder, "one-machine.yaml");
    writeFileSync(file, yaml);
    expect(await run("lint", file)).toMatchObject({
      status: 0,
      text: "4 objects accepted, 0 errors, 0 warnings\n",
    });
  });

  test("says its version", async () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(await run("--version")).toMatchObject({ status: 0, text: `${version}\n` });
  });

  test("accepts the demo's configuration, with a word about roles that nobody holds", async () => {
    const { status, text } = await run("check", config);
    expect(text).toContain("14 objects accepted, 0 errors, 3 warnings");
    expect(text).toMatch(/guard-rails\.yaml:\d+: ClusterAccessPolicy guard-admin-surface: .*`release-bot`/);
    expect(status).toBe(0);
    expect((await run("lint", config)).status).toBe(1);
  });

  test("runs the decision table that ships with it", async () => {
    const { status, text } = await run("policy", "test", join(root, "crds/decisions/fraud-scorer.yaml"));
    expect(text).toContain("10 vectors, all as they say");
    expect(status).toBe(0);
  });

  test.each([
    {
      name: "allows the batch job at night",
      from: "job/nightly-score",
      at: "2026-09-15T02:10:00+02:00",
      status: 0,
      says: "ALLOWED ALLOWED by ml-serving/fraud-scorer-callers/nightly-batch",
    },
    {
      name: "says that the window is closed by day",
      from: "nightly-score",
      at: "2026-09-15T10:00:00+02:00",
      status: 1,
      says: "nightly-batch: no match: when.schedule: closed",
    },
    {
      name: "says which caller the rule wants",
      from: "ml-dev/nb-alice",
      at: "2026-09-15T02:10:00Z",
      status: 1,
      says: "caller is a `notebook`, rule wants `job`",
    },
    {
      name: "names the closest workload",
      from: "job/nightly-scor",
      at: "2026-09-15T02:10:00Z",
      status: 2,
      says: "did you mean `job/nightly-score`?",
    },
  ])("explains a described call: $name", async ({ from, at, status, says }) => {
    const call = [
      "--from",
      from,
      "--to",
      "serving/fraud-scorer",
      "--request",
      "POST /invocations",
      "--at",
      at,
    ];
    const result = await run("explain", "--config-dir", config, ...call);
    expect(result.text + result.errors).toContain(says);
    expect(result.status).toBe(status);
  });

  test("shows what the caller would see", async () => {
    const call = ["--from", "nb-alice", "--to", "llm-chat", "--request", "POST /v1/../x"];
    const { status, text } = await run("explain", "--config-dir", config, "--json", ...call);
    expect(status).toBe(1);
    expect(JSON.parse(text)).toMatchObject({
      allowed: false,
      reason: "REQ_MALFORMED",
      answer: { status: 400 },
    });
  });
});

const POLICY = `apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: p, namespace: ml}
spec:
  action: Allow
  rules:
  - name: r
    from: [{any: true}]
    operations: [{op: serving.invoke}]
`;

describe("countersign check on broken input", () => {
  test.each([
    {
      name: "a typo in a field",
      text: POLICY.replace("operations:", "operatons:"),
      line: 9,
      says: "did you mean `operations`",
    },
    {
      name: "an unknown kind",
      text: POLICY.replace("kind: AccessPolicy", "kind: AccesPolicy"),
      line: 2,
      says: "did you mean `AccessPolicy`",
    },
    {
      name: "an object that is not ours",
      text: POLICY.replace("countersign.dev/v1alpha1", "apps/v1").replace(
        "kind: AccessPolicy",
        "kind: Deployment",
      ),
      line: 2,
      says: "keep objects that are not of countersign.dev in another directory",
    },
    {
      name: "a bad enum value",
      text: POLICY.replace("action: Allow", "action: Permit"),
      line: 5,
      says: "`Allow`, `Deny`, `Audit`",
    },
    { name: "two objects of one name", text: `${POLICY}---\n${POLICY}`, line: 11, says: "p" },
    {
      name: "CEL that does not compile",
      text: `${POLICY}    when: {cel: "user.id =="}\n`,
      line: 10,
      says: "does not compile",
    },
    {
      name: "an unknown operation",
      text: POLICY.replace("serving.invoke", "serving.invok"),
      line: 9,
      says: "serving.invoke",
    },
    {
      name: "a policy that can never match",
      text: `${POLICY}    when: {notBefore: "2027-01-01T00:00:00Z", notAfter: "2026-01-01T00:00:00Z"}\n`,
      line: 10,
      says: "never",
    },
    { name: "text that is no YAML", text: "a: [1\n", line: 2, says: "is not YAML" },
  ])("$name is reported with its line", async ({ name, text, line, says }) => {
    const file = join(folder, `${name.replaceAll(" ", "-")}.yaml`);
    writeFileSync(file, text);
    const result = await run("lint", file);
    expect(result.text).toContain(says);
    expect(result.text).toMatch(new RegExp(`\\.yaml:${line}: `));
    expect(result.status).toBe(1);
    expect(result.errors).toBe("");
  });

  test("a file that is not there is another exit status than one that is wrong", async () => {
    expect((await run("check", join(folder, "none.yaml"))).status).toBe(3);
  });
});

describe("a cluster that cannot be asked", () => {
  const KUBECONFIG = {
    ...{ apiVersion: "v1", kind: "Config", "current-context": "away" },
    contexts: [{ name: "away", context: { cluster: "away", user: "me" } }],
    // Nothing listens on port 1.
    clusters: [{ name: "away", cluster: { server: "https://127.0.0.1:1" } }],
    users: [{ name: "me", user: { token: "secret-token" } }],
  };
  const onCluster = (kubeconfig: string, ...args: string[]): ReturnType<typeof run> =>
    new Promise((resolve) => {
      const env = { PATH: process.env["PATH"] ?? "", HOME: folder, KUBECONFIG: kubeconfig };
      execFile(
        process.execPath,
        [cli, ...args],
        { cwd: root, timeout: 100_000, env },
        (error, text, errors) => {
          const status = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
          resolve({ status, text, errors });
        },
      );
    });

  test.each([
    { args: ["status"], status: 2, says: "there is no kubeconfig: give `--kubeconfig` or set KUBECONFIG" },
    { args: ["check"], status: 2, says: "there is no kubeconfig" },
    { args: ["describe", "pod", "a"], status: 2, says: "there is no kubeconfig" },
    {
      args: ["rollback", "3", "--kubeconfig", "/none"],
      status: 2,
      says: "`--kubeconfig /none` does not exist",
    },
  ])("without a kubeconfig: $args", async ({ args, status, says }) => {
    const result = await onCluster("", ...args);
    expect(result.errors).toContain(says);
    expect(result.text).toBe("");
    expect(result.status).toBe(status);
  });

  test("with one that is wrong, one without that context, and one whose server is away", async () => {
    const path = join(folder, "kubeconfig.json");
    writeFileSync(path, "{{{");
    const wrong = await onCluster(path, "status");
    expect(wrong.errors).toContain("the kubeconfig cannot be used");
    expect(wrong.status).toBe(2);
    writeFileSync(path, JSON.stringify(KUBECONFIG));
    const context = await onCluster(path, "status", "--context", "prod");
    expect(context.errors).toContain("the kubeconfig has no context `prod`; it has `away`");
    expect(context.status).toBe(2);
    for (const args of [["status"], ["authz", "nb"], ["describe", "svc", "a", "-n", "b"], ["proxy-status"]]) {
      const away = await onCluster(path, ...args);
      expect(away.errors).toContain("(context `away`): the API server cannot be reached");
      expect(away.errors).not.toContain("secret-token");
      expect(away.status).toBe(3);
    }
    const check = await onCluster(path, "check", "--json");
    expect(JSON.parse(check.text)).toMatchObject({ installed: false, failed: 1 });
    expect(check.status).toBe(1);
  });
});
