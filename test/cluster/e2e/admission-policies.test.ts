// The chart's admission policies on a real API server: what two tenants, each admin of a namespace, may assert about
// workloads and users, and that everyday work goes on. The policies hold for this test's namespaces alone.
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { CommandResult } from "../commands.ts";
import { describeOnCluster } from "../gate.ts";
import { IMAGES } from "../image-files.ts";
import {
  apply,
  createNamespace,
  type KubeObject,
  kubectl,
  type TestNamespace,
  tryKubectl,
  waitFor,
} from "../kube.ts";
import { hold, letGo } from "../lock.ts";
import { installPolicies, type PoliciesOnCluster } from "../policies-on-cluster.ts";
import { provideSchema } from "../provide-schema.ts";

const NOTEBOOK_CRD = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "notebooks.kubeflow.org" },
  spec: {
    group: "kubeflow.org",
    scope: "Namespaced",
    names: { kind: "Notebook", plural: "notebooks", singular: "notebook" },
    versions: [
      {
        name: "v1",
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
      },
    ],
  },
};

type Texts = Readonly<Record<string, string>>;
interface Asserted {
  readonly labels?: Texts;
  readonly annotations?: Texts;
  readonly serviceAccountName?: string;
}

const container = {
  name: "app",
  image: IMAGES.app,
  imagePullPolicy: "IfNotPresent",
  command: ["sleep", "3600"],
};

/** A template with labels and annotations; its pods are selected by a label with `name`. */
const template = (name: string, { labels = {}, annotations = {}, serviceAccountName }: Asserted) => ({
  metadata: { labels: { app: name, ...labels }, annotations },
  spec: {
    ...(serviceAccountName === undefined ? {} : { serviceAccountName }),
    terminationGracePeriodSeconds: 0,
    containers: [container],
  },
});
const selector = (name: string) => ({ matchLabels: { app: name } });
const jobSpec = (name: string, asserted: Asserted) => {
  const { metadata, spec } = template(name, asserted);
  return { template: { metadata, spec: { ...spec, restartPolicy: "Never" } } };
};

/** An object of each kind that makes pods, with what the pod shall carry. */
const KINDS: Readonly<Record<string, (name: string, asserted: Asserted) => KubeObject>> = {
  Pod: (name, asserted) => {
    const { metadata, spec } = template(name, asserted);
    return { apiVersion: "v1", kind: "Pod", metadata: { name, ...metadata }, spec };
  },
  Deployment: (name, asserted) => ({
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name },
    spec: { selector: selector(name), template: template(name, asserted) },
  }),
  StatefulSet: (name, asserted) => ({
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    metadata: { name },
    spec: { selector: selector(name), serviceName: name, template: template(name, asserted) },
  }),
  DaemonSet: (name, asserted) => ({
    apiVersion: "apps/v1",
    kind: "DaemonSet",
    metadata: { name },
    spec: { selector: selector(name), template: template(name, asserted) },
  }),
  ReplicaSet: (name, asserted) => ({
    apiVersion: "apps/v1",
    kind: "ReplicaSet",
    metadata: { name },
    spec: { selector: selector(name), template: template(name, asserted) },
  }),
  ReplicationController: (name, asserted) => ({
    apiVersion: "v1",
    kind: "ReplicationController",
    metadata: { name },
    spec: { selector: { app: name }, template: template(name, asserted) },
  }),
  Job: (name, asserted) => ({
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { name },
    spec: jobSpec(name, asserted),
  }),
  CronJob: (name, asserted) => ({
    apiVersion: "batch/v1",
    kind: "CronJob",
    metadata: { name },
    spec: { schedule: "0 0 1 1 *", jobTemplate: { spec: jobSpec(name, asserted) } },
  }),
  ControllerRevision: (name, asserted) => ({
    apiVersion: "apps/v1",
    kind: "ControllerRevision",
    metadata: { name },
    revision: 1,
    data: { spec: { template: template(name, asserted) } },
  }),
};
const TEMPLATES = Object.keys(KINDS).filter((kind) => kind !== "Pod");

