// Verifies from inside the pod that capture works: a connection to an address where nobody listens must arrive at the
// capture listener, with its original destination. Works under the sidecar's own user, whose other calls pass uncaptured,
// because the rules redirect this one address for everyone. A second address, redirected for all but that user, shows
// whether this process is the one that passes.
import { timingSafeEqual } from "node:crypto";
import { connect } from "node:net";
import { MeshError } from "../core/runtime/errors.ts";
import type { OriginalDestination } from "../wire/original-destination.ts";
import { CAPTURE_PORTS, type IpFamily } from "./rules.ts";

export const PROBE_ADDRESS: Readonly<Record<IpFamily, string>> = { ipv4: "127.0.0.1", ipv6: "::1" };

/** Whether a captured connection is a probe: the listener then writes its token and closes. */
export function isCaptureProbe({ address, port }: OriginalDestination): boolean {
  const isProbe = port === CAPTURE_PORTS.probe || port === CAPTURE_PORTS.appProbe;
  return isProbe && (address === PROBE_ADDRESS.ipv4 || address === PROBE_ADDRESS.ipv6);
}

export interface VerifyOptions {
  readonly families: readonly IpFamily[];
  /** What the listener answers a probe with; random, so that nothing else can pass for it. */
  readonly token: string;
  readonly timeoutMs: number;
  /** Whether the rules let calls of this process pass (the sidecar) or capture them (any other user, the init step). */
  readonly ownCalls: "pass" | "captured";
  /** Where to connect; undefined: the probe addresses of each family. */
  readonly target?: (family: IpFamily, probe: "probe" | "appProbe") => OriginalDestination;
}

const NAMES: Readonly<Record<IpFamily, string>> = { ipv4: "IPv4", ipv6: "IPv6" };

/**
 * Connects to the probe addresses of each family.
 *
 * @throws MeshError `not_ready` when one is not captured (the rules are missing, or lead elsewhere), or when calls of the
 *   sidecar are, which would come back to it.
 */
export async function verifyCapture(options: VerifyOptions): Promise<void> {
  const { token, timeoutMs, ownCalls, target = probeTarget } = options;
  for (const family of options.families) {
    const at = target(family, "probe");
    const problem = await probe(at, token, timeoutMs);
    if (problem !== undefined)
      throw new MeshError(
        "not_ready",
        `capture of ${NAMES[family]} does not work: a connection to \`${at.address}\` port ${at.port} ${problem}; did the init step \`countersign capture-init\` run in this pod?`,
      );
    const isCaptured = (await probe(target(family, "appProbe"), token, timeoutMs)) === undefined;
    if (isCaptured === (ownCalls === "captured")) continue;
    throw new MeshError(
      "not_ready",
      isCaptured
        ? `capture of ${NAMES[family]} takes the sidecar's own calls: run it as the user that \`capture-init --proxy-uid\` names`
        : `capture of ${NAMES[family]} does not take calls of other users: run \`countersign capture-init\` again, as root`,
    );
  }
}

function probeTarget(family: IpFamily, which: "probe" | "appProbe"): OriginalDestination {
  return { address: PROBE_ADDRESS[family], port: CAPTURE_PORTS[which] };
}

function probe(at: OriginalDestination, token: string, timeoutMs: number): Promise<string | undefined> {
  const expected = Buffer.from(token, "latin1");
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    const socket = connect({ host: at.address, port: at.port });
    const settle = (problem: string | undefined): void => {
      socket.destroy();
      resolve(problem);
    };
    socket.setTimeout(timeoutMs, () => settle("was not answered in time"));
    socket.on("error", (error: NodeJS.ErrnoException) => settle(`failed with ${error.code ?? "an error"}`));
    socket.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes >= expected.length) settle(isSame(Buffer.concat(chunks), expected));
    });
    socket.on("end", () => settle(isSame(Buffer.concat(chunks), expected)));
    socket.on("close", () => settle("was closed without an answer"));
  });
}

function isSame(answer: Buffer, expected: Buffer): string | undefined {
  return answer.length === expected.length && timingSafeEqual(answer, expected)
    ? undefined
    : "was answered by something else";
}
