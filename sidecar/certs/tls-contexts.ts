// TLS 1.3 options of mesh connections, both sides: mutual, no resumption, the peer told by its SPIFFE ID alone.
import { constants } from "node:crypto";
import tls from "node:tls";
import { parseSpiffeId } from "../core/identity/spiffe-id.ts";
import {
  checkSvid,
  type PeerFacts,
  parseSvid,
  SVID_PROBLEMS,
  type SvidProblem,
} from "../core/identity/svid.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import { MeshError, type Result } from "../core/runtime/errors.ts";

const HANDSHAKE_TIMEOUT_MS = 5_000;
/** Protocols of the mesh port, best first. */
const MESH_ALPN: readonly string[] = ["h2", "http/1.1"];

/**
 * Key, chain, bundle and the settings that Node forgets on each `setSecureContext`. Resumption would skip the check of
 * the CA and hide the peer's certificate, so no tickets are issued.
 */
function contextOptions(identity: WorkloadIdentity): tls.SecureContextOptions {
  return {
    key: identity.tlsKey.export({ type: "pkcs8", format: "pem" }),
    cert: identity.certificateChainPem,
    ca: identity.bundle.caPem,
    minVersion: "TLSv1.3",
    maxVersion: "TLSv1.3",
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

/**
 * Options for `tls.createServer` on the mesh port. The handshake proves the chain; call `acceptPeer` on each
 * `secureConnection` before a byte is read, and destroy the socket on `tlsClientError` (a bare `tls.Server` does not).
 */
export function serverTlsOptions(identity: WorkloadIdentity): tls.TlsOptions {
  return {
    ...contextOptions(identity),
    requestCert: true,
    rejectUnauthorized: true,
    ALPNProtocols: [...MESH_ALPN],
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
  };
}

/**
 * Puts a renewed identity (or bundle) into a listening server: new connections use it, open ones live on.
 *
 * @throws when OpenSSL refuses key, certificate or CA; the server then keeps what it had.
 */
export function swapServerContext(server: tls.Server, identity: WorkloadIdentity): void {
  server.setSecureContext(contextOptions(identity));
}

// A context costs 0.26 ms and 35 KiB: one per identity object, dropped with it.
const clientContexts = new WeakMap<WorkloadIdentity, tls.SecureContext>();

function clientContext(identity: WorkloadIdentity): tls.SecureContext {
  let context = clientContexts.get(identity);
  if (context === undefined) {
    context = tls.createSecureContext(contextOptions(identity));
    clientContexts.set(identity, context);
  }
  return context;
}

/**
 * Options for `tls.connect` to a mesh peer (add host and port, or path). The handshake fails with MeshError
 * `protocol_error` unless the server is `expectedSpiffeId`. In TLS 1.3 the client may see `secureConnect` although the
 * server then refuses its certificate: treat a connection as good after the first byte from the peer.
 */
export function clientTlsOptions(
  identity: WorkloadIdentity,
  expectedSpiffeId: string,
  nowMs: () => number,
  alpn: readonly string[] = MESH_ALPN,
): tls.ConnectionOptions {
  return {
    secureContext: clientContext(identity),
    rejectUnauthorized: true,
    ALPNProtocols: [...alpn],
    checkServerIdentity: (_host, certificate) =>
      checkExpectedPeer(certificate.raw, expectedSpiffeId, nowMs()),
  };
}

/** Compares a server's leaf with the SPIFFE ID that it must have. */
function checkExpectedPeer(leafDer: Buffer, expectedSpiffeId: string, nowMs: number): Error | undefined {
  const expected = parseSpiffeId(expectedSpiffeId);
  if (!expected.ok) return new MeshError("protocol_error", `\`${expectedSpiffeId}\` is not a SPIFFE ID`);
  const facts = parseSvid(leafDer);
  if (!facts.ok) return new MeshError("protocol_error", SVID_PROBLEMS[facts.error]);
  const trustDomains = [expected.value.slice(9, expected.value.indexOf("/", 9))];
  const problem = checkSvid(facts.value, { nowMs, trustDomains });
  if (problem !== undefined) return new MeshError("protocol_error", SVID_PROBLEMS[problem]);
  if (facts.value.spiffeId === expected.value) return undefined;
  return new MeshError(
    "protocol_error",
    `the peer is \`${facts.value.spiffeId}\`, expected \`${expected.value}\``,
  );
}

/**
 * The peer of an accepted connection (step V1): call it once per connection, before reading.
 *
 * @returns its facts, or why the connection must be destroyed.
 */
export function acceptPeer(
  socket: Pick<tls.TLSSocket, "authorized" | "getPeerX509Certificate">,
  trustDomains: readonly string[],
  nowMs: number,
): Result<PeerFacts, SvidProblem> {
  // INVARIANT: `rejectUnauthorized` refused others before; asked again because everything rests on it.
  const certificate = socket.authorized ? socket.getPeerX509Certificate() : undefined;
  if (certificate === undefined) return { ok: false, error: "malformed_certificate" };
  const facts = parseSvid(certificate.raw);
  if (!facts.ok) return facts;
  const problem = checkSvid(facts.value, { nowMs, trustDomains });
  return problem === undefined ? facts : { ok: false, error: problem };
}
