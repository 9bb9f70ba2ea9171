// The cluster itself does what the mesh builds on: pods, names, native sidecars, iptables in a pod, tokens with an audience.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { imageDigest } from "../image-archive.ts";
import { IMAGES, PROXY_USER } from "../image-files.ts";
import {
  apply,
  createNamespace,
  helm,
  type KubeObject,
  kubectl,
  type TestNamespace,
  waitFor,
} from "../kube.ts";
import { VERSIONS } from "../layout.ts";

const AUDIENCE = "countersign.dev/corp.example";

interface Answer {
  readonly status?: number;
  readonly body?: string;
  readonly error?: string;
  readonly code?: string;
}

function pod(name: string, spec: KubeObject, labels: Readonly<Record<string, string>> = {}): KubeObject {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, labels: { app: name, ...labels } },
    spec: { terminationGracePeriodSeconds: 1, ...spec },
  };
}

const app = (command: readonly string[], more: KubeObject = {}): KubeObject => ({
  name: "app",
  image: IMAGES.app,
  command,
  ...more,
});

function service(name: string, headless: boolean): KubeObject {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name },
    spec: {
      selector: { app: "scorer" },
      ports: [{ port: 8080, targetPort: 8080 }],
      ...(headless ? { clusterIP: "None" } : {}),
    },
  };
}

