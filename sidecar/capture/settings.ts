// The command line of `countersign capture-init`, and the lists of ports that it shares with the sidecar. Flags, or the
// same names in the environment (`COUNTERSIGN_EXCLUDE_OUTBOUND_PORTS`), as the injector writes them.
import { closestName, environmentName } from "../core/runtime/env.ts";
import { MeshError } from "../core/runtime/errors.ts";
import { BACKENDS, type Backend } from "./apply.ts";
import { type CaptureSettings, MAX_EXCLUDED_PORTS, OWN_PORTS, PROXY_UID } from "./rules.ts";

export interface CaptureInitConfig extends CaptureSettings {
  readonly backends: readonly Backend[];
  /** Print the rules instead of applying them. */
  readonly print: boolean;
}

const FLAGS: Readonly<Record<string, string>> = {
  "--exclude-outbound-ports": "LIST",
  "--exclude-inbound-ports": "LIST",
  "--proxy-uid": "UID",
  "--iptables": "auto|nft|legacy",
  "--print": "",
};

export const CAPTURE_INIT_HELP = `usage: countersign capture-init [options]

The init step of a pod: redirects its TCP traffic to the sidecar, for IPv4 and, where the pod has it, IPv6, then checks that
it works. Doing it again changes nothing. Needs root and NET_ADMIN (NET_RAW too where only legacy iptables works).

  --exclude-outbound-ports LIST   ports of others that the application calls without the mesh, for example 5432,6379
  --exclude-inbound-ports LIST    ports of the application that may be called without the mesh
  --proxy-uid UID                 user of the sidecar, whose calls pass (default ${PROXY_UID})
  --iptables auto|nft|legacy      which iptables to use (default auto: what holds the rules, else what works)
  --print                         print the rules and change nothing

Each option may also come from the environment (\`--proxy-uid\` as COUNTERSIGN_PROXY_UID).
Ends with 0 when capture works, 1 when it is applied and does not work, 2 for a wrong option, 3 when it cannot be applied.
`;

/**
 * Reads a list of ports such as `5432,6379`.
 *
 * @throws MeshError `bad_config` for anything but ports, for more than 64, and for the block that is ours.
 */
export function parsePortList(flag: string, text: string): readonly number[] {
  const ports = text
    .split(",")
    .map((one) => one.trim())
    .filter((one) => one !== "")
    .map((one) => {
      const port = Number(one);
      if (!/^[0-9]{1,5}$/.test(one) || port < 1 || port > 65_535)
        throw new MeshError("bad_config", `${flag}: \`${one.slice(0, 64)}\` is not a port`);
      if (port >= OWN_PORTS.first && port <= OWN_PORTS.last)
        throw new MeshError("bad_config", `${flag}: \`${port}\` is a port of the mesh itself`);
      return port;
    });
  if (ports.length > MAX_EXCLUDED_PORTS)
    throw new MeshError("bad_config", `${flag}: at most ${MAX_EXCLUDED_PORTS} ports`);
  return [...new Set(ports)].sort((a, b) => a - b);
}

/** @throws MeshError `bad_config`; the message names the option. */
export function parseCaptureInit(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): CaptureInitConfig {
  const given = readArguments(args);
  const value = (flag: string): string => given.get(flag) ?? env[environmentName(flag)] ?? "";
  const uid = value("--proxy-uid") || String(PROXY_UID);
  if (!/^[1-9][0-9]{0,9}$/.test(uid) || Number(uid) >= 2 ** 32 - 1)
    throw new MeshError(
      "bad_config",
      `--proxy-uid: \`${uid.slice(0, 64)}\` is not the id of a user other than root`,
    );
  const iptables = value("--iptables") || "auto";
  const backends = iptables === "auto" ? BACKENDS : BACKENDS.filter((one) => one === iptables);
  if (backends.length === 0)
    throw new MeshError("bad_config", `--iptables: \`${iptables.slice(0, 64)}\` is not auto, nft or legacy`);
  const excludeOutboundPorts = parsePortList("--exclude-outbound-ports", value("--exclude-outbound-ports"));
  const excludeInboundPorts = parsePortList("--exclude-inbound-ports", value("--exclude-inbound-ports"));
  return {
    excludeOutboundPorts,
    excludeInboundPorts,
    proxyUid: Number(uid),
    backends,
    print: given.has("--print"),
  };
}

function readArguments(args: readonly string[]): ReadonlyMap<string, string> {
  const given = new Map<string, string>();
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? "";
    const equals = arg.startsWith("--") ? arg.indexOf("=") : -1;
    const flag = equals < 0 ? arg : arg.slice(0, equals);
    const takes = Object.hasOwn(FLAGS, flag) ? FLAGS[flag] : undefined;
    if (takes === undefined) {
      const closest = closestName(flag, Object.keys(FLAGS));
      throw new MeshError(
        "bad_config",
        `unknown option \`${flag.slice(0, 64)}\`${closest ? `; did you mean \`${closest}\`?` : "; see --help"}`,
      );
    }
    if (given.has(flag)) throw new MeshError("bad_config", `${flag} is given twice`);
    const value = takes === "" ? "" : equals < 0 ? args[++i] : arg.slice(equals + 1);
    if (value === undefined) throw new MeshError("bad_config", `${flag} has no value; it takes ${takes}`);
    given.set(flag, value);
  }
  return given;
}
