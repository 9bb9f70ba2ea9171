// Pods of any shape, half of them injected before and then altered: injectPod always answers and never throws; what it lets
// through has our two containers first, exactly as they should be, nothing of ours elsewhere, and stays as it is.
import fc from "fast-check";
import { type InjectContext, injectPod } from "../../../../control-plane/admission/inject.ts";
import { applyPatch } from "../../../../control-plane/admission/json-patch.ts";
import type { UnknownFields } from "../../../../control-plane/admission/review.ts";
import { isSameContainer } from "../../../../control-plane/admission/same-object.ts";
import { initContainer } from "../../../../control-plane/admission/sidecar-containers.ts";
import { parseProbes } from "../../../../sidecar/capture/probes.ts";
import { parseCaptureInit } from "../../../../sidecar/capture/settings.ts";
import { parseSidecarConfig } from "../../../../sidecar/config.ts";
import { CONTEXT } from "../../../control-plane/admission/pod-fixture.ts";

const SPAWNER: InjectContext = { ...CONTEXT, username: "system:serviceaccount:hub:jupyterhub" };

const odd = fc.oneof(
  fc.jsonValue({ maxDepth: 2 }),
  fc.constantFrom<unknown>(
    61600,
    "countersign-proxy",
    "countersign-state",
    16020,
    "ALL",
    true,
    null,
    "$(POD_IP)",
    "__proto__",
  ),
);
const sometimes = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 40, arbitrary: value as fc.Arbitrary<unknown> }, { weight: 1, arbitrary: odd });
const optional = (fields: Record<string, fc.Arbitrary<unknown>>, requiredKeys: string[] = []) =>
  fc.record(fields, { requiredKeys });

const port = sometimes(fc.constantFrom<unknown>("8080", 8080, 9000));
const rare = (value: unknown): fc.Arbitrary<unknown> => sometimes(fc.constant(value));

const timeoutSeconds = sometimes(fc.integer({ min: 1, max: 300 }));
const httpGet = sometimes(
  optional(
    {
      port,
      path: sometimes(fc.webPath()),
      scheme: rare("HTTPS"),
      host: rare(""),
      httpHeaders: rare([{ name: "a", value: "b" }]),
    },
    ["port"],
  ),
);
const tcpSocket = sometimes(optional({ port, host: rare("") }, ["port"]));
const grpc = sometimes(optional({ port, service: rare("x") }, ["port"]));
const exec = fc.constant({ command: ["true"] });
const action = fc.oneof(
  ...[{ httpGet }, { tcpSocket }, { grpc }, { exec }].map((one) => ({
    weight: 10,
    arbitrary: optional({ ...one, timeoutSeconds }, Object.keys(one)),
  })),
  { weight: 1, arbitrary: optional({ httpGet, tcpSocket, grpc, exec, timeoutSeconds }) },
);
const security = optional({
  runAsUser: rare(1000),
  runAsGroup: rare(0),
  privileged: rare(false),
  capabilities: sometimes(optional({ add: rare(["CHOWN"]) })),
});
const container = (names: readonly string[]) =>
  sometimes(
    optional(
      {
        name: fc.constantFrom(...names),
        ports: sometimes(
          fc.array(optional({ name: fc.constant("http"), containerPort: port }), { maxLength: 2 }),
        ),
        startupProbe: action,
        livenessProbe: action,
        readinessProbe: action,
        lifecycle: optional({ postStart: action, preStop: action }),
        securityContext: security,
        volumeMounts: sometimes(
          fc.array(optional({ name: rare("data"), mountPath: rare("/data") }), { maxLength: 2 }),
        ),
        restartPolicy: fc.constantFrom("Always", "Never"),
        args: rare(["x"]),
      },
      ["name"],
    ),
  );
/** Values that each takes, and now and then any text. */
const texts = (values: Readonly<Record<string, string>>) =>
  sometimes(
    optional(
      Object.fromEntries(
        Object.entries(values).map(([name, value]) => [
          name,
          fc.oneof(
            { weight: 20, arbitrary: fc.constant(value) },
            { weight: 1, arbitrary: fc.string({ maxLength: 12 }) },
          ),
        ]),
      ),
    ),
  );
