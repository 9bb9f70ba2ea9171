import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { injectPod } from "../../../control-plane/admission/inject.ts";
import { applyPatch } from "../../../control-plane/admission/json-patch.ts";
import * as names from "../../../control-plane/admission/own-names.ts";
import type { UnknownFields } from "../../../control-plane/admission/review.ts";
import { PROXY_CONTAINER } from "../../../control-plane/sources/kubernetes/facts.ts";
import { parseProbes } from "../../../sidecar/capture/probes.ts";
import { CAPTURE_PORTS, OWN_PORTS, PROXY_UID } from "../../../sidecar/capture/rules.ts";
import { parseCaptureInit } from "../../../sidecar/capture/settings.ts";
import { parseSidecarConfig } from "../../../sidecar/config.ts";
import { CONTEXT, flag, injected, podOf, reasonOf, SETTINGS } from "./pod-fixture.ts";

const asObject = (pod: unknown): UnknownFields => pod as UnknownFields;

describe("what is injected", () => {
  test("puts the init step first, then the sidecar, ahead of the pod's own init containers", () => {
    const pod = injected(
      podOf({ spec: { initContainers: [{ name: "migrate", image: "example/migrate" }] } }),
    );
    expect(pod.spec.initContainers.map(({ name }) => name)).toEqual([
      "countersign-init",
      "countersign-proxy",
      "migrate",
    ]);
    expect(pod.spec.containers.map(({ name }) => name)).toEqual(["app"]);
  });

  test("gives NET_ADMIN to the init step alone, and nothing to the sidecar", () => {
    const [init, proxy] = injected(podOf()).spec.initContainers;
    const hardened = {
      allowPrivilegeEscalation: false,
      privileged: false,
      readOnlyRootFilesystem: true,
      seccompProfile: { type: "RuntimeDefault" },
    };
    expect(init?.securityContext).toEqual({
      ...hardened,
      capabilities: { add: ["NET_ADMIN"], drop: ["ALL"] },
      runAsUser: 0,
      runAsGroup: 0,
      runAsNonRoot: false,
    });
    expect(proxy?.securityContext).toEqual({
      ...hardened,
      capabilities: { drop: ["ALL"] },
      runAsUser: 61600,
      runAsGroup: 61600,
      runAsNonRoot: true,
    });
    expect(proxy?.restartPolicy).toBe("Always");
  });

  test("gives NET_RAW, and a place for its lock, only where legacy iptables is asked for", () => {
    const pod = injected(podOf(), { ...CONTEXT, settings: { ...SETTINGS, legacyIptables: true } });
    const [init] = pod.spec.initContainers;
    expect(init?.securityContext.capabilities.add).toEqual(["NET_ADMIN", "NET_RAW"]);
    expect(init?.volumeMounts.map(({ name }) => name)).toEqual(["countersign-state"]);
    expect(flag(pod, "--iptables", "countersign-init")).toBe("auto");
  });

  test("passes the image on as it is", () => {
    for (const { image } of injected(podOf()).spec.initContainers) expect(image).toBe(SETTINGS.image);
  });

  test("adds its volumes behind the pod's own", () => {
    const pod = injected(podOf({ spec: { volumes: [{ name: "data", emptyDir: {} }] } }));
    expect(pod.spec.volumes.map(({ name }) => name)).toEqual([
      "data",
      "countersign-state",
      "countersign-token",
      "countersign-bundle",
    ]);
    expect(JSON.stringify(pod.spec.volumes)).toContain('"audience":"countersign.dev/corp.example"');
  });

  test("writes settings that the sidecar and the init step can read", () => {
    const pod = injected(
      podOf({
        annotations: {
          "countersign.dev/opaque-ports": "5432, 6379",
          "countersign.dev/exclude-outbound-ports": "9092",
          "countersign.dev/exclude-inbound-ports": "9090,9091",
          "countersign.dev/log-level": "debug",
        },
        container: { livenessProbe: { httpGet: { path: "/a$(POD_IP)b$$c", port: "http" } } },
      }),
    );
    const [init, proxy] = pod.spec.initContainers;
    const env: Readonly<Record<string, string>> = { POD_IP: "10.0.0.7", POD_NAME: "nb" };
    // As the kubelet expands: `$$` is `$`, `$(NAME)` a variable.
    const expand = (text: string): string =>
      text.replace(/\$\$|\$\(([A-Z_]+)\)/g, (all, name) => (all === "$$" ? "$" : (env[name] ?? all)));
    const config = parseSidecarConfig((proxy?.args ?? []).slice(1).map(expand));
    expect(config).toMatchObject({
      capture: true,
      appHost: "10.0.0.7",
      node: "nb",
      controlPlane: "countersign.countersign-system.svc:16012",
      bootstrap: "countersign.countersign-system.svc:16011",
      stateDir: "/var/run/countersign/state",
      opaquePorts: [5432, 6379],
      logLevel: "debug",
      auditFile: "-",
    });
    expect(config.probes.get("app/liveness")?.action).toMatchObject({ path: "/a$(POD_IP)b$$c", port: 8080 });
    expect(parseCaptureInit((init?.args ?? []).slice(1).map(expand), {})).toMatchObject({
      excludeOutboundPorts: [9092],
      excludeInboundPorts: [9090, 9091],
      proxyUid: 61600,
      backends: ["nft"],
    });
  });

  test.each([
    { name: "names the first container", annotations: {}, expected: "app" },
    {
      name: "leaves what the author chose",
      annotations: { "kubectl.kubernetes.io/default-container": "other" },
      expected: "other",
    },
  ])("kubectl's default container: $name", ({ annotations, expected }) => {
    const pod = injected(podOf({ annotations }));
    expect(pod.metadata.annotations["kubectl.kubernetes.io/default-container"]).toBe(expected);
  });

  test("takes requests and limits from annotations where they are given", () => {
    const pod = injected(
      podOf({ annotations: { "countersign.dev/cpu": "200m", "countersign.dev/cpu-limit": "1" } }),
    );
    expect(pod.spec.initContainers[1]?.resources).toEqual({
      requests: { cpu: "200m", memory: "64Mi" },
      limits: { cpu: "1", memory: "256Mi" },
    });
  });

  test("agrees with the sidecar on user, ports and names", () => {
    expect(names.PROXY_UID).toBe(PROXY_UID);
    expect(names.OWN_PORTS).toEqual(OWN_PORTS);
    expect(names.STATUS_PORT).toBe(CAPTURE_PORTS.status);
    expect(names.PROXY_CONTAINER).toBe(PROXY_CONTAINER);
  });
});

