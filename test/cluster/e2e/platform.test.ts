// The product as it is used: installed by Helm, an ML platform of untouched images in labelled namespaces, policies by
// kubectl, and everything a user does to them afterwards.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { freePorts } from "../../demo/process.ts";
import { canTest } from "../../left-out.ts";
import { describeOnCluster } from "../gate.ts";
import { apply, helm, kubectl, logs, tryKubectl, waitFor, waitForObject } from "../kube.ts";
import { Prometheus } from "../prometheus.ts";
import {
  begin,
  callFrom,
  conditionsOf,
  deployPlatform,
  install,
  NOTEBOOK,
  platformFile,
  SYSTEM,
  uninstall,
  waitForStatus,
} from "../release.ts";

const SCORER = "http://fraud-scorer.ml-serving:8080";
const SCORE = ["-d", '{"dataframe_records":[{"amount":5000}]}', `${SCORER}/invocations`] as const;
const TRACKING = "http://mlflow.mlflow:5000/api/2.0/mlflow";

const hasPrometheus = canTest("scraping by Prometheus", { prometheus: "Debian package prometheus" });

/** The policy of the fraud scorer with other operations for notebooks. */
const scorerPolicy = (operations: readonly string[]) => ({
  apiVersion: "countersign.dev/v1alpha1",
  kind: "AccessPolicy",
  metadata: { name: "fraud-scorer-callers", namespace: "ml-serving" },
  spec: {
    action: "Allow",
    targets: [{ kinds: ["serving"], names: ["fraud-*"] }],
    rules: [
      {
        name: "notebooks",
        from: [
          { workload: { kinds: ["notebook"], namespaces: ["ml-dev"], serviceAccounts: ["ml-dev/notebook"] } },
        ],
        operations: operations.map((op) => ({ op })),
      },
    ],
  },
});

const job = (name: string, command: readonly string[]) => ({
  apiVersion: "batch/v1",
  kind: "Job",
  metadata: { name, namespace: "ml-batch" },
  spec: {
    backoffLimit: 0,
    template: {
      spec: {
        serviceAccountName: "trainer",
        restartPolicy: "Never",
        containers: [
          { name: "main", image: "countersign.test/app:dev", imagePullPolicy: "IfNotPresent", command },
        ],
      },
    },
  },
});

