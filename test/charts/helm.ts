// Runs helm without a cluster, as `helm template` and `helm lint` do, and reads what it renders.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "@jest/globals";
import { parseAllDocuments } from "yaml";
import { programPath } from "../cluster/layout.ts";
import { leaveOut } from "../left-out.ts";

/** An object as a chart renders it. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
}

export const chartFolder = (chart: string): string => join(import.meta.dirname, "../../charts", chart);

/** A `describe` for what needs the helm that test/cluster builds; without it, one line says what was left out. */
export function describeWithHelm(name: string, tests: () => void): void {
  if (existsSync(programPath("helm"))) {
    describe(name, tests);
    return;
  }
  leaveOut("rendering of the charts: needs helm; `npm run cluster -- install` builds it");
  describe.skip(name, () => {
    test("needs helm", () => {});
  });
}

/** @returns standard output, or what helm complained about. */
export function tryHelm(args: readonly string[]): {
  readonly ok: boolean;
  readonly stdout: string;
  readonly stderr: string;
} {
  const { status, stdout, stderr } = spawnSync(programPath("helm"), [...args], {
    encoding: "utf8",
    timeout: 60_000,
    maxBuffer: 32 * 1024 * 1024,
    env: { ...process.env, KUBECONFIG: "/dev/null" },
  });
  return { ok: status === 0, stdout, stderr };
}

/** Arguments of `helm template`; a helm built from modules does not know its Kubernetes version, so it is said. */
export const templateArgs = (chart: string, args: readonly string[]): readonly string[] => [
  "template",
  "countersign",
  chartFolder(chart),
  "--namespace",
  "countersign-system",
  ...(args.includes("--kube-version") ? [] : ["--kube-version", "1.30.0"]),
  ...args,
];

/** What a chart renders. */
export function render(chart: string, ...args: readonly string[]): readonly Manifest[] {
  const { ok, stdout, stderr } = tryHelm(templateArgs(chart, args));
  if (!ok) throw new Error(stderr.trim());
  return parseManifests(stdout);
}

export function parseManifests(yaml: string): readonly Manifest[] {
  return parseAllDocuments(yaml).flatMap((document) => {
    const [problem] = document.errors;
    if (problem !== undefined) throw problem;
    // The shape is what helm and the API server ask of every manifest; tests look at the rest field by field.
    const manifest = document.toJS() as Manifest | null;
    return manifest === null ? [] : [manifest];
  });
}
