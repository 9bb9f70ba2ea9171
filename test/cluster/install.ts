// Installs what the cluster needs: Debian packages, and Kubernetes, kubectl, CoreDNS and Helm built once from Go modules.
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ClusterError, findProgram, progress, run } from "./commands.ts";
import {
  type BuiltProgram,
  cacheFolder,
  KUBERNETES_PROGRAMS,
  PACKAGES,
  programPath,
  VERSIONS,
} from "./layout.ts";

const GIB = 2 ** 30;
/** Go's module and build caches of all of Kubernetes, and the programs. */
const DISK_NEEDED_BYTES = 6 * GIB;
const BUILD_TIMEOUT_MS = 45 * 60_000;

/** Programs and packages that are missing on this machine. */
export function missingPieces(): { packages: readonly string[]; programs: readonly BuiltProgram[] } {
  const programs: readonly BuiltProgram[] = [...KUBERNETES_PROGRAMS, "coredns", "helm"];
  return {
    packages: Object.entries(PACKAGES)
      .filter(([, program]) => findProgram(program) === undefined)
      .map(([name]) => name),
    programs: programs.filter((program) => !existsSync(programPath(program))),
  };
}

/** Installs what is missing; doing it again does nothing. */
export async function install(): Promise<void> {
  const { packages, programs } = missingPieces();
  if (packages.length > 0) await installPackages(packages);
  if (programs.length > 0) await buildPrograms(programs);
  progress(`everything is installed; programs are in ${join(cacheFolder(), "bin")}`);
}

async function installPackages(packages: readonly string[]): Promise<void> {
  if (process.getuid?.() !== 0)
    throw new ClusterError(`packages are missing (${packages.join(", ")}); run this as root to install them`);
  if (findProgram("apt-get") === undefined)
    throw new ClusterError(`this is no Debian; install the equivalents of ${packages.join(", ")} yourself`);
  progress(`installing ${packages.join(", ")}`);
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  await run("apt-get", ["update", "-qq"], { timeoutMs: 300_000 });
  await run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], {
    env,
    timeoutMs: 600_000,
  });
}

async function buildPrograms(programs: readonly BuiltProgram[]): Promise<void> {
  if (findProgram("go") === undefined)
    throw new ClusterError(
      "Go is needed to build Kubernetes, and is not installed; install Go 1.25 or newer (go.dev/dl)",
    );
  mkdirSync(join(cacheFolder(), "bin"), { recursive: true });
  const disk = statfsSync(cacheFolder());
  if (disk.bavail * disk.bsize < DISK_NEEDED_BYTES)
    throw new ClusterError(
      `building needs ${DISK_NEEDED_BYTES / GIB} GiB of free disk at ${cacheFolder()}; free some, or set XDG_CACHE_HOME`,
    );
  progress(`building ${programs.length} programs from Go modules, one at a time (about 6 minutes, once)`);
  const ofKubernetes = KUBERNETES_PROGRAMS.filter((program) => programs.includes(program));
  if (ofKubernetes.length > 0) {
    const folder = await kubernetesModule();
    for (const program of ofKubernetes)
      await build(program, folder, `k8s.io/kubernetes/cmd/${program}`, kubernetesFlags());
  }
  if (programs.includes("coredns"))
    await buildFromOwnModule("coredns", "github.com/coredns/coredns", ".", VERSIONS.coredns, "");
  if (programs.includes("helm")) {
    const flag = `-X helm.sh/helm/v3/internal/version.version=v${VERSIONS.helm}`;
    await buildFromOwnModule("helm", "helm.sh/helm/v3", "cmd/helm", VERSIONS.helm, flag);
  }
}

/**
 * A module that can build k8s.io/kubernetes, which replaces its staging modules by folders of its repository: here each
 * is replaced by the version published with the release (v1.X.Y is v0.X.Y).
 */
async function kubernetesModule(): Promise<string> {
  const folder = join(cacheFolder(), "src", `kubernetes-${VERSIONS.kubernetes}`);
  mkdirSync(folder, { recursive: true });
  progress(`fetching Kubernetes ${VERSIONS.kubernetes}`);
  const downloaded = await run(
    "go",
    ["mod", "download", "-json", `k8s.io/kubernetes@v${VERSIONS.kubernetes}`],
    { cwd: folder, timeoutMs: BUILD_TIMEOUT_MS },
  );
  const { GoMod } = JSON.parse(downloaded) as { GoMod: string }; // go help mod download
  const staging = [...readFileSync(GoMod, "utf8").matchAll(/^\s*(k8s\.io\/[a-z-]+) => \.\/staging/gm)].map(
    (match) => match[1],
  );
  const published = `v0.${VERSIONS.kubernetes.split(".").slice(1).join(".")}`;
  writeFileSync(
    join(folder, "go.mod"),
    [
      "module countersign.dev/cluster",
      "go 1.24.0",
      `require k8s.io/kubernetes v${VERSIONS.kubernetes}`,
      ...staging.map((name) => `replace ${name} => ${name} ${published}`),
      "",
    ].join("\n\n"),
  );
  writeFileSync(
    join(folder, "programs.go"),
    [
      "//go:build programs",
      "package cluster",
      ...KUBERNETES_PROGRAMS.map((program) =>
        program === "kubectl"
          ? 'import _ "k8s.io/kubectl/pkg/cmd"'
          : `import _ "k8s.io/kubernetes/cmd/${program}/app"`,
      ),
      "",
    ].join("\n\n"),
  );
  await run("go", ["mod", "tidy"], { cwd: folder, timeoutMs: BUILD_TIMEOUT_MS });
  return folder;
}

/** Without the version the API server calls itself v0.0.0-master, and Helm refuses charts that ask for a newer one. */
function kubernetesFlags(): string {
  const [major, minor] = VERSIONS.kubernetes.split(".");
  const variable = "-X k8s.io/component-base/version.git";
  return `${variable}Version=v${VERSIONS.kubernetes} ${variable}Major=${major} ${variable}Minor=${minor}`;
}

async function buildFromOwnModule(
  program: BuiltProgram,
  module: string,
  path: string,
  version: string,
  flags: string,
): Promise<void> {
  const folder = join(cacheFolder(), "src", `${program}-${version}`);
  mkdirSync(folder, { recursive: true });
  // `go install MODULE@VERSION` takes the program's own requirements as they are; it names its output itself.
  progress(`building ${program} ${version}`);
  await run(
    "go",
    ["install", "-trimpath", "-ldflags", `-s -w ${flags}`, `${join(module, path)}@v${version}`],
    { cwd: folder, env: { GOBIN: folder }, timeoutMs: BUILD_TIMEOUT_MS },
  );
  renameSync(join(folder, program), programPath(program));
  rmSync(folder, { recursive: true, force: true });
}

async function build(
  program: BuiltProgram,
  folder: string,
  mainPackage: string,
  flags: string,
): Promise<void> {
  progress(`building ${program}`);
  const partial = `${programPath(program)}.${process.pid}`;
  const ldflags = `-s -w ${flags}`;
  await run("go", ["build", "-trimpath", "-ldflags", ldflags, "-o", partial, mainPackage], {
    cwd: folder,
    timeoutMs: BUILD_TIMEOUT_MS,
  });
  renameSync(partial, programPath(program));
}
