// Packs the images of the test cluster: control plane, sidecar, and an application that knows nothing of a mesh.
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findProgram, progress, run, tryRun } from "./commands.ts";
import { type Layer, loadImage, packLayer } from "./image-archive.ts";
import {
  COMMAND,
  DEPENDENCIES,
  HOME_IN_IMAGE,
  IMAGES,
  PROGRAM,
  PROXY_USER,
  SIDECAR_PACKAGES,
} from "./image-files.ts";
import { cacheFolder, inHome, PAUSE_IMAGE } from "./layout.ts";
import { type LockFile, packagesOf } from "./lock-file.ts";
import { addBase, addFile, addLibrariesOf, addLink, addProgram, addText } from "./root-filesystem.ts";

const repositoryRoot = fileURLToPath(new URL("../../", import.meta.url));

/** The container that holds a pod's namespaces open. */
export async function loadPauseImage(): Promise<void> {
  const layer = await layerOf("pause", async (root) => addProgram(root, "busybox", "/bin/busybox"));
  await loadImage(PAUSE_IMAGE, [layer], { entrypoint: ["/bin/busybox", "sleep", "2147483647"] });
}

/** Packs and loads every image of {@link IMAGES} from dist/ as it is now; the caller builds it. */
export async function loadImages(): Promise<void> {
  const startMs = performance.now();
  const runtime = await layerOf("runtime", addRuntime);
  const dependencies = await dependenciesLayer();
  const program = await layerOf("program", addCountersign);
  const capture = await layerOf("capture", addIptables);
  const app = await layerOf("app", addApp);
  const countersign = { entrypoint: ["countersign"], user: `${PROXY_USER}:${PROXY_USER}` };
  progress("loading images");
  await loadImage(IMAGES.controlPlane, [runtime, dependencies, program], countersign);
  await loadImage(IMAGES.sidecar, [runtime, capture, dependencies, program], countersign);
  await loadImage(IMAGES.app, [runtime, dependencies, app], {
    entrypoint: [],
    user: "1000:1000",
    workingDir: "/app",
    env: { NODE_NO_WARNINGS: "1", HOST: "0.0.0.0" },
  });
  progress(
    `images loaded in ${Math.round(performance.now() - startMs)} ms: ${Object.values(IMAGES).join(", ")}`,
  );
}

