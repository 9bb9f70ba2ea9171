// What happens when parts fail: the API server, the control plane, a sidecar, a webhook; and what an attacker in a pod can
// post to it. Certificates live one minute here, so that renewals happen while things are away.
import { readdirSync, readFileSync } from "node:fs";
import { request } from "node:http";
import { afterAll, beforeAll, beforeEach, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { apply, exec, kubectl, tryKubectl, waitFor, waitForObject } from "../kube.ts";
import { PORTS } from "../layout.ts";
import { killPart, restartPart } from "../processes.ts";
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
const SVID_TTL_MS = 60_000;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** A pod that calls the scorer ten times a second and writes every answer down; the API server is no part of that. */
const TRAFFIC = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "traffic", namespace: "ml-dev", labels: { "notebook-name": "traffic" } },
  spec: {
    serviceAccountName: "notebook",
    terminationGracePeriodSeconds: 1,
    containers: [
      {
        name: "app",
        image: "countersign.test/app:dev",
        imagePullPolicy: "IfNotPresent",
        command: ["call", "-n", "100000", "-i", "100", `${SCORER}/ping`],
      },
    ],
  },
};

const TRAFFIC_POD = { namespace: "ml-dev", name: "traffic", container: "app" } as const;

/** Longer than the node controller waits for a word of a kubelet (50 s) and than a certificate lives. */
const OUTAGE_MS = SVID_TTL_MS + 15_000;

interface Window {
  readonly answers: number;
  /** Other than 200, with their times. */
  readonly failed: readonly string[];
}

/** What the traffic pod was answered since then. */
async function answersSince(since: Date): Promise<Window> {
  const text = await kubectl(
    ["logs", "traffic", "-n", "ml-dev", "-c", "app", "--timestamps", `--since-time=${since.toISOString()}`],
    { timeoutMs: 60_000 },
  );
  const lines = text.split("\n").filter((line) => line !== "");
  return {
    answers: lines.length,
    failed: lines.filter((line) => !line.includes('"status":200')).slice(0, 5),
  };
}

/** Log lines of the traffic pod's sidecar since then. */
const sidecarLog = (since: Date): Promise<string> =>
  kubectl([
    "logs",
    "traffic",
    "-n",
    "ml-dev",
    "-c",
    "countersign-proxy",
    `--since-time=${since.toISOString()}`,
  ]);

const scale = (replicas: number): Promise<string> =>
  kubectl(["scale", "deployment/countersign", "-n", SYSTEM, `--replicas=${replicas}`]);

/** After an outage of the API server controllers, scheduler and kubelet come back one after the other, each within 30 s. */
async function controlPlaneIsReady(): Promise<void> {
  await kubectl(["rollout", "status", "deployment/countersign", "-n", SYSTEM, "--timeout=180s"], {
    timeoutMs: 190_000,
  });
}

const apiServerIsBack = (): Promise<void> =>
  waitFor(async () => (await tryKubectl(["get", "ns"])).code === 0, 60_000, "the API server");

/** After an outage Kubernetes itself takes every pod for unready until the kubelet has reported again. */
async function platformIsReady(): Promise<void> {
  await kubectl(["wait", "node", "--all", "--for=condition=Ready", "--timeout=90s"], { timeoutMs: 100_000 });
  await kubectl(["rollout", "status", "deployment/fraud-scorer", "-n", "ml-serving", "--timeout=90s"], {
    timeoutMs: 100_000,
  });
}

async function controlPlaneIsGone(): Promise<void> {
  await waitFor(
    async () => (await kubectl(["get", "pods", "-n", SYSTEM, "-o", "name"])).trim() === "",
    60_000,
    "the end of every replica",
  );
}

/** Pids on this machine of the containers' processes whose command line and environment hold these texts. */
function pidsOf(command: string, environment: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
        return line.includes(command) && readFileSync(`/proc/${pid}/environ`, "utf8").includes(environment);
      } catch {
        // Ended meanwhile.
        return false;
      }
    })
    .map(Number);
}

