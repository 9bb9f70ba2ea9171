// Memory of a sidecar that holds 10 000 idle connections: kept ones of its application, and mutual TLS ones of other
// sidecars. Each had one request answered.
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { freePorts } from "../../demo/process.ts";
import { startOurs } from "../datapath/ours.ts";
import { operationPath, startBackend } from "../datapath/peers.ts";
import { atMost, type BenchRow, privateBytes, row } from "../measure.ts";
import { identityOf, meshTls, openMeshConnection } from "./mesh-client.ts";

const CONNECTIONS = 10_000;
const AT_ONCE = 8;
/** Collections and `malloc_trim` have had their turn by then. */
const SETTLE_MS = 12_000;
const MIB = 1024 * 1024;

/** A keep-alive connection after one answered request. */
function openPlainConnection(port: number, path: string): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = net.connect(port, "127.0.0.1");
    socket.on("error", reject);
    socket.on("close", () => reject(new Error("the sidecar closed the connection")));
    socket.setEncoding("latin1").on("data", (part: string) => {
      text += part;
      const end = text.indexOf("\r\n\r\n");
      if (end < 0 || text.length < end + 4 + 1024) return;
      if (text.startsWith("HTTP/1.1 200")) resolve(socket);
      else reject(new Error(`answered ${text.slice(0, 100)}`));
    });
    socket.write(`GET ${path} HTTP/1.1\r\nhost: idle\r\n\r\n`);
  });
}

async function openAll<T extends net.Socket>(open: (index: number) => Promise<T>): Promise<T[]> {
  const sockets: T[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < CONNECTIONS) sockets.push(await open(next++));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return sockets;
}

export async function benchIdle({ say }: { readonly say: (text: string) => void }): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const kind of ["plain", "mutual TLS"] as const) {
    const dir = mkdtempSync(join(tmpdir(), "countersign-idle-"));
    const [backendPort = 0] = await freePorts(1);
    const backend = await startBackend(dir, backendPort, 1024);
    const ours = await startOurs(join(dir, "ours"), backendPort, "everything");
    let sockets: net.Socket[] = [];
    try {
      const pid = kind === "plain" ? ours.clientPid : ours.serverPid;
      const before = privateBytes(pid);
      const options = meshTls(await identityOf(ours.clientStateDir), await identityOf(ours.serverStateDir));
      sockets = await openAll<net.Socket>((index) => {
        const path = operationPath(index % 100);
        return kind === "plain"
          ? openPlainConnection(ours.port, path)
          : openMeshConnection(ours.meshPort, options, path, 200);
      });
      const peak = privateBytes(pid);
      await delay(SETTLE_MS);
      const after = privateBytes(pid);
      say(
        `idle ${kind}: ${(before / MIB).toFixed(0)} MiB before, ${(peak / MIB).toFixed(0)} MiB once open, ${(after / MIB).toFixed(0)} MiB at rest; ${((after - before) / CONNECTIONS / 1024).toFixed(1)} KiB a connection`,
      );
      rows.push(
        row(
          "idle",
          `private memory with ${CONNECTIONS} idle connections, ${kind}`,
          after / MIB,
          "MiB",
          undefined,
          kind === "plain" ? atMost("ours", 250, 125) : atMost("ours", 600, 300),
        ),
      );
    } finally {
      for (const socket of sockets) socket.destroy();
      await ours.stop();
      await backend.stop();
      rmSync(dir, { recursive: true, force: true });
    }
  }
  return rows;
}
