// What labels and annotations of a pod say to the injector: one pod's exceptions from the settings of the mesh. PURE. Whatever
// cannot be understood is refused, because a pod that starts with less than it asked for is harder to find.
import { WORKLOAD_KINDS } from "../../sidecar/core/policy/call.ts";
import { closestName } from "../../sidecar/core/runtime/env.ts";
import { INJECT_LABEL, isOwnPort, OWN_PORTS, PREFIX } from "./own-names.ts";
import type { PodView } from "./pod-view.ts";
import { parseQuantity } from "./quantity.ts";

export const LOG_LEVELS = ["debug", "info", "warn", "error", "silent"] as const;
export type ProxyLogLevel = (typeof LOG_LEVELS)[number];

/** Quantities of the sidecar's container; undefined: no limit. */
export interface ProxyResources {
  readonly cpu: string;
  readonly memory: string;
  readonly cpuLimit: string | undefined;
  readonly memoryLimit: string | undefined;
}

/** undefined: as the mesh has it. */
export interface PodSettings {
  readonly excludeInboundPorts: readonly number[];
  readonly excludeOutboundPorts: readonly number[];
  readonly opaquePorts: readonly number[];
  readonly logLevel: ProxyLogLevel | undefined;
  readonly resources: Partial<ProxyResources>;
}

export interface ReadSettings {
  readonly settings: PodSettings;
  /** One line each: the pod is refused. */
  readonly problems: readonly string[];
  readonly warnings: readonly string[];
}

const PROPAGATION = ["trace", "session", "forward", "none"] as const;
/** As many as capture takes. */
const MAX_PORTS = 64;
const MAX_FACT = 256;
const FACT = /^[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+$/u;
const SEGMENT = /^[A-Za-z0-9._-]{1,63}$/;

/** Annotations that a pod's author may write. */
const GIVEN = [
  "packs",
  "propagation",
  "run-as",
  "exclude-inbound-ports",
  "exclude-outbound-ports",
  "opaque-ports",
  "log-level",
  "cpu",
  "memory",
  "cpu-limit",
  "memory-limit",
] as const;
/** Annotations that the injector writes. */
const WRITTEN = ["injected", "verified-owner", "verified-run-as", "verified-spawner"] as const;
const LABELS = ["inject", "kind", "name", "env"] as const;

/** Whether the pod itself says that it stays out of the mesh. */
export function isOptedOut(pod: PodView): boolean {
  return pod.labels.get(INJECT_LABEL) === "disabled";
}

/** @param packs names of operation packs that exist; undefined: unknown, so that nothing is said about them. */
export function readPodSettings(pod: PodView, packs: ReadonlySet<string> | undefined): ReadSettings {
  const problems: string[] = [];
  const warnings: string[] = [];
  const get = (name: (typeof GIVEN)[number]): string | undefined => pod.annotations.get(PREFIX + name);
  const refuse = (name: string, message: string): void => {
    problems.push(`annotation \`${PREFIX}${name}\` ${message}`);
  };
  const ports = (name: (typeof GIVEN)[number]): readonly number[] => {
    const read = readPorts(get(name) ?? "");
    if (typeof read !== "string") return read;
    refuse(name, read);
    return [];
  };
  checkNames(pod, warnings);
  checkLabels(pod, problems);
  checkPacks(get("packs"), packs, refuse, warnings);
  checkPropagation(get("propagation"), refuse);
  const runAs = get("run-as");
  if (runAs !== undefined && !isUserFact(runAs))
    refuse("run-as", `is not a user: 1 to ${MAX_FACT} characters on one line`);
  const level = get("log-level");
  const logLevel = LOG_LEVELS.find((known) => known === level);
  if (level !== undefined && logLevel === undefined)
    refuse("log-level", `is \`${cut(level)}\`, expected ${LOG_LEVELS.join(", ")}`);
  const quantity = (name: "cpu" | "memory" | "cpu-limit" | "memory-limit"): string | undefined => {
    const text = get(name);
    if (text !== undefined && parseQuantity(text) === undefined)
      refuse(
        name,
        `is \`${cut(text)}\`, expected a quantity such as ${name.startsWith("cpu") ? "100m" : "64Mi"}`,
      );
    return text;
  };
  const [cpu, memory, cpuLimit, memoryLimit] = [
    quantity("cpu"),
    quantity("memory"),
    quantity("cpu-limit"),
    quantity("memory-limit"),
  ];
  return {
    settings: {
      excludeInboundPorts: ports("exclude-inbound-ports"),
      excludeOutboundPorts: ports("exclude-outbound-ports"),
      opaquePorts: ports("opaque-ports"),
      logLevel,
      resources: {
        ...(cpu === undefined ? {} : { cpu }),
        ...(memory === undefined ? {} : { memory }),
        ...(cpuLimit === undefined ? {} : { cpuLimit }),
        ...(memoryLimit === undefined ? {} : { memoryLimit }),
      },
    },
    problems,
    warnings,
  };
}

/** A user as an annotation names them: what may become a `verified-*` fact. */
export function isUserFact(text: string): boolean {
  return text.length <= MAX_FACT && FACT.test(text);
}

const cut = (text: string): string => (text.length > 64 ? `${text.slice(0, 64)}…` : text);

function checkNames(pod: PodView, warnings: string[]): void {
  const check = (what: string, key: string, known: readonly string[]): void => {
    if (!key.startsWith(PREFIX)) return;
    const name = key.slice(PREFIX.length);
    if (known.includes(name)) return;
    const closest = closestName(name, known);
    const instead = closest === undefined ? "" : `; did you mean \`${PREFIX}${closest}\`?`;
    warnings.push(`${what} \`${PREFIX}${cut(name)}\` means nothing to the mesh${instead}`);
  };
  for (const key of pod.annotations.keys()) {
    const name = key.slice(PREFIX.length);
    if (key.startsWith(PREFIX) && LABELS.some((label) => label === name))
      warnings.push(`\`${key}\` is an annotation here and means nothing: make it a label`);
    else check("annotation", key, [...GIVEN, ...WRITTEN]);
  }
  for (const key of pod.labels.keys()) check("label", key, LABELS);
}

function checkLabels({ labels }: PodView, problems: string[]): void {
  const inject = labels.get(INJECT_LABEL);
  if (inject !== undefined && inject !== "enabled" && inject !== "disabled")
    problems.push(`label \`${INJECT_LABEL}\` is \`${cut(inject)}\`, expected enabled or disabled`);
  const kind = labels.get(`${PREFIX}kind`);
  if (kind !== undefined && !WORKLOAD_KINDS.some((known) => known === kind)) {
    const closest = closestName(kind, WORKLOAD_KINDS);
    problems.push(
      `label \`${PREFIX}kind\` is \`${cut(kind)}\`, expected ${WORKLOAD_KINDS.join(", ")}${closest ? `; did you mean \`${closest}\`?` : ""}`,
    );
  }
  for (const name of ["name", "env"]) {
    const value = labels.get(PREFIX + name);
    if (value !== undefined && !SEGMENT.test(value))
      problems.push(
        `label \`${PREFIX}${name}\` is \`${cut(value)}\`, expected letters, digits, \`.\`, \`_\` and \`-\``,
      );
  }
}

