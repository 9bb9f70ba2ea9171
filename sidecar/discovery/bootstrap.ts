// How a workload without a certificate gets its first identity: one call to the bootstrap port (server TLS), with a
// join token that also pins the root of the mesh.
import { X509Certificate } from "node:crypto";
import { connect, createSecureContext, type DetailedPeerCertificate } from "node:tls";
import type { BootstrapClient } from "../../proto/gen/countersign/mesh/v1/Bootstrap.ts";
import type { Identity__Output } from "../../proto/gen/countersign/mesh/v1/Identity.ts";
import { serviceDefinition } from "../../proto/load.ts";
import { CONTROL_PLANE_SERVER_NAME, controlPlaneSpiffeId } from "../../proto/protocol.ts";
import { parseJoinToken } from "../core/identity/join-token.ts";
import { parseSvid } from "../core/identity/svid.ts";
import { spkiSha256 } from "../core/identity/trust-bundle.ts";
import { MeshError } from "../core/runtime/errors.ts";
import { type CertificateRequestInput, decodeIdentity, type IdentityMessage } from "./identity-message.ts";
import { CHANNEL_OPTIONS } from "./stream.ts";

export interface JoinInput {
  /** `host:port` of the bootstrap port. */
  readonly address: string;
  /** `cs1.<id>.<secret>.<b64url SHA-256 of the root's public key>`. */
  readonly joinToken: string;
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
  return new MeshError("io_failed", `cannot join at \`${address}\`: ${message}`);
}

/**
 * Redeems a join token.
 *
 * @throws MeshError `bad_token` (not a join token), `join_rejected` (token unknown, used or expired, or the server is not
 *   the one it pins), `csr_rejected`, `timeout`, `io_failed`, `bad_config` (address).
 */
export async function join(input: JoinInput, signal?: AbortSignal): Promise<IdentityMessage> {
  const { address, joinToken, request, timeoutMs } = input;
  const token = parseJoinToken(joinToken);
  if (!token.ok) throw new MeshError("bad_token", token.error);
  // Loaded while the control plane answers the first handshake.
  const [rootPem, grpc] = await Promise.all([
    fetchPinnedRoot(address, token.value.rootSpkiSha256, timeoutMs, signal),
    import("@grpc/grpc-js"),
  ]);
  const expected = controlPlaneSpiffeId(trustDomainOf(rootPem));
  const credentials = grpc.credentials.createFromSecureContext(
    createSecureContext({ ca: rootPem, minVersion: "TLSv1.3" }),
    {
      checkServerIdentity: (_host, certificate) => {
        const svid = parseSvid(certificate.raw);
        return svid.ok && svid.value.spiffeId === expected
          ? undefined
          : new Error("the server's certificate is not the control plane's");
      },
    },
  );
  // proto-loader's definition has all that grpc-js asks of one; the generated type belongs to this service.
  const Bootstrap = grpc.makeGenericClientConstructor(
    serviceDefinition("countersign.mesh.v1.Bootstrap") as never,
    "Bootstrap",
  );
  const client = new Bootstrap(address, credentials, CHANNEL_OPTIONS) as unknown as BootstrapClient;
  try {
    const message = await new Promise<Identity__Output>((resolve, reject) => {
      const certificateRequest = {
        csrDer: request.csrDer,
        tokenJwk: request.tokenJwk,
        tokenKeyProof: request.tokenKeyProof,
      };
      const call = client.join(
        { joinToken: joinToken.trim(), request: certificateRequest },
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