/** Fills an empty folder and packs it. */
async function layerOf(name: string, fill: (root: string) => Promise<void>): Promise<Layer> {
  const root = mkdtempSync(inHome(`layer-${name}-`));
  chmodSync(root, 0o755);
  try {
    await fill(root);
    return await packLayer(name, root);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

async function addRuntime(root: string): Promise<void> {
  addBase(root, { name: "countersign", id: PROXY_USER });
  await addProgram(root, process.execPath, "/usr/local/bin/node");
  await addProgram(root, "/usr/bin/env", "/usr/bin/env"); // the first line of `countersign` names it
}

async function addCountersign(root: string): Promise<void> {
  for (const { from, to } of PROGRAM) addFile(root, join(repositoryRoot, from), to);
  rmSync(join(root, COMMAND.target, "../../../.built"), { force: true }); // a stamp of this machine's build
  chmodSync(join(root, COMMAND.target), 0o755);
  addLink(root, COMMAND.link, COMMAND.target);
}

/** iptables of both kinds, with the libraries and the match and target plugins that they load by name. */
async function addIptables(root: string): Promise<void> {
  for (const program of ["xtables-nft-multi", "xtables-legacy-multi"])
    await addProgram(root, program, `/usr/sbin/${program}`);
  for (const name of Object.values(SIDECAR_PACKAGES).flat())
    addLink(
      root,
      `/usr/sbin/${name}`,
      name.includes("legacy") ? "xtables-legacy-multi" : "xtables-nft-multi",
    );
  const plugins = await pluginFolder();
  for (const plugin of readdirSync(plugins)) {
    if (!plugin.endsWith(".so")) continue;
    addFile(root, join(plugins, plugin), join(plugins, plugin));
    // Many plugins are links to few files; their libraries are few as well.
    if (/^libxt_(conntrack|connlabel|bpf|set)\.so$/.test(plugin))
      await addLibrariesOf(root, join(plugins, plugin));
  }
  mkdirSync(join(root, "run"), { recursive: true }); // xtables-legacy takes its lock file there
}

async function pluginFolder(): Promise<string> {
  const listed = await tryRun("dpkg", ["-L", "libxtables12"]);
  const folder = /^(\S*\/xtables)$/m.exec(listed.stdout)?.[1];
  return folder !== undefined && existsSync(folder) ? folder : "/usr/lib/x86_64-linux-gnu/xtables";
}

/** Busybox, the stand-ins of the demo, servers and clients of app/, which use grpc-js and ws, Redis, an OpenID Provider. */
async function addApp(root: string): Promise<void> {
  await addProgram(root, "busybox", "/bin/busybox");
  const applets = (await run(findProgram("busybox") ?? "busybox", ["--list"])).trim().split("\n");
  for (const applet of applets) if (applet !== "busybox") addLink(root, `/bin/${applet}`, "busybox");
  for (const folder of ["test/demo/apps", "test/cluster/app"])
    for (const file of readdirSync(join(repositoryRoot, folder)))
      addFile(root, join(repositoryRoot, folder, file), `/app/${file}`);
  addLink(root, "/app/node_modules", `${HOME_IN_IMAGE}/node_modules`);
  addText(root, "/app/package.json", '{"type":"module"}\n');
  addText(root, "/usr/local/bin/call", '#!/bin/sh\nexec node /app/call.ts "$@"\n', 0o755);
  addText(root, "/usr/local/bin/talk", '#!/bin/sh\nexec node /app/talk.ts "$@"\n', 0o755);
  await addProgram(root, "redis-server", "/usr/bin/redis-server");
  addProvider(root);
}

/** The OpenID Provider of the tests with what it needs of the development dependencies, apart from the application's. */
function addProvider(root: string): void {
  for (const file of ["test/fakes/openid-provider.ts", "test/cluster/provider/provider.ts"])
    addFile(root, join(repositoryRoot, file), `/provider/${file}`);
  addText(root, "/provider/package.json", '{"type":"module"}\n');
  const lock = JSON.parse(readFileSync(join(repositoryRoot, "package-lock.json"), "utf8")) as LockFile;
  for (const path of packagesOf(lock, "oidc-provider"))
    addFile(root, join(repositoryRoot, path), `/provider/${path}`);
}

/** Production dependencies by the lock file: installed once per lock file into the cache, never taken from node_modules/. */
async function dependenciesLayer(): Promise<Layer> {
  const lock = readFileSync(join(repositoryRoot, "package-lock.json"));
  const key = createHash("sha256").update(lock).digest("hex").slice(0, 16);
  const kept = join(cacheFolder(), `dependencies-${key}`);
  if (!existsSync(kept)) {
    progress("installing production dependencies (once per lock file)");
    mkdirSync(cacheFolder(), { recursive: true });
    const staging = mkdtempSync(join(cacheFolder(), "staging-"));
    try {
      for (const file of ["package.json", "package-lock.json"])
        copyFileSync(join(repositoryRoot, file), join(staging, file));
      await run(
        "npm",
        ["install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        { cwd: staging, timeoutMs: 300_000 },
      );
      if (existsSync(kept)) rmSync(kept, { recursive: true, force: true });
      renameSync(staging, kept);
    } finally {
      rmSync(staging, { recursive: true, force: true });
    }
  }
  return layerOf("dependencies", async (root) => {
    for (const { from, to } of DEPENDENCIES) addFile(root, join(kept, from), to);
  });
}