describeOnCluster("the test cluster", { testMs: 90_000, suiteMs: 240_000 }, () => {
  let namespace: TestNamespace;

  beforeAll(async () => {
    namespace = await createNamespace("cluster");
    await namespace.apply([
      pod("scorer", {
        containers: [
          app(["node", "/app/fraud-scorer.ts"], {
            env: [{ name: "PORT", value: "8080" }],
            readinessProbe: { httpGet: { path: "/ping", port: 8080 }, periodSeconds: 1 },
          }),
        ],
      }),
      pod("notebook", { containers: [app(["sleep", "3600"])] }),
      service("scorer", false),
      service("scorer-pods", true),
    ]);
    await namespace.waitFor("pod/scorer", "condition=Ready", 60_000);
    await namespace.waitFor("pod/notebook", "condition=Ready", 60_000);
  });
  afterAll(() => namespace?.delete());

  const call = async (url: string): Promise<Answer> => {
    const { stdout, stderr } = await namespace.exec("notebook", ["call", "-t", "3000", url]);
    if (stdout === "") throw new Error(`no answer: ${stderr}`);
    return JSON.parse(stdout) as Answer; // one line of test/cluster/app/call.ts
  };
  const resolved = async (name: string) => {
    const { stdout } = await namespace.exec("notebook", [
      "node",
      "-e",
      `require("node:dns").promises.lookup(${JSON.stringify(name)}, { all: true }).then((all) => console.log(all.map((one) => one.address).join()), (error) => console.log(error.code))`,
    ]);
    return stdout.trim();
  };

  test("a pod calls another by its Service's name, short and full", async () => {
    for (const host of ["scorer", `scorer.${namespace.name}`, `scorer.${namespace.name}.svc.cluster.local`])
      expect(await call(`http://${host}:8080/ping`)).toMatchObject({ status: 200, body: "{}" });
    expect(await resolved("scorer")).toBe(await namespace.read("service/scorer", "{.spec.clusterIP}"));
  });

  test("a headless name resolves to the pod's own address, which answers", async () => {
    const address = await namespace.read("pod/scorer", "{.status.podIP}");
    expect(await resolved("scorer-pods")).toBe(address);
    expect(await call("http://scorer-pods:8080/ping")).toMatchObject({ status: 200 });
    expect(await call(`http://${address}:8080/ping`)).toMatchObject({ status: 200 });
  });

  test("a name that does not exist is refused by DNS, inside and outside the cluster's domain", async () => {
    expect(await resolved("nobody")).toBe("ENOTFOUND");
    expect(await resolved("example.com")).toBe("ENOTFOUND");
  });

  test("a Job with a native sidecar completes, with the sidecar started before and ended after it", async () => {
    await namespace.apply([
      {
        apiVersion: "batch/v1",
        kind: "Job",
        metadata: { name: "train" },
        spec: {
          backoffLimit: 0,
          template: {
            spec: {
              restartPolicy: "Never",
              terminationGracePeriodSeconds: 5,
              initContainers: [
                {
                  name: "sidecar",
                  image: IMAGES.app,
                  restartPolicy: "Always",
                  command: [
                    "sh",
                    "-c",
                    "trap 'exit 0' TERM; touch /shared/ready; while :; do sleep 0.1; done",
                  ],
                  startupProbe: { exec: { command: ["test", "-f", "/shared/ready"] }, periodSeconds: 1 },
                  volumeMounts: [{ name: "shared", mountPath: "/shared" }],
                },
              ],
              containers: [
                app(["sh", "-c", "test -f /shared/ready && echo trained"], {
                  volumeMounts: [{ name: "shared", mountPath: "/shared" }],
                }),
              ],
              volumes: [{ name: "shared", emptyDir: { medium: "Memory" } }],
            },
          },
        },
      },
    ]);
    await namespace.waitFor("job/train", "condition=Complete", 60_000);
    expect(await namespace.logs("job/train", "app")).toBe("trained\n");
  });

  test.each(["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"])(
    "%s in an init container with NET_ADMIN redirects what the pod's containers call",
    async (program) => {
      const loopback = program.startsWith("ip6") ? "[::1]" : "127.0.0.1";
      const name = `capture-${program}`;
      await namespace.apply([
        pod(name, {
          restartPolicy: "Never",
          initContainers: [
            {
              name: "init",
              image: IMAGES.sidecar,
              command: [
                ...[program, "--wait", "--table", "nat", "--append", "OUTPUT", "--protocol", "tcp"],
                ...["--dport", "81", "--match", "owner", "!", "--uid-owner", String(PROXY_USER)],
                ...["--jump", "REDIRECT", "--to-ports", "8080"],
              ],
              securityContext: {
                runAsUser: 0,
                runAsGroup: 0,
                capabilities: { drop: ["ALL"], add: ["NET_ADMIN", "NET_RAW"] },
              },
            },
          ],
          containers: [
            app([
              "sh",
              "-c",
              `node /app/listen.ts 8080 & until wget -q -O /dev/null http://127.0.0.1:8080 2> /dev/null; do sleep 0.1; done; call http://${loopback}:81/`,
            ]),
          ],
        }),
      ]);
      await namespace.waitFor(`pod/${name}`, "jsonpath={.status.phase}=Succeeded", 60_000);
      expect(JSON.parse(await namespace.logs(name, "app"))).toMatchObject({ status: 200 });
    },
  );

  test("the countersign image runs as its own user, with its command line, native library and no shell, by tag and by digest", async () => {
    await namespace.apply([
      pod("countersign", {
        restartPolicy: "Never",
        containers: [
          {
            name: "version",
            image: IMAGES.controlPlane,
            args: ["--help"],
            securityContext: {
              runAsNonRoot: true,
              readOnlyRootFilesystem: true,
              allowPrivilegeEscalation: false,
              capabilities: { drop: ["ALL"] },
            },
          },
          {
            name: "native",
            image: IMAGES.sidecar.replace(/:dev$/, `@${await imageDigest(IMAGES.sidecar)}`),
            command: [
              "node",
              "-e",
              'const k = require("/opt/countersign/node_modules/koffi"); console.log(k.load(null).func("int getuid()")(), require("node:fs").existsSync("/bin/sh"))',
            ],
          },
        ],
      }),
    ]);
    await namespace.waitFor("pod/countersign", "jsonpath={.status.phase}=Succeeded", 60_000);
    expect(await namespace.logs("countersign", "version")).toMatch(/countersign/i);
    expect(await namespace.logs("countersign", "native")).toBe(`${PROXY_USER} false\n`);
  });

  test("a projected token carries our audience and passes TokenReview for it, and for no other", async () => {
    await namespace.apply([
      pod("holder", {
        containers: [
          app(["sleep", "3600"], {
            volumeMounts: [{ name: "token", mountPath: "/var/run/secrets/countersign" }],
          }),
        ],
        volumes: [
          {
            name: "token",
            projected: {
              sources: [
                { serviceAccountToken: { audience: AUDIENCE, expirationSeconds: 600, path: "token" } },
              ],
            },
          },
        ],
      }),
    ]);
    await namespace.waitFor("pod/holder", "condition=Ready", 60_000);
    const { stdout: token } = await namespace.exec("holder", ["cat", "/var/run/secrets/countersign/token"]);
    const review = async (audience: string) => {
      const asked = {
        apiVersion: "authentication.k8s.io/v1",
        kind: "TokenReview",
        spec: { token, audiences: [audience] },
      };
      const answer = await kubectl(["create", "--filename", "-", "--output", "json"], {
        stdin: JSON.stringify(asked),
      });
      return (JSON.parse(answer) as { status: KubeObject }).status;
    };
    expect(await review(AUDIENCE)).toMatchObject({
      authenticated: true,
      audiences: [AUDIENCE],
      user: {
        username: `system:serviceaccount:${namespace.name}:default`,
        extra: {
          "authentication.kubernetes.io/pod-uid": [await namespace.read("pod/holder", "{.metadata.uid}")],
        },
      },
    });
    expect(await review("countersign.dev/other.example")).not.toHaveProperty("authenticated", true);
  });

  test("helm reaches the cluster, and the server tells its real version, which charts ask for", async () => {
    expect(await helm(["list", "--all-namespaces"])).toMatch(/^NAME\s+NAMESPACE/);
    const version = JSON.parse(await kubectl(["get", "--raw", "/version"])) as { gitVersion: string };
    expect(version.gitVersion).toBe(`v${VERSIONS.kubernetes}`);
  });

  test("a ValidatingAdmissionPolicy refuses what it is written to refuse", async () => {
    const name = `no-root-${namespace.name}`;
    const kind = (resource: string) => ({ apiVersion: "admissionregistration.k8s.io/v1", kind: resource });
    await apply([
      {
        ...kind("ValidatingAdmissionPolicy"),
        metadata: { name },
        spec: {
          matchConstraints: {
            namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": namespace.name } },
            resourceRules: [
              { apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE"], resources: ["configmaps"] },
            ],
          },
          validations: [{ expression: "object.metadata.name != 'forbidden'", message: "this name is taken" }],
        },
      },
      {
        ...kind("ValidatingAdmissionPolicyBinding"),
        metadata: { name },
        spec: { policyName: name, validationActions: ["Deny"] },
      },
    ]);
    try {
      const create = (configMap: string) =>
        kubectl(["create", "configmap", configMap, "--namespace", namespace.name, "--dry-run=server"]);
      let refusal = "";
      const isRefused = async () => {
        refusal = await create("forbidden").then(
          () => "",
          (error: Error) => error.message,
        );
        return refusal !== "";
      };
      await waitFor(isRefused, 20_000, "the policy's effect");
      expect(refusal).toContain("this name is taken");
      expect(await create("allowed")).toContain("created");
    } finally {
      await kubectl(["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name]);
    }
  });
});
