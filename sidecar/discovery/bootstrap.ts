// How a workload without a certificate gets one: a call to the bootstrap port (server TLS) with a proof of who it is, a
// join token that also pins the root of the mesh, or a pod's ServiceAccount token beside roots that the pod was given.
import { X509Certificate } from "node:crypto";
import { connect, createSecureContext, type DetailedPeerCertificate } from "node:tls";
import type { BootstrapClient } from "../../proto/gen/countersign/mesh/v1/Bootstrap.ts";
import type { Identity__Output } from "../../proto/gen/countersign/mesh/v1/Identity.ts";
import { serviceDefinition } from "../../proto/load.ts";
import { CONTROL_PLANE_SERVER_NAME } from "../../proto/protocol.ts";
import { parseJoinToken } from "../core/identity/join-token.ts";
import { spkiSha256 } from "../core/identity/trust-bundle.ts";
import { MeshError } from "../core/runtime/errors.ts";
import { type CertificateRequestInput, decodeIdentity, type IdentityMessage } from "./identity-message.ts";
import { CHANNEL_OPTIONS, checkControlPlane, isForeignCa } from "./stream.ts";

export type JoinProof =
  | {
      readonly kind: "join-token";
      /** `cs1.<id>.<secret>.<b64url SHA-256 of the root's public key>`. */
      readonly token: string;
    }
  | {
      readonly kind: "service-account-token";
      readonly token: string;
      /** What the server's certificate must lead to (PEM), and whose control plane it must be. */
      readonly roots: { readonly pem: string; readonly trustDomain: string };
    };

export interface JoinInput {
  /** `host:port` of the bootstrap port; a name is looked up at each call. */
  readonly address: string;
  readonly proof: JoinProof;
  readonly request: CertificateRequestInput;
  readonly timeoutMs: number;
}

function splitAddress(address: string): { host: string; port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(address);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (!host || !(port >= 1 && port <= 65_535))
    throw new MeshError("bad_config", `\`${address}\` is not \`host:port\``);
  return { host, port };
}

/**
 * Finds the root that the token pins among the certificates a server presents. Nothing is trusted yet: the connection
 * only fetches the certificate, which counts because of its hash.
 */
async function fetchPinnedRoot(
  address: string,
  pin: string,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<string> {
  const { host, port } = splitAddress(address);
  return new Promise((resolve, reject) => {
    const socket = connect({
      host,
      port,
      servername: CONTROL_PLANE_SERVER_NAME,
      ALPNProtocols: ["h2"],
      minVersion: "TLSv1.3",
      rejectUnauthorized: false,
    });
    const finish = (act: () => void): void => {
      signal?.removeEventListener("abort", onAbort);
      socket.destroy();
      act();
    };
    const onAbort = (): void => finish(() => reject(new MeshError("timeout", "joining was stopped")));
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.setTimeout(timeoutMs, () =>
      finish(() => reject(new MeshError("timeout", `\`${address}\` did not answer in ${timeoutMs} ms`))),
    );
    socket.once("error", (cause) =>
      finish(() =>
        reject(new MeshError("io_failed", `cannot connect to \`${address}\`: ${cause.message}`, { cause })),
      ),
    );
    socket.once("secureConnect", () => {
      let certificate: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
      for (let depth = 0; certificate?.raw && depth < 5; depth++) {
        const root = new X509Certificate(certificate.raw);
        if (root.ca && spkiSha256(root) === pin) return finish(() => resolve(root.toString()));
        const issuer: DetailedPeerCertificate | undefined = certificate.issuerCertificate;
        certificate = issuer === certificate ? undefined : issuer;
      }
      const message = `\`${address}\` is not the control plane that made this join token; check the address, or make a new token`;
      finish(() => reject(new MeshError("join_rejected", message)));
    });
  });
}

/** The trust domain that a root certificate is named for, as `spiffe://td` in its SAN. */
function trustDomainOf(rootPem: string): string {
  return /URI:spiffe:\/\/([a-z0-9._-]+)/.exec(new X509Certificate(rootPem).subjectAltName ?? "")?.[1] ?? "";
}

/** gRPC status to our codes; see control-plane/discovery/bootstrap.ts. */
function joinError(address: string, code: number, details: string): MeshError {
  const message = details.slice(0, 300);
  if (code === 16) return new MeshError("join_rejected", message);
  if (code === 3) return new MeshError("csr_rejected", message);
  if (code === 4) return new MeshError("timeout", `\`${address}\` did not answer in time`);
  if (isForeignCa(message))
    return new MeshError(
      "io_failed",
      `cannot join at \`${address}\`: its certificate leads to none of the roots that are trusted here`,
    );
  return new MeshError("io_failed", `cannot join at \`${address}\`: ${message}`);
}

/** Whom to trust: the root that the token pins, or what the pod was given. @throws MeshError as `join`. */
async function rootsFor(
  { address, proof, timeoutMs }: JoinInput,
  signal: AbortSignal | undefined,
): Promise<{ readonly pem: string; readonly trustDomain: string }> {
  if (proof.kind === "service-account-token") return proof.roots;
  const token = parseJoinToken(proof.token);
  if (!token.ok) throw new MeshError("bad_token", token.error);
  const pem = await fetchPinnedRoot(address, token.value.rootSpkiSha256, timeoutMs, signal);
  return { pem, trustDomain: trustDomainOf(pem) };
}

/**
 * Asks for an identity, once.
 *
 * @throws MeshError `bad_token` (not a join token), `join_rejected` (the proof does not count, or the server is not the one
 *   that a join token pins), `csr_rejected`, `timeout`, `io_failed`, `bad_config` (address).
 */
export async function join(input: JoinInput, signal?: AbortSignal): Promise<IdentityMessage> {
  const { address, proof, request, timeoutMs } = input;
  splitAddress(address);
  // Loaded while the control plane answers the first handshake.
  const [roots, grpc] = await Promise.all([rootsFor(input, signal), import("@grpc/grpc-js")]);
  const credentials = grpc.credentials.createFromSecureContext(
    createSecureContext({ ca: roots.pem, minVersion: "TLSv1.3" }),
    { checkServerIdentity: checkControlPlane(roots.trustDomain) },
  );
  // proto-loader's definition has all that grpc-js asks of one; the generated type belongs to this service.
  const Bootstrap = grpc.makeGenericClientConstructor(
    serviceDefinition("countersign.mesh.v1.Bootstrap") as never,
    "Bootstrap",
  );
  const client = new Bootstrap(address, credentials, CHANNEL_OPTIONS) as unknown as BootstrapClient;
  const token = proof.token.trim();
  try {
    const message = await new Promise<Identity__Output>((resolve, reject) => {
      const certificateRequest = {
        csrDer: request.csrDer,
        tokenJwk: request.tokenJwk,
        tokenKeyProof: request.tokenKeyProof,
      };
      const call = client.join(
        {
          ...(proof.kind === "join-token" ? { joinToken: token } : { serviceAccountToken: token }),
          request: certificateRequest,
        },
        new grpc.Metadata(),
        { deadline: Date.now() + timeoutMs },
        (error, value) => {
          signal?.removeEventListener("abort", onAbort);
          if (value) resolve(value);
          else reject(joinError(address, error?.code ?? 2, error?.details ?? "no answer"));
        },
      );
      const onAbort = (): void => call.cancel();
      signal?.addEventListener("abort", onAbort, { once: true });
    });
    const identity = decodeIdentity(message);
    if (!identity.ok) throw new MeshError("join_rejected", identity.error);
    return identity.value;
  } finally {
    client.close();
  }
}
