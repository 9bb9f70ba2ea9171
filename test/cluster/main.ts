// `npm run cluster -- VERB`: a real single-node Kubernetes for tests, as plain processes. See README.md.
import { existsSync } from "node:fs";
import { ClusterError, progress, tryRun } from "./commands.ts";
import { parts } from "./configuration.ts";
import { down } from "./down.ts";
import { loadImage, packLayer } from "./image-archive.ts";
import { loadImages } from "./images.ts";
import { install, missingPieces } from "./install.ts";
import { adminKubeconfig, programPath, stateFile } from "./layout.ts";
import { withLock } from "./lock.ts";
import { isRunning, isUp, restartPart, stopPart } from "./processes.ts";
import { up } from "./up.ts";

const USAGE = `usage: npm run cluster -- VERB
  install                           Debian packages, and Kubernetes and Helm built once from Go modules
  up                                start it; prints the path of the kubeconfig when the node is Ready
  images                            pack control plane, sidecar and application from dist/ and load them
  image NAME FOLDER [ENTRYPOINT...] pack a root filesystem as an image on the node
  ensure                            install what is missing, up, images
  kubectl ... | helm ...            run them on the cluster
  stop PART | start PART            end or start one part, such as kube-apiserver (for tests of faults)
  status                            which parts run; ends with 1 unless it is up
  down                              end every process, drop state, bridge and rules
`;

async function status(): Promise<number> {
  const missing = missingPieces();
  if (missing.packages.length + missing.programs.length > 0)
    progress(`not installed: ${[...missing.packages, ...missing.programs].join(", ")}`);
  for (const { name } of parts())
    process.stdout.write(`${name.padEnd(24)} ${isRunning(name) ? "runs" : "-"}\n`);
  return isUp() ? 0 : 1;
}

async function client(program: "kubectl" | "helm", args: readonly string[]): Promise<number> {
  requireUp();
  const result = await tryRun(programPath(program), args, {
    env: { KUBECONFIG: adminKubeconfig() },
    timeoutMs: 600_000,
  });
  process.stdout.write(result.stdout);
  process.stderr.write(result.stderr);
  return result.code;
}

function requireUp(): void {
  if (!existsSync(stateFile())) throw new ClusterError("the cluster is not up; run `npm run cluster -- up`");
}

function requirePart(name: string | undefined): void {
  const names = parts().map((part) => part.name);
  if (name === undefined || !names.includes(name))
    throw new ClusterError(`\`${name ?? ""}\` is not a part; parts are ${names.join(", ")}`);
}

async function image([name, folder, ...entrypoint]: readonly string[]): Promise<number> {
  if (name === undefined || folder === undefined) {
    process.stderr.write(USAGE);
    return 2;
  }
  requireUp();
  const layer = await packLayer(`custom-${name.replaceAll(/[^a-z0-9.-]/g, "-")}`, folder);
  await loadImage(name, [layer], { entrypoint });
  return 0;
}

const [verb = "", ...args] = process.argv.slice(2);
const verbs: Readonly<Record<string, () => Promise<number>>> = {
  install: async () => {
    await withLock("install", install);
    return 0;
  },
  up: async () => {
    process.stdout.write(`${await withLock("state", up)}\n`);
    return 0;
  },
  images: async () => {
    requireUp();
    await withLock("state", loadImages);
    return 0;
  },
  image: () => withLock("state", () => image(args)),
  ensure: async () => {
    await withLock("install", install);
    const kubeconfig = await withLock("state", async () => {
      const path = await up();
      await loadImages();
      return path;
    });
    process.stdout.write(`${kubeconfig}\n`);
    return 0;
  },
  kubectl: () => client("kubectl", args),
  helm: () => client("helm", args),
  stop: async () => {
    requirePart(args[0]);
    await stopPart(args[0] ?? "");
    return 0;
  },
  start: async () => {
    requirePart(args[0]);
    restartPart(args[0] ?? "");
    return 0;
  },
  status,
  down: async () => {
    await withLock("state", down);
    return 0;
  },
};

try {
  const action = verbs[verb];
  if (action === undefined) process.stderr.write(USAGE);
  process.exitCode = action === undefined ? 2 : await action();
} catch (error) {
  if (!(error instanceof ClusterError)) throw error;
  progress(error.message);
  process.exitCode = 1;
}
