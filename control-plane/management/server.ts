// The management API on a Unix socket in the state directory that only its owner can open. Every write leaves a line in
// `{stateDir}/audit/management.jsonl` before it is answered. The same routes on a network port: secured-server.ts.
import { rm } from "node:fs/promises";
import { createServer } from "node:http";
import { createConnection } from "node:net";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { createFileAudit } from "./audit-log.ts";
import { createManagementRouter, type ManagementOutcome } from "./router.ts";
import { bad, type ManagementActions, routesOf } from "./routes.ts";

export interface ManagementServerOptions {
  readonly stateDir: string;
  readonly socketPath: string;
  readonly actions: ManagementActions;
  readonly clock: Clock;
  readonly log: Logger;
  readonly observe?: ((action: string, outcome: ManagementOutcome) => void) | undefined;
}

export interface ManagementServer {
  close(): Promise<void>;
}

/** Who opens the socket is its owner: the state directory and the socket are closed to everybody else. */
const OWNER = { user: "management socket", groups: 0, address: "" };

/** True when something answers on the socket. */
function isInUse(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** Opens the socket. @throws MeshError `bad_config` when another process serves it. */
export async function createManagementServer(options: ManagementServerOptions): Promise<ManagementServer> {
  const { stateDir, socketPath, clock, log } = options;
  if (Buffer.byteLength(socketPath) > 100)
    throw bad(`\`${socketPath}\` is too long for a Unix socket; use a shorter \`--state-dir\``);
  const route = createManagementRouter({
    routes: routesOf(options.actions),
    authorize: async () => ({ allowed: true, caller: OWNER }),
    audit: await createFileAudit(stateDir),
    clock,
    log,
    observe: options.observe,
    jsonTypeOnly: false,
  });
  if (await isInUse(socketPath))
    throw bad(`another control plane serves \`${socketPath}\`; stop it or use another \`--state-dir\``);
  await rm(socketPath, { force: true });
  const server = createServer(
    {
      requestTimeout: 30_000,
      headersTimeout: 5_000,
      // Both are only looked at this often; the default of 30 s would let a slow peer stay for 35.
      connectionsCheckingInterval: 1_000,
      maxHeaderSize: 8_192,
    },
    (request, response) => void route(request, response),
  );
  server.maxConnections = 32;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(new MeshError("bad_config", `cannot listen on \`${socketPath}\`: ${cause.message}`, { cause })),
    );
    // The socket's file is made inside this call: with this mask nobody else can open it, not even for a moment.
    const mask = process.umask(0o177);
    try {
      server.listen({ path: socketPath }, resolve);
    } finally {
      process.umask(mask);
    }
  });
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
