// Settings of the sidecar process: flags, then COUNTERSIGN_* environment variables, then a YAML file (`--config`),
// then the defaults below. Every problem names the flag and, for a mistyped one, the closest that exists.
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { type AppMetrics, parseAppMetrics } from "./capture/app-metrics.ts";
import { type Probes, parseProbes } from "./capture/probes.ts";
import { parsePortList } from "./capture/settings.ts";
import { isTrustDomain } from "./core/identity/spiffe-id.ts";
import { closestName, environmentName } from "./core/runtime/env.ts";
import { MeshError, messageOf } from "./core/runtime/errors.ts";
import type { LogLevel } from "./core/runtime/log.ts";

/** Where a socket listens or is reached. */
export type SocketAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

/** A local listener whose every request goes to one service. */
export interface LocalService {
  readonly listen: SocketAddress;
  /** `namespace/service`. */
  readonly service: string;
  readonly port: number;
}

export interface Timeouts {
  /** TCP connect plus TLS handshake towards another sidecar or the application. */
  readonly connectMs: number;
  /** TLS handshake of an accepted mesh connection. */
  readonly handshakeMs: number;
  /** From the first byte of a request head to its last, on application-side connections. */
  readonly headerMs: number;
  /** An application-side or mesh connection without a request. */
  readonly idleMs: number;
  /** From the end of the request to the response head; also between two reads while a request body is expected. */
  readonly responseMs: number;
  /** How long requests in flight may take after SIGTERM. */
  readonly drainMs: number;
  /** Over which the least rate of a body is measured. */
  readonly bodyMs: number;
}

export interface Limits {
  /** Accepted mesh connections, and accepted application-side connections, each. */
  readonly connections: number;
  /** Requests that wait for one upstream connection. */
  readonly pendingRequests: number;
  /** Connections to one port of the application. */
  readonly appConnections: number;
  /** Unused connections to one port of the application that are kept. */
  readonly idleAppConnections: number;
  /** Plaintext connections from one address. */
  readonly connectionsPerSource: number;
  /** A request's head: all of it, its fields, its target. */
  readonly head: HeadLimits;
  /** Bytes of bodies that wait for a decision or for the application, of all requests together. */
  readonly waitingBodyBytes: number;
  /** Bytes of answers that their callers do not read, of all connections together. */
  readonly unreadBytes: number;
  /** Bytes a second below which a body is too slow; 0: none is. */
  readonly bodyRate: number;
}

export interface HeadLimits {
  readonly headBytes: number;
  readonly fields: number;
  readonly targetBytes: number;
}

/** What the first identity is asked for with. */
export type ProofSource =
  | { readonly kind: "join-token"; readonly file: string }
  | {
      readonly kind: "service-account-token";
      /** Projected token with the mesh's audience; the kubelet replaces it. */
      readonly file: string;
      /** Roots (PEM) that the control plane must lead to; may come later, may change. */
      readonly trustBundleFile: string;
      /** Needed where the roots do not name theirs. */
      readonly trustDomain: string | undefined;
    };

/** Of a workload that is a gateway. */
export interface GatewaySettings {
  /** Folder of mounted Secrets (`NAME/KEY`); undefined: none. */
  readonly secretsDir: string | undefined;
  /** Address that the declared ports are bound on. */
  readonly address: string;
  /** Declared ports that are bound elsewhere. */
  readonly ports: ReadonlyMap<number, { readonly host: string; readonly port: number }>;
}

