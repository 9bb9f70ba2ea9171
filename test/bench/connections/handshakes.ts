// Full mutual TLS 1.3 handshakes at the mesh port beside nginx with the same key, certificates and roots: the server's
// CPU alone. Both speak HTTP/2, so both write SETTINGS after each.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import { freePorts } from "../../demo/process.ts";
import { startOurs } from "../datapath/ours.ts";
import { startBackend } from "../datapath/peers.ts";
import { type ProgramProcess, startProgram } from "../datapath/program.ts";
import { atLeast, type BenchRow, cpuMicroseconds, median, row } from "../measure.ts";
import { identityOf, meshTls, shakeHands } from "./mesh-client.ts";

const AT_ONCE = 8;
const HANDSHAKES = 1500;

/** nginx with the sidecar's own key and chain, asking for a certificate as the sidecar does, without resumption. */
function startNginxTls(dir: string, identity: WorkloadIdentity, port: number): Promise<ProgramProcess> {
  writeFileSync(join(dir, "own.key"), identity.tlsKey.export({ type: "pkcs8", format: "pem" }), {
    mode: 0o600,
  });
  writeFileSync(join(dir, "own.crt"), identity.certificateChainPem);
  writeFileSync(join(dir, "roots.crt"), identity.bundle.caPem);
  writeFileSync(
    join(dir, "tls.conf"),
    `worker_processes 1; daemon off; master_process off; pid ${dir}/tls.pid; error_log ${dir}/tls.log;
events { worker_connections 4096; }
http { access_log off;
  server { listen 127.0.0.1:${port} ssl http2; ssl_protocols TLSv1.3; ssl_certificate ${dir}/own.crt; ssl_certificate_key ${dir}/own.key;
    ssl_client_certificate ${dir}/roots.crt; ssl_verify_client on; ssl_verify_depth 3; ssl_session_tickets off; ssl_session_cache off; } }
`,
  );
  return startProgram("nginx", ["-p", dir, "-c", join(dir, "tls.conf")], port);
}

export async function benchHandshakes({
  rounds,
  say,
}: {
  readonly rounds: number;
  readonly say: (text: string) => void;
}): Promise<BenchRow[]> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-handshakes-"));
  const stops: (() => Promise<void>)[] = [];
  try {
    const [backendPort = 0, nginxPort = 0] = await freePorts(2);
    const backend = await startBackend(dir, backendPort, 1024);
    stops.push(() => backend.stop());
    const ours = await startOurs(join(dir, "ours"), backendPort, "everything");
    stops.push(() => ours.stop());
    const server = await identityOf(ours.serverStateDir);
    const options = meshTls(await identityOf(ours.clientStateDir), server);
    const nginx = await startNginxTls(dir, server, nginxPort);
    stops.push(() => nginx.stop());
    const servers = [
      { name: "countersign", pid: ours.serverPid, port: ours.meshPort, perSecond: [] as number[] },
      { name: "nginx", pid: nginx.pid, port: nginxPort, perSecond: [] as number[] },
    ];
    const run = async (port: number, count: number): Promise<void> => {
      let left = count;
      const worker = async (): Promise<void> => {
        while (left-- > 0) await shakeHands(port, options);
      };
      await Promise.all(Array.from({ length: AT_ONCE }, worker));
    };
    for (const one of servers) await run(one.port, HANDSHAKES / 2);
    for (let round = 0; round < rounds; round++)
      for (const one of servers) {
        const before = cpuMicroseconds(one.pid);
        await run(one.port, HANDSHAKES);
        const us = (cpuMicroseconds(one.pid) - before) / HANDSHAKES;
        one.perSecond.push(1e6 / us);
        say(
          `handshakes, round ${round + 1}/${rounds}: ${one.name.padEnd(12)} ${us.toFixed(0)} µs of CPU each`,
        );
      }
    return [
      row(
        "handshakes",
        "full mutual TLS 1.3 handshakes at the mesh port",
        median(servers[0]?.perSecond ?? []),
        "per CPU second",
        { name: "nginx", value: median(servers[1]?.perSecond ?? []) },
        atLeast("ratio", 0.3, 0.5),
      ),
    ];
  } finally {
    for (const stop of stops.toReversed()) await stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
