// A sidecar's real mesh port for h2spec, which has no client certificate: haproxy in TCP mode adds an exported SVID, so
// h2spec speaks plaintext HTTP/2 to haproxy and our codec sees its bytes through mutual TLS.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportIdentity } from "../../control-plane/cli/identity.ts";
import { manage } from "../../control-plane/cli/management-client.ts";
import { withMesh } from "../../control-plane/cli/mesh.ts";
import { startOurs } from "../bench/datapath/ours.ts";
import { startProgram } from "../bench/datapath/program.ts";
import { until } from "../demo/mesh-processes.ts";
import { freePorts } from "../demo/process.ts";

export interface ForwardedMeshPort {
  /** Plaintext port on loopback that means the mesh port. */
  readonly port: number;
  close(): Promise<void>;
}

/** @throws Error when haproxy (Debian's package) is not installed. */
export async function startForwardedMeshPort(): Promise<ForwardedMeshPort> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-h2spec-"));
  const app = http.createServer((request, response) => {
    request.resume();
    request.on("end", () => response.end("x".repeat(1024)));
  });
  const closers: (() => Promise<void>)[] = [
    async () => {
      app.close();
      app.closeAllConnections();
      rmSync(dir, { recursive: true, force: true });
    },
  ];
  const close = async () => {
    for (const one of closers.toReversed()) await one();
  };
  try {
    const [appPort = 0, port = 0] = await freePorts(2);
    await new Promise<void>((resolve) => app.listen(appPort, "127.0.0.1", resolve));
    const pair = await startOurs(join(dir, "mesh"), appPort, "parity");
    closers.push(() => pair.stop());
    writeFileSync(
      join(pair.configDir, "everything.yaml"),
      `apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: h2spec, namespace: ml}
spec: {action: Allow, rules: [{name: all, from: [{any: true}], operations: [{any: true}]}]}
`,
    );
    await until("the policy", async () => {
      const { policies, proxies } = (await manage(pair.stateDir, "GET", "/v1/status")) as {
        policies: { total: number };
        proxies: { total: number; synced: number };
      };
      return policies.total === 102 && proxies.synced === proxies.total ? true : undefined;
    });
    const identityDir = join(dir, "identity");
    await withMesh({ stateDir: pair.stateDir }, (mesh) =>
      exportIdentity(
        mesh,
        "ml/notebook",
        { out: identityDir, ttlSeconds: 3600 },
        { out: () => {}, err: () => {} },
      ),
    );
    const pem = join(dir, "haproxy.pem");
    writeFileSync(
      pem,
      readFileSync(join(identityDir, "svid.pem"), "utf8") +
        readFileSync(join(identityDir, "key.pem"), "utf8"),
      { mode: 0o600 },
    );
    const configuration = join(dir, "haproxy.cfg");
    writeFileSync(
      configuration,
      `global
  maxconn 2000
defaults
  mode tcp
  timeout connect 60s
  timeout client 60s
  timeout server 60s
frontend plain
  bind 127.0.0.1:${port}
  default_backend mesh
backend mesh
  server sidecar 127.0.0.1:${pair.meshPort} ssl crt ${pem} alpn h2 verify none
`,
    );
    const haproxy = await startProgram("haproxy", ["-db", "-f", configuration], port);
    closers.push(() => haproxy.stop());
    return { port, close };
  } catch (error) {
    await close();
    throw error;
  }
}
