// What the cluster changes on this machine: a bridge, three kernel settings, a firewall rule. `down` takes each of them back.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { ClusterError, run, tryRun } from "./commands.ts";
import { BRIDGE, inHome, NODE_ADDRESS, NODE_ADDRESS_BITS, PORTS, programPath } from "./layout.ts";

/** Kernel settings pods need: forwarding, and Services between pods on one bridge. */
const SETTINGS: Readonly<Record<string, string>> = {
  "net/ipv4/ip_forward": "1",
  "net/bridge/bridge-nf-call-iptables": "1",
  "net/bridge/bridge-nf-call-ip6tables": "1",
};

const settingPath = (name: string) => `/proc/sys/${name}`;
const savedSettings = () => inHome("kernel-settings.json");

/** A host that drops what it forwards (as Docker sets it) would also drop what one pod says to another. */
const FORWARD_RULE = [
  ...["FORWARD", "-i", BRIDGE, "-o", BRIDGE],
  ...["-m", "comment", "--comment", "countersign-test-cluster", "-j", "ACCEPT"],
];

/** Rejects when another program holds a port that the cluster needs. */
export async function checkPortsAreFree(): Promise<void> {
  const taken: string[] = [];
  for (const [part, port] of Object.entries(PORTS))
    if (!(await isFree(port))) taken.push(`${port} (${part})`);
  if (taken.length > 0)
    throw new ClusterError(
      `these ports are taken: ${taken.join(", ")}; stop what listens there (\`ss -ltnp\`), or \`down\` a cluster that another home folder started`,
    );
}

function isFree(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const server = createServer();
  server.once("error", () => resolve(false));
  server.listen(port, "0.0.0.0", () => server.close(() => resolve(true)));
  return promise;
}

/** Makes the bridge, sets what pods need and notes what was set before. Doing it again changes nothing. */
export async function ensureNetwork(): Promise<void> {
  if ((await tryRun("ip", ["link", "show", BRIDGE])).code !== 0)
    await run("ip", ["link", "add", BRIDGE, "type", "bridge"]);
  await run("ip", ["address", "replace", `${NODE_ADDRESS}/${NODE_ADDRESS_BITS}`, "dev", BRIDGE]);
  await run("ip", ["link", "set", BRIDGE, "up"]);
  if (!existsSync(savedSettings())) {
    const before = Object.keys(SETTINGS).flatMap((name) =>
      existsSync(settingPath(name)) ? [[name, readFileSync(settingPath(name), "utf8").trim()]] : [],
    );
    writeFileSync(savedSettings(), JSON.stringify(Object.fromEntries(before)));
  }
  for (const [name, value] of Object.entries(SETTINGS)) {
    if (!existsSync(settingPath(name)))
      throw new ClusterError(`the kernel has no \`${name}\`; load the module br_netfilter`);
    writeFileSync(settingPath(name), value);
  }
  if ((await tryRun("iptables", ["-w", "-C", ...FORWARD_RULE])).code !== 0)
    await run("iptables", ["-w", "-I", ...FORWARD_RULE]);
}

/** Takes everything back, also what kube-proxy wrote. Never rejects: what cannot be removed is returned as lines. */
export async function removeNetwork(): Promise<readonly string[]> {
  const problems: string[] = [];
  const attempt = async (what: string, command: string, args: readonly string[]) => {
    try {
      const { code, stderr } = await tryRun(command, args);
      if (code !== 0) problems.push(`${what}: ${stderr.trim().split("\n").at(-1)}`);
    } catch (error) {
      problems.push(`${what}: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  if ((await tryRun("iptables", ["-w", "-C", ...FORWARD_RULE])).code === 0)
    await attempt("firewall rule", "iptables", ["-w", "-D", ...FORWARD_RULE]);
  if (existsSync(programPath("kube-proxy")))
    await attempt("rules of kube-proxy", programPath("kube-proxy"), ["--cleanup"]);
  if ((await tryRun("ip", ["link", "show", BRIDGE])).code === 0)
    await attempt("bridge", "ip", ["link", "delete", BRIDGE]);
  if (existsSync(savedSettings())) {
    const before = JSON.parse(readFileSync(savedSettings(), "utf8")) as Record<string, string>; // ours, see above
    for (const [name, value] of Object.entries(before)) writeFileSync(settingPath(name), value);
  }
  return problems;
}
