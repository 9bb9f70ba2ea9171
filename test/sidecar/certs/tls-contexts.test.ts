import { once } from "node:events";
import type { AddressInfo } from "node:net";
import tls from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import {
  acceptPeer,
  clientTlsOptions,
  serverTlsOptions,
  swapServerContext,
} from "../../../sidecar/certs/tls-contexts.ts";
import { SVID_PROBLEMS, type SvidProblem } from "../../../sidecar/core/identity/svid.ts";
import { parseTrustBundle } from "../../../sidecar/core/identity/trust-bundle.ts";
import { type WorkloadIdentity, withBundle } from "../../../sidecar/core/identity/workload-identity.ts";
import {
  createTestAuthority,
  issueTestIdentity,
  must,
  type TestAuthority,
  testId,
} from "../../fakes/authority.ts";
import { createOddLeaf } from "../../fakes/odd-leaf.ts";

// TLS looks at the machine's clock, so these certificates are of today.
const NOW = Date.now();
let authority: TestAuthority;
let foreign: TestAuthority;
let server: WorkloadIdentity;
let client: WorkloadIdentity;
const closers: (() => void)[] = [];
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
  foreign = await createTestAuthority(NOW, "other.example");
  server = issueTestIdentity(authority, testId("server"), NOW);
  client = issueTestIdentity(authority, testId("client"), NOW);
});
afterAll(async () => {
  await authority.close();
  await foreign.close();
});
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

interface Listening {
  readonly server: tls.Server;
  readonly port: number;
  /** What the server thought of each peer. */
  readonly seen: string[];
}
/** Echoes to good peers, destroys others, as the mesh port does. */
async function listen(identity: WorkloadIdentity): Promise<Listening> {
  const seen: string[] = [];
  const listening = tls.createServer(serverTlsOptions(identity), (socket) => {
    const accepted = acceptPeer(socket, ["lake.example"], Date.now());
    seen.push(accepted.ok ? accepted.value.spiffeId : accepted.error);
    socket.on("error", () => undefined);
    if (accepted.ok) socket.pipe(socket);
    else socket.destroy();
  });
  listening.on("tlsClientError", (error, socket) => {
    seen.push(`refused ${String(socket.authorizationError ?? ("code" in error ? error.code : error))}`);
    socket.destroy();
  });
  listening.listen(0, "127.0.0.1");
  await once(listening, "listening");
  closers.push(() => listening.close());
  return { server: listening, port: (listening.address() as AddressInfo).port, seen };
}
/** Connects and sends a byte: the echo or the failure. */
function talk(
  options: tls.ConnectionOptions,
  port: number,
): Promise<{ answer: string; socket: tls.TLSSocket }> {
  return new Promise((resolve) => {
    const socket = tls.connect({ host: "127.0.0.1", port, ...options });
    closers.push(() => socket.destroy());
    socket.on("secureConnect", () => socket.write("x"));
    socket.on("data", (data) => resolve({ answer: data.toString(), socket }));
    socket.on("error", (error: NodeJS.ErrnoException) =>
      resolve({ answer: error.code ?? error.message, socket }),
    );
    socket.on("close", () => resolve({ answer: "closed", socket }));
  });
}
const options = (identity: WorkloadIdentity, expected: string = testId("server")) =>
  clientTlsOptions(identity, expected, Date.now);

describe("mutual TLS between workloads", () => {
  test("works over TLS 1.3 with h2, each side knowing the other's SPIFFE ID", async () => {
    const { port, seen } = await listen(server);
    const { answer, socket } = await talk(options(client), port);
    expect(answer).toBe("x");
    expect(socket.getProtocol()).toBe("TLSv1.3");
    expect(socket.alpnProtocol).toBe("h2");
    expect(socket.isSessionReused()).toBe(false);
    expect(seen).toEqual([testId("client")]);
  });

  test("fails for the client when the server is another workload than expected", async () => {
    const { port, seen } = await listen(server);
    expect((await talk(options(client, testId("somebody")), port)).answer).toBe("protocol_error");
    expect(seen).not.toContain("x");
  });

  test("fails for the client when the server is of another mesh", async () => {
    const { port } = await listen(issueTestIdentity(foreign, testId("server", "other.example"), NOW));
    expect((await talk(options(client), port)).answer).toMatch(/CERT/);
  });

  test("refuses a client without certificate, of another mesh, or with an expired certificate", async () => {
    const { port, seen } = await listen(server);
    const bare = { ca: authority.bundle.caPem, checkServerIdentity: () => undefined, ALPNProtocols: ["h2"] };
    expect((await talk(bare, port)).answer).not.toBe("x");
    const stranger = withBundle(
      issueTestIdentity(foreign, testId("client", "other.example"), NOW),
      authority.bundle,
    );
    expect((await talk(options(stranger), port)).answer).not.toBe("x");
    const { chainPem, key } = createOddLeaf(authority.ca, {
      uris: [testId("client")],
      notBeforeMs: NOW - 60_000,
      notAfterMs: NOW - 30_000,
    });
    const expired = { ...client, certificateChainPem: chainPem, tlsKey: key };
    expect((await talk(options(expired), port)).answer).not.toBe("x");
    expect(seen).toHaveLength(3);
    for (const line of seen) expect(line).toMatch(/^refused/);
  });

  const odd: { uris: string[]; problem: SvidProblem }[] = [
    { uris: ["spiffe://lake.example/a", "spiffe://lake.example/b"], problem: "several_uri_sans" },
    { uris: [], problem: "no_uri_san" },
    { uris: ["spiffe://lake.example/%41"], problem: "bad_spiffe_id" },
  ];
  test.each(odd)(
    "refuses a certificate with the URIs $uris as $problem, on either side",
    async ({ uris, problem }) => {
      const { chainPem, key } = createOddLeaf(authority.ca, {
        uris,
        notBeforeMs: NOW - 60_000,
        notAfterMs: NOW + 60_000,
      });
      const strange = { ...client, certificateChainPem: chainPem, tlsKey: key };
      const { port, seen } = await listen(server);
      expect((await talk(options(strange), port)).answer).not.toBe("x");
      expect(seen).toEqual([problem]);
      const other = await listen(strange);
      expect((await talk(options(client), other.port)).answer).toBe("protocol_error");
      expect(SVID_PROBLEMS[problem]).toMatch(/^the certificate/);
    },
  );

  test("goes on over a live rotation: the open connection stays, new ones see the new certificate", async () => {
    const { server: listening, port } = await listen(server);
    const { socket: kept } = await talk(options(client), port);
    const renewed = issueTestIdentity(authority, testId("server"), NOW);
    swapServerContext(listening, renewed);
    const { socket: fresh, answer } = await talk(options(client), port);
    expect(answer).toBe("x");
    expect(fresh.getPeerX509Certificate()?.fingerprint256).not.toBe(
      kept.getPeerX509Certificate()?.fingerprint256,
    );
    const echo = once(kept, "data");
    kept.write("still here");
    expect(String((await echo)[0])).toBe("still here");
    expect(fresh.getProtocol()).toBe("TLSv1.3");
    // A root that is withdrawn keeps its clients out, with no ticket to come back in by.
    const others = must(parseTrustBundle(foreign.bundle.json));
    swapServerContext(listening, withBundle(renewed, others));
    expect((await talk({ ...options(client), session: fresh.getSession() }, port)).answer).not.toBe("x");
  });
});