describe("probes", () => {
  test("are asked of the sidecar, which knows what to ask; periods stay with the kubelet", () => {
    const pod = injected(
      podOf({
        container: {
          startupProbe: { tcpSocket: { port: "http" }, failureThreshold: 30 },
          livenessProbe: {
            httpGet: {
              path: "healthz",
              port: 8080,
              scheme: "HTTPS",
              httpHeaders: [{ name: "Host", value: "x" }],
            },
            timeoutSeconds: 5,
            periodSeconds: 7,
          },
          readinessProbe: { grpc: { port: 9000, service: "m" } },
        },
        spec: {
          initContainers: [
            {
              name: "logger",
              image: "example/logger",
              restartPolicy: "Always",
              livenessProbe: { httpGet: { port: "8081" } },
            },
          ],
        },
      }),
    );
    const at = (path: string) => ({ path, port: 16020, scheme: "HTTP" });
    expect(pod.spec.containers[0]).toMatchObject({
      startupProbe: { httpGet: at("/probe/app/startup"), failureThreshold: 30 },
      livenessProbe: { httpGet: at("/probe/app/liveness"), timeoutSeconds: 5, periodSeconds: 7 },
      readinessProbe: { httpGet: at("/probe/app/readiness") },
    });
    expect(pod.spec.containers[0]?.["startupProbe"]).not.toHaveProperty("tcpSocket");
    expect(pod.spec.initContainers[2]?.["livenessProbe"]).toEqual({ httpGet: at("/probe/logger/liveness") });
    expect(JSON.parse(flag(pod, "--probes") ?? "")).toEqual({
      "app/liveness": {
        httpGet: {
          path: "/healthz",
          port: 8080,
          scheme: "HTTPS",
          httpHeaders: [{ name: "Host", value: "x" }],
        },
        timeoutSeconds: 5,
      },
      "app/readiness": { grpc: { port: 9000, service: "m" }, timeoutSeconds: 1 },
      "app/startup": { tcpSocket: { port: 8080 }, timeoutSeconds: 1 },
      "logger/liveness": { httpGet: { path: "/", port: 8081 }, timeoutSeconds: 1 },
    });
  });

  test("of commands, and of other machines, stay as they are", () => {
    const container = {
      livenessProbe: { exec: { command: ["true"] } },
      readinessProbe: { httpGet: { host: "other.example", port: 80 } },
    };
    const outcome = injectPod(podOf({ container }), CONTEXT);
    expect(injected(podOf({ container })).spec.containers[0]).toMatchObject(container);
    expect(outcome.warnings).toEqual([
      "readinessProbe of container `app` has a `host`, so the sidecar does not relay it",
    ]);
  });

  test.each([
    {
      name: "a port that is not there",
      probe: { httpGet: { port: "web" } },
      reason:
        "livenessProbe of container `app` names the port `web`, which container `app` does not have; add it to its `ports`",
    },
    {
      name: "a port of the mesh",
      probe: { httpGet: { path: "/probe/app/liveness", port: 16020 } },
      reason:
        "livenessProbe of container `app` asks port 16020, which belongs to the mesh; let it ask another",
    },
    {
      name: "two actions",
      probe: { httpGet: { port: 1 }, grpc: { port: 2 } },
      reason: "livenessProbe of container `app` has 2 actions; give it one",
    },
    {
      name: "a path with a blank",
      probe: { httpGet: { path: "/a b", port: 1 } },
      reason: "livenessProbe of container `app` has a `path` that cannot be relayed",
    },
    {
      name: "a header that ends the line",
      probe: { httpGet: { port: 1, httpHeaders: [{ name: "A", value: "b\r\nC: d" }] } },
      reason: "livenessProbe of container `app` has a header that cannot be relayed",
    },
    {
      name: "a timeout of an hour",
      probe: { tcpSocket: { port: 1 }, timeoutSeconds: 3600 },
      reason: "livenessProbe of container `app` has a `timeoutSeconds` that is not between 1 and 300",
    },
  ])("with $name are refused", ({ probe, reason }) => {
    expect(reasonOf(podOf({ container: { livenessProbe: probe } }))).toBe(reason);
  });

  test("hooks of the kubelet over the network get a warning, unless their port is open", () => {
    const container = { lifecycle: { postStart: { httpGet: { port: "http" } }, preStop: { exec: {} } } };
    expect(injectPod(podOf({ container }), CONTEXT).warnings).toEqual([
      "the postStart hook of container `app` comes from the kubelet without an identity and will be refused; use `exec`",
    ]);
    const annotations = { "countersign.dev/exclude-inbound-ports": "8080" };
    expect(injectPod(podOf({ container, annotations }), CONTEXT).warnings).toEqual([]);
  });
});

