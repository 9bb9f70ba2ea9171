// The control plane of a cluster, reached through the API server: a forwarded port of its pod, TLS verified against the
// mesh's own roots, and a Kubernetes token.
import { X509Certificate } from "node:crypto";
import { Agent, request } from "node:http";
import type { Duplex } from "node:stream";
import { connect as connectTls, createSecureContext, type SecureContext, type TLSSocket } from "node:tls";
import { CONTROL_PLANE_SERVER_NAME, controlPlaneSpiffeId } from "../../proto/protocol.ts";
import { parseSvid } from "../../sidecar/core/identity/svid.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { askWhole } from "../../sidecar/core/runtime/whole-answer.ts";
import { statusOf } from "../kubernetes/client.ts";
import { forwardPort } from "../kubernetes/port-forward.ts";
import { fieldsOf, textOf } from "./answers.ts";
import { type Cluster, findReplicas, leaderOf, openCluster, type Replica, readApi } from "./cluster.ts";
import { MAX_ANSWER_BYTES, readAnswer } from "./management-client.ts";
import type { ClusterOptions, Mesh } from "./mesh.ts";

const MANAGEMENT_PORT = 16_080;
const TIMEOUT_MS = 30_000;
/** Made by the chart; who may make tokens for it may do what it may. */
export const DEFAULT_ACCOUNT = "countersign-operator";
const TOKEN_SECONDS = 600;

/** What servers of this mesh are verified against. */
export interface MeshTrust {
  readonly trustDomain: string;
  readonly rootsPem: string;
}

/** @throws MeshError `io_failed`, `not_found` when there is no bundle. */
export async function readTrust(cluster: Cluster): Promise<MeshTrust> {
  const { controlPlaneNamespace } = cluster;
  const path = `/api/v1/namespaces/${controlPlaneNamespace}/configmaps/countersign-bundle`;
  const map = await readApi(cluster, path, `ConfigMap \`${controlPlaneNamespace}/countersign-bundle\``);
  const rootsPem = textOf(fieldsOf(map?.["data"])["roots.pem"]);
  if (rootsPem === "")
    throw new MeshError(
      "not_found",
      `ConfigMap \`${controlPlaneNamespace}/countersign-bundle\` has no \`roots.pem\` yet; the control plane writes it when it leads: see \`countersign check\``,
    );
  let name: string | undefined;
  try {
    name = new X509Certificate(rootsPem).subjectAltName;
  } catch (cause) {
    throw new MeshError("protocol_error", "`roots.pem` of ConfigMap `countersign-bundle` is no certificate", {
      cause,
    });
  }
  const named = /^URI:spiffe:\/\/([a-z0-9._-]+)$/.exec(name ?? "")?.[1];
  return { trustDomain: named ?? (await configuredDomain(cluster)), rootsPem };
}

/** A root that was made elsewhere (cert-manager) need not name the mesh; its settings do. */
async function configuredDomain(cluster: Cluster): Promise<string> {
  const path = "/apis/countersign.dev/v1alpha1/meshconfigs/default";
  const config = await readApi(cluster, path, "MeshConfig `default`");
  const domain = textOf(fieldsOf(config?.["spec"])["trustDomain"]);
  if (domain === "")
    throw new MeshError(
      "protocol_error",
      "neither the root in ConfigMap `countersign-bundle` nor MeshConfig `default` names the trust domain",
    );
  return domain;
}

/** @throws MeshError `bad_config`, `io_failed` with what to do: not installed, not ready, not allowed. */
export async function connectCluster(options: ClusterOptions): Promise<Mesh> {
  const cluster = await openCluster(options);
  const { controlPlaneNamespace, context } = cluster;
  const replicas = await findReplicas(cluster);
  if (replicas === undefined)
    throw new MeshError(
      "io_failed",
      `the control plane is not installed in namespace \`${controlPlaneNamespace}\` of context \`${context}\`; install it with helm (see \`countersign check\`), or name its namespace with \`--control-plane-namespace\``,
    );
  const ready = replicas.filter((one) => one.ready);
  if (ready.length === 0)
    throw new MeshError(
      "io_failed",
      `no pod of the control plane in \`${controlPlaneNamespace}\` is ready${replicas.map(({ name, reason }) => `; ${name}: ${reason}`).join("")}; see \`countersign check\``,
    );
  const [trust, holder] = await Promise.all([readTrust(cluster), leaderOf(cluster)]);
  const token = await tokenOf(cluster, trust, options.account ?? DEFAULT_ACCOUNT);
  return new ClusterMesh(cluster, { trust, token, replicas: inOrder(ready, holder) });
}

/** The leader first: it is the one that writes. */
function inOrder(replicas: readonly Replica[], holder: string): readonly Replica[] {
  const leads = ({ name }: Replica) => holder === name || holder.startsWith(`${name}_`);
  return [...replicas].sort((a, b) => Number(leads(b)) - Number(leads(a)));
}

