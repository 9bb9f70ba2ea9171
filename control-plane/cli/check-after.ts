// `countersign check` after installation: does the control plane run, is it reached, are its certificates and bundles in
// order? What it says of workloads and policies is in check-workloads.ts.
import { X509Certificate } from "node:crypto";
import type { Duplex } from "node:stream";
import { connect as connectTls } from "node:tls";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { forwardPort } from "../kubernetes/port-forward.ts";
import { type Fields, fieldsOf, listOf, numberOf, textOf } from "./answers.ts";
import { type Cluster, type Replica, readApi, SERVICE_NAME } from "./cluster.ts";
import { type Check, type CheckResult, failed, ok, some, warning } from "./findings.ts";

const WEBHOOK_PORT = 16_017;
const DAY_MS = 86_400_000;
/** Below these something that should have been renewed was not. */
const ROOT_DAYS = 90;
const HANDSHAKE_WITHIN_MS = 10_000;
/** A Lease that was not renewed for so long has no living holder (it lasts 15 s; clocks differ). */
const LEASE_OLD_MS = 60_000;

/** Questions about the control plane itself. */
export function checksAfter(cluster: Cluster, replicas: readonly Replica[], nowMs: number): readonly Check[] {
  const webhooks = () => readWebhooks(cluster);
  return [
    { name: "control plane", needed: true, run: async () => checkReplicas(cluster, replicas) },
    { name: "leader", needed: false, run: () => checkLeader(cluster, replicas, nowMs) },
    { name: "webhooks", needed: true, run: async () => checkWebhooks(await webhooks(), nowMs) },
    {
      name: "webhook server",
      needed: false,
      run: async () => checkWebhookServer(cluster, replicas, await webhooks(), nowMs),
    },
    { name: "trust bundle", needed: true, run: () => checkBundles(cluster, nowMs) },
  ];
}

function checkReplicas(
  { controlPlaneNamespace }: Cluster,
  replicas: readonly Replica[],
): readonly CheckResult[] {
  const name = "control plane";
  const unready = replicas.filter((one) => !one.ready);
  const detail = `${replicas.length - unready.length} of ${replicas.length} pods in \`${controlPlaneNamespace}\` are ready`;
  const why = unready.map((one) => `${one.name}: ${one.reason}`).join("; ");
  const logs = `kubectl logs -n ${controlPlaneNamespace} -l app.kubernetes.io/name=countersign --tail=20`;
  if (replicas.length === 0)
    return [
      failed(
        name,
        `no pod is behind Service \`${controlPlaneNamespace}/${SERVICE_NAME}\``,
        "look at the Deployment: kubectl describe deployment",
      ),
    ];
  if (unready.length === replicas.length) return [failed(name, `${detail}; ${why}`, logs)];
  return unready.length > 0 ? [warning(name, `${detail}; ${why}`, logs)] : [ok(name, detail)];
}

async function checkLeader(
  cluster: Cluster,
  replicas: readonly Replica[],
  nowMs: number,
): Promise<readonly CheckResult[]> {
  const name = "leader";
  const path = `/apis/coordination.k8s.io/v1/namespaces/${cluster.controlPlaneNamespace}/leases/countersign-leader`;
  const spec = fieldsOf((await readApi(cluster, path, "the leader's Lease"))?.["spec"]);
  const holder = textOf(spec["holderIdentity"]);
  const todo = "look at the log of a control plane's pod for `leader`";
  if (holder === "")
    return [failed(name, "nobody leads: status is not written, bundles are not spread", todo)];
  const ageMs = nowMs - Date.parse(textOf(spec["renewTime"]));
  const isOurs = replicas.some((one) => holder === one.name || holder.startsWith(`${one.name}_`));
  if (ageMs > LEASE_OLD_MS)
    return [failed(name, `\`${holder}\` has not renewed its Lease for ${Math.round(ageMs / 1000)} s`, todo)];
  return [isOurs ? ok(name, holder) : warning(name, `\`${holder}\` is no pod of this control plane`, todo)];
}

interface Webhook {
  /** `configuration/webhook`. */
  readonly name: string;
  readonly caBundle: string;
}