const OPT_OUT = "label the pod `countersign.dev/inject: disabled` to leave it out of the mesh";

describe("what is refused", () => {
  test.each([
    {
      name: "the node's network",
      parts: { spec: { hostNetwork: true } },
      reason: `\`hostNetwork\` has the node's network, where nothing can be captured; remove it, or ${OPT_OUT}`,
    },
    {
      name: "the node's processes",
      parts: { spec: { hostPID: true } },
      reason: `\`hostPID\` sees the node's processes, the sidecar's too; remove it, or ${OPT_OUT}`,
    },
    {
      name: "a shared process namespace",
      parts: { spec: { shareProcessNamespace: true } },
      reason: `\`shareProcessNamespace\` shows the sidecar's process to the other containers; remove it, or ${OPT_OUT}`,
    },
    {
      name: "a privileged container",
      parts: { container: { securityContext: { privileged: true } } },
      reason: `container \`app\` is privileged, so it could pass the sidecar; remove it, or ${OPT_OUT}`,
    },
    {
      name: "a privileged init container",
      parts: {
        spec: { initContainers: [{ name: "setup", image: "x", securityContext: { privileged: true } }] },
      },
      reason: `container \`setup\` is privileged, so it could pass the sidecar; remove it, or ${OPT_OUT}`,
    },
    ...["NET_ADMIN", "NET_RAW", "ALL", "cap_net_admin", "Net_Raw"].map((capability) => ({
      name: `the capability ${capability}`,
      parts: { container: { securityContext: { capabilities: { add: [capability] } } } },
      reason: `container \`app\` adds the capability \`${capability.toUpperCase().replace("CAP_", "")}\`, which could pass the sidecar; remove it, or ${OPT_OUT}`,
    })),
    ...["runAsUser", "runAsGroup"].map((field) => ({
      name: `the sidecar's ${field}`,
      parts: { container: { securityContext: { [field]: 61600 } } },
      reason: `\`${field}\` in securityContext of container \`app\` is 61600, which is the sidecar's user and group: whoever has it passes the sidecar; choose another`,
    })),
    ...[
      { runAsUser: 61600 },
      { runAsGroup: 61600 },
      { fsGroup: 61600 },
      { supplementalGroups: [1, 61600] },
    ].map((securityContext) => ({
      name: `the sidecar's ids for the pod: ${Object.keys(securityContext)}`,
      parts: { spec: { securityContext } },
      reason: `\`${Object.keys(securityContext)}\` in spec.securityContext is 61600, which is the sidecar's user and group: whoever has it passes the sidecar; choose another`,
    })),
    ...[16001, 16020, 16080].map((port) => ({
      name: `port ${port}`,
      parts: { container: { ports: [{ containerPort: port }] } },
      reason: `container \`app\` has port ${port}; ports 16001 to 16080 belong to the mesh: let it listen on another`,
    })),
    {
      name: "a container with our name",
      parts: { spec: { initContainers: [{ name: "countersign-proxy", image: "evil" }] } },
      reason:
        "container `countersign-proxy` has the name of one of the mesh's, but the pod was not injected (it lacks the annotation `countersign.dev/injected`); rename it",
    },
    {
      name: "a volume with our name",
      parts: { spec: { volumes: [{ name: "countersign-state", hostPath: { path: "/" } }] } },
      reason: "volume `countersign-state` has the name of one of the mesh's; rename it",
    },
    {
      name: "a mount of our volume",
      parts: { container: { volumeMounts: [{ name: "countersign-token", mountPath: "/t" }] } },
      reason: "container `app` mounts `countersign-token`, which is the sidecar's alone; remove the mount",
    },
    {
      name: "Windows",
      parts: { spec: { os: { name: "windows" } } },
      reason: `it is a Windows pod, which cannot be meshed; ${OPT_OUT}`,
    },
    {
      name: "Windows by node selector",
      parts: { spec: { nodeSelector: { "kubernetes.io/os": "windows" } } },
      reason: `it is a Windows pod, which cannot be meshed; ${OPT_OUT}`,
    },
    {
      name: "a sidecar whose request is above its limit",
      parts: { annotations: { "countersign.dev/memory": "1Gi" } },
      reason:
        "the sidecar's memory request `1Gi` is above its limit `256Mi`; set the annotation `countersign.dev/memory-limit` too",
    },
    {
      name: "no containers",
      parts: { spec: { containers: [] } },
      reason: "it cannot be read: `spec.containers` is missing",
    },
    {
      name: "containers that are no list",
      parts: { spec: { containers: {} } },
      reason: "it cannot be read: `spec.containers` is not a list of objects",
    },
  ])("$name", ({ parts, reason }) => {
    expect(reasonOf(podOf(parts))).toBe(reason);
  });

  test("names the first reasons and counts the rest", () => {
    const ports = [16001, 16002, 16003, 16004, 16005, 16006].map((containerPort) => ({ containerPort }));
    const reason = reasonOf(podOf({ container: { ports } }));
    expect(reason.match(/has port/g)).toHaveLength(4);
    expect(reason).toMatch(/; and 2 more$/);
  });

  test.each([15999, 16000, 16081])("but not port %d", (containerPort) => {
    expect(reasonOf(podOf({ container: { ports: [{ containerPort }] } }))).toBe("injected");
  });

  test("nor what would be refused, where the pod stays out of the mesh", () => {
    const pod = podOf({ labels: { "countersign.dev/inject": "disabled" }, spec: { hostNetwork: true } });
    expect(injectPod(pod, CONTEXT)).toEqual({ kind: "left-out", patch: [], warnings: [] });
  });

  test("nor a static pod's mirror, which changes nothing; but only a node makes one", () => {
    const pod = podOf({ annotations: { "kubernetes.io/config.mirror": "x" }, spec: { hostNetwork: true } });
    const outcome = injectPod(pod, { ...CONTEXT, username: "system:node:n1" });
    expect(outcome).toMatchObject({ kind: "left-out", patch: [] });
    expect(injectPod(pod, CONTEXT)).toMatchObject({ kind: "refused" });
  });
});

