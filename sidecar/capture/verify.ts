// Verifies from inside the pod that capture works: a connection to an address where nobody listens must arrive at the
// capture listener, with its original destination. Works under the sidecar's own user, whose other calls pass uncaptured,
// because the rules redirect this one address for everyone.
import { timingSafeEqual } from "node:crypto";
import { connect } from "node:net";
import { MeshError } from "../core/runtime/errors.ts";
import type { OriginalDestination } from "../wire/original-destination.ts";
import { CAPTURE_PORTS, type IpFamily } from "./rules.ts";

export const PROBE_ADDRESS: Readonly<Record<IpFamily, string>> = { ipv4: "127.0.0.1", ipv6: "::1" };

/** Whether a captured connection is a probe: the listener then writes its token and closes. */
export function isCaptureProbe({ address, port }: OriginalDestination): boolean {
  return port === CAPTURE_PORTS.probe && (address === PROBE_ADDRESS.ipv4 || address === PROBE_ADDRESS.ipv6);
}

export interface VerifyOptions {
  readonly families: readonly IpFamily[];
  /** What the listener answers a probe with; random, so that nothing else can pass for it. */
  readonly token: string;
  readonly timeoutMs: number;
  /** Where to connect; undefined: the probe address of the family. */
  readonly target?: Readonly<Partial<Record<IpFamily, OriginalDestination>>>;
}

/**
 * Connects to the probe address of each family.
 *
 * @throws MeshError `not_ready` when one is not captured: the rules are missing, or lead elsewhere.
 */
export async function verifyCapture(options: VerifyOptions): Promise<void> {
  for (const family of options.families) {
    const at = options.target?.[family] ?? { address: PROBE_ADDRESS[family], port: CAPTURE_PORTS.probe };
    const problem = await probe(at, options.token, options.timeoutMs);
    if (problem === undefined) continue;
    throw new MeshError(
      "not_ready",
      `capture of ${family === "ipv4" ? "IPv4" : "IPv6"} does not work: a connection to \`${at.address}\` port ${at.port} ${problem}; did the init step \`countersign capture-init\` run in this pod?`,
    );
  }
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