export interface SidecarConfig {
  /** `namespace/name`, as declared in a Workload object; undefined in a pod, where the control plane knows it. */
  readonly workload: string | undefined;
  /** `host:port` of discovery; undefined: only the last good state is served. */
  readonly controlPlane: string | undefined;
  /** `host:port` of the token service; undefined: none is known. */
  readonly tokenService: string | undefined;
  /** `host:port` of identity bootstrap. */
  readonly bootstrap: string | undefined;
  readonly proof: ProofSource | undefined;
  /** Name of the machine or pod, as the control plane shows it. */
  readonly node: string;
  readonly stateDir: string;
  readonly meshListen: SocketAddress & { readonly kind: "tcp" };
  readonly outboundProxy: SocketAddress | undefined;
  readonly localServices: readonly LocalService[];
  /** Ports 16001 and 16006 take what iptables redirects; the outbound proxy is off then, unless it is given. */
  readonly capture: boolean;
  /** Ports of destinations outside the mesh on which no HTTP is looked for. */
  readonly opaquePorts: readonly number[];
  /** Probes of the pod's containers that the metrics port relays; see capture/probes.ts. */
  readonly probes: Probes;
  /** The application's own metrics, which the metrics port relays. */
  readonly appMetrics: AppMetrics | undefined;
  /** Host of the application, for ports that `appPorts` does not map. */
  readonly appHost: string;
  /** By declared (container) port. */
  readonly appPorts: ReadonlyMap<number, SocketAddress>;
  readonly metricsListen: SocketAddress | undefined;
  /** Unix socket (0600) that answers what is in force and why calls were denied. */
  readonly adminSocket: string | undefined;
  /** File of audit events as JSON lines; `-` is standard output; undefined: none. */
  readonly auditFile: string | undefined;
  /** What happens to calls that no Audit rule names: denials are always recorded. */
  readonly audit: "allow" | "deny";
  /** Whether the audit file may hold bodies of calls (audit level `Body`). */
  readonly auditBodies: boolean;
  /** Further names of header fields and body entries whose values are not recorded, lower case. */
  readonly auditRedact: readonly string[];
  /** File of access log lines; `-` is standard output; undefined: none. */
  readonly accessLog: string | undefined;
  readonly logLevel: LogLevel;
  readonly gateway: GatewaySettings;
  /** Authorities (PEM) that hosts outside the mesh may be vouched for by, beside the usual ones. */
  readonly externalCaFile: string | undefined;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
}

export const DEFAULT_TIMEOUTS: Timeouts = {
  connectMs: 5_000,
  handshakeMs: 5_000,
  headerMs: 10_000,
  idleMs: 300_000,
  responseMs: 300_000,
  drainMs: 25_000,
  bodyMs: 20_000,
};

export const DEFAULT_LIMITS: Limits = {
  connections: 10_000,
  pendingRequests: 1_024,
  appConnections: 1_024,
  idleAppConnections: 128,
  connectionsPerSource: 1_024,
  head: { headBytes: 16_384, fields: 100, targetBytes: 8_192 },
  waitingBodyBytes: 32 * 1024 * 1024,
  unreadBytes: 64 * 1024 * 1024,
  bodyRate: 240,
};

/** What the mesh hop carries beside the tokens: larger heads could not be passed on. */
const MOST_HEAD: HeadLimits = { headBytes: 32_768, fields: 100, targetBytes: 32_768 };

interface Flag {
  readonly value: string;
  readonly help: string;
  readonly repeat?: true;
}

