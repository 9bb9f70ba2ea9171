// Settings of the control-plane process: flags to one readonly value.
import { join, resolve } from "node:path";
import type { Result } from "../sidecar/core/runtime/errors.ts";

export interface ControlPlanePorts {
  readonly bootstrap: number;
  readonly discovery: number;
  readonly metrics: number;
}

export interface ControlPlaneConfig {
  readonly configDir: string;
  readonly stateDir: string;
  /** Address that bootstrap and discovery listen on. */
  readonly listen: string;
  /** Address that metrics and health listen on. */
  readonly metricsListen: string;
  /** 0: the system chooses; what was chosen stands in `{stateDir}/ports.json`. */
  readonly ports: ControlPlanePorts;
  /** Name of this cluster, part of the settings every sidecar gets. */
  readonly cluster: string;
  readonly heartbeatMs: number;
}

/** Where the management API listens. */
export function managementSocketPath(stateDir: string): string {
  return join(stateDir, "management.sock");
}

const USAGE = "see `countersign control-plane --help`";

function portOf(name: string, text: string): Result<number, string> {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65_535)
    return { ok: false, error: `\`${name}\` is \`${text}\`, expected 0 to 65535` };
  return { ok: true, value: port };
}

/**
 * Parses flags in the form `--name value` or `--name=value`.
 *
 * `--config-dir DIR` and `--state-dir DIR` are required. `--port-base N` moves the block 16000 to N (so 16011 becomes
 * N+11); `--port-base 0` lets the system choose all ports.
 *
 * @returns the settings, or one line that says what is wrong.
 */
export function parseControlPlaneConfig(args: readonly string[]): Result<ControlPlaneConfig, string> {
  const known = [
    "config-dir",
    "state-dir",
    "listen",
    "metrics-listen",
    "port-base",
    "bootstrap-port",
    "discovery-port",
    "metrics-port",
    "cluster",
    "heartbeat-ms",
  ];
  const values = new Map<string, string>();
  for (let at = 0; at < args.length; at++) {
    const match = /^--([a-z-]+)(?:=(.*))?$/s.exec(args[at] ?? "");
    const name = match?.[1];
    if (!name || !known.includes(name))
      return { ok: false, error: `unknown argument \`${args[at]}\`, ${USAGE}` };
    const value = match[2] ?? args[++at];
    if (value === undefined || value === "")
      return { ok: false, error: `\`--${name}\` needs a value, ${USAGE}` };
    if (values.has(name)) return { ok: false, error: `\`--${name}\` is given twice` };
    values.set(name, value);
  }
  const configDir = values.get("config-dir");
  const stateDir = values.get("state-dir");
  if (!configDir)
    return {
      ok: false,
      error: `\`--config-dir\` is missing: the directory with the mesh's YAML files, ${USAGE}`,
    };
  if (!stateDir)
    return {
      ok: false,
      error: `\`--state-dir\` is missing: where keys, history and status are kept, ${USAGE}`,
    };
  const base = portOf("--port-base", values.get("port-base") ?? "16000");
  if (!base.ok) return base;
  if (base.value > 65_500)
    return { ok: false, error: `\`--port-base\` is \`${base.value}\`, expected at most 65500` };
  const ports: number[] = [];
  for (const [name, offset] of [
    ["bootstrap-port", 11],
    ["discovery-port", 12],
    ["metrics-port", 14],
  ] as const) {
    const port = portOf(`--${name}`, values.get(name) ?? String(base.value === 0 ? 0 : base.value + offset));
    if (!port.ok) return port;
    ports.push(port.value);
  }
  const [bootstrap = 0, discovery = 0, metrics = 0] = ports;
  const heartbeat = values.get("heartbeat-ms") ?? "5000";
  if (!/^\d{3,6}$/.test(heartbeat))
    return { ok: false, error: `\`--heartbeat-ms\` is \`${heartbeat}\`, expected 100 to 999999` };
  return {
    ok: true,
    value: {
      configDir: resolve(configDir),
      stateDir: resolve(stateDir),
      listen: values.get("listen") ?? "127.0.0.1",
      metricsListen: values.get("metrics-listen") ?? "127.0.0.1",
      ports: { bootstrap, discovery, metrics },
      cluster: values.get("cluster") ?? "local",
      heartbeatMs: Number(heartbeat),
    },
  };
}
