// The leader's end of the replicas' reports. Every replica opens the port, because any may lead next; who is no leader
// closes what comes.
import { createServer, type TLSSocket } from "node:tls";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ReplicaProxies, ReplicaReport } from "./replica-proxies.ts";
import { parseReportLine } from "./replica-report.ts";
import { contextOf, IDLE_MS, isControlPlane, type ReplicaMaterial, readLines } from "./report-connection.ts";

export interface ReportServerOptions {
  readonly host: string;
  /** 16015; 0: the system chooses. */
  readonly port: number;
  readonly material: ReplicaMaterial;
  readonly trustDomain: string;
  readonly isLeader: () => boolean;
  readonly proxies: Pick<ReplicaProxies, "begin">;
  readonly log: Logger;
}

export interface ReportServer {
  readonly port: number;
  /** Uses other material from the next connection on. */
  rotate(material: ReplicaMaterial): void;
  /** Leadership has ended: whoever reports looks for the next leader. */
  endAll(): void;
  close(): Promise<void>;
}

const MAX_CONNECTIONS = 64;
const HELLO_WITHIN_MS = 5_000;
const MAX_NAME = 253;

/** Opens the port. @throws MeshError `bad_config` when it is taken. */
export async function createReportServer(options: ReportServerOptions): Promise<ReportServer> {
  const { host, port, material, log } = options;
  const sockets = new Set<TLSSocket>();
  const server = createServer(
    {
      ...contextOf(material),
      ...{ requestCert: true, rejectUnauthorized: true, handshakeTimeout: HELLO_WITHIN_MS },
    },
    (socket) => {
      sockets.add(socket);
      socket.once("close", () => sockets.delete(socket));
      serve(socket, options);
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  server.on("tlsClientError", (_error: Error, socket: TLSSocket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause: Error) =>
      reject(
        new MeshError(
          "bad_config",
          `replicas' reports cannot be taken on \`${host}:${port}\`: ${cause.message}`,
          {
            cause,
          },
        ),
      ),
    );
    server.listen({ host, port }, resolve);
  });
  server.on("error", (error: Error) => log.error("port of the replicas failed", { error: error.message }));
  const bound = server.address();
  const endAll = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    port: typeof bound === "object" && bound !== null ? bound.port : port,
    rotate: (next) => server.setSecureContext(contextOf(next)),
    endAll,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        endAll();
      }),
  };
}

function serve(socket: TLSSocket, { trustDomain, isLeader, proxies, log }: ReportServerOptions): void {
  // Errors end in `close`, which is what counts.
  socket.on("error", () => {});
  if (!isControlPlane(socket.getPeerX509Certificate()?.raw, trustDomain)) {
    log.warn("a report of another than the control plane is refused", { address: socket.remoteAddress });
    socket.destroy();
    return;
  }
  if (!isLeader()) {
    socket.destroy();
    return;
  }
  let report: ReplicaReport | undefined;
  socket.setTimeout(HELLO_WITHIN_MS, () => socket.destroy());
  readLines(socket, (text) => {
    const line = parseReportLine(text);
    if (!line.ok) {
      log.warn("a replica's report cannot be read", { error: line.error });
      return false;
    }
    const { hello } = line.value;
    if (report) return report.take(line.value);
    if (hello === undefined || hello.replica === "" || hello.replica.length > MAX_NAME) return false;
    socket.setTimeout(IDLE_MS);
    report = proxies.begin(hello.replica, hello.software);
    log.info("replica reports", { replica: hello.replica });
    return true;
  });
  socket.once("close", () => report?.end());
}