/** Every setting: flag, environment variable (`COUNTERSIGN_…`) and key in the file have the same name. */
export const SIDECAR_FLAGS: Readonly<Record<string, Flag>> = {
  "--workload": {
    value: "NAMESPACE/NAME",
    help: "the workload this sidecar stands beside (required without --service-account-token-file)",
  },
  "--control-plane": { value: "HOST:PORT", help: "discovery port of the control plane (16012)" },
  "--token-service": {
    value: "HOST:PORT",
    help: "token service of the control plane (default the port behind --control-plane, 16013; none: off)",
  },
  "--bootstrap": { value: "HOST:PORT", help: "identity bootstrap port of the control plane (16011)" },
  "--join-token-file": { value: "FILE", help: "one-time join token, needed until an identity is kept" },
  "--service-account-token-file": {
    value: "FILE",
    help: "projected ServiceAccount token of this pod, in place of a join token; read at each attempt",
  },
  "--trust-bundle-file": {
    value: "FILE",
    help: "roots (PEM) that the control plane must lead to; goes with --service-account-token-file",
  },
  "--trust-domain": {
    value: "NAME",
    help: "trust domain of those roots, where they do not name it",
  },
  "--node": { value: "NAME", help: "name that status shows for this sidecar (default the host name)" },
  "--state-dir": { value: "DIR", help: "keys, certificate and last good table (required)" },
  "--mesh-listen": {
    value: "HOST:PORT",
    help: "mutual TLS port for other sidecars (default 127.0.0.1:16008)",
  },
  "--outbound-proxy": {
    value: "HOST:PORT|unix:PATH",
    help: "HTTP proxy for the application (default 127.0.0.1:16001; none: off)",
  },
  "--local-service": {
    value: "LISTEN=NAMESPACE/SERVICE:PORT",
    help: "a local port or unix:PATH that means one service",
    repeat: true,
  },
  "--capture": {
    value: "on|off",
    help: "take what `countersign capture-init` redirects: ports 16001 and 16006 (default off)",
  },
  "--opaque-ports": {
    value: "LIST",
    help: "ports of captured calls on which no HTTP is looked for",
  },
  "--probes": { value: "JSON", help: "probes that the metrics port relays to the application" },
  "--app-metrics": {
    value: "PORT/PATH",
    help: "metrics of the application, relayed at /app-metrics and, with the sidecar's, /merged-metrics",
  },
  "--app": { value: "HOST", help: "host of the application (default 127.0.0.1)" },
  "--app-port-map": {
    value: "PORT=HOST:PORT|unix:PATH",
    help: "where the application really serves a declared port",
    repeat: true,
  },
  "--gateway-secrets": {
    value: "DIR",
    help: "of a gateway: mounted Secrets, DIR/NAME/KEY, with its certificates and client secrets",
  },
  "--gateway-address": {
    value: "HOST",
    help: "of a gateway: address that its ports are bound on (default 127.0.0.1)",
  },
  "--gateway-port-map": {
    value: "PORT=HOST:PORT",
    help: "of a gateway: where a declared port is really bound",
    repeat: true,
  },
  "--external-ca-file": {
    value: "FILE",
    help: "more authorities (PEM) for hosts outside the mesh (ExternalService), beside the usual ones and externalRoots of MeshConfig; read once",
  },
  "--metrics-listen": {
    value: "HOST:PORT",
    help: "/metrics, /livez and /readyz (default 127.0.0.1:16020; none: off)",
  },
  "--admin-socket": {
    value: "PATH",
    help: "Unix socket for explanations and state (default STATE-DIR/admin.sock; none: off)",
  },
  "--audit-file": { value: "FILE|-", help: "audit events as JSON lines" },
  "--audit": {
    value: "allow|deny",
    help: "record allowed calls too, or denials alone, where no Audit rule says (default allow)",
  },
  "--audit-bodies": {
    value: "on|off",
    help: "let the audit file hold beginnings of bodies where a rule says `Body` (default off)",
  },
  "--audit-redact": {
    value: "LIST",
    help: "more names of header fields and body entries whose values are not recorded",
  },
  "--access-log": { value: "FILE|-", help: "one line per request (default none)" },
  "--log-level": { value: "debug|info|warn|error|silent", help: "default info" },
  "--config": { value: "FILE", help: "YAML file with the same names, without the dashes in front" },
  "--connect-timeout": { value: "DURATION", help: "connect and handshake towards others (default 5s)" },
  "--handshake-timeout": { value: "DURATION", help: "handshake of an accepted mesh connection (default 5s)" },
  "--header-timeout": { value: "DURATION", help: "one request head (default 10s)" },
  "--idle-timeout": { value: "DURATION", help: "a connection without a request (default 300s)" },
  "--response-timeout": { value: "DURATION", help: "until the response begins (default 300s)" },
  "--drain-timeout": { value: "DURATION", help: "for requests in flight after SIGTERM (default 25s)" },
  "--max-connections": { value: "N", help: "accepted connections per side (default 10000)" },
  "--max-connections-per-source": {
    value: "N",
    help: "accepted plaintext connections from one address (default 1024)",
  },
  "--max-header-bytes": { value: "N", help: "one request head, at most 32768 (default 16384)" },
  "--max-headers": { value: "N", help: "header fields of one request, at most 100 (default 100)" },
  "--max-target-bytes": { value: "N", help: "request target, at most 32768 (default 8192)" },
  "--max-waiting-body-bytes": {
    value: "N",
    help: "bodies that wait for a decision or for the application, all together (default 33554432)",
  },
  "--max-unread-bytes": {
    value: "N",
    help: "finished answers that callers do not read, all together (default 67108864)",
  },
  "--min-body-rate": {
    value: "N",
    help: "bytes a second below which a request body is cut off (default 240; 0: never)",
  },
  "--body-timeout": { value: "DURATION", help: "over which that rate is measured (default 20s)" },
};