describe("injecting again", () => {
  test("changes nothing", () => {
    const once = injected(podOf({ container: { readinessProbe: { tcpSocket: { port: "http" } } } }));
    expect(injectPod(asObject(once), CONTEXT)).toEqual({ kind: "injected", patch: [], warnings: [] });
  });

  test("takes what the API server and its plugins fill in for ours", () => {
    const once = injected(podOf());
    const filled = {
      ...once,
      spec: {
        ...once.spec,
        initContainers: once.spec.initContainers.map((container) => ({
          ...container,
          resources: { requests: { cpu: "0.05", memory: "64Mi" }, limits: { cpu: "2", memory: "256Mi" } },
          volumeMounts: [
            ...(container.volumeMounts ?? []),
            {
              name: "kube-api-access-x",
              mountPath: "/var/run/secrets/kubernetes.io/serviceaccount",
              readOnly: true,
            },
          ],
        })),
      },
    };
    expect(injectPod(filled, CONTEXT)).toMatchObject({ kind: "injected", patch: [] });
  });

  test("relays the probe of a container that another webhook added", () => {
    const once = injected(podOf({ container: { readinessProbe: { tcpSocket: { port: "http" } } } }));
    const added = {
      ...once,
      spec: {
        ...once.spec,
        containers: [...once.spec.containers, { name: "more", livenessProbe: { tcpSocket: { port: 1234 } } }],
        initContainers: [
          ...once.spec.initContainers,
          { name: "logger", restartPolicy: "Always", livenessProbe: { tcpSocket: { port: 1235 } } },
        ],
      },
    };
    const again = injected(asObject(added));
    expect(
      [...JSON.stringify(again).matchAll(/\/probe\/([a-z]+\/[a-z]+)/g)].map((match) => match[1]),
    ).toEqual(expect.arrayContaining(["app/readiness", "more/liveness", "logger/liveness"]));
    expect(Object.keys(JSON.parse(flag(again, "--probes") ?? ""))).toEqual([
      "app/readiness",
      "logger/liveness",
      "more/liveness",
    ]);
    expect(again.spec.initContainers.map(({ name }) => name)).toEqual([
      "countersign-init",
      "countersign-proxy",
      "logger",
    ]);
    expect(injectPod(asObject(again), CONTEXT)).toMatchObject({ patch: [] });
  });

  const altered: readonly { name: string; alter: (pod: ReturnType<typeof injected>) => unknown }[] = [
    ...[
      { image: "evil" },
      { command: ["sh"] },
      {
        args: [
          "sidecar",
          "--log-level",
          "silent",
          "--probes",
          '{"app/readiness":{"tcpSocket":{"port":8080}}}',
        ],
      },
      { lifecycle: { postStart: { exec: { command: ["sh"] } } } },
      { env: [{ name: "NODE_OPTIONS", value: "--require /data/x.js" }] },
      { envFrom: [{ configMapRef: { name: "x" } }] },
      { securityContext: { privileged: true, runAsUser: 61600 } },
      { volumeMounts: [{ name: "data", mountPath: "/opt/countersign" }] },
      { resources: {} },
      { restartPolicy: undefined },
    ].map((change) => ({
      name: `the sidecar's ${Object.keys(change)}`,
      alter: (pod: ReturnType<typeof injected>) => ({
        ...pod,
        spec: {
          ...pod.spec,
          initContainers: pod.spec.initContainers.map((one) =>
            one.name === "countersign-proxy" ? { ...one, ...change } : one,
          ),
        },
      }),
    })),
    {
      name: "the order",
      alter: (pod) => ({
        ...pod,
        spec: { ...pod.spec, initContainers: pod.spec.initContainers.toReversed() },
      }),
    },
    {
      name: "a volume",
      alter: (pod) => ({
        ...pod,
        spec: {
          ...pod.spec,
          volumes: pod.spec.volumes.map((one) =>
            one.name === "countersign-state" ? { name: one.name, hostPath: { path: "/" } } : one,
          ),
        },
      }),
    },
    {
      name: "a volume twice",
      alter: (pod) => ({
        ...pod,
        spec: { ...pod.spec, volumes: [...pod.spec.volumes, ...pod.spec.volumes] },
      }),
    },
    {
      name: "the version",
      alter: (pod) => ({
        ...pod,
        metadata: { annotations: { ...pod.metadata.annotations, "countersign.dev/injected": "0.0.1" } },
      }),
    },
  ];
  test.each(altered)("restores $name", ({ alter }) => {
    const once = injected(podOf({ container: { readinessProbe: { tcpSocket: { port: "http" } } } }));
    const again = injected(asObject(alter(once)));
    expect(again).toEqual({ ...once, metadata: again.metadata });
    expect(again.metadata.annotations["countersign.dev/injected"]).toBe("1.2.3");
  });

  test("refuses a pod that says it was injected and is not", () => {
    const annotations = { "countersign.dev/injected": "1.2.3" };
    const proxy = { name: "countersign-proxy", image: "evil" };
    expect(reasonOf(podOf({ annotations, spec: { initContainers: [proxy] } }))).toMatch(
      /^container `countersign-proxy` has the name/,
    );
    expect(
      reasonOf(
        podOf({
          annotations,
          spec: { initContainers: [proxy, proxy, { ...proxy, name: "countersign-init" }] },
        }),
      ),
    ).toMatch(/^container `countersign-proxy` has the name/);
    expect(
      reasonOf(podOf({ annotations, spec: { containers: [proxy, { ...proxy, name: "countersign-init" }] } })),
    ).toMatch(/has the name/);
  });

  test("refuses a probe of the sidecar's whose original nobody knows", () => {
    const once = injected(podOf({ container: { readinessProbe: { tcpSocket: { port: "http" } } } }));
    const text = JSON.stringify(once).replaceAll('app/readiness\\"', 'app/liveness\\"');
    expect(reasonOf(JSON.parse(text))).toBe(
      "readinessProbe of container `app` asks port 16020, which belongs to the mesh; let it ask another",
    );
  });
});

