// PURE. Whose request it is by address: the peer of the connection, or, where that is a proxy that is believed, the last
// address in X-Forwarded-For that is none of these.
import { type Cidr, cidrContains, type IpAddress, parseCidr, parseIp } from "../core/policy/cidr.ts";

export class TrustedHops {
  readonly #blocks: readonly Cidr[];

  /** @param networks CIDR blocks; what is none counts for nothing. */
  constructor(networks: readonly string[]) {
    this.#blocks = networks.flatMap((text) => parseCidr(text) ?? []);
  }

  isTrusted(address: string): boolean {
    const parsed = this.#blocks.length === 0 ? undefined : parseIp(address);
    return parsed !== undefined && this.#holds(parsed);
  }

  #holds(address: IpAddress): boolean {
    return this.#blocks.some((block) => cidrContains(block, address));
  }

  /**
   * The client's address. Only what the last believed proxy saw itself counts: entries further left are anybody's claim.
   *
   * @param peer a trusted one.
   * @param forwardedFor all values of X-Forwarded-For, joined.
   */
  client(peer: string, forwardedFor: string | undefined): string {
    if (forwardedFor === undefined) return peer;
    let found = peer;
    const entries = forwardedFor.split(",", MAX_ENTRIES + 1);
    if (entries.length > MAX_ENTRIES) return peer;
    for (const entry of entries.reverse()) {
      const address = parseIp(entry.trim());
      // Ports, names, `unknown`: the chain of what is believed ends here.
      if (address === undefined) return found;
      found = entry.trim();
      if (!this.#holds(address)) return found;
    }
    return found;
  }
}

const MAX_ENTRIES = 32;

/**
 * Who an address is counted as: an IPv6 client has all addresses of a /64 and can come from another one each time
 * (RFC 4291 section 2.5.4). What is no address is its own text.
 */
export function clientOf(address: string): string {
  if (!address.includes(":")) return address;
  const parsed = parseIp(address);
  if (parsed === undefined) return address;
  const { bits, value } = parsed;
  if (bits === 128) return `${(value >> 64n).toString(16)}::/64`;
  return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join(".");
}

/** IPv4 as a dual-stack socket shows it, in its usual spelling. */
export function plainAddress(address: string): string {
  return address.startsWith("::ffff:") && address.includes(".") ? address.slice(7) : address;
}
