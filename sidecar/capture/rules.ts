// From capture settings to the text that iptables-restore takes, for one address family. PURE: apply.ts runs it.

/** Everything that capture needs of the documented block of ports. */
export const CAPTURE_PORTS = {
  /** Redirected calls of the application arrive here, on loopback. */
  outbound: 16_001,
  /** Redirected plaintext from outside arrives here. */
  inbound: 16_006,
  mesh: 16_008,
  /** Metrics, health, relayed probes. */
  status: 16_020,
  /** Nobody listens here: a connection to it on loopback is redirected for everyone, which is how capture is verified. */
  probe: 16_079,
  /** As `probe`, but for everyone except the sidecar's user. */
  appProbe: 16_078,
} as const;

export const OWN_PORTS = { first: 16_001, last: 16_080 } as const;
export const PROXY_UID = 61_600;
export const OUTPUT_CHAIN = "COUNTERSIGN_OUTPUT";
export const INBOUND_CHAIN = "COUNTERSIGN_INBOUND";
export const MAX_EXCLUDED_PORTS = 64;

export type IpFamily = "ipv4" | "ipv6";

export interface CaptureSettings {
  /** Calls of this user are the sidecar's own and pass. */
  readonly proxyUid: number;
  /** Ports of others that the application calls without the mesh. */
  readonly excludeOutboundPorts: readonly number[];
  /** Ports of the application that may be called without the mesh. */
  readonly excludeInboundPorts: readonly number[];
}

/** How often the built-in chains jump to ours now: taken out and put first again, so that doing it twice changes nothing. */
export interface PresentJumps {
  readonly output: number;
  readonly prerouting: number;
}

export const NO_JUMPS: PresentJumps = { output: 0, prerouting: 0 };

const LOOPBACK: Readonly<Record<IpFamily, string>> = { ipv4: "127.0.0.1/32", ipv6: "::1/128" };
const DNS_PORT = 53;
const OUTPUT_JUMP = `OUTPUT -p tcp -j ${OUTPUT_CHAIN}`;
const INBOUND_JUMP = `PREROUTING -p tcp -j ${INBOUND_CHAIN}`;

/**
 * The input of `iptables-restore --noflush`: one transaction, in force whole or not at all. Only chains of ours are
 * emptied; naming a user-defined chain empties it even with `--noflush`.
 */
export function captureRules(
  settings: CaptureSettings,
  family: IpFamily,
  jumps: PresentJumps = NO_JUMPS,
): string {
  const lines = ["*nat", `:${OUTPUT_CHAIN} - [0:0]`, `:${INBOUND_CHAIN} - [0:0]`];
  for (const rule of outputRules(settings, family)) lines.push(`-A ${OUTPUT_CHAIN} ${rule}`);
  for (const rule of inboundRules(settings)) lines.push(`-A ${INBOUND_CHAIN} ${rule}`);
  for (let n = 0; n < jumps.output; n++) lines.push(`-D ${OUTPUT_JUMP}`);
  for (let n = 0; n < jumps.prerouting; n++) lines.push(`-D ${INBOUND_JUMP}`);
  lines.push(`-I ${OUTPUT_JUMP}`, `-I ${INBOUND_JUMP}`, "COMMIT", "");
  return lines.join("\n");
}

function outputRules(settings: CaptureSettings, family: IpFamily): string[] {
  const toListener = `-j REDIRECT --to-ports ${CAPTURE_PORTS.outbound}`;
  return [
    // First of all, so that the sidecar, whose own calls pass below, can see from inside that its chain is in force.
    `-d ${LOOPBACK[family]} -p tcp --dport ${CAPTURE_PORTS.probe} ${toListener}`,
    `-m owner --uid-owner ${settings.proxyUid} -j RETURN`,
    `-d ${LOOPBACK[family]} -p tcp --dport ${CAPTURE_PORTS.appProbe} ${toListener}`,
    // Containers of a pod are one workload: what they say to each other stays inside.
    "-o lo -j RETURN",
    `-p tcp --dport ${DNS_PORT} -j RETURN`,
    ...settings.excludeOutboundPorts.map((port) => `-p tcp --dport ${port} -j RETURN`),
    `-p tcp ${toListener}`,
  ];
}

function inboundRules(settings: CaptureSettings): string[] {
  return [
    "-i lo -j RETURN",
    `-p tcp --dport ${CAPTURE_PORTS.mesh} -j RETURN`,
    `-p tcp --dport ${CAPTURE_PORTS.status} -j RETURN`,
    ...settings.excludeInboundPorts.map((port) => `-p tcp --dport ${port} -j RETURN`),
    `-p tcp -j REDIRECT --to-ports ${CAPTURE_PORTS.inbound}`,
  ];
}

/** Reads `iptables -t nat -S`: how often each built-in chain jumps to ours, in whatever form the program prints it. */
export function presentJumps(listing: string): PresentJumps {
  const count = (chain: string, target: string): number =>
    listing
      .split("\n")
      .filter((line) => line.startsWith(`-A ${chain} `) && line.trimEnd().endsWith(` -j ${target}`)).length;
  return { output: count("OUTPUT", OUTPUT_CHAIN), prerouting: count("PREROUTING", INBOUND_CHAIN) };
}

/** Whether a listing of the nat table shows our jumps first in their chains and our chains filled. */
export function isCaptureInForce(listing: string): boolean {
  const lines = listing.split("\n").map((line) => line.trimEnd());
  const first = (chain: string): string => lines.find((line) => line.startsWith(`-A ${chain} `)) ?? "";
  const redirects = (chain: string, port: number): boolean =>
    lines.some((line) => line.startsWith(`-A ${chain} `) && line.endsWith(`-j REDIRECT --to-ports ${port}`));
  return (
    first("OUTPUT").endsWith(` -j ${OUTPUT_CHAIN}`) &&
    first("PREROUTING").endsWith(` -j ${INBOUND_CHAIN}`) &&
    redirects(OUTPUT_CHAIN, CAPTURE_PORTS.outbound) &&
    redirects(INBOUND_CHAIN, CAPTURE_PORTS.inbound)
  );
}
