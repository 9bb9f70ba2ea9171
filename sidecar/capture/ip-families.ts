// Which address families the network namespace of this process has.
import { readdirSync, readFileSync } from "node:fs";

/** Reads a file, or lists a folder (one name per line); undefined where there is none. */
export type ReadKernel = (path: string) => string | undefined;

const INTERFACES = "/proc/sys/net/ipv6/conf";
const NOT_INTERFACES = new Set(["all", "default", "lo"]);

export const readKernel: ReadKernel = (path) => {
  try {
    return path === INTERFACES ? readdirSync(path).join("\n") : readFileSync(path, "utf8");
  } catch {
    // Absent: the kernel has no IPv6, which is an answer.
    return undefined;
  }
};

/**
 * Whether anything but loopback has IPv6 or may come to have it: an address, or an interface on which it is not turned
 * off (a router may give it an address later).
 */
export function hasIpv6(read: ReadKernel): boolean {
  const addresses = read("/proc/net/if_inet6");
  if (addresses === undefined) return false;
  if (addresses.split("\n").some((line) => line !== "" && !/\slo$/.test(line))) return true;
  const names = (read(INTERFACES) ?? "")
    .split("\n")
    .filter((name) => name !== "" && !NOT_INTERFACES.has(name));
  return names.some((name) => read(`${INTERFACES}/${name}/disable_ipv6`)?.trim() !== "1");
}