/**
 * Reads the settings of a sidecar.
 *
 * @throws MeshError `bad_config`; the message names the flag and what it takes.
 */
export function parseSidecarConfig(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>> = {},
): SidecarConfig {
  const given = readFlags(args);
  for (const flag of Object.keys(SIDECAR_FLAGS)) {
    const value = env[environmentName(flag)];
    if (!given.has(flag) && value !== undefined && value !== "")
      given.set(flag, SIDECAR_FLAGS[flag]?.repeat ? value.split(",") : [value]);
  }
  const file = given.get("--config")?.[0];
  if (file !== undefined) mergeFile(given, file);
  return build(given);
}

type Given = Map<string, readonly string[]>;

function bad(flag: string, message: string): MeshError {
  return new MeshError(
    "bad_config",
    `${flag} ${message}; it takes ${SIDECAR_FLAGS[flag]?.value ?? "a value"}`,
  );
}

function unknownFlag(flag: string, where: string): MeshError {
  const closest = closestName(flag, Object.keys(SIDECAR_FLAGS));
  return new MeshError(
    "bad_config",
    `unknown setting \`${flag}\`${where}${closest ? `; did you mean \`${closest}\`?` : "; see --help"}`,
  );
}

function readFlags(args: readonly string[]): Given {
  const given = new Map<string, string[]>();
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? "";
    const equals = arg.startsWith("--") ? arg.indexOf("=") : -1;
    const flag = equals < 0 ? arg : arg.slice(0, equals);
    const known = Object.hasOwn(SIDECAR_FLAGS, flag) ? SIDECAR_FLAGS[flag] : undefined;
    if (known === undefined) throw unknownFlag(flag, "");
    const value = equals < 0 ? args[++i] : arg.slice(equals + 1);
    if (value === undefined || value === "") throw bad(flag, "has no value");
    const values = given.get(flag);
    if (values === undefined) given.set(flag, [value]);
    else if (known.repeat) values.push(value);
    else throw bad(flag, "is given twice");
  }
  return given as Given;
}

function mergeFile(given: Given, file: string): void {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new MeshError("bad_config", `--config: cannot read \`${file}\`: ${messageOf(error)}`, {
      cause: error,
    });
  }
  for (const [key, value] of flatYaml(text, file)) {
    const flag = `--${key}`;
    if (!Object.hasOwn(SIDECAR_FLAGS, flag) || flag === "--config")
      throw unknownFlag(flag, ` in \`${file}\``);
    if (!given.has(flag)) given.set(flag, value);
  }
}

/** The subset of YAML that settings need, so that the YAML library stays out of the process: keys, scalars, lists. */
function flatYaml(text: string, file: string): Map<string, string[]> {
  const settings = new Map<string, string[]>();
  let list: string[] | undefined;
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line = raw.replace(/(^|\s)#.*$/, "").trimEnd();
    if (line === "" || line === "---") continue;
    const item = /^\s*-\s+(.+)$/.exec(line);
    const pair = /^([a-z][a-z-]*):(?:\s+(.+))?$/.exec(line);
    if (item?.[1] !== undefined && list !== undefined) list.push(unquote(item[1]));
    else if (pair?.[1] !== undefined && !settings.has(pair[1])) {
      list = pair[2] === undefined ? [] : [unquote(pair[2])];
      settings.set(pair[1], list);
    } else
      throw new MeshError(
        "bad_config",
        `--config: line ${index + 1} of \`${file}\` is not \`name: value\` or an item of a list`,
      );
  }
  return settings;
}