async function readWebhooks(cluster: Cluster): Promise<readonly Webhook[]> {
  const query = { labelSelector: "app.kubernetes.io/name=countersign" };
  const found: Webhook[] = [];
  for (const kind of ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"]) {
    const path = `/apis/admissionregistration.k8s.io/v1/${kind}`;
    for (const one of listOf((await readApi(cluster, path, kind, query))?.["items"]))
      for (const webhook of listOf(one["webhooks"]))
        found.push({
          name: `${textOf(fieldsOf(one["metadata"])["name"])}/${textOf(webhook["name"])}`,
          caBundle: Buffer.from(textOf(fieldsOf(webhook["clientConfig"])["caBundle"]), "base64").toString(
            "utf8",
          ),
        });
  }
  return found;
}

function checkWebhooks(webhooks: readonly Webhook[], nowMs: number): readonly CheckResult[] {
  const name = "webhooks";
  if (webhooks.length === 0)
    return [
      failed(name, "there is no webhook configuration: pods are not injected", "helm upgrade countersign"),
    ];
  const bad = webhooks.flatMap((webhook) => {
    const problem = bundleProblem(webhook.caBundle, nowMs);
    return problem === "" ? [] : [`${webhook.name}: ${problem}`];
  });
  return bad.length === 0
    ? [ok(name, `${webhooks.length} with a caBundle`)]
    : [failed(name, some(bad), "the leader fills them in and renews them; look at its log for `caBundle`")];
}

function bundleProblem(pem: string, nowMs: number): string {
  if (pem.trim() === "") return "no caBundle yet, so labelled pods wait";
  const certificates = certificatesOf(pem);
  if (certificates === undefined) return "caBundle is no certificate";
  return certificates.every((one) => Date.parse(one.validTo) < nowMs) ? "caBundle has expired" : "";
}

function certificatesOf(pem: string): readonly X509Certificate[] | undefined {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g);
  try {
    return blocks?.map((block) => new X509Certificate(block));
  } catch {
    return undefined;
  }
}

/** Reaches the webhook's port of each replica as the API server would: by name, trusting the caBundle alone. */
async function checkWebhookServer(
  cluster: Cluster,
  replicas: readonly Replica[],
  webhooks: readonly Webhook[],
  nowMs: number,
): Promise<readonly CheckResult[]> {
  const name = "webhook server";
  const ca = webhooks.find(({ caBundle }) => caBundle !== "")?.caBundle;
  if (ca === undefined) return [];
  const namespace = cluster.controlPlaneNamespace;
  const servername = `${SERVICE_NAME}.${namespace}.svc`;
  const ready = replicas.filter((one) => one.ready);
  const problems = await Promise.all(
    ready.map(async ({ name: pod }) => {
      const socket = await forwardPort(cluster.kubernetes.portForward, {
        namespace,
        pod,
        port: WEBHOOK_PORT,
      });
      try {
        const certificate = await handshake(socket, ca, servername);
        return isNearEnd(certificate, nowMs)
          ? `${pod}: its certificate ends at ${certificate.validTo} and was not renewed`
          : "";
      } catch (error) {
        return `${pod}: ${messageOf(error)}`;
      } finally {
        socket.destroy();
      }
    }),
  );
  const bad = problems.filter((one) => one !== "");
  return [
    bad.length === 0
      ? ok(name, `answers as \`${servername}\` in ${ready.length} pods`)
      : failed(
          name,
          some(bad),
          "new pods in labelled namespaces wait until it answers; look at the control plane's log",
        ),
  ];
}

/** Less than a tenth of its life is left: it should have been renewed long before. PURE. */
export function isNearEnd(
  { validFrom, validTo }: Pick<X509Certificate, "validFrom" | "validTo">,
  nowMs: number,
): boolean {
  const endMs = Date.parse(validTo);
  return endMs - nowMs < (endMs - Date.parse(validFrom)) / 10;
}

