// From the control plane's own settings (flags of the chart) to what all injected pods have in common. PURE.

import { closestName } from "../../sidecar/core/runtime/env.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import { LOG_LEVELS } from "./pod-settings.ts";
import { parseQuantity } from "./quantity.ts";
import type { InjectSettings } from "./sidecar-containers.ts";

export interface InjectFlags {
  /** `--sidecar-image`. */
  readonly image: string;
  /** `--sidecar-defaults`: a JSON object of texts, see `DEFAULTS`. */
  readonly defaults: Readonly<Record<string, string>>;
  readonly trustDomain: string;
  /** Of the control plane. */
  readonly namespace: string;
  readonly version: string;
}

/** What `--sidecar-defaults` may hold; annotations of a pod have the same names and win. Empty: no limit. */
const DEFAULTS: Readonly<Record<string, string>> = {
  "log-level": "info",
  cpu: "50m",
  memory: "64Mi",
  "cpu-limit": "",
  "memory-limit": "256Mi",
  "pull-policy": "IfNotPresent",
  /** `legacy`: nodes without nftables; the init step gets NET_RAW too. */
  iptables: "nft",
};
const PULL_POLICIES = ["Always", "IfNotPresent", "Never"] as const;
/** Name of an image as container runtimes take it; with tag, digest or both. */
const IMAGE = /^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}$/;

/** @returns the settings, or what is wrong with `--sidecar-image` or `--sidecar-defaults`. */
export function injectSettings(flags: InjectFlags): Result<InjectSettings, string> {
  const { image, defaults, trustDomain, namespace, version } = flags;
  const refuse = (error: string): Result<never, string> => ({ ok: false, error });
  if (!IMAGE.test(image)) return refuse(`\`--sidecar-image\`: \`${image.slice(0, 80)}\` is not an image`);
  for (const name of Object.keys(defaults)) {
    if (Object.hasOwn(DEFAULTS, name)) continue;
    const closest = closestName(name, Object.keys(DEFAULTS));
    return refuse(
      `\`--sidecar-defaults\` has \`${name.slice(0, 64)}\`${closest ? `; did you mean \`${closest}\`?` : `, expected ${Object.keys(DEFAULTS).join(", ")}`}`,
    );
  }
  const get = (name: string): string => defaults[name] ?? DEFAULTS[name] ?? "";
  for (const name of ["cpu", "memory", "cpu-limit", "memory-limit"]) {
    const isLimit = name.endsWith("-limit");
    if (parseQuantity(get(name)) === undefined && !(isLimit && get(name) === ""))
      return refuse(
        `\`--sidecar-defaults\`: \`${name}\` is \`${get(name).slice(0, 64)}\`, expected a quantity`,
      );
  }
  const logLevel = LOG_LEVELS.find((level) => level === get("log-level"));
  if (logLevel === undefined)
    return refuse(`\`--sidecar-defaults\`: \`log-level\` is none of ${LOG_LEVELS.join(", ")}`);
  const imagePullPolicy = PULL_POLICIES.find((policy) => policy === get("pull-policy"));
  if (imagePullPolicy === undefined)
    return refuse(`\`--sidecar-defaults\`: \`pull-policy\` is none of ${PULL_POLICIES.join(", ")}`);
  const iptables = get("iptables");
  if (iptables !== "nft" && iptables !== "legacy")
    return refuse("`--sidecar-defaults`: `iptables` is neither nft nor legacy");
  return {
    ok: true,
    value: {
      image,
      imagePullPolicy,
      trustDomain,
      controlPlane: `countersign.${namespace}.svc:16012`,
      bootstrap: `countersign.${namespace}.svc:16011`,
      resources: {
        cpu: get("cpu"),
        memory: get("memory"),
        cpuLimit: get("cpu-limit") || undefined,
        memoryLimit: get("memory-limit") || undefined,
      },
      logLevel,
      legacyIptables: iptables === "legacy",
      version,
    },
  };
}
