// `countersign inject`: the webhook's work on files, for clusters or pipelines where no webhook may be called.
import { readFileSync } from "node:fs";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { InjectContext } from "../admission/inject.ts";
import { injectSettings } from "../admission/inject-settings.ts";
import { loadBuiltInPacks } from "../policy/packs.ts";
import { SOFTWARE_VERSION } from "../version.ts";
import { injectManifests } from "./inject-manifests.ts";
import { EXIT, type ExitStatus, type Output, plain, printJson } from "./print.ts";

export interface InjectOptions {
  /** Files; `-` is standard input. */
  readonly files: readonly string[];
  readonly image: string;
  readonly trustDomain: string;
  readonly controlPlaneNamespace: string;
  /** `name=value`, as in `--sidecar-defaults` of the control plane. */
  readonly set: readonly string[];
  readonly json: boolean;
}

/** What no `--image` means. */
export const DEFAULT_IMAGE = `countersign.dev/sidecar:${SOFTWARE_VERSION}`;

const STANDARD_INPUT = 0;

/**
 * Prints all documents with their sidecars, or none: half of a pipeline's objects would be worse.
 *
 * @returns `EXIT.no` when a pod cannot be meshed or a file is not YAML.
 * @throws MeshError `bad_config` (options), `io_failed` (a file cannot be read).
 */
export function injectFiles(options: InjectOptions, output: Output): ExitStatus {
  const settings = injectSettings({
    image: options.image,
    defaults: defaultsOf(options.set),
    trustDomain: options.trustDomain,
    namespace: options.controlPlaneNamespace,
    version: SOFTWARE_VERSION,
  });
  if (!settings.ok)
    throw new MeshError(
      "bad_config",
      settings.error.replace("--sidecar-image", "--image").replace("--sidecar-defaults", "--set"),
    );
  const context: InjectContext = {
    settings: settings.value,
    trustedSpawners: [],
    username: undefined,
    namespaceLabels: undefined,
    packs: new Set(loadBuiltInPacks().keys()),
  };
  const results = options.files.map((file) => ({ file, ...injectManifests(readText(file), context) }));
  const problems = results.flatMap(({ file, problems }) => problems.map((one) => `${file}: ${one}`));
  const warnings = results.flatMap(({ file, warnings }) => warnings.map((one) => `${file}: ${one}`));
  const injected = results.reduce((sum, one) => sum + one.injected, 0);
  const text = problems.length > 0 ? "" : results.map((one) => one.text).join("");
  if (options.json) printJson(output, { injected, problems, warnings, text });
  else {
    for (const warning of warnings) output.err(`warning: ${plain(warning)}\n`);
    for (const problem of problems) output.err(`error: ${plain(problem)}\n`);
    output.out(text);
  }
  return problems.length > 0 ? EXIT.no : EXIT.ok;
}

function defaultsOf(set: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    set.map((one) => {
      const at = one.indexOf("=");
      if (at < 1) throw new MeshError("bad_config", `--set: \`${one.slice(0, 64)}\` is not \`name=value\``);
      return [one.slice(0, at), one.slice(at + 1)];
    }),
  );
}

function readText(file: string): string {
  try {
    return readFileSync(file === "-" ? STANDARD_INPUT : file, "utf8");
  } catch (cause) {
    throw new MeshError("io_failed", `cannot read \`${file}\`: ${messageOf(cause)}`, { cause });
  }
}
