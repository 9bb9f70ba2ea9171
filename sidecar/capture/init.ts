// The init step `countersign capture-init`: rules for each address family, then a look from inside at whether they work.
// Runs as root with NET_ADMIN (and NET_RAW where only legacy iptables works), before any other container of the pod.
import { randomBytes } from "node:crypto";
import { createServer, type Server } from "node:net";
import { MeshError, messageOf, systemCodeOf } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { createOriginalDestinationReader, type OriginalDestination } from "../wire/original-destination.ts";
import { applyRules, type Backend, type RunProgram } from "./apply.ts";
import { hasIpv6, type ReadKernel } from "./ip-families.ts";
import { CAPTURE_PORTS, type CaptureSettings, type IpFamily } from "./rules.ts";
import { isCaptureProbe, PROBE_ADDRESS, verifyCapture } from "./verify.ts";

export interface CaptureInitDeps {
  readonly run: RunProgram;
  readonly read: ReadKernel;
  readonly log: Logger;
}

export interface CaptureOutcome {
  readonly family: IpFamily;
  readonly backend: Backend;
}

const VERIFY_TIMEOUT_MS = 2_000;

/**
 * Applies capture to the network namespace of this process.
 *
 * @param backends which iptables to choose from.
 * @throws MeshError `io_failed` when the rules cannot be applied, also when IPv6 exists and only it cannot be captured
 *   (a way around would be open); `not_ready` when they are applied and do not work.
 */
export async function initCapture(
  settings: CaptureSettings,
  backends: readonly Backend[],
  deps: CaptureInitDeps,
): Promise<readonly CaptureOutcome[]> {
  const outcomes: CaptureOutcome[] = [
    { family: "ipv4", backend: applyRules(settings, "ipv4", deps.run, backends) },
  ];
  if (hasIpv6(deps.read)) {
    try {
      outcomes.push({ family: "ipv6", backend: applyRules(settings, "ipv6", deps.run, backends) });
    } catch (error) {
      throw new MeshError(
        "io_failed",
        `${messageOf(error)}; the pod has IPv6, which would be a way around the mesh: give the node ip6tables, or the pod the sysctl \`net.ipv6.conf.all.disable_ipv6=1\``,
        { cause: error },
      );
    }
  }
  for (const { family, backend } of outcomes) deps.log.info("capture rules applied", { family, backend });
  await verifyOnce(
    outcomes.map(({ family }) => family),
    deps.log,
  );
  return outcomes;
}

/** Stands in for the sidecar, which is not there yet, and looks whether the probe arrives. */
async function verifyOnce(families: readonly IpFamily[], log: Logger): Promise<void> {
  const originalOf = createOriginalDestinationReader();
  const token = randomBytes(16).toString("hex");
  const servers: Server[] = [];
  try {
    for (const family of families) {
      const server = createServer((socket) => {
        socket.on("error", () => {});
        const original = originalOf(socket);
        socket.end(original.ok && isCaptureProbe(original.value) ? token : "");
      });
      await listen(server, { address: PROBE_ADDRESS[family], port: CAPTURE_PORTS.outbound });
      servers.push(server);
    }
    await verifyCapture({ families, token, timeoutMs: VERIFY_TIMEOUT_MS, ownCalls: "captured" });
    log.info("capture verified", { families: families.join(",") });
  } catch (error) {
    if (systemCodeOf(error) !== "EADDRINUSE") throw error;
    // A sidecar runs already; it verifies for itself at each start.
    log.warn("capture not verified: the capture port is in use", { port: CAPTURE_PORTS.outbound });
  } finally {
    for (const server of servers) server.close();
  }
}

function listen(server: Server, { address, port }: OriginalDestination): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, address, resolve);
  });
}
