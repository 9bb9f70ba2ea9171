// How long the API server waits for injection: 1 000 reviews of a big pod over kept TLS connections, server and clients in
// one process, so what is printed is worse than what an API server sees.
// node test/bench/control-plane/admission/inject.bench.ts [reviews] [connections]
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { Agent, request } from "node:https";
import { createInjectHandler } from "../../../../control-plane/admission/inject-handler.ts";
import { createAdmissionServer } from "../../../../control-plane/admission/server.ts";
import { createWebhookCertificate } from "../../../../control-plane/admission/webhook-certificate.ts";
import { systemClock } from "../../../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../../../sidecar/core/runtime/log.ts";
import { SETTINGS } from "../../../control-plane/admission/pod-fixture.ts";
import { createTestAuthority } from "../../../fakes/authority.ts";

const NAME = "countersign.countersign-system.svc";
const reviews = Number(process.argv[2] ?? 1_000);
const connections = Number(process.argv[3] ?? 8);

/** 20 containers with 100 variables each, all three probes, and as many labels and annotations as anybody writes. */
const pod = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    generateName: "trainer-",
    labels: Object.fromEntries(
      Array.from({ length: 40 }, (_, n) => [`example.dev/label-${n}`, `value-${n}`]),
    ),
    annotations: Object.fromEntries(
      Array.from({ length: 40 }, (_, n) => [`example.dev/note-${n}`, "x".repeat(500)]),
    ),
  },
  spec: {
    containers: Array.from({ length: 20 }, (_, n) => ({
      name: `app-${n}`,
      image: `registry.example/team/app-${n}:1.2.3`,
      env: Array.from({ length: 100 }, (_, m) => ({
        name: `VARIABLE_${m}`,
        value: `value of ${n} and ${m}`,
      })),
      ports: [{ name: "http", containerPort: 8000 + n }],
      startupProbe: { tcpSocket: { port: "http" } },
      livenessProbe: { httpGet: { path: "/live", port: "http" } },
      readinessProbe: { httpGet: { path: "/ready", port: 8000 + n } },
    })),
    volumes: Array.from({ length: 40 }, (_, n) => ({ name: `volume-${n}`, emptyDir: {} })),
  },
};
const body = Buffer.from(
  JSON.stringify({
    apiVersion: "admission.k8s.io/v1",
    kind: "AdmissionReview",
    request: {
      uid: "705ab4f5-6393-11e8-b7cc-42010a800002",
      kind: { group: "", version: "v1", kind: "Pod" },
      resource: { group: "", version: "v1", resource: "pods" },
      namespace: "lab",
      operation: "CREATE",
      userInfo: { username: "system:serviceaccount:kube-system:replicaset-controller", groups: ["x"] },
      object: pod,
    },
  }),
);

const authority = await createTestAuthority(Date.now());
const server = await createAdmissionServer({
  host: "127.0.0.1",
  port: 0,
  certificate: await createWebhookCertificate(authority.ca, [NAME], Date.now()),
  handlers: {
    "/inject": createInjectHandler({
      settings: SETTINGS,
      trustedSpawners: () => [],
      namespaceLabels: () => undefined,
      packs: () => new Set(),
    }),
  },
  clock: systemClock,
  log: createLogger("error"),
});
const agent = new Agent({ keepAlive: true, maxSockets: connections, ca: authority.ca.roots.map(String) });

async function review(): Promise<number> {
  const startMs = performance.now();
  const call = request({
    ...{ host: "127.0.0.1", port: server.port, servername: NAME, path: "/inject", method: "POST", agent },
    headers: { "content-type": "application/json", "content-length": body.length },
  });
  call.end(body);
  const [response] = (await once(call, "response")) as [IncomingMessage];
  let text = "";
  for await (const chunk of response) text += chunk;
  if (response.statusCode !== 200 || !text.includes('"allowed":true')) throw new Error(text.slice(0, 300));
  return performance.now() - startMs;
}

async function round(count: number): Promise<readonly number[]> {
  const times: number[] = [];
  let left = count;
  await Promise.all(
    Array.from({ length: connections }, async () => {
      while (left-- > 0) times.push(await review());
    }),
  );
  return times.sort((a, b) => a - b);
}

await round(100);
const startMs = performance.now();
const times = await round(reviews);
const seconds = (performance.now() - startMs) / 1_000;
const at = (share: number): string =>
  (times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0).toFixed(1);
console.log(
  `${reviews} reviews of ${(body.length / 1_024).toFixed(0)} KiB over ${connections} connections: ${(reviews / seconds).toFixed(0)}/s, p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, max ${at(1)} ms`,
);
agent.destroy();
await server.close();
await authority.close();
