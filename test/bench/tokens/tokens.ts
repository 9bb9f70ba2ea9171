// The token service in a control plane of its own, asked by a gateway over kept connections: Txn-Tokens per second of its
// CPU, and what opening a session takes besides the identity provider's own time.
import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GRANT_TYPE, SESSION_TOKEN } from "../../../control-plane/tokens/grants.ts";
import { signEs256 } from "../../../sidecar/core/identity/ecdsa.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import { startControlPlane } from "../../demo/mesh-processes.ts";
import type { RunningProcess } from "../../demo/process.ts";
import { type FakeIdp, type SigningKey, signingKey, signJwt, startFakeIdp } from "../../fakes/idp.ts";
import { TestMesh } from "../../fakes/mesh.ts";
import { atLeast, atMost, type BenchRow, cpuMicroseconds, median, row } from "../measure.ts";

const CONNECTIONS = 16;
const LOGINS = 200;
const CALIBRATION_MS = 500;
/** About 2 KB of claims. */
const GROUPS = Array.from({ length: 60 }, (_, at) => `team-${at}-with-a-longer-name`);

const configuration = (issuer: string): string => `
apiVersion: countersign.dev/v1alpha1
kind: IdentityProvider
metadata: {name: main}
spec: {type: oidc, issuer: "${issuer}", clientID: client, allowInsecureIssuer: true}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshGateway
metadata: {name: people, namespace: edge}
spec:
  tier: internal
  identityProviders: [main]
  listeners: [{name: web, hosts: [lab.example], tls: {secretName: web}}]
  routes: [{name: all, hosts: [lab.example], backend: {service: scorer, namespace: lab}, access: Login}]
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: people, namespace: edge}
spec: {kind: gateway, serviceAccount: people}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRole
metadata: {name: scientist}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRoleBinding
metadata: {name: scientists}
spec: {roles: [scientist], subjects: [{idp: main, group: team-7-with-a-longer-name}]}
`;

type Json = Readonly<Record<string, unknown>>;
type Ask = (path: string, body: object) => Promise<Json>;

function asker(port: number, gateway: WorkloadIdentity): { readonly ask: Ask; close(): void } {
  const agent = new Agent({
    key: gateway.tlsKey.export({ type: "pkcs8", format: "pem" }),
    cert: gateway.certificateChainPem,
    ca: gateway.bundle.caPem,
    checkServerIdentity: () => undefined,
    ...{ keepAlive: true, maxSockets: CONNECTIONS },
  });
  const ask: Ask = (path, body) =>
    new Promise((resolve, reject) => {
      const headers = { "content-type": "application/json" };
      request({ host: "127.0.0.1", port, path, method: "POST", agent, headers }, (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (chunk: string) => {
          text += chunk;
        });
        response.on("end", () =>
          response.statusCode === 200 ? resolve(JSON.parse(text)) : reject(new Error(text.slice(0, 300))),
        );
      })
        .on("error", reject)
        .end(JSON.stringify(body));
    });
  return { ask, close: () => agent.destroy() };
}

function login(
  ask: Ask,
  idp: FakeIdp,
  key: SigningKey,
): Promise<{ readonly ms: number; readonly handle: unknown }> {
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    ...{ iss: idp.issuer, aud: "client", sub: "alice", nonce: "n", iat: now, exp: now + 300, groups: GROUPS },
    ...{ email: "alice@acme.example", preferred_username: "alice", jti: Math.random().toString() },
  };
  return signJwt(key, claims).then(async (idToken) => {
    const startedMs = performance.now();
    const { handle } = await ask("/v1/sessions", { idp: "main", nonce: "n", id_token: idToken });
    return { ms: performance.now() - startedMs, handle };
  });
}

/** Bare ES256 signatures per second of this process's CPU, now: what the machine is worth while it is shared. */
function signatureRate(): number {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const data = Buffer.alloc(1_000);
  const before = process.cpuUsage();
  let made = 0;
  for (const untilMs = performance.now() + CALIBRATION_MS; performance.now() < untilMs; made++)
    signEs256(data, privateKey);
  const { user, system } = process.cpuUsage(before);
  return made / ((user + system) / 1e6);
}

/** Mints over all connections for a while. @returns tokens per second of the control plane's CPU. */
async function mintRate(ask: Ask, handle: unknown, pid: number, seconds: number): Promise<number> {
  const body = {
    ...{ grant_type: GRANT_TYPE, requested_token_type: "urn:ietf:params:oauth:token-type:txn_token" },
    ...{ subject_token_type: SESSION_TOKEN, subject_token: handle },
    request_context: { req_ip: "10.20.3.4" },
  };
  const untilMs = performance.now() + seconds * 1000;
  const before = cpuMicroseconds(pid);
  let minted = 0;
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      while (performance.now() < untilMs) {
        await ask("/v1/token", body);
        minted += 1;
      }
    }),
  );
  return minted / ((cpuMicroseconds(pid) - before) / 1e6);
}

export async function benchTokens(options: {
  rounds: number;
  seconds: number;
  say: (text: string) => void;
}): Promise<BenchRow[]> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-tokens-"));
  const running: RunningProcess[] = [];
  const idp = await startFakeIdp();
  const key = signingKey("k1");
  idp.keys = [key];
  try {
    mkdirSync(join(dir, "config"));
    writeFileSync(join(dir, "config/mesh.yaml"), configuration(idp.issuer));
    const { ports } = await startControlPlane(join(dir, "config"), join(dir, "state"), running);
    const mesh = new TestMesh();
    mesh.handle = { ports, managementSocket: join(dir, "state/management.sock"), done: Promise.resolve() };
    const gateway = await mesh.identity("edge/people");
    await mesh.close();
    const { ask, close } = asker(ports.tokens, gateway);
    const { handle } = await login(ask, idp, key);
    const pid = running[0]?.child.pid ?? -1;
    await mintRate(ask, handle, pid, 2);
    const rates: number[] = [];
    const inSignatures: number[] = [];
    const logins: number[] = [];
    const loginCpu: number[] = [];
    for (let round = 0; round < options.rounds; round++) {
      const signatures = signatureRate();
      const rate = await mintRate(ask, handle, pid, options.seconds);
      rates.push(rate);
      inSignatures.push((signatures + signatureRate()) / 2 / rate);
      const before = cpuMicroseconds(pid);
      for (let at = 0; at < LOGINS; at++) logins.push((await login(ask, idp, key)).ms);
      loginCpu.push((cpuMicroseconds(pid) - before) / LOGINS / 1000);
      options.say(
        `round ${round + 1}: ${rate.toFixed(0)} tokens per CPU second, each as much as ${inSignatures.at(-1)?.toFixed(1)} signatures`,
      );
    }
    close();
    return [
      row(
        "tokens",
        "Txn-Tokens minted from sessions",
        median(rates),
        "per CPU s",
        undefined,
        atLeast("ours", 3_000, 6_000),
      ),
      row(
        "tokens",
        "a Txn-Token, in bare ES256 signatures of the same minute",
        median(inSignatures),
        "signatures",
      ),
      row(
        "tokens",
        "a login at the token service, median",
        median(logins),
        "ms",
        undefined,
        atMost("ours", 20, 10),
      ),
      row(
        "tokens",
        "a login at the token service, CPU",
        median(loginCpu),
        "ms",
        undefined,
        atMost("ours", 20, 10),
      ),
    ];
  } finally {
    await Promise.all(running.map((one) => one.stop()));
    await idp.close();
    rmSync(dir, { recursive: true, force: true });
  }
}
