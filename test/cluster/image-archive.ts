// Packs folders as layers of a container image and loads it into the node's containerd. No registry, no Docker.
import { createHash } from "node:crypto";
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { arch } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { ClusterError, run } from "./commands.ts";
import { containerdSocket, inHome } from "./layout.ts";

export interface ImageConfig {
  readonly entrypoint: readonly string[];
  /** `uid:gid`; root when left out. */
  readonly user?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly workingDir?: string;
}

export interface Layer {
  /** Path of an uncompressed tar. */
  readonly tar: string;
  /** `sha256:…` of the tar. */
  readonly diffId: string;
}

/**
 * Packs everything below `folder` as one layer, owned by root, in sorted order and with fixed times, so that equal
 * content has an equal digest. The tar is kept in the cluster's home for as long as the cluster is up.
 */
export async function packLayer(name: string, folder: string): Promise<Layer> {
  mkdirSync(inHome("layers"), { recursive: true });
  const tar = inHome("layers", `${name}.tar`);
  const partial = `${tar}.${process.pid}`;
  await run(
    "tar",
    [
      ...["--create", "--file", partial, "--directory", folder, "--sort=name", "--mtime=@0", "--format=gnu"],
      ...["--owner=0", "--group=0", "--numeric-owner", "--mode=a+rX,u+w", "."],
    ],
    { timeoutMs: 300_000 },
  );
  renameSync(partial, tar);
  const hash = createHash("sha256");
  await pipeline(createReadStream(tar), hash);
  return { tar, diffId: `sha256:${hash.digest("hex")}` };
}

/** Config digests of the images that were loaded, by name: one that is there already is not loaded again. */
const loadedFile = () => inHome("images.json");

function readLoaded(): Record<string, string> {
  return existsSync(loadedFile())
    ? (JSON.parse(readFileSync(loadedFile(), "utf8")) as Record<string, string>) // written below
    : {};
}

/**
 * Loads an image made of layers under a name such as `countersign.test/app:dev`, and under its digest
 * (`countersign.test/app@sha256:…`). An older one of that name is replaced; pods keep what they were started with.
 */
export async function loadImage(name: string, layers: readonly Layer[], config: ImageConfig): Promise<void> {
  const folder = mkdtempSync(inHome("image-"));
  try {
    const configText = JSON.stringify({
      architecture: { x64: "amd64", arm64: "arm64" }[arch() as string] ?? arch(),
      os: "linux",
      config: {
        Entrypoint: config.entrypoint,
        User: config.user ?? "0:0",
        WorkingDir: config.workingDir ?? "/",
        Env: Object.entries({
          PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
          ...config.env,
        }).map(([key, value]) => `${key}=${value}`),
      },
      rootfs: { type: "layers", diff_ids: layers.map((layer) => layer.diffId) },
    });
    const configDigest = createHash("sha256").update(configText).digest("hex");
    if (readLoaded()[name] === configDigest) return;
    const configName = `${configDigest}.json`;
    const layerNames = layers.map((layer) => `${layer.diffId.slice("sha256:".length)}.tar`);
    writeFileSync(join(folder, configName), configText);
    writeFileSync(
      join(folder, "manifest.json"),
      JSON.stringify([{ Config: configName, RepoTags: [name], Layers: layerNames }]),
    );
    for (const [at, layer] of layers.entries()) symlinkSync(layer.tar, join(folder, layerNames[at]!));
    const archive = join(folder, "image.tar");
    await run(
      "tar",
      [
        "--create",
        "--dereference",
        "--file",
        archive,
        "--directory",
        folder,
        "manifest.json",
        configName,
      ].concat(layerNames),
      { timeoutMs: 300_000 },
    );
    await run(
      "ctr",
      [
        ...["--address", containerdSocket(), "--namespace", "k8s.io", "images", "import", "--digests"],
        ...["--base-name", name.slice(0, name.lastIndexOf(":")), archive],
      ],
      { timeoutMs: 300_000 },
    );
    writeFileSync(loadedFile(), JSON.stringify({ ...readLoaded(), [name]: configDigest }));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The digest a loaded image can be named by, `sha256:…`. */
export async function imageDigest(name: string): Promise<string> {
  const ctr = ["--address", containerdSocket(), "--namespace", "k8s.io"];
  const listed = await run("ctr", [...ctr, "images", "list", `name==${name}`]);
  const digest = /sha256:[0-9a-f]{64}/.exec(listed)?.[0];
  if (digest === undefined)
    throw new ClusterError(`no image \`${name}\` on the node; run \`npm run cluster -- images\``);
  return digest;
}