/** @returns the server's certificate, which leads to `ca` and has the name. */
function handshake(socket: Duplex, ca: string, servername: string): Promise<X509Certificate> {
  return new Promise((resolve, reject) => {
    const tls = connectTls({ socket, ca, servername, minVersion: "TLSv1.2" }, () => {
      const certificate = tls.getPeerX509Certificate();
      if (certificate !== undefined) resolve(certificate);
      tls.destroy();
    });
    const late = AbortSignal.timeout(HANDSHAKE_WITHIN_MS);
    late.addEventListener("abort", () => tls.destroy(new Error("no answer in time")));
    socket.once("error", (error) => tls.destroy(error));
    tls.once("error", reject);
    tls.once("close", () => reject(new Error("the connection was closed")));
  });
}

/** The roots, and whether every meshed namespace has them. */
async function checkBundles(cluster: Cluster, nowMs: number): Promise<readonly CheckResult[]> {
  const name = "trust bundle";
  const { controlPlaneNamespace } = cluster;
  const rootsOf = (map: Fields | undefined) => textOf(fieldsOf(map?.["data"])["roots.pem"]);
  const path = (namespace: string) => `/api/v1/namespaces/${namespace}/configmaps/countersign-bundle`;
  const own = rootsOf(await readApi(cluster, path(controlPlaneNamespace), "the trust bundle"));
  const certificates = certificatesOf(own);
  if (own === "" || certificates === undefined)
    return [
      failed(
        name,
        `ConfigMap \`${controlPlaneNamespace}/countersign-bundle\` has no roots`,
        "the leader writes it; look at its log for `bundle`",
      ),
    ];
  const found: CheckResult[] = [];
  const leftDays = Math.floor(
    (Math.max(...certificates.map((one) => Date.parse(one.validTo))) - nowMs) / DAY_MS,
  );
  if (leftDays < ROOT_DAYS)
    found.push(
      (leftDays < 0 ? failed : warning)(
        name,
        `the newest root ends in ${leftDays} days`,
        "countersign ca rotate",
      ),
    );
  const namespaces = await meshedNamespaces(cluster);
  const behind = await Promise.all(
    namespaces.map(async (namespace) => {
      const map = await readApi(cluster, path(namespace), `the trust bundle in \`${namespace}\``);
      return rootsOf(map) === own ? [] : [namespace];
    }),
  );
  const missing = behind.flat();
  if (missing.length > 0)
    found.push(
      failed(
        name,
        `missing or old in ${some(missing)}: sidecars there cannot join`,
        "the leader spreads it within seconds; look at its log for `bundle`",
      ),
    );
  return found.length > 0
    ? found
    : [
        ok(
          name,
          `${certificates.length} root(s), for ${leftDays} days; the same in ${namespaces.length} meshed namespaces`,
        ),
      ];
}

/** Namespaces whose pods are to be meshed. */
export async function meshedNamespaces(cluster: Cluster): Promise<readonly string[]> {
  const list = await readApi(cluster, "/api/v1/namespaces", "namespaces", {
    labelSelector: "countersign.dev/inject=enabled",
  });
  return listOf(list?.["items"]).map((one) => textOf(fieldsOf(one["metadata"])["name"]));
}

/** Certificates of the authority, as the control plane itself tells. */
export function checkAuthority(authority: Fields, nowMs: number): readonly CheckResult[] {
  const name = "authority";
  const issuing = Date.parse(textOf(authority["issuingNotAfter"]));
  const rotation = fieldsOf(authority["rotation"]);
  const found: CheckResult[] = [];
  if (Number.isNaN(issuing))
    throw new MeshError(
      "protocol_error",
      "the control plane does not tell when its issuing certificate ends",
    );
  const days = Math.floor((issuing - nowMs) / DAY_MS);
  if (days < 14)
    found.push(
      (days < 1 ? failed : warning)(
        name,
        `the issuing certificate ends in ${days} days and was not renewed`,
        "look at the leader's log for `issuing`",
      ),
    );
  if (rotation["overdue"] === true)
    found.push(
      warning(
        name,
        `the root rotation waits for ${numberOf(rotation["waiting"]) ?? "some"} sidecars longer than it should`,
        "countersign ca status",
      ),
    );
  return found.length > 0 ? found : [ok(name, `the issuing certificate lasts ${days} days`)];
}