/** The kubeconfig's own token, or one that is made for the operator's account. */
async function tokenOf(cluster: Cluster, trust: MeshTrust, account: string): Promise<string> {
  const { kubernetes, controlPlaneNamespace: namespace, context } = cluster;
  const options: { headers: Record<string, string> } = { headers: {} };
  try {
    await kubernetes.kubeConfig.applyToHTTPSOptions(options);
  } catch (cause) {
    throw new MeshError("io_failed", `no credentials for context \`${context}\`: ${messageOf(cause)}`, {
      cause,
    });
  }
  const header = Object.entries(options.headers).find(
    ([name]) => name.toLowerCase() === "authorization",
  )?.[1];
  const [, bearer] = /^Bearer +(\S+)$/i.exec(header ?? "") ?? [];
  if (bearer !== undefined) return bearer;
  try {
    const made = await kubernetes.core.createNamespacedServiceAccountToken({
      ...{ name: account, namespace },
      body: {
        spec: { audiences: [`countersign.dev/${trust.trustDomain}`], expirationSeconds: TOKEN_SECONDS },
      },
    });
    const token = made.status?.token ?? "";
    if (token === "") throw new MeshError("protocol_error", "the API server made a token without text");
    return token;
  } catch (cause) {
    if (cause instanceof MeshError) throw cause;
    throw new MeshError("io_failed", tokenProblem(statusOf(cause), namespace, account, cause), { cause });
  }
}

function tokenProblem(
  status: number | undefined,
  namespace: string,
  account: string,
  cause: unknown,
): string {
  const why = `the kubeconfig has no token, and one for ServiceAccount \`${namespace}/${account}\``;
  if (status === 404)
    return `${why} cannot be made: there is no such account; the chart makes \`${DEFAULT_ACCOUNT}\`, or name another with \`--account\``;
  if (status === 403)
    return `${why} is not yours to make; grant it with: kubectl create role countersign-cli --namespace ${namespace} --verb=create --resource=serviceaccounts/token --resource-name=${account}, and bind it`;
  return `${why} cannot be made: ${messageOf(cause).split("\n")[1] ?? messageOf(cause)}`;
}

interface ClusterMeshState {
  readonly trust: MeshTrust;
  readonly token: string;
  /** Ready ones, the leader first. */
  readonly replicas: readonly Replica[];
}

class ClusterMesh implements Mesh {
  readonly source = "cluster";
  readonly #cluster: Cluster;
  readonly #state: ClusterMeshState;
  readonly #context: SecureContext;
  readonly #agents = new Map<string, Agent>();

  constructor(cluster: Cluster, state: ClusterMeshState) {
    this.#cluster = cluster;
    this.#state = state;
    this.#context = createSecureContext({ ca: state.trust.rootsPem, minVersion: "TLSv1.3" });
  }

  manage(method: "GET" | "POST", path: string, body?: unknown): Promise<unknown> {
    return this.#ask(this.#state.replicas[0]?.name ?? "", method, path, body);
  }

  async manageEach(path: string): Promise<readonly { replica: string; answer: unknown }[]> {
    return Promise.all(
      this.#state.replicas.map(async ({ name }) => ({
        ...{ replica: name, answer: await this.#ask(name, "GET", path) },
      })),
    );
  }

  close(): void {
    for (const agent of this.#agents.values()) agent.destroy();
  }

  async #ask(pod: string, method: string, path: string, body?: unknown): Promise<unknown> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const sent = request({
      ...{ method, path, agent: this.#agentOf(pod), timeout: TIMEOUT_MS },
      headers: {
        ...{ host: CONTROL_PLANE_SERVER_NAME, authorization: `Bearer ${this.#state.token}` },
        ...(payload === undefined
          ? {}
          : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
      },
    });
    sent.on("timeout", () => sent.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
    const whole = await askWhole(sent, payload, MAX_ANSWER_BYTES).catch((cause: Error) => {
      if (cause instanceof MeshError) throw cause;
      const detail = `cannot ask the control plane in pod \`${pod}\`: ${cause.message}`;
      throw new MeshError("io_failed", detail, { cause });
    });
    const answer = readAnswer("control plane", whole.status, whole.body.toString("utf8"));
    if (answer instanceof MeshError) throw answer;
    return answer.value;
  }

  /** One kept connection per replica. */
  #agentOf(pod: string): Agent {
    let agent = this.#agents.get(pod);
    if (agent === undefined) {
      agent = new Agent({ keepAlive: true, maxSockets: 1 });
      agent.createConnection = (_options, callback) => {
        this.#connect(pod).then(
          (socket) => callback?.(null, socket),
          (error: Error) => callback?.(error, null as never),
        );
        return undefined;
      };
      this.#agents.set(pod, agent);
    }
    return agent;
  }

  async #connect(pod: string): Promise<TLSSocket> {
    const { kubernetes, controlPlaneNamespace: namespace } = this.#cluster;
    const socket = await forwardPort(kubernetes.portForward, { namespace, pod, port: MANAGEMENT_PORT });
    return secure(socket, this.#context, controlPlaneSpiffeId(this.#state.trust.trustDomain));
  }
}

/** TLS to the control plane, which is known by its SPIFFE ID. */
function secure(socket: Duplex, secureContext: SecureContext, expected: string): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const tls = connectTls(
      {
        ...{ socket, secureContext, servername: CONTROL_PLANE_SERVER_NAME, minVersion: "TLSv1.3" },
        checkServerIdentity: (_host, certificate) => {
          const svid = parseSvid(certificate.raw);
          return svid.ok && svid.value.spiffeId === expected
            ? undefined
            : new Error("the server's certificate is not the control plane's");
        },
      },
      () => resolve(tls),
    );
    socket.once("error", (error) => tls.destroy(error));
    tls.once("error", reject);
    tls.once("close", () => reject(new Error("the connection was closed before it was secure")));
  });
}