const make = (kind: string, asserted: Asserted, name = "forged"): KubeObject => {
  const maker = KINDS[kind];
  if (maker === undefined) throw new Error(`no kind ${kind}`);
  return maker(name, asserted);
};

/** The API server itself takes half a minute for 20 000, with and without the policies, and they refuse none of it. */
const MANY_ANNOTATIONS = 2_000;

const RUN_AS = { annotations: { "countersign.dev/run-as": "okta|ceo" } };
const HUB_USER = { annotations: { "hub.jupyter.org/username": "ceo" } };
const VERIFIED = { annotations: { "countersign.dev/verified-owner": "okta|ceo" } };
const GATEWAY = { labels: { "countersign.dev/kind": "gateway" } };

describeOnCluster("the admission policies on a real API server", { testMs: 90_000, suiteMs: 300_000 }, () => {
  const id = `p${process.pid.toString(36)}${Math.random().toString(36).slice(2, 5)}`;
  let policies: PoliciesOnCluster;
  let takeAway: () => Promise<void>;
  /** Of tenant `alice`, labelled to be in the mesh. Only asked about, so that the test needs no webhook. */
  let meshed: TestNamespace;
  /** Of tenant `bob`, outside the mesh. */
  let plain: TestNamespace;
  const alice = ["--as=alice"];
  const bob = ["--as=bob"];
  const hub = () => [`--as=system:serviceaccount:${meshed.name}:hub`];

  const send = (
    verb: "create" | "replace",
    as: readonly string[],
    namespace: string,
    object: KubeObject,
    ...more: string[]
  ) =>
    tryKubectl([verb, "--filename=-", "--namespace", namespace, ...as, ...more], {
      stdin: JSON.stringify(object),
    });
  /** Asks whether it could be made. */
  const ask = (as: readonly string[], namespace: TestNamespace, object: KubeObject) =>
    send("create", as, namespace.name, object, "--dry-run=server");
  const expectRefused = (result: CommandResult, ...says: readonly string[]) => {
    expect(result.stderr).toContain("ValidatingAdmissionPolicy");
    for (const text of says) expect(result.stderr).toContain(text);
    expect(result.code).not.toBe(0);
  };
  const expectAllowed = (result: CommandResult) => {
    expect(result.stderr).toBe("");
    expect(result.code).toBe(0);
  };

  beforeAll(async () => {
    // An installed release's policies and webhook would answer as well.
    await hold("release");
    takeAway = await provideSchema("workloads");
    await apply([NOTEBOOK_CRD]);
    policies = await installPolicies(id);
    meshed = await createNamespace("vap-meshed", { ...policies.label, "countersign.dev/inject": "enabled" });
    plain = await createNamespace("vap-plain", { ...policies.label, "data-class": "pii" });
    await policies.configure({
      trustedSpawners: [`${meshed.name}/hub`],
      protectedLabels: ["data-class"],
      gateways: [`${meshed.name}/gateway`],
    });
    const bind = (name: string, subject: KubeObject) => ({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { name },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "admin" },
      subjects: [subject],
    });
    const user = (name: string) => ({ apiGroup: "rbac.authorization.k8s.io", kind: "User", name });
    const account = (name: string) => ({ apiVersion: "v1", kind: "ServiceAccount", metadata: { name } });
    const hubAccount = { kind: "ServiceAccount", name: "hub", namespace: meshed.name };
    await meshed.apply([
      account("hub"),
      account("gateway"),
      bind("alice", user("alice")),
      bind("hub", hubAccount),
    ]);
    await plain.apply([bind("bob", user("bob")), bind("hub", hubAccount)]);
    // The API server takes a moment for each policy; one refusal of each shows that it has them all.
    const cases: readonly (() => Promise<CommandResult>)[] = [
      () => ask(bob, plain, make("Pod", VERIFIED)),
      () => ask(bob, plain, make("Pod", RUN_AS)),
      () => ask(bob, plain, make("Pod", GATEWAY)),
      () => tryKubectl(["delete", policies.settings, "default", "--dry-run=server"]),
    ];
    for (const refused of cases)
      await waitFor(async () => (await refused()).code !== 0, 20_000, "a policy to hold");
    await waitFor(
      async () => (await ask(hub(), plain, make("Pod", RUN_AS))).code === 0,
      20_000,
      "the settings",
    );
    expectAllowed(await send("create", bob, plain.name, pod("running")));
    const touch = ["label", "pod", "running", "--namespace", plain.name, "--dry-run=server"];
    await waitFor(
      async () => (await tryKubectl([...touch, "countersign.dev/env=prod"])).code !== 0,
      20_000,
      "labels to be frozen",
    );
    await waitFor(
      async () => (await tryKubectl([...touch, "data-class=public", "--overwrite"])).code !== 0,
      20_000,
      "protected labels to hold",
    );
  }, 2_000_000);
  afterAll(async () => {
    await policies?.remove();
    await Promise.all([
      meshed?.delete(),
      plain?.delete(),
      takeAway?.(),
      tryKubectl(["delete", "crd", NOTEBOOK_CRD.metadata.name, "--ignore-not-found", "--wait=false"]),
    ]);
    letGo("release");
  });

  const pod = (name: string) =>
    make(
      "Pod",
      {
        labels: {
          "countersign.dev/kind": "serving",
          "countersign.dev/name": "scorer",
          "ray.io/serve": "false",
          "data-class": "pii",
          component: "web",
        },
        annotations: { "countersign.dev/packs": "8080=oip-v2" },
      },
      name,
    );

  test("the API server finds nothing to warn of in their expressions", async () => {
    const names = [
      ...["countersign-frozen-pods", "countersign-verified-facts", "countersign-user-facts"],
      ...["countersign-protected-labels", "countersign-gateways", "countersign-settings"],
    ].map((name) => policies.policy(name));
    const state = async () => {
      const list = await kubectl(["get", "validatingadmissionpolicies", ...names, "--output=json"]);
      return (JSON.parse(list) as { items: { metadata: { generation: number }; status?: Status }[] }).items;
    };
    interface Status {
      readonly observedGeneration?: number;
      readonly typeChecking?: unknown;
    }
    await waitFor(
      async () =>
        (await state()).every(({ metadata, status }) => status?.observedGeneration === metadata.generation),
      30_000,
      "the type check",
    );
    const warnings = (await state()).flatMap(({ status }) => {
      const { expressionWarnings = [] } = (status?.typeChecking ?? {}) as { expressionWarnings?: unknown[] };
      return expressionWarnings;
    });
    expect(warnings).toEqual([]);
  });

  describe("a tenant who forges", () => {
    test.each(["Pod", ...TEMPLATES.filter((kind) => kind !== "ControllerRevision")])(
      "a user on a %s is refused, in the mesh and outside",
      async (kind) => {
        for (const [as, namespace] of [
          [alice, meshed],
          [bob, plain],
        ] as const)
          expectRefused(
            await ask(as, namespace, make(kind, RUN_AS)),
            "`countersign.dev/run-as` asserts a user",
            "`spec.trustedSpawners` of MeshConfig `default`",
          );
      },
    );

    test.each(["ControllerRevision", ...TEMPLATES])("JupyterHub's user on a %s is refused", async (kind) => {
      expectRefused(await ask([], plain, make(kind, HUB_USER)), "`hub.jupyter.org/username` asserts a user");
    });

    test("JupyterHub's user is refused on a pod of the mesh, and is nobody's business outside", async () => {
      expectRefused(
        await ask(alice, meshed, make("Pod", HUB_USER)),
        "`hub.jupyter.org/username` asserts a user",
      );
      const labelled = make("Pod", { labels: { "hub.jupyter.org/username": "ceo" } });
      expectRefused(await ask(alice, meshed, labelled), "`hub.jupyter.org/username` asserts a user");
      expectAllowed(await ask(bob, plain, make("Pod", HUB_USER)));
      const joining = { ...HUB_USER, labels: { "countersign.dev/inject": "enabled" } };
      expectRefused(await ask(bob, plain, make("Pod", joining)), "asserts a user");
    });

    test.each(["Pod", ...TEMPLATES])(
      "a verified fact on a %s is refused, whoever writes it",
      async (kind) => {
        for (const as of kind === "ControllerRevision" ? [[]] : [[], hub()]) // RBAC keeps tenants from those
          expectRefused(
            await ask(as, plain, make(kind, VERIFIED)),
            "`countersign.dev/verified-owner` is written by the mesh's webhook alone",
          );
      },
    );

    test("a verified fact on a pod that opts out of the mesh is refused", async () => {
      const out = { ...VERIFIED, labels: { "countersign.dev/inject": "disabled" } };
      expectRefused(await ask(alice, meshed, make("Pod", out)), "is written by the mesh's webhook alone");
    });

    test("a verified fact by way of a Binding is refused", async () => {
      const gated = make("Pod", {}, "unbound");
      const spec = { ...(gated["spec"] as object), nodeSelector: { nowhere: "here" } };
      expectAllowed(await send("create", bob, plain.name, { ...gated, spec }));
      const bindTo = (metadata: object) =>
        tryKubectl(
          [
            ...["create", "--filename=-"],
            `--raw=/api/v1/namespaces/${plain.name}/pods/unbound/binding?dryRun=All`,
          ],
          {
            stdin: JSON.stringify({
              apiVersion: "v1",
              kind: "Binding",
              metadata: { name: "unbound", ...metadata },
              target: { apiVersion: "v1", kind: "Node", name: "node1" },
            }),
          },
        );
      expectRefused(await bindTo(VERIFIED), "`countersign.dev/verified-owner`");
      expectRefused(await bindTo(RUN_AS), "Binding would copy labels or annotations");
      expectRefused(
        await bindTo({ labels: { "batch.kubernetes.io/job-name": "payroll" } }),
        "Binding would copy",
      );
      expectRefused(await bindTo({ labels: { "data-class": "public" } }), "cannot be added to a running pod");
      expect((await bindTo({ annotations: { scheduler: "mine" } })).code).toBe(0);
    });

    test.each(["Pod", ...TEMPLATES])("kind gateway on a %s is refused", async (kind) => {
      expectRefused(
        await ask([], plain, make(kind, GATEWAY)),
        "kind `gateway` is reserved",
        `add \`${plain.name}/default\` there`,
      );
    });

    test.each(["Pod", ...TEMPLATES])(
      "kind gateway on a %s of another account of that name is refused",
      async (kind) => {
        await plain.apply([{ apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "gateway" } }]);
        const account = { ...GATEWAY, serviceAccountName: "gateway" };
        expectRefused(await ask([], plain, make(kind, account)), `add \`${plain.name}/gateway\` there`);
        expectAllowed(await ask([], meshed, make(kind, account)));
      },
    );

    test("a user on a Notebook, whose controller copies it to the pod, is refused", async () => {
      const notebook = (annotations: Texts) => ({
        apiVersion: "kubeflow.org/v1",
        kind: "Notebook",
        metadata: { name: "forged", annotations },
        spec: { template: { spec: { containers: [container] } } },
      });
      expectRefused(await ask([], plain, notebook(RUN_AS.annotations)), "asserts a user");
      expectRefused(await ask([], plain, notebook(VERIFIED.annotations)), "webhook alone");
      expectAllowed(await ask([], plain, notebook({ plain: "x" })));
    });

    test("a user or a gateway by way of a Workload is refused", async () => {
      const workload = (spec: object) => ({
        apiVersion: "countersign.dev/v1alpha1",
        kind: "Workload",
        metadata: { name: "forged" },
        spec: { kind: "service", serviceAccount: "vm", ...spec },
      });
      expectRefused(await ask([], plain, workload({ owner: "okta|ceo" })), "`spec.owner` and `spec.runAs`");
      expectRefused(await ask([], plain, workload({ runAs: "okta|ceo" })), "`spec.owner` and `spec.runAs`");
      expectRefused(await ask([], plain, workload({ kind: "gateway" })), `add \`${plain.name}/vm\` there`);
      expectAllowed(await ask([], plain, workload({})));
      expectAllowed(await ask([], meshed, workload({ kind: "gateway", serviceAccount: "gateway" })));
    });

    test("a controller's name in the own namespace does not make a trusted spawner", async () => {
      const impostor = [`--as=system:serviceaccount:${plain.name}:replicaset-controller`];
      await plain.apply([
        {
          apiVersion: "rbac.authorization.k8s.io/v1",
          kind: "RoleBinding",
          metadata: { name: "impostor" },
          roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "admin" },
          subjects: [{ kind: "ServiceAccount", name: "replicaset-controller", namespace: plain.name }],
        },
      ]);
      expectRefused(await ask(impostor, plain, make("Pod", RUN_AS)), "is no trusted spawner");
    });
  });

  describe("a running pod", () => {
    const change = (verb: "label" | "annotate", as: readonly string[], ...changes: string[]) =>
      tryKubectl([verb, "pod", "running", "--namespace", plain.name, "--overwrite", ...as, ...changes]);

    test.each([
      ["label", "countersign.dev/kind=job"],
      ["label", "countersign.dev/name-"],
      ["label", "countersign.dev/env=prod"],
      ["label", "countersign.dev/inject=disabled"],
      ["label", "batch.kubernetes.io/job-name=payroll"],
      ["label", "serving.kserve.io/inferenceservice=fraud"],
      ["label", "notebook-name=ceo"],
      ["label", "dag_id=payroll"],
      ["label", "ray.io/serve-"],
      ["label", "component=singleuser-server"],
      ["label", "hub.jupyter.org/username=ceo"],
      ["annotate", "countersign.dev/packs=8080=mlflow-scoring"],
      ["annotate", "countersign.dev/packs-"],
      ["annotate", "countersign.dev/run-as=okta|ceo"],
      ["annotate", "countersign.dev/verified-owner=okta|ceo"],
      ["annotate", "hub.jupyter.org/username=ceo"],
    ] as const)("keeps what it is: %s %s", async (verb, assignment) => {
      const key = /^[^=]*?(?=-?(=|$))/.exec(assignment)?.[0] ?? "";
      for (const as of [bob, []])
        expectRefused(await change(verb, as, assignment), `\`${key}\``, "cannot change while", "roll out");
    });

    test.each(["data-class=public", "data-class-"])("keeps its protected label: %s", async (assignment) => {
      for (const as of [bob, []])
        expectRefused(await change("label", as, assignment), "put back `data-class=pii`");
    });

    test("is not changed by way of its status either", async () => {
      for (const metadata of [
        { labels: { "countersign.dev/name": "other" } },
        { labels: { "data-class": null } },
        { annotations: { "countersign.dev/verified-owner": "okta|ceo" } },
      ])
        expectRefused(
          await tryKubectl([
            ...["patch", "pod", "running", "--namespace", plain.name, "--subresource=status", "--type=merge"],
            `--patch=${JSON.stringify({ metadata })}`,
          ]),
          "cannot",
        );
    });

    test("is looked after by its kubelet however many annotations it has", async () => {
      const annotations = Object.fromEntries(
        Array.from({ length: MANY_ANNOTATIONS }, (_, at) => [`a${String(at).padStart(5, "0")}`, ""]),
      );
      const made = await send("create", bob, plain.name, make("Pod", { annotations }, "crowded"));
      expect(made.stderr).toBe("");
      const crowded = (assignment: string) =>
        tryKubectl(["label", "pod", "crowded", "--namespace", plain.name, ...bob, assignment]);
      expectAllowed(await crowded("team=risk"));
      expectRefused(await crowded("countersign.dev/env=prod"), "`countersign.dev/env`");
      await plain.waitFor("pod/crowded", "condition=Ready", 60_000);
    });

    test.each([
      ["label", "team=risk"],
      ["label", "team-"],
      ["label", "component=batch"],
      // KubeRay does this on running pods.
      ["label", "ray.io/serve=true"],
      ["annotate", "note=looked at"],
    ] as const)("takes what means nothing to the mesh: %s %s", async (verb, assignment) => {
      expectAllowed(await change(verb, bob, assignment));
    });
  });

  describe("a template", () => {
    const patch = (as: readonly string[], name: string, metadata: object, namespace = plain.name) =>
      tryKubectl([
        ...["patch", "deployment", name, "--namespace", namespace, "--type=merge", ...as],
        `--patch=${JSON.stringify({ spec: { template: { metadata } } })}`,
      ]);

    test("does not lose its protected label, and takes others", async () => {
      const labels = { "data-class": "pii" };
      const deployment = make("Deployment", { labels }, "labelled");
      expectAllowed(await send("create", bob, plain.name, deployment));
      const says = "put back `data-class=pii`";
      expectRefused(await patch(bob, "labelled", { labels: { "data-class": null } }), says);
      expectRefused(await patch([], "labelled", { labels: { "data-class": "public" } }), says);
      expectAllowed(await patch(bob, "labelled", { labels: { tier: "gold" } }));
      const cron = (labelled: Asserted) => make("CronJob", labelled, "labelled");
      expectAllowed(await send("create", bob, plain.name, cron({ labels })));
      expectRefused(await send("replace", bob, plain.name, cron({})), says);
    });

    test("keeps a user that a trusted spawner wrote, which nobody else changes", async () => {
      expectAllowed(await send("create", hub(), plain.name, make("Deployment", RUN_AS, "spawned")));
      expectAllowed(await patch(bob, "spawned", { labels: { tier: "gold" } }));
      const other = { annotations: { "countersign.dev/run-as": "okta|cfo" } };
      expectRefused(await patch(bob, "spawned", other), "`countersign.dev/run-as` asserts a user");
      // The controllers of Kubernetes hand it on: to the ReplicaSet, and to the pod.
      await waitFor(
        async () => {
          const path = "{.items[*].metadata.annotations.countersign\\.dev/run-as}";
          return (
            await kubectl(["get", "pods", "-n", plain.name, "-l", "tier=gold", "-o", `jsonpath=${path}`])
          )
            .split(" ")
            .includes("okta|ceo");
        },
        30_000,
        "the pod of the spawned Deployment",
      );
      expectAllowed(await patch(bob, "spawned", { annotations: { "countersign.dev/run-as": null } }));
      // What is gone does not come back by way of an earlier revision.
      const undo = ["rollout", "undo", "deployment/spawned", "--namespace", plain.name, ...bob];
      expectRefused(await tryKubectl(undo), "asserts a user");
    });

    test("of a CronJob that a trusted spawner wrote makes no Job by another's hand", async () => {
      expectAllowed(await send("create", hub(), plain.name, make("CronJob", RUN_AS, "as-ceo")));
      const byHand = ["create", "job", "now", "--from=cronjob/as-ceo", "--namespace", plain.name];
      expectRefused(await tryKubectl([...byHand, ...bob]), "asserts a user");
      const controller = ["--as=system:serviceaccount:kube-system:cronjob-controller", "--dry-run=server"];
      expectAllowed(await tryKubectl([...byHand, ...controller]));
    });
  });

  describe("what stays allowed", () => {
    test("a roll-out, a restart and a change back", async () => {
      const labels = {
        "countersign.dev/kind": "serving",
        "countersign.dev/name": "web",
        "data-class": "pii",
      };
      const web = make(
        "Deployment",
        { labels, annotations: { "countersign.dev/packs": "8080=oip-v2" } },
        "web",
      );
      expectAllowed(await send("create", bob, plain.name, web));
      await plain.waitFor("deployment/web", "condition=Available", 60_000);
      const rollout = (...args: string[]) =>
        tryKubectl(["rollout", ...args, "--namespace", plain.name, ...bob]);
      expectAllowed(await rollout("restart", "deployment/web"));
      expectAllowed(await rollout("status", "deployment/web", "--timeout=60s"));
      expectAllowed(await rollout("undo", "deployment/web"));
      expectAllowed(
        await tryKubectl(["scale", "deployment/web", "--replicas=2", "--namespace", plain.name, ...bob]),
      );
    });

    test("a Job that runs to its end, also one of a CronJob", async () => {
      const quick = (name: string) => {
        const job = make("Job", { labels: { "countersign.dev/kind": "job" } }, name);
        const text = JSON.stringify(job).replace('["sleep","3600"]', '["true"]');
        return JSON.parse(text) as KubeObject;
      };
      expectAllowed(await send("create", bob, plain.name, quick("once")));
      const cron = make("CronJob", {}, "nightly");
      expectAllowed(await send("create", bob, plain.name, cron));
      expectAllowed(
        await tryKubectl([
          "create",
          "job",
          "by-hand",
          "--from=cronjob/nightly",
          "--namespace",
          plain.name,
          ...bob,
        ]),
      );
      await plain.waitFor("job/once", "condition=Complete", 60_000);
      await waitFor(
        async () => (await plain.read("job/by-hand", "{.status.active}")) === "1",
        30_000,
        "the pod of the CronJob's Job",
      );
    });

    test("pods of a StatefulSet and a DaemonSet, and what the kubelet writes about them", async () => {
      expectAllowed(await send("create", bob, plain.name, make("StatefulSet", {}, "db")));
      expectAllowed(await send("create", bob, plain.name, make("DaemonSet", {}, "agent")));
      await plain.waitFor("pod/db-0", "condition=Ready", 60_000);
      await waitFor(
        async () => (await plain.read("daemonset/agent", "{.status.numberReady}")) === "1",
        60_000,
        "the daemon",
      );
      await plain.waitFor("pod/running", "condition=Ready", 60_000);
      expectAllowed(await tryKubectl(["delete", "pod", "db-0", "--namespace", plain.name, ...bob]));
    });

    test("a trusted spawner's pod, in the mesh and outside", async () => {
      const user = { annotations: { ...RUN_AS.annotations, ...HUB_USER.annotations } };
      for (const namespace of [meshed, plain]) expectAllowed(await ask(hub(), namespace, make("Pod", user)));
    });

    test("a controller of Kubernetes that hands a template on", async () => {
      const controller = ["--as=system:serviceaccount:kube-system:replicaset-controller"];
      expectAllowed(await ask(controller, plain, make("Pod", RUN_AS)));
    });

    test("a verified fact on a pod of the mesh, where the webhook overwrites it", async () => {
      expectAllowed(await ask(alice, meshed, make("Pod", VERIFIED)));
      const joining = { ...VERIFIED, labels: { "countersign.dev/inject": "enabled" } };
      expectAllowed(await ask(bob, plain, make("Pod", joining)));
    });
  });

  describe("a namespace", () => {
    const label = (as: readonly string[], assignment: string) =>
      tryKubectl(["label", "namespace", plain.name, "--overwrite", "--dry-run=server", ...as, assignment]);

    test("is not labelled by its tenant: that is RBAC", async () => {
      const result = await label(bob, "countersign.dev/inject=enabled");
      expect(result.stderr).toContain("Forbidden");
      expect(result.stderr).not.toContain("ValidatingAdmissionPolicy");
    });

    test("loses a protected label only by who may change the settings of the mesh", async () => {
      const role = `${id}-namespaces`;
      await apply([
        {
          apiVersion: "rbac.authorization.k8s.io/v1",
          kind: "ClusterRole",
          metadata: { name: role },
          rules: [{ apiGroups: [""], resources: ["namespaces"], verbs: ["get", "patch"] }],
        },
        {
          apiVersion: "rbac.authorization.k8s.io/v1",
          kind: "ClusterRoleBinding",
          metadata: { name: role },
          roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: role },
          subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "User", name: "carol" }],
        },
      ]);
      try {
        expectRefused(await label(["--as=carol"], "data-class-"), "put back `data-class=pii`");
        expectAllowed(await label(["--as=carol"], "team=risk"));
        expectAllowed(await label([], "data-class-"));
      } finally {
        await kubectl(["delete", "clusterrole,clusterrolebinding", role]);
      }
    });
  });

  test("the settings and their kind stay while the policies read them", async () => {
    expectRefused(await tryKubectl(["delete", policies.settings, "default"]), "`helm uninstall`");
    expectRefused(await tryKubectl(["delete", "crd", policies.crd]), "`helm uninstall`");
  });
});