/** Forgets the history of etcd up to now, as it does by itself every five minutes. */
async function compactEtcd(): Promise<void> {
  const post = (path: string, body: object): Promise<Record<string, unknown>> =>
    new Promise((resolve, reject) => {
      const call = request(
        { host: "127.0.0.1", port: PORTS.etcdClient, path, method: "POST" },
        (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("end", () => resolve(JSON.parse(Buffer.concat(chunks).toString())));
        },
      );
      call.on("error", reject);
      call.end(JSON.stringify(body));
    });
  const status = (await post("/v3/maintenance/status", {})) as { header: { revision: string } };
  await post("/v3/kv/compaction", { revision: status.header.revision, physical: true });
}

const denyAll = (when: object) => ({
  apiVersion: "countersign.dev/v1alpha1",
  kind: "AccessPolicy",
  metadata: { name: "no-notebooks", namespace: "ml-serving" },
  spec: {
    action: "Deny",
    targets: [{ names: ["fraud-scorer"] }],
    rules: [{ name: "all", from: [{ workload: { kinds: ["notebook"], namespaces: ["ml-dev"] } }], when }],
  },
});

const barePod = (name: string, namespace: string, labels: object = {}) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, namespace, labels },
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
});

describeOnCluster("faults", { testMs: 300_000, suiteMs: 1_200_000 }, () => {
  beforeAll(async () => {
    await begin();
    // Replicas come and go many times here.
    await install(["--set=drainSeconds=0"]);
    await kubectl(["patch", "meshconfig", "default", "--type=merge", "-p", '{"spec":{"svidTTL":"1m"}}']);
    await deployPlatform();
    await kubectl(["apply", "-f", platformFile("policies")]);
    await waitForStatus(200, 15_000, `${SCORER}/ping`);
    await apply([TRAFFIC]);
    await waitForObject("ml-dev", "pod/traffic", "condition=Ready", 60_000);
  }, 2_000_000);

  // What a test before broke must not break the next.
  beforeEach(async () => {
    await kubectl(["delete", "acp", "no-notebooks", "-n", "ml-serving", "--ignore-not-found"]);
    await scale(2);
    await controlPlaneIsReady();
    await platformIsReady();
    await waitForStatus(200, 60_000, `${SCORER}/ping`);
  }, 400_000);

  afterAll(async () => {
    restartPart("kube-apiserver");
    await uninstall();
  }, 240_000);

  test("what the schema refuses and what only the webhook can refuse", async () => {
    const apply = (spec: object) =>
      tryKubectl(["apply", "-f", "-"], {
        stdin: JSON.stringify({ ...denyAll({}), spec }),
      });
    const schema = await apply({ action: "Perhaps", rules: [{ name: "x" }] });
    expect(schema).toMatchObject({ code: 1, stderr: expect.stringContaining("Perhaps") });
    const webhook = await apply({ action: "Deny", rules: [{ name: "x", when: { cel: "nonsense(" } }] });
    expect(webhook).toMatchObject({ code: 1, stderr: expect.stringContaining("when.cel") });
    const unknown = await apply({
      action: "Deny",
      rules: [{ name: "x", operations: [{ op: "serving.invok" }] }],
    });
    expect(unknown.stderr).toContain("serving.invoke");
    expect((await tryKubectl(["get", "acp", "no-notebooks", "-n", "ml-serving"])).code).toBe(1);
  });

  test("a Deny that becomes invalid stays in force as it was, after a restart of every replica too", async () => {
    await apply([denyAll({ cel: "true" })]);
    await waitForStatus(403, 10_000, `${SCORER}/ping`);
    // Only a cluster without its webhook stores the next one.
    const kept = await kubectl(["get", "validatingwebhookconfiguration", "countersign", "-o", "json"]);
    await kubectl(["delete", "validatingwebhookconfiguration", "countersign"]);
    try {
      await apply([denyAll({ cel: "nonsense(" })]);
      await waitFor(
        async () => (await conditionsOf("acp/no-notebooks", "ml-serving"))["Accepted"] === "False/InvalidCEL",
        10_000,
        "Accepted=False",
      );
      expect(await callFrom(NOTEBOOK, `${SCORER}/ping`)).toMatchObject({ status: 403 });
      await scale(0);
      await controlPlaneIsGone();
      await scale(2);
      await controlPlaneIsReady();
      await kubectl(["delete", "pod", "nb-alice-0", "-n", "ml-dev", "--grace-period=1"]);
      await waitForObject("ml-dev", "pod/nb-alice-0", "condition=Ready", 60_000);
      expect(await callFrom(NOTEBOOK, `${SCORER}/ping`)).toMatchObject({
        status: 403,
        reason: "DENIED_BY_POLICY",
      });
    } finally {
      const { metadata, ...rest } = JSON.parse(kept);
      const { name, labels, annotations } = metadata;
      await apply([{ ...rest, metadata: { name, labels, annotations } }]);
      await kubectl(["delete", "acp", "no-notebooks", "-n", "ml-serving"]);
    }
    await waitForStatus(200, 10_000, `${SCORER}/ping`);
  });

  test("calls go on without the API server, and certificates are renewed", async () => {
    const since = new Date();
    await killPart("kube-apiserver");
    try {
      await sleep(OUTAGE_MS);
    } finally {
      restartPart("kube-apiserver");
    }
    await apiServerIsBack();
    // Kubernetes has taken every pod for unready and back by then.
    await platformIsReady();
    const { answers, failed } = await answersSince(since);
    const log = await sidecarLog(since);
    expect({ failed, log: failed.length === 0 ? "" : log }).toEqual({ failed: [], log: "" });
    expect(answers).toBeGreaterThan(700);
    expect(log).toContain("identity renewed");
    await controlPlaneIsReady();
    await apply([denyAll({ cel: "true" })]);
    // For pods the API server is back when kube-proxy is: it asks again after up to 30 s.
    await waitForStatus(403, 90_000, `${SCORER}/ping`);
    await kubectl(["delete", "acp", "no-notebooks", "-n", "ml-serving"]);
    await waitForStatus(200, 20_000, `${SCORER}/ping`);
  });

  test("pods that only a controller takes for unready are called on, as after an outage", async () => {
    const since = new Date();
    const names = await kubectl([
      ...["get", "pods", "-n", "ml-serving", "-l", "app=fraud-scorer"],
      ...["-o", "jsonpath={.items[*].metadata.name}"],
    ]);
    const readiness = () =>
      kubectl([
        ...["get", "endpointslices", "-n", "ml-serving", "-l", "kubernetes.io/service-name=fraud-scorer"],
        ...["-o", "jsonpath={.items[*].endpoints[*].conditions.ready}"],
      ]);
    const unready = JSON.stringify({ status: { conditions: [{ type: "Ready", status: "False" }] } });
    // The kubelet takes it back within ten seconds, sometimes before the slices have followed: then once more.
    const markUnready = (name: string): Promise<string> =>
      kubectl(["patch", "pod", name, "-n", "ml-serving", "--subresource=status", "-p", unready]);
    await waitFor(
      async () => {
        await Promise.all(names.split(" ").map(markUnready));
        await sleep(1_000);
        return (await readiness()) === "false false";
      },
      40_000,
      "slices without a ready endpoint",
    );
    await platformIsReady();
    const { answers, failed } = await answersSince(since);
    expect(failed).toEqual([]);
    expect(answers).toBeGreaterThan(5);
  });

  test("a control plane that slept through a compaction catches up", async () => {
    await scale(1);
    await waitFor(
      async () =>
        (await kubectl(["get", "pods", "-n", SYSTEM, "-o", "name"])).trim().split("\n").length === 1,
      60_000,
      "one replica",
    );
    const pids = pidsOf("control-plane --kubernetes", `POD_NAMESPACE=${SYSTEM}`);
    expect(pids).toHaveLength(1);
    for (const pid of pids) process.kill(pid, "SIGSTOP");
    try {
      // The webhook sleeps too: what it would check is written by a cluster without it.
      const kept = await kubectl(["get", "validatingwebhookconfiguration", "countersign", "-o", "json"]);
      await kubectl(["delete", "validatingwebhookconfiguration", "countersign"]);
      await apply([denyAll({ cel: "true" })]);
      const { metadata, ...rest } = JSON.parse(kept);
      const { name, labels, annotations } = metadata;
      await killPart("kube-apiserver");
      await compactEtcd();
      restartPart("kube-apiserver");
      await apiServerIsBack();
      await apply([{ ...rest, metadata: { name, labels, annotations } }]);
    } finally {
      for (const pid of pids) process.kill(pid, "SIGCONT");
    }
    await waitForStatus(403, 90_000, `${SCORER}/ping`);
    await waitFor(
      async () =>
        (await tryKubectl(["delete", "acp", "no-notebooks", "-n", "ml-serving", "--ignore-not-found"]))
          .code === 0,
      40_000,
    );
    await waitForStatus(200, 20_000, `${SCORER}/ping`);
  });

  test("control planes killed in the middle of pushes fail no call and lose no edit", async () => {
    const since = new Date();
    for (let round = 0; round < 3; round++) {
      const wanted = round % 2 === 0 ? 403 : 200;
      const deny = denyAll({ cel: `caller.name == 'nb-alice' && ${round} == ${round}` });
      // The API server may ask a webhook that was killed until the kubelet has noticed, and refuses the edit then.
      await waitFor(
        async () =>
          (round % 2 === 0
            ? await tryKubectl(["apply", "-f", "-", "--validate=strict"], { stdin: JSON.stringify(deny) })
            : await tryKubectl(["delete", "acp", "no-notebooks", "-n", "ml-serving"])
          ).code === 0,
        20_000,
        "an edit that is taken",
      );
      // One of the two, and all in the last round: the kubelet waits longer and longer with what ends again and again.
      const pids = pidsOf("control-plane --kubernetes", `POD_NAMESPACE=${SYSTEM}`).sort((a, b) => a - b);
      for (const pid of round === 2 ? pids : pids.slice(0, 1)) process.kill(pid, "SIGKILL");
      await waitForStatus(wanted, 60_000, `${SCORER}/ping`);
      await controlPlaneIsReady();
    }
    expect((await answersSince(since)).failed).toEqual([]);
  });

  test("without any control plane calls go on for more than a third of a certificate's life, and no pod starts outside the mesh", async () => {
    await apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name: "outside-mesh" } }]);
    await waitFor(
      async () => (await tryKubectl(["get", "sa", "default", "-n", "outside-mesh"])).code === 0,
      20_000,
    );
    const since = new Date();
    await scale(0);
    await controlPlaneIsGone();
    const gone = Date.now();
    try {
      await apply([barePod("free", "outside-mesh")]);
      await waitForObject("outside-mesh", "pod/free", "condition=Ready", 30_000);
      const refused = await tryKubectl(["apply", "-f", "-"], {
        stdin: JSON.stringify(barePod("meshed", "ml-dev")),
      });
      expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("countersign") });
      await kubectl(["delete", "pod", "nb-alice-0", "-n", "ml-dev", "--grace-period=1"]);
      await sleep(Math.max(5_000, gone + SVID_TTL_MS * 0.35 - Date.now()));
      expect(await kubectl(["get", "pods", "-n", "ml-dev", "-o", "name"])).not.toContain("nb-alice");
      const { answers, failed } = await answersSince(since);
      expect(failed).toEqual([]);
      expect(answers).toBeGreaterThan(150);
      // Past its end nobody is who they were: calls are refused with the reason, and go on by themselves afterwards.
      await waitFor(
        async () => (await callFrom(TRAFFIC_POD, `${SCORER}/ping`)).reason === "IDENTITY_EXPIRED",
        SVID_TTL_MS + 15_000,
        "IDENTITY_EXPIRED",
      );
    } finally {
      await scale(2);
      await tryKubectl(["delete", "namespace", "outside-mesh", "--wait=false"]);
    }
    await controlPlaneIsReady();
    // Its controller tries less and less often; a change of the object has it look at once.
    await kubectl(["annotate", "statefulset", "nb-alice", "-n", "ml-dev", "test/round=again", "--overwrite"]);
    await waitFor(
      async () => (await tryKubectl(["get", "pod", "nb-alice-0", "-n", "ml-dev"])).code === 0,
      90_000,
      "the notebook to be made again",
    );
    await waitForObject("ml-dev", "pod/nb-alice-0", "condition=Ready", 60_000);
    await waitForStatus(200, 60_000, `${SCORER}/ping`);
    await waitFor(
      async () => (await callFrom(TRAFFIC_POD, `${SCORER}/ping`)).status === 200,
      30_000,
      "calls of a sidecar whose certificate had expired",
    );
  });

  test("while a sidecar is dead its pod's calls go nowhere, and nobody reaches the application", async () => {
    const scorerPids = pidsOf("sidecar --capture on", "POD_NAME=nb-alice-0");
    expect(scorerPids).toHaveLength(1);
    for (const pid of scorerPids) process.kill(pid, "SIGSTOP");
    const direct = await exec("ml-dev", "nb-alice-0", ["call", "-t", "1500", `${SCORER}/ping`], {
      container: "notebook",
    });
    expect(direct.stdout).not.toContain('"status":200');
    for (const pid of scorerPids) process.kill(pid, "SIGKILL");
    const dead = await exec("ml-dev", "nb-alice-0", ["call", "-t", "300", `${SCORER}/ping`], {
      container: "notebook",
    });
    expect(dead.stdout).not.toContain('"x-demo-saw":"nobody","content-type":"text');
    await waitForStatus(200, 30_000, `${SCORER}/ping`);
  });

  test("a forged review from a pod changes nothing and tells nothing", async () => {
    const review = {
      apiVersion: "admission.k8s.io/v1",
      kind: "AdmissionReview",
      request: {
        uid: "00000000-0000-4000-8000-000000000000",
        kind: { group: "countersign.dev", version: "v1alpha1", kind: "AccessPolicy" },
        resource: { group: "countersign.dev", version: "v1alpha1", resource: "accesspolicies" },
        name: "no-notebooks",
        namespace: "ml-serving",
        operation: "CREATE",
        userInfo: { username: "system:admin", groups: ["system:masters"] },
        object: denyAll({ cel: "true" }),
        dryRun: false,
      },
    };
    const script = `
      const https = require("https");
      const call = https.request("https://countersign.${SYSTEM}.svc/validate", { method: "POST", rejectUnauthorized: false,
        headers: { "content-type": "application/json" } }, (r) => { let t = ""; r.on("data", (d) => t += d); r.on("end", () => console.log(r.statusCode, t)); });
      call.on("error", (e) => console.log("error", e.code)); call.setTimeout(5000, () => call.destroy(new Error("timeout")));
      call.end(process.argv[1]);`;
    await apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name: "attacker" } }]);
    try {
      await waitFor(
        async () => (await tryKubectl(["get", "sa", "default", "-n", "attacker"])).code === 0,
        20_000,
      );
      await apply([barePod("forger", "attacker")]);
      await waitForObject("attacker", "pod/forger", "condition=Ready", 30_000);
      const { stdout } = await exec("attacker", "forger", ["node", "-e", script, JSON.stringify(review)]);
      expect(stdout).toMatch(/^(200 |error )/);
      expect(stdout).not.toMatch(/BEGIN|token|secret/i);
      expect((await tryKubectl(["get", "acp", "no-notebooks", "-n", "ml-serving"])).code).toBe(1);
      expect(await callFrom(NOTEBOOK, `${SCORER}/ping`)).toMatchObject({ status: 200 });
    } finally {
      await tryKubectl(["delete", "namespace", "attacker", "--wait=false"]);
    }
  });
});