/** `8080=mlflow-scoring,oip-v2;9000=ray`, as sources/kubernetes/classify.ts reads it. */
function checkPacks(
  text: string | undefined,
  known: ReadonlySet<string> | undefined,
  refuse: (name: string, message: string) => void,
  warnings: string[],
): void {
  const seen = new Map<number, readonly string[]>();
  for (const entry of (text ?? "").split(";")) {
    if (entry.trim() === "") continue;
    const match = /^(\d{1,5})=([a-z0-9][a-z0-9.,-]*)$/.exec(entry.replaceAll(" ", ""));
    const port = Number(match?.[1]);
    const problem =
      match === null || port < 1 || port > 65_535
        ? `has \`${cut(entry)}\`, expected \`PORT=pack,pack;PORT=pack\``
        : isOwnPort(port)
          ? ownPort(port)
          : seen.has(port)
            ? `names port ${port} twice; write its packs into one list`
            : undefined;
    if (problem !== undefined) {
      refuse("packs", problem);
      return;
    }
    seen.set(port, match?.[2]?.split(",") ?? []);
  }
  if (known === undefined) return;
  for (const pack of new Set([...seen.values()].flat())) {
    if (pack === "" || known.has(pack)) continue;
    const closest = closestName(pack, known);
    warnings.push(
      `annotation \`${PREFIX}packs\` names the pack \`${cut(pack)}\`, which does not exist${closest ? `; did you mean \`${closest}\`?` : ""}`,
    );
  }
}

function checkPropagation(text: string | undefined, refuse: (name: string, message: string) => void): void {
  if (text === undefined) return;
  const modes = text
    .split(",")
    .map((mode) => mode.trim())
    .filter((mode) => mode !== "");
  const unknown = modes.find((mode) => !PROPAGATION.some((known) => known === mode));
  if (unknown !== undefined) {
    const closest = closestName(unknown, PROPAGATION);
    refuse(
      "propagation",
      `has \`${cut(unknown)}\`, expected ${PROPAGATION.join(", ")}${closest ? `; did you mean \`${closest}\`?` : ""}`,
    );
  } else if (modes.includes("none") && modes.length > 1)
    refuse("propagation", "has `none` beside others; it stands alone");
}

const ownPort = (port: number): string =>
  `names port ${port}; ports ${OWN_PORTS.first} to ${OWN_PORTS.last} belong to the mesh`;

/** Ports in ascending order, as the sidecar's `--opaque-ports` takes them; a text: what is wrong. */
function readPorts(text: string): readonly number[] | string {
  const ports = new Set<number>();
  for (const part of text.split(",")) {
    const one = part.trim();
    if (one === "") continue;
    const port = Number(one);
    if (!/^[0-9]{1,5}$/.test(one) || port < 1 || port > 65_535)
      return `has \`${cut(one)}\`, expected ports separated by commas`;
    if (isOwnPort(port)) return ownPort(port);
    ports.add(port);
  }
  if (ports.size > MAX_PORTS) return `has ${ports.size} ports, at most ${MAX_PORTS} are possible`;
  return [...ports].sort((a, b) => a - b);
}
