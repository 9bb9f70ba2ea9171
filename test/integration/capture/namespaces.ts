// Two pods and the world between them as network namespaces: a router in the middle, a veth pair to each side, IPv4 and
// IPv6. Nothing of the host's own network is touched.
import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { type RunningProcess, startProgram } from "../../demo/process.ts";
import { canTest, leaveOut } from "../../left-out.ts";

export type Place = "world" | "client" | "server";

export interface Addresses {
  readonly ipv4: string;
  readonly ipv6: string;
}

/** Of each pod, and of the router on the client's side: an address outside the mesh. */
export const ADDRESSES: Readonly<Record<Place, Addresses>> = {
  world: { ipv4: "10.77.1.1", ipv6: "fd77:1::1" },
  client: { ipv4: "10.77.1.2", ipv6: "fd77:1::2" },
  server: { ipv4: "10.77.2.2", ipv6: "fd77:2::2" },
};

/** Where `ip netns exec` looks for files of a namespace. */
const NETNS_FILES = "/etc/netns";

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class Namespaces {
  readonly #prefix: string;
  readonly #running: RunningProcess[] = [];

  constructor(prefix: string) {
    this.#prefix = prefix;
    try {
      for (const place of ["world", "client", "server"] as const) {
        ip("netns", "add", this.name(place));
        ip("-n", this.name(place), "link", "set", "lo", "up");
      }
      for (const knob of ["ipv4/ip_forward", "ipv6/conf/all/forwarding"])
        this.exec("world", "sh", "-c", `echo 1 > /proc/sys/net/${knob}`);
      this.#connect("client", 1);
      this.#connect("server", 2);
    } catch (error) {
      this.#remove();
      throw error;
    }
  }

  name(place: Place): string {
    return `${this.#prefix}-${place}`;
  }

  #connect(place: "client" | "server", net: number): void {
    const world = this.name("world");
    const pod = this.name(place);
    ip("-n", world, "link", "add", `to-${place}`, "type", "veth", "peer", "name", "eth0", "netns", pod);
    for (const [space, device, host] of [
      [world, `to-${place}`, 1],
      [pod, "eth0", 2],
    ] as const) {
      ip("-n", space, "addr", "add", `10.77.${net}.${host}/24`, "dev", device);
      ip("-n", space, "addr", "add", `fd77:${net}::${host}/64`, "dev", device, "nodad");
      ip("-n", space, "link", "set", device, "up");
    }
    ip("-n", pod, "route", "add", "default", "via", `10.77.${net}.1`);
    ip("-n", pod, "route", "add", "default", "via", `fd77:${net}::1`);
  }

  /** What programs started from now on find in `/etc/hosts` (`ip netns exec` lays it over the machine's own). */
  hosts(place: Place, text: string): void {
    const dir = join(NETNS_FILES, this.name(place));
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, "hosts"), `127.0.0.1 localhost\n::1 localhost\n${text}`);
  }

  /** Runs a program to its end; throws when it fails. */
  exec(place: Place, program: string, ...args: readonly string[]): string {
    return execFileSync("ip", ["netns", "exec", this.name(place), program, ...args], {
      encoding: "utf8",
      timeout: 90_000,
      stdio: ["ignore", "pipe", "pipe"],
    });
  }

  /** Runs a program to its end, whatever its exit status. */
  async run(place: Place, program: string, ...args: readonly string[]): Promise<Ran> {
    try {
      const all = ["netns", "exec", this.name(place), program, ...args];
      const { stdout, stderr } = await promisify(execFile)("ip", all, { timeout: 90_000 });
      return { code: 0, stdout, stderr };
    } catch (error) {
      const failed = error as { code?: number; stdout?: string; stderr?: string };
      return { code: failed.code ?? -1, stdout: failed.stdout ?? "", stderr: failed.stderr ?? "" };
    }
  }

  /** An unmodified client: status and body as curl sees them; `code` is curl's exit status. */
  async curl(
    place: Place,
    url: string,
    ...args: readonly string[]
  ): Promise<{ code: number; status: string; body: string }> {
    const flags = ["--silent", "--globoff", "--max-time", "60", "--write-out", "\n%{http_code}"];
    const { code, stdout } = await this.run(place, "curl", ...flags, ...args, url);
    const end = stdout.lastIndexOf("\n");
    return { code, status: stdout.slice(end + 1), body: stdout.slice(0, end) };
  }

  start(name: string, place: Place, program: string, ...args: readonly string[]): RunningProcess {
    // `ip netns exec` and `setpriv` replace themselves, so the pid stays that of the program.
    const one = startProgram(name, "ip", ["netns", "exec", this.name(place), program, ...args]);
    this.#running.push(one);
    return one;
  }

  async close(): Promise<void> {
    await Promise.all(this.#running.map((one) => one.stop(2_000)));
    this.#remove();
  }

  #remove(): void {
    for (const place of ["world", "client", "server"] as const) {
      rmSync(join(NETNS_FILES, this.name(place)), { recursive: true, force: true });
      try {
        ip("netns", "del", this.name(place));
      } catch {
        // Never made: the constructor failed before it.
      }
    }
  }
}

function ip(...args: readonly string[]): void {
  execFileSync("ip", args, { stdio: ["ignore", "ignore", "pipe"], timeout: 60_000 });
}

/** Whether this machine lets us try; otherwise says what is left out. */
export function canMakeNamespaces(what: string): boolean {
  const programs = {
    ip: "Debian's package iproute2",
    "iptables-nft": "Debian's package iptables",
    "iptables-legacy": "Debian's package iptables",
    curl: "Debian's package curl",
    setpriv: "Debian's package util-linux",
  };
  if (!canTest(what, programs)) return false;
  const name = `cs-try-${process.pid}`;
  try {
    ip("netns", "add", name);
    ip("netns", "del", name);
    return true;
  } catch {
    leaveOut(`${what}: needs root and permission to make network namespaces`);
    return false;
  }
}

/** Whether one kind of iptables works in a fresh namespace. */
export function hasBackend(backend: "nft" | "legacy"): boolean {
  const name = `cs-${backend}-${process.pid}`;
  try {
    ip("netns", "add", name);
    for (const program of ["iptables", "ip6tables"])
      ip("netns", "exec", name, `${program}-${backend}`, "-t", "nat", "-S");
    return true;
  } catch {
    leaveOut(`capture with ${backend} iptables: this kernel has no nat table for it`);
    return false;
  } finally {
    try {
      ip("netns", "del", name);
    } catch {
      // It could not be made.
    }
  }
}