describe("facts about users", () => {
  const SPAWNER = "system:serviceaccount:hub:jupyterhub";
  const written = {
    "countersign.dev/run-as": "bob@corp.example",
    "hub.jupyter.org/username": "bob",
    "countersign.dev/verified-owner": "mallory",
    "countersign.dev/verified-run-as": "mallory",
    "countersign.dev/verified-spawner": "mallory",
    "countersign.dev/verified-anything": "mallory",
  };
  const verified = (username: string | undefined, labels = {}) =>
    Object.fromEntries(
      Object.entries(
        injected(podOf({ annotations: written, labels }), { ...CONTEXT, username }).metadata.annotations,
      )
        .filter(([key]) => key.startsWith("countersign.dev/verified-"))
        .map(([key, value]) => [key.slice("countersign.dev/verified-".length), value]),
    );

  test.each([
    SPAWNER,
    "system:serviceaccount:kube-system:deployment-controller",
    "system:serviceaccount:kube-system:replicaset-controller",
    "system:serviceaccount:kube-system:statefulset-controller",
    "system:serviceaccount:kube-system:daemon-set-controller",
    "system:serviceaccount:kube-system:job-controller",
    "system:serviceaccount:kube-system:cronjob-controller",
    "system:kube-controller-manager",
  ])("count when %s wrote them", (username) => {
    expect(verified(username)).toEqual({ owner: "bob", "run-as": "bob@corp.example", spawner: username });
  });

  test.each([
    "alice",
    "",
    "hub/jupyterhub",
    "system:serviceaccount:hub:other",
    "system:serviceaccount:other:jupyterhub",
    "system:serviceaccount:hub:jupyterhub:x",
    "system:serviceaccount:kube-system:node-controller",
    "system:serviceaccount:lab:deployment-controller",
    undefined,
  ])("do not count when %s wrote them, and what the pod calls verified goes", (username) => {
    expect(verified(username)).toEqual({});
  });

  test("are treated the same where the pod stays out of the mesh", () => {
    const labels = { "countersign.dev/inject": "disabled" };
    expect(verified("alice", labels)).toEqual({});
    expect(verified(SPAWNER, labels)).toEqual({
      owner: "bob",
      "run-as": "bob@corp.example",
      spawner: SPAWNER,
    });
  });

  test("do not count when they are no names", () => {
    const pod = podOf({ annotations: { "hub.jupyter.org/username": "bob\nroot" } });
    const { annotations } = injected(pod, { ...CONTEXT, username: SPAWNER }).metadata;
    expect(annotations).not.toHaveProperty(["countersign.dev/verified-owner"]);
  });

  test("that do not count get a warning", () => {
    const { warnings } = injectPod(podOf({ annotations: { "countersign.dev/run-as": "bob" } }), CONTEXT);
    expect(warnings).toEqual([
      "annotation `countersign.dev/run-as` does not count: `alice` is not in `MeshConfig.spec.trustedSpawners`",
    ]);
  });
});