const unquote = (text: string): string => /^(["'])(.*)\1$/.exec(text)?.[2] ?? text;

function build(given: Given): SidecarConfig {
  const one = (flag: string): string | undefined => given.get(flag)?.[0];
  const stateDir = one("--state-dir");
  if (stateDir === undefined) throw bad("--state-dir", "is required");
  const proof = proofSource(one);
  const workload = one("--workload");
  if (workload === undefined && proof?.kind !== "service-account-token")
    throw bad("--workload", "is required without --service-account-token-file");
  if (workload !== undefined && !/^[A-Za-z0-9._-]+\/[A-Za-z0-9._-]+$/.test(workload))
    throw bad("--workload", `\`${workload}\` is not a workload`);
  const node = one("--node");
  if (node !== undefined && !/^[A-Za-z0-9._-]{1,253}$/.test(node))
    throw bad("--node", `cannot be \`${node}\``);
  const mesh = address("--mesh-listen", one("--mesh-listen") ?? "127.0.0.1:16008");
  if (mesh.kind !== "tcp") throw bad("--mesh-listen", "cannot be a Unix socket");
  const off = (flag: string, fallback: string): SocketAddress | undefined => {
    const value = one(flag) ?? fallback;
    return value === "none" ? undefined : address(flag, value);
  };
  const admin = one("--admin-socket") ?? `${stateDir}/admin.sock`;
  if (Buffer.byteLength(admin) > MAX_SOCKET_PATH_BYTES)
    throw bad(
      "--admin-socket",
      `\`${admin}\` is longer than ${MAX_SOCKET_PATH_BYTES} bytes: give a shorter one, or \`none\``,
    );
  const capture = choice("--capture", one("--capture"), ["on", "off"], "off") === "on";
  const probes = parseProbes(one("--probes") ?? "{}");
  if (!probes.ok) throw bad("--probes", probes.error);
  const metrics = one("--app-metrics");
  const appMetrics = metrics === undefined ? undefined : parseAppMetrics(metrics);
  if (appMetrics?.ok === false) throw bad("--app-metrics", appMetrics.error);
  return {
    workload,
    controlPlane: hostPort("--control-plane", one("--control-plane")),
    tokenService: tokenServiceOf(one("--token-service"), one("--control-plane")),
    bootstrap: hostPort("--bootstrap", one("--bootstrap")),
    proof,
    node: node ?? hostname(),
    stateDir,
    meshListen: mesh,
    outboundProxy: off("--outbound-proxy", capture ? "none" : "127.0.0.1:16001"),
    localServices: (given.get("--local-service") ?? []).map(localService),
    capture,
    opaquePorts: parsePortList("--opaque-ports", one("--opaque-ports") ?? ""),
    probes: probes.value,
    appMetrics: appMetrics?.value,
    appHost: one("--app") ?? "127.0.0.1",
    appPorts: new Map((given.get("--app-port-map") ?? []).map(appPort)),
    metricsListen: off("--metrics-listen", "127.0.0.1:16020"),
    adminSocket: admin === "none" ? undefined : admin,
    auditFile: one("--audit-file"),
    audit: choice("--audit", one("--audit"), ["allow", "deny"], "allow"),
    auditBodies: choice("--audit-bodies", one("--audit-bodies"), ["on", "off"], "off") === "on",
    auditRedact: names("--audit-redact", one("--audit-redact") ?? ""),
    accessLog: one("--access-log"),
    logLevel: choice("--log-level", one("--log-level"), ["debug", "info", "warn", "error", "silent"], "info"),
    externalCaFile: one("--external-ca-file"),
    gateway: {
      secretsDir: one("--gateway-secrets"),
      address: one("--gateway-address") ?? "127.0.0.1",
      ports: new Map((given.get("--gateway-port-map") ?? []).map(gatewayPort)),
    },
    timeouts: {
      connectMs: duration("--connect-timeout", one("--connect-timeout"), DEFAULT_TIMEOUTS.connectMs),
      handshakeMs: duration("--handshake-timeout", one("--handshake-timeout"), DEFAULT_TIMEOUTS.handshakeMs),
      headerMs: duration("--header-timeout", one("--header-timeout"), DEFAULT_TIMEOUTS.headerMs),
      idleMs: duration("--idle-timeout", one("--idle-timeout"), DEFAULT_TIMEOUTS.idleMs),
      responseMs: duration("--response-timeout", one("--response-timeout"), DEFAULT_TIMEOUTS.responseMs),
      drainMs: duration("--drain-timeout", one("--drain-timeout"), DEFAULT_TIMEOUTS.drainMs),
      bodyMs: duration("--body-timeout", one("--body-timeout"), DEFAULT_TIMEOUTS.bodyMs),
    },
    limits: {
      ...DEFAULT_LIMITS,
      connections: count("--max-connections", one("--max-connections"), DEFAULT_LIMITS.connections),
      connectionsPerSource: count(
        "--max-connections-per-source",
        one("--max-connections-per-source"),
        DEFAULT_LIMITS.connectionsPerSource,
      ),
      head: headLimits(one),
      waitingBodyBytes: bytes(
        "--max-waiting-body-bytes",
        one("--max-waiting-body-bytes"),
        DEFAULT_LIMITS.waitingBodyBytes,
      ),
      unreadBytes: bytes("--max-unread-bytes", one("--max-unread-bytes"), DEFAULT_LIMITS.unreadBytes),
      bodyRate: bytes("--min-body-rate", one("--min-body-rate"), DEFAULT_LIMITS.bodyRate),
    },
  };
}

function proofSource(one: (flag: string) => string | undefined): ProofSource | undefined {
  const joinTokenFile = one("--join-token-file");
  const file = one("--service-account-token-file");
  const trustBundleFile = one("--trust-bundle-file");
  const trustDomain = one("--trust-domain");
  if (joinTokenFile !== undefined && file !== undefined)
    throw new MeshError(
      "bad_config",
      "--join-token-file and --service-account-token-file are two proofs of who this is; give the one that this mesh uses",
    );
  if (file === undefined) {
    const alone = ["--trust-bundle-file", "--trust-domain"].find((flag) => one(flag) !== undefined);
    if (alone !== undefined)
      throw bad(alone, "goes with --service-account-token-file; a join token pins its root itself");
    return joinTokenFile === undefined ? undefined : { kind: "join-token", file: joinTokenFile };
  }
  if (trustBundleFile === undefined)
    throw bad("--trust-bundle-file", "is required with --service-account-token-file");
  if (trustDomain !== undefined && !isTrustDomain(trustDomain))
    throw bad("--trust-domain", `\`${trustDomain}\` is not a trust domain`);
  return { kind: "service-account-token", file, trustBundleFile, trustDomain };
}

function names(flag: string, value: string): readonly string[] {
  const list = value
    .toLowerCase()
    .split(",")
    .map((each) => each.trim())
    .filter((each) => each !== "");
  const odd = list.find((each) => !/^[a-z0-9._-]{1,64}$/.test(each));
  if (odd !== undefined) throw bad(flag, `has \`${odd.slice(0, 64)}\`, which is no name`);
  return list;
}

/** What sockaddr_un holds on Linux; a longer path would be cut silently. */
const MAX_SOCKET_PATH_BYTES = 107;

function choice<T extends string>(
  flag: string,
  value: string | undefined,
  valid: readonly T[],
  fallback: T,
): T {
  if (value === undefined) return fallback;
  const found = valid.find((option) => option === value);
  if (found !== undefined) return found;
  const closest = closestName(value, valid);
  throw bad(flag, `cannot be \`${value}\`${closest ? ` (did you mean \`${closest}\`?)` : ""}`);
}

function count(flag: string, value: string | undefined, fallback: number): number {
  if (value === undefined) return fallback;
  if (!/^[1-9][0-9]{0,6}$/.test(value)) throw bad(flag, `cannot be \`${value}\``);
  return Number(value);
}

function bytes(flag: string, value: string | undefined, fallback: number): number {
  if (value === undefined) return fallback;
  if (!/^(?:0|[1-9][0-9]{0,11})$/.test(value)) throw bad(flag, `cannot be \`${value}\``);
  return Number(value);
}

function headLimits(one: (flag: string) => string | undefined): HeadLimits {
  const limit = (flag: string, fallback: number, most: number): number => {
    const value = count(flag, one(flag), fallback);
    if (value > most) throw bad(flag, `\`${value}\` is more than ${most}, which the mesh can carry`);
    return value;
  };
  const { headBytes, fields, targetBytes } = DEFAULT_LIMITS.head;
  return {
    headBytes: limit("--max-header-bytes", headBytes, MOST_HEAD.headBytes),
    fields: limit("--max-headers", fields, MOST_HEAD.fields),
    targetBytes: limit("--max-target-bytes", targetBytes, MOST_HEAD.targetBytes),
  };
}

function duration(flag: string, value: string | undefined, fallback: number): number {
  if (value === undefined) return fallback;
  const parts = /^([0-9]{1,7})(ms|s|m)$/.exec(value);
  if (parts === null) throw bad(flag, `\`${value}\` is not a duration such as \`500ms\`, \`5s\` or \`2m\``);
  return Number(parts[1]) * (parts[2] === "ms" ? 1 : parts[2] === "s" ? 1_000 : 60_000);
}

function portNumber(flag: string, text: string): number {
  if (!/^[0-9]{1,5}$/.test(text) || Number(text) > 65_535) throw bad(flag, `\`${text}\` is not a port`);
  return Number(text);
}

function address(flag: string, text: string): SocketAddress {
  if (text.startsWith("unix:")) {
    const path = text.slice(5);
    if (path === "" || Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES)
      throw bad(flag, `\`${text}\` needs a path of 1 to ${MAX_SOCKET_PATH_BYTES} bytes`);
    return { kind: "unix", path };
  }
  const colon = text.lastIndexOf(":");
  if (colon <= 0) throw bad(flag, `\`${text}\` has no port`);
  const host = text.slice(0, colon).replace(/^\[(.*)\]$/, "$1");
  return { kind: "tcp", host, port: portNumber(flag, text.slice(colon + 1)) };
}

function hostPort(flag: string, text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  const parsed = address(flag, text);
  if (parsed.kind !== "tcp" || parsed.port === 0) throw bad(flag, `\`${text}\` is not a host and port`);
  return text;
}

/** As given, or behind the discovery port: 16013 behind 16012, and the same where both were moved. */
function tokenServiceOf(given: string | undefined, controlPlane: string | undefined): string | undefined {
  if (given === "none") return undefined;
  if (given !== undefined) return hostPort("--token-service", given);
  return controlPlane?.replace(/[0-9]+$/, (port) => String(Number(port) + 1));
}

function localService(text: string): LocalService {
  const parts = /^(.+)=([A-Za-z0-9._-]+\/[A-Za-z0-9._-]+):([0-9]{1,5})$/.exec(text);
  const [, listen, service, port] = parts ?? [];
  if (listen === undefined || service === undefined || port === undefined)
    throw bad("--local-service", `\`${text}\` cannot be read`);
  const where = /^[0-9]+$/.test(listen) ? `127.0.0.1:${listen}` : listen;
  return { listen: address("--local-service", where), service, port: portNumber("--local-service", port) };
}

function gatewayPort(text: string): [number, { host: string; port: number }] {
  const flag = "--gateway-port-map";
  const equals = text.indexOf("=");
  if (equals <= 0) throw bad(flag, `\`${text}\` has no \`=\``);
  const where = address(flag, text.slice(equals + 1));
  if (where.kind !== "tcp") throw bad(flag, "cannot be a Unix socket");
  return [portNumber(flag, text.slice(0, equals)), where];
}

function appPort(text: string): [number, SocketAddress] {
  const equals = text.indexOf("=");
  if (equals <= 0) throw bad("--app-port-map", `\`${text}\` has no \`=\``);
  return [
    portNumber("--app-port-map", text.slice(0, equals)),
    address("--app-port-map", text.slice(equals + 1)),
  ];
}
