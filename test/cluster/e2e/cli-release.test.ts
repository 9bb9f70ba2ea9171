// The command line on the product as Helm installs it, with two replicas: what it says of a mesh that is well, and of one
// that is not.
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { kubectl, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";
import {
  begin,
  callFrom,
  deployPlatform,
  install,
  NOTEBOOK,
  platformFile,
  SYSTEM,
  uninstall,
  waitForStatus,
} from "../release.ts";

const cli = fileURLToPath(new URL("../../../control-plane/cli/main.ts", import.meta.url));

interface Run {
  readonly status: number;
  readonly text: string;
  readonly errors: string;
}

function run(...args: string[]): Promise<Run> {
  return new Promise((resolve) => {
    const env = { ...process.env, KUBECONFIG: adminKubeconfig() };
    const command = ["--disable-warning=ExperimentalWarning", cli, ...args];
    execFile(process.execPath, command, { env, timeout: 40_000 }, (error, text, errors) => {
      const status = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
      resolve({ status, text, errors: status < 0 ? `${errors} (ended by ${error?.signal})` : errors });
    });
  });
}

describeOnCluster("the command line on the release", { testMs: 90_000, suiteMs: 420_000 }, () => {
  beforeAll(async () => {
    await begin();
    await install(["--set=replicas=2"]);
    await deployPlatform();
    await kubectl(["apply", "-f", platformFile("policies")]);
  }, 2_000_000);
  afterAll(uninstall, 240_000);

  test("check finds everything in order", async () => {
    let last: Run = { status: -1, text: "", errors: "" };
    await waitFor(
      async () => {
        last = await run("check");
        return last.status === 0;
      },
      60_000,
      "a mesh that is well",
    ).catch(() => {});
    expect(last.errors).toBe("");
    expect(last.text).toMatch(/ok +control plane +2 of 2 pods in `countersign-system` are ready/);
    for (const name of [
      "leader",
      "webhooks",
      "webhook server",
      "trust bundle",
      "authority",
      "sidecars",
      "pods",
    ])
      expect(last.text).toMatch(new RegExp(`^ok +${name} `, "m"));
    expect(last.text).not.toMatch(/^failed/m);
    expect(last.status).toBe(0);
  });

  test.each([
    { args: ["describe", "pod", "nb-alice-0", "-n", "ml-dev"], says: /meshed +yes: sidecar \S+, synced/ },
    { args: ["describe", "svc", "fraud-scorer", "-n", "ml-serving"], says: /may be called by/ },
    {
      args: ["authz", "serving/fraud-scorer", "-n", "ml-serving"],
      says: /spiffe:\/\/lake\.acme\.example\/ns\/ml-serving\//,
    },
    { args: ["proxy-status"], says: /ml-dev\/nb-alice-0 +ml-dev\/\S+ +synced/ },
    { args: ["status"], says: /follows the cluster; \d+ workloads, (\d+)\/\1 connected sidecars up to date/ },
    { args: ["history"], says: /not pinned: the newest revision is in force/ },
    {
      args: [
        "explain",
        "--from",
        "pod/ml-dev/nb-alice-0",
        "--to",
        "serving/fraud-scorer",
        "--request",
        "GET /ping",
      ],
      says: /^ALLOWED ALLOWED by ml-serving\//,
    },
  ])("$args", async ({ args, says }) => {
    const { status, text, errors } = await run(...args);
    expect(errors).toBe("");
    expect(text).toMatch(says);
    expect(status).toBe(0);
  });

  test("a denied caller's decision id is explained by the pod that denied", async () => {
    const { status, body } = await callFrom(
      NOTEBOOK,
      "-d",
      "{}",
      "http://fraud-scorer.ml-serving:8080/invocations",
    );
    expect(status).toBe(403);
    const { decisionId } = JSON.parse(body) as { decisionId: string };
    const names = await kubectl(["get", "pods", "-n", "ml-serving", "-l", "app=fraud-scorer", "-o", "name"]);
    const answers = await Promise.all(
      [
        ...names
          .trim()
          .split("\n")
          .map((name) => `ml-serving/${name.slice("pod/".length)}`),
        "ml-dev/nb-alice-0",
      ].map((pod) => run("explain", decisionId, "--pod", pod)),
    );
    const told = answers.filter(({ text }) => text.startsWith("DENIED NO_MATCHING_ALLOW"));
    expect(told.length).toBeGreaterThan(0);
    expect(told[0]?.text).toContain("notebooks: no match");
    for (const answer of answers) expect(answer.status).toBe(1);
    const none = await run("explain", "d-0000000000000000", "--pod", "nb-alice-0", "-n", "ml-dev");
    expect(none.errors).toMatch(/^countersign: \S+/);
    expect(none.status).toBe(1);
    const nowhere = await run("explain", decisionId, "--pod", "nope", "-n", "ml-dev");
    expect(nowhere.errors).toContain("there is no such pod");
    expect(nowhere.status).toBe(3);
  });

  const programmed = (policy: string): Promise<string> => {
    const condition = '.status.conditions[?(@.type=="Programmed")]';
    const path = `{${condition}.status} {${condition}.reason}`;
    return kubectl(["get", "acp", policy, "-n", "ml-serving", "-o", `jsonpath=${path}`]);
  };

  test("rolls back, says so everywhere, and releases", async () => {
    const history = JSON.parse((await run("history", "--json")).text) as {
      revisions: { sequence: number }[];
    };
    const target = history.revisions.at(-1)?.sequence ?? 0;
    const back = await run("rollback", String(target));
    expect(back.errors).toBe("");
    expect(back.text).toContain(`is revision ${target} again`);
    expect(back.text).toMatch(/changes: .*- AccessPolicy ml-serving\/fraud-scorer-callers/);
    await waitFor(
      async () => (await programmed("fraud-scorer-callers")) === "False Pinned",
      20_000,
      "a policy that the pinned revision lacks to say so",
    );
    await waitFor(async () => (await run("status")).text.includes("PINNED"), 20_000, "every replica to pin");
    const check = await run("check");
    expect(check.text).toMatch(/warning +policies +the mesh is pinned to revision/);
    const release = await run("rollback", "--release");
    expect(release.text).toContain("is what the cluster says");
    expect(release.text).toMatch(/changes: .*\+ AccessPolicy ml-serving\/fraud-scorer-callers/);
    await waitFor(async () => !(await run("status")).text.includes("PINNED"), 20_000, "the release");
  });

  test("revokes a pod's identity, which proves itself again", async () => {
    const url = "http://fraud-scorer.ml-serving:8080/ping";
    await waitForStatus(200, 20_000, url);
    const since = new Date();
    const revoked = await run("revoke", "--pod", "ml-dev/nb-alice-0", "--reason", "INC-42");
    expect(revoked).toMatchObject({ status: 0, errors: "" });
    expect(revoked.text).toContain("Sidecars in pods prove themselves again");
    const uid = await kubectl(["get", "pod", "nb-alice-0", "-n", "ml-dev", "-o", "jsonpath={.metadata.uid}"]);
    expect((await run("revocations")).text).toMatch(new RegExp(`pod ${uid} .* INC-42`));
    expect(await kubectl(["get", "revocations", "-n", SYSTEM, "-o", "jsonpath={.items[*].spec.pod}"])).toBe(
      uid,
    );
    const log = () =>
      kubectl([
        ...["logs", "nb-alice-0", "-n", "ml-dev", "-c", "countersign-proxy"],
        `--since-time=${since.toISOString()}`,
      ]);
    await waitFor(
      async () => (await log()).includes("was revoked, join again"),
      20_000,
      "the end of its stream",
    );
    await waitForStatus(200, 30_000, url);
    expect((await run("revoke", "--pod", "ml-dev/nb-bob-0", "--reason", "x")).errors).toContain("nb-alice-0");
  });

  test("check says which pod is not meshed, and describe why", async () => {
    await kubectl(["create", "namespace", "ml-late"]);
    try {
      await kubectl([
        "run",
        "early",
        "-n",
        "ml-late",
        "--image=countersign.test/app:dev",
        "--image-pull-policy=IfNotPresent",
        "--",
        "sleep",
        "600",
      ]);
      const outside = await run("describe", "pod", "early", "-n", "ml-late");
      expect(outside.text).toContain("kubectl label namespace ml-late countersign.dev/inject=enabled");
      expect(outside.status).toBe(1);
      await kubectl(["label", "namespace", "ml-late", "countersign.dev/inject=enabled"]);
      const { text } = await run("check");
      expect(text).toMatch(/warning +pods +1 should be meshed and are not: ml-late\/early/);
      const inside = await run("describe", "pod", "early", "-n", "ml-late");
      expect(inside.text).toMatch(/NO: it .*make it anew/);
    } finally {
      await kubectl(["delete", "namespace", "ml-late", "--wait=false"]);
    }
  });

  test("check fails when the control plane is gone, and verbs say that it is not ready", async () => {
    await kubectl(["scale", "deployment/countersign", "-n", SYSTEM, "--replicas=0"]);
    await kubectl([
      "wait",
      "--for=delete",
      "pod",
      "-l",
      "app.kubernetes.io/name=countersign",
      "-n",
      SYSTEM,
      "--timeout=40s",
    ]);
    const status = await run("status");
    expect(status.errors).toContain("no pod of the control plane in `countersign-system` is ready");
    expect(status.status).toBe(3);
    const check = await run("check");
    expect(check.text).toMatch(/^failed +control plane +no pod is behind/m);
    expect(check.status).toBe(1);
  });
});