describe("any pod", () => {
  const port = fc.oneof(fc.constantFrom("http", "8080", "none"), fc.integer({ min: -1, max: 70_000 }));
  const probe = fc.oneof(
    fc.record({ httpGet: fc.record({ path: fc.webPath(), port }) }),
    fc.record({ tcpSocket: fc.record({ port }) }),
    fc.record({ grpc: fc.record({ port, service: fc.string({ maxLength: 5 }) }) }),
    fc.record({ exec: fc.record({ command: fc.array(fc.string()) }) }),
  );
  const container = (name: string) =>
    fc.record(
      {
        name: fc.constant(name),
        ports: fc.array(fc.record({ name: fc.constant("http"), containerPort: fc.nat(65_535) }), {
          maxLength: 2,
        }),
        livenessProbe: probe,
        readinessProbe: probe,
        restartPolicy: fc.constant("Always"),
      },
      { requiredKeys: ["name"] },
    );
  const annotation = fc.constantFrom(
    "opaque-ports",
    "exclude-inbound-ports",
    "cpu",
    "log-level",
    "other",
    "verified-x",
  );
  const pod = fc.record(
    {
      metadata: fc.record(
        {
          annotations: fc.dictionary(
            annotation.map((name) => `countersign.dev/${name}`),
            fc.constantFrom("8080", "debug", "100m", "x"),
          ),
        },
        { requiredKeys: [] },
      ),
      spec: fc.record(
        {
          containers: fc.tuple(container("app"), container("more")),
          initContainers: fc.option(fc.array(container("init"), { maxLength: 1 }), { nil: null }),
          volumes: fc.option(fc.constant([{ name: "data" }]), { nil: null }),
        },
        { requiredKeys: ["containers"] },
      ),
    },
    { requiredKeys: ["spec"] },
  );

  test("is injected once, however often, and the sidecar understands its probes", () => {
    let count = 0;
    fc.assert(
      fc.property(pod, (object) => {
        const outcome = injectPod(object as UnknownFields, CONTEXT);
        if (outcome.kind === "refused") return;
        count++;
        const once = injected(object as UnknownFields);
        expect(injectPod(asObject(once), CONTEXT)).toMatchObject({ kind: "injected", patch: [] });
        const [init, proxy, ...others] = once.spec.initContainers.map(({ name }) => name);
        expect([init, proxy]).toEqual(["countersign-init", "countersign-proxy"]);
        expect(others.filter((name) => name.startsWith("countersign"))).toEqual([]);
        const probes = flag(once, "--probes")?.replaceAll("$$", "$") ?? "{}";
        expect(parseProbes(probes).ok).toBe(true);
      }),
      { numRuns: 500 },
    );
    expect(count).toBeGreaterThan(50);
  });
});

test("a patch leaves the object that it was made for as it was", () => {
  const pod = podOf({ container: { livenessProbe: { tcpSocket: { port: 1 } } } });
  const before = structuredClone(pod);
  const outcome = injectPod(pod, CONTEXT);
  if (outcome.kind !== "refused") applyPatch(pod, outcome.patch);
  expect(pod).toEqual(before);
});