describeOnCluster("the ML platform in the mesh", { testMs: 120_000, suiteMs: 600_000 }, () => {
  beforeAll(async () => {
    await begin();
    await install();
    await deployPlatform();
  }, 2_000_000);

  afterAll(uninstall, 240_000);

  test("pods have the sidecar first and their images are as they were", async () => {
    const names = async (path: string) =>
      (await kubectl(["get", "pod", "nb-alice-0", "-n", "ml-dev", "-o", `jsonpath={${path}}`])).split(" ");
    expect(await names(".spec.initContainers[*].name")).toEqual(["countersign-init", "countersign-proxy"]);
    expect(await names(".spec.containers[*].image")).toEqual(["countersign.test/app:dev"]);
  });

  test("without a policy every call is denied, with a reason", async () => {
    expect(await callFrom(NOTEBOOK, `${SCORER}/ping`)).toMatchObject({ status: 403, reason: "DEFAULT_DENY" });
    expect(await callFrom(NOTEBOOK, `${TRACKING}/runs/get?run_id=r-17`)).toMatchObject({
      reason: "DEFAULT_DENY",
    });
  });

  test("policies by kubectl are in force at once and say so", async () => {
    await kubectl(["apply", "-f", platformFile("policies")]);
    await waitForStatus(200, 10_000, `${SCORER}/ping`);
    await waitFor(
      async () =>
        (await conditionsOf("acp/fraud-scorer-callers", "ml-serving"))["Programmed"]?.startsWith("True") ===
        true,
      10_000,
      "Programmed=True",
    );
    expect(await conditionsOf("acp/fraud-scorer-callers", "ml-serving")).toEqual({
      Accepted: "True/Accepted",
      ResolvedRefs: "True/ResolvedRefs",
      Programmed: "True/Programmed",
    });
    const shown = await kubectl(["get", "acp", "-n", "ml-serving", "fraud-scorer-callers"]);
    expect(shown).toContain("Allow");
  });

  test("allowed and denied calls, each with its operation and reason", async () => {
    expect(await callFrom(NOTEBOOK, `${SCORER}/ping`)).toMatchObject({ status: 200 });
    const denied = await callFrom(NOTEBOOK, ...SCORE);
    expect(denied).toMatchObject({ status: 403, reason: "NO_MATCHING_ALLOW" });
    expect(JSON.parse(denied.body)).toMatchObject({
      operation: "serving.invoke.predict",
      target: "serving/fraud-scorer",
      caller: "notebook/nb-alice",
    });
    expect(await callFrom(NOTEBOOK, "http://llm-chat.ml-serving/v1/models")).toMatchObject({
      reason: "DEFAULT_DENY",
    });
    expect(
      await callFrom(
        NOTEBOOK,
        "-d",
        '{"run_id":"r-17","key":"auc","value":1}',
        `${TRACKING}/runs/log-metric`,
      ),
    ).toMatchObject({ reason: "NO_MATCHING_ALLOW" });
  });

  test("a Service, a headless Service and a pod's address lead to the same decision", async () => {
    const address = await kubectl([
      "get",
      "pod",
      "-n",
      "ml-serving",
      "-l",
      "app=fraud-scorer",
      "-o",
      "jsonpath={.items[0].status.podIP}",
    ]);
    for (const host of [
      "fraud-scorer.ml-serving",
      "fraud-scorer-pods.ml-serving",
      "fraud-scorer.ml-serving.svc.cluster.local",
      address,
    ]) {
      expect(await callFrom(NOTEBOOK, `http://${host}:8080/ping`)).toMatchObject({ status: 200 });
      expect(await callFrom(NOTEBOOK, "-d", "{}", `http://${host}:8080/invocations`)).toMatchObject({
        reason: "NO_MATCHING_ALLOW",
      });
    }
  });

  test("a host name does not lead to another service than the address", async () => {
    const forbidden = await kubectl([
      "get",
      "service",
      "llm-chat",
      "-n",
      "ml-serving",
      "-o",
      "jsonpath={.spec.clusterIP}",
    ]);
    const answer = await callFrom(
      NOTEBOOK,
      "-H",
      "host: fraud-scorer.ml-serving:8080",
      `http://${forbidden}/ping`,
    );
    expect(answer).toMatchObject({ status: 403 });
  });

  test("a pod without sidecar gets nothing, and probes of the kubelet go through", async () => {
    await apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name: "mlflow-outside" } }]);
    try {
      await waitFor(
        async () => (await tryKubectl(["get", "sa", "default", "-n", "mlflow-outside"])).code === 0,
        20_000,
      );
      await apply([
        {
          apiVersion: "v1",
          kind: "Pod",
          metadata: { name: "stranger", namespace: "mlflow-outside" },
          spec: {
            terminationGracePeriodSeconds: 1,
            containers: [
              {
                name: "app",
                image: "countersign.test/app:dev",
                imagePullPolicy: "IfNotPresent",
                command: ["sleep", "infinity"],
              },
            ],
          },
        },
      ]);
      await waitForObject("mlflow-outside", "pod/stranger", "condition=Ready", 30_000);
      const stranger = { namespace: "mlflow-outside", name: "stranger", container: "app" };
      const { status, reason } = await callFrom(stranger, `${SCORER}/ping`);
      expect({ status, reason }).toEqual({ status: 403, reason: "AUTHN_MTLS_REQUIRED" });
    } finally {
      await tryKubectl(["delete", "namespace", "mlflow-outside", "--wait=false"]);
    }
    const restarts = await kubectl([
      "get",
      "pods",
      "-n",
      "ml-serving",
      "-o",
      "jsonpath={.items[*].status.containerStatuses[*].restartCount}",
    ]);
    expect(new Set(restarts.split(" "))).toEqual(new Set(["0"]));
  });

  test("Jobs complete with their exit codes, a CronJob's run has the CronJob's name", async () => {
    await kubectl(["apply", "-f", platformFile("jobs.yaml")]);
    await kubectl(["create", "job", "nightly-score-1", "--from=cronjob/nightly-score", "-n", "ml-batch"]);
    await apply([job("fails", ["sh", "-c", "exit 7"])]);
    await waitForObject("ml-batch", "job/retrain-fraud", "condition=Complete", 40_000);
    await waitForObject("ml-batch", "job/nightly-score-1", "condition=Complete", 40_000);
    await waitForObject("ml-batch", "job/fails", "condition=Failed", 40_000);
    expect(JSON.parse(await logs("ml-batch", "job/retrain-fraud", "train"))).toMatchObject({ status: 200 });
    expect(JSON.parse(await logs("ml-batch", "job/nightly-score-1", "score"))).toMatchObject({
      status: 200,
      body: '{"predictions":[0.93]}',
    });
    expect(
      await kubectl([
        "get",
        "pods",
        "-n",
        "ml-batch",
        "-l",
        "job-name=fails",
        "-o",
        "jsonpath={.items[0].status.containerStatuses[0].state.terminated.exitCode}",
      ]),
    ).toBe("7");
  });

  test("a live edit is in force at once", async () => {
    await apply([scorerPolicy(["health.probe", "serving.invoke"])]);
    await waitForStatus(200, 5_000, ...SCORE);
    await apply([scorerPolicy(["health.probe"])]);
    await waitForStatus(403, 5_000, ...SCORE);
  });

  test("what this build does not enforce is refused and says Unsupported", async () => {
    const { code, stderr } = await tryKubectl(["apply", "-f", "-"], {
      stdin: JSON.stringify({
        apiVersion: "countersign.dev/v1alpha1",
        kind: "ExternalService",
        metadata: { name: "warehouse", namespace: "ml-dev" },
        spec: {
          hosts: ["warehouse.example.com"],
          credential: { type: "tokenFederation", tokenURL: "https://warehouse.example.com/token" },
        },
      }),
    });
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("does not sign in") });
  });

  (hasPrometheus ? test : test.skip)(
    "Prometheus finds every part by its annotations and knows the golden metrics",
    async () => {
      const [port = 0] = await freePorts(1);
      const prometheus = new Prometheus(port);
      try {
        await prometheus.discover();
        await callFrom(NOTEBOOK, "-n", "20", "-i", "100", `${SCORER}/ping`);
        expect(await callFrom(NOTEBOOK, ...SCORE)).toMatchObject({ status: 403 });
        const up = async () =>
          new Map((await prometheus.query("up")).map(({ metric, value }) => [metric["pod"] ?? "", value]));
        await waitFor(
          async () => {
            const found = await up().catch(() => new Map<string, number>());
            return found.size >= 7 && [...found.values()].every((value) => value === 1);
          },
          40_000,
          "every target up",
        );
        expect(
          [...(await up()).keys()].sort().map((name) => name.replace(/-[a-z0-9]+-[a-z0-9]{5}$/, "")),
        ).toEqual(
          expect.arrayContaining(["countersign", "fraud-scorer", "llm-chat", "mlflow", "nb-alice-0"]),
        );
        const value = async (expression: string) =>
          (await prometheus.query(expression))[0]?.value ?? Number.NaN;
        await callFrom(NOTEBOOK, "-n", "40", "-i", "100", `${SCORER}/ping`);
        await waitFor(
          async () =>
            (await value(
              'sum(rate(countersign_requests_total{reporter="destination",callee="fraud-scorer",code="200"}[15s]))',
            )) > 0,
          15_000,
          "a rate of requests",
        );
        expect(
          await value(
            'histogram_quantile(0.99, sum by (le) (rate(countersign_request_duration_seconds_bucket{reporter="destination"}[30s])))',
          ),
        ).toBeGreaterThan(0);
        expect(await value('sum(countersign_decisions_total{decision="deny"})')).toBeGreaterThan(0);
        expect(await value("count(countersign_svid_expiry_seconds > 0)")).toBeGreaterThanOrEqual(5);
        expect(await value('sum(countersign_proxies{state="synced"})')).toBeGreaterThanOrEqual(5);
        expect(await value("sum(countersign_leader)")).toBe(1);
      } finally {
        await prometheus.close();
      }
    },
  );

  test("an upgrade and a rollback of the release fail no request", async () => {
    const load = tryKubectl(
      [
        "exec",
        "-n",
        "ml-dev",
        "nb-alice-0",
        "-c",
        "notebook",
        "--",
        "call",
        "-n",
        "1500",
        "-i",
        "20",
        `${SCORER}/ping`,
      ],
      { timeoutMs: 100_000 },
    );
    await install(["--set=proxy.logLevel=debug", "--set=podLabels.round=two"]);
    await helm(["rollback", "countersign", "--namespace", SYSTEM, "--wait", "--timeout", "60s"]);
    const { stdout } = await load;
    const answers = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).status);
    expect(answers).toHaveLength(1500);
    expect(answers.filter((status) => status !== 200)).toEqual([]);
  });

  test("helm test makes one allowed and one denied call", async () => {
    const said = await helm(["test", "countersign", "--namespace", SYSTEM, "--timeout", "120s"]);
    expect(said).toContain("Succeeded");
  });
});