const annotations = texts({
  "countersign.dev/injected": "1.0.0",
  "countersign.dev/packs": "8080=ray",
  "countersign.dev/propagation": "trace",
  "countersign.dev/run-as": "bob",
  "countersign.dev/opaque-ports": "8080",
  "countersign.dev/exclude-inbound-ports": "9000",
  "countersign.dev/cpu": "100m",
  "countersign.dev/verified-owner": "mallory",
  "prometheus.io/scrape": "true",
  "prometheus.io/port": "8080",
  "prometheus.io/path": "/m?x=$(POD_IP)",
  "hub.jupyter.org/username": "bob",
});
const labels = texts({ "countersign.dev/kind": "job", app: "x" });
const pod = optional(
  {
    metadata: sometimes(optional({ annotations, labels })),
    spec: sometimes(
      optional(
        {
          containers: sometimes(fc.array(container(["app", "more"]), { minLength: 1, maxLength: 2 })),
          initContainers: sometimes(
            fc.array(container(["init", "init", "init", "init", "init", "countersign-proxy"]), {
              maxLength: 3,
            }),
          ),
          ephemeralContainers: sometimes(fc.array(container(["debug"]), { maxLength: 1 })),
          volumes: sometimes(
            fc.array(optional({ name: rare("data"), hostPath: rare({}) }), { maxLength: 2 }),
          ),
          securityContext: security,
          hostNetwork: rare(false),
        },
        ["containers"],
      ),
    ),
  },
  ["spec"],
) as fc.Arbitrary<UnknownFields>;

interface Meshed {
  readonly spec: {
    readonly initContainers: readonly (UnknownFields & {
      readonly name: string;
      readonly args: readonly string[];
    })[];
    readonly containers: readonly UnknownFields[];
  };
}

function check(object: UnknownFields): UnknownFields | undefined {
  const outcome = injectPod(object, SPAWNER);
  if (outcome.kind === "refused") return undefined;
  const made = applyPatch(object, outcome.patch);
  if (outcome.kind === "left-out") return undefined;
  const { spec } = made as unknown as Meshed;
  const [init, proxy, ...others] = spec.initContainers;
  if (init?.name !== "countersign-init" || proxy?.name !== "countersign-proxy")
    throw new Error("not ours first");
  for (const { name } of [...others, ...spec.containers])
    if (name === "countersign-proxy" || name === "countersign-init") throw new Error("one of ours elsewhere");
  const rest = JSON.stringify(
    [...others, ...spec.containers].map(({ securityContext }) => securityContext ?? {}),
  );
  if (/"runAs(User|Group)":61600\b|"privileged":true/.test(rest))
    throw new Error("the sidecar's user or privilege");
  const expand = (arg: string): string =>
    arg.replace(/\$\$|\$\(([A-Z_]+)\)/g, (all, name) =>
      all === "$$" ? "$" : name === "POD_IP" ? "10.0.0.1" : "p",
    );
  const config = parseSidecarConfig(proxy.args.slice(1).map(expand));
  const flags = init.args.slice(1).map(expand);
  const capture = parseCaptureInit(flags, {});
  const settings = {
    excludeInboundPorts: capture.excludeInboundPorts,
    excludeOutboundPorts: capture.excludeOutboundPorts,
    opaquePorts: config.opaquePorts,
    logLevel: undefined,
    resources: {},
  };
  const { resources: _, ...wanted } = initContainer(SPAWNER.settings, settings);
  if (!isSameContainer({ ...init, resources: {} }, { ...wanted, resources: {} }))
    throw new Error("an altered init step");
  const at = proxy.args.indexOf("--probes");
  if (at > 0 && !parseProbes(expand(proxy.args[at + 1] ?? "")).ok)
    throw new Error("probes that the sidecar refuses");
  const again = injectPod(made, SPAWNER);
  if (again.kind !== "injected" || again.patch.length > 0) throw new Error("injected twice differs");
  return made;
}

/** Replaces one place below `spec.initContainers` or `spec.volumes`. */
function alter(object: UnknownFields, at: number, value: unknown): UnknownFields {
  const copy = structuredClone(object) as {
    spec: { initContainers: Record<string, unknown>[]; volumes: unknown[] };
  };
  const target = copy.spec.initContainers[at % copy.spec.initContainers.length];
  const keys = Object.keys(target ?? {});
  const key = keys[at % keys.length];
  if (target !== undefined && key !== undefined) target[key] = value;
  if (at % 7 === 0) copy.spec.volumes[at % copy.spec.volumes.length] = value;
  return copy as unknown as UnknownFields;
}

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  let cases = 0;
  fc.assert(
    fc.property(pod, fc.nat(100), odd, (object, at, value) => {
      cases++;
      const made = check(object);
      if (made !== undefined) check(alter(made, at, value));
    }),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  return { cases };
}
