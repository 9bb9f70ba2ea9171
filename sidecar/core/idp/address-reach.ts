// How far an address is: what a provider's documents may send us to depends on where the provider itself is. PURE.
import { BlockList, isIP } from "node:net";

/** In order: whoever is here may name addresses that are no closer. */
export type Reach = "public" | "private" | "loopback" | "never";
const ORDER: readonly Reach[] = ["public", "private", "loopback"];

function blocks(...subnets: readonly (readonly [string, number])[]): BlockList {
  const list = new BlockList();
  for (const [net, prefix] of subnets) list.addSubnet(net, prefix, net.includes(":") ? "ipv6" : "ipv4");
  return list;
}

const LOOPBACK = blocks(["127.0.0.0", 8], ["::1", 128]);
/** Nobody's provider is here, but a cloud's metadata service may be. */
const NEVER = blocks(
  ...([
    ["0.0.0.0", 8],
    ["169.254.0.0", 16],
    // Metadata and host services of Azure, Alibaba Cloud and Google Cloud, at addresses that look like anybody's.
    ["168.63.129.16", 32],
    ["100.100.100.200", 32],
    ["fd20:ce::", 64],
    ["224.0.0.0", 4],
    ["240.0.0.0", 4],
    ["::", 96],
    ["fe80::", 10],
    ["ff00::", 8],
    ["fd00:ec2::", 32],
    ["64:ff9b::", 96],
    ["64:ff9b:1::", 48],
    ["2001::", 32],
    ["2002::", 16],
  ] as const),
);
const PRIVATE = blocks(
  ...([
    ["10.0.0.0", 8],
    ["100.64.0.0", 10],
    ["172.16.0.0", 12],
    ["192.0.0.0", 24],
    ["192.168.0.0", 16],
    ["198.18.0.0", 15],
    ["fc00::", 7],
  ] as const),
);

/** @param address an IPv4 or IPv6 address; IPv4 inside IPv6 counts as what it is. */
export function reachOf(address: string): Reach {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? address;
  const version = isIP(mapped);
  if (version === 0) return "never";
  const family = version === 4 ? "ipv4" : "ipv6";
  // Before the rest of `::/96`, IPv4 in a form that nobody uses.
  if (LOOPBACK.check(mapped, family)) return "loopback";
  if (NEVER.check(mapped, family)) return "never";
  // `::ffff:0:0/96` in hexadecimal form: no resolver writes it so.
  if (family === "ipv6" && /^::ffff:/i.test(mapped)) return "never";
  return PRIVATE.check(mapped, family) ? "private" : "public";
}

/** Whether somebody at `from` may send us to `to`. */
export function mayReach(from: Reach, to: Reach): boolean {
  return to !== "never" && ORDER.indexOf(to) <= ORDER.indexOf(from);
}
