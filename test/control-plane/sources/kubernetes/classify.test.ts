import { describe, expect, test } from "@jest/globals";
import { classify, protocolOf } from "../../../../control-plane/sources/kubernetes/classify.ts";
import { podFactsOf } from "../../../fakes/pods.ts";

const context = {
  cronJobs: new Map([["ns/nightly-29391", "nightly"]]),
  gateways: ["countersign-system/gateway"],
};

describe("classify", () => {
  test.each([
    [
      "labels of ours",
      { labels: { "countersign.dev/kind": "agent", "countersign.dev/name": "triage" } },
      "agent",
      "triage",
    ],
    [
      "a kind without name: the Deployment's",
      {
        labels: { "countersign.dev/kind": "serving", "pod-template-hash": "6c9f" },
        owner: { kind: "ReplicaSet", name: "scorer-6c9f" },
      },
      "serving",
      "scorer",
    ],
    [
      "JupyterHub",
      { name: "jupyter-alice", labels: { component: "singleuser-server" } },
      "notebook",
      "jupyter-alice",
    ],
    ["Kubeflow notebook", { name: "nb-0", labels: { "notebook-name": "nb" } }, "notebook", "nb"],
    ["KServe", { labels: { "serving.kserve.io/inferenceservice": "fraud" } }, "serving", "fraud"],
    ["Seldon", { labels: { "seldon-deployment-id": "iris" } }, "serving", "iris"],
    ["Ray Serve", { labels: { "ray.io/serve": "true", "ray.io/cluster": "llm" } }, "serving", "llm"],
    ["Spark", { labels: { "spark-app-name": "etl" } }, "job", "etl"],
    ["Argo", { labels: { "workflows.argoproj.io/workflow": "train-x" } }, "job", "train-x"],
    ["Airflow", { labels: { dag_id: "daily" } }, "job", "daily"],
    [
      "JobSet rather than its Job",
      { labels: { "jobset.sigs.k8s.io/jobset-name": "mpi", "batch.kubernetes.io/job-name": "mpi-worker-0" } },
      "job",
      "mpi",
    ],
    ["Job", { labels: { "batch.kubernetes.io/job-name": "once" } }, "job", "once"],
    ["CronJob of a Job", { labels: { "batch.kubernetes.io/job-name": "nightly-29391" } }, "job", "nightly"],
    [
      "a Job whose name only looks like a CronJob's",
      { labels: { "batch.kubernetes.io/job-name": "nightly-29392" } },
      "job",
      "nightly-29392",
    ],
    [
      "Deployment",
      { labels: { "pod-template-hash": "6c9f" }, owner: { kind: "ReplicaSet", name: "web-6c9f" } },
      "service",
      "web",
    ],
    ["a ReplicaSet of its own", { owner: { kind: "ReplicaSet", name: "web-6c9f" } }, "service", "web-6c9f"],
    ["StatefulSet", { name: "db-0", owner: { kind: "StatefulSet", name: "db" } }, "service", "db"],
    ["bare pod", { name: "shell" }, "service", "shell"],
    [
      "an empty label says nothing",
      { name: "x", labels: { "countersign.dev/name": "", "notebook-name": "" } },
      "service",
      "x",
    ],
  ] as const)("%s", (_title, pod, kind, name) => {
    expect(classify(podFactsOf(pod), context)).toMatchObject({ kind, name, problems: [] });
  });

  test("gateway is for the ServiceAccounts that MeshConfig names", () => {
    const pod = { labels: { "countersign.dev/kind": "gateway" } };
    const forged = classify(podFactsOf(pod), context);
    expect(forged.kind).toBe("service");
    expect(forged.problems).toEqual([expect.stringContaining("add `ns/sa` there")]);
    const real = podFactsOf({ ...pod, namespace: "countersign-system", serviceAccount: "gateway" });
    expect(classify(real, context)).toMatchObject({ kind: "gateway", problems: [] });
  });

  test("facts about users count as the webhook wrote them, and in no other form", () => {
    const asserted = podFactsOf({
      labels: { "hub.jupyter.org/username": "root" },
      annotations: { "countersign.dev/run-as": "root", "hub.jupyter.org/username": "root" },
    });
    expect(classify(asserted, context)).toMatchObject({ owner: undefined, runAs: undefined });
    const verified = podFactsOf({
      annotations: { "countersign.dev/verified-owner": "alice", "countersign.dev/verified-run-as": "sp-1" },
    });
    expect(classify(verified, context)).toMatchObject({
      owner: "alice",
      runAs: "sp-1",
      propagation: ["trace", "session"],
    });
  });

  test("packs and propagation; what cannot be read is named", () => {
    const good = classify(
      podFactsOf({
        annotations: {
          "countersign.dev/packs": "8080=mlflow-scoring,oip-v2; 9000=ray",
          "countersign.dev/propagation": "none",
        },
      }),
      context,
    );
    expect([...good.packs]).toEqual([
      [8080, ["mlflow-scoring", "oip-v2"]],
      [9000, ["ray"]],
    ]);
    expect(good).toMatchObject({ propagation: ["none"], problems: [] });
    const bad = classify(
      podFactsOf({
        annotations: {
          "countersign.dev/packs": "http=x;70000=y;80=",
          "countersign.dev/propagation": "session,all",
        },
      }),
      context,
    );
    expect([...bad.packs]).toEqual([]);
    expect(bad.problems).toHaveLength(4);
    expect(bad.propagation).toEqual(["session"]);
    const asked = { annotations: { "countersign.dev/propagation": "forward, trace,forward" } };
    expect(classify(podFactsOf(asked), context).propagation).toEqual(["forward", "trace"]);
    expect(classify(podFactsOf({}), context).propagation).toEqual(["trace"]);
  });

  test.each([
    ["http", undefined, "http"],
    ["", undefined, "auto"],
    ["web", undefined, "auto"],
    ["web", "example.com/own", "auto"],
    ["http-metrics", "example.com/own", "http"],
    ["chat", "kubernetes.io/ws", "http"],
    ["chat", "kubernetes.io/wss", "tls"],
    ["grpc-web", undefined, "http"],
    ["https-admin", undefined, "tls"],
    ["TLS", undefined, "tls"],
    ["db", "redis", "tcp"],
    ["grpc-infer", undefined, "grpc"],
    ["http2", undefined, "h2c"],
    ["tcp-kafka", undefined, "tcp"],
    ["http", "kubernetes.io/h2c", "h2c"],
    ["web", "grpc", "grpc"],
    ["postgres", undefined, "tcp"],
  ] as const)("protocol of port `%s`, appProtocol %s: %s", (name, app, expected) => {
    expect(protocolOf(name, app)).toBe(expected);
  });
});
