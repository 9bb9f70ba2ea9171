// Builds the root filesystem of an image from programs of this machine: each with the shared libraries it loads.
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  realpathSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { ClusterError, findProgram, tryRun } from "./commands.ts";

/** Copies a file or folder of this machine to a path in the root filesystem, links followed. */
export function addFile(root: string, from: string, to: string): void {
  const target = join(root, to);
  mkdirSync(dirname(target), { recursive: true });
  if (statSync(from).isDirectory()) cpSync(from, target, { recursive: true, verbatimSymlinks: true });
  else copyFileSync(realpathSync(from), target);
}

/** Writes a small file of our own. */
export function addText(root: string, to: string, text: string, mode = 0o644): void {
  const target = join(root, to);
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, text);
  chmodSync(target, mode);
}

export function addLink(root: string, link: string, target: string): void {
  mkdirSync(dirname(join(root, link)), { recursive: true });
  symlinkSync(target, join(root, link));
}

/** Copies a program (a name on the PATH or a path) to `to`, and the shared libraries it loads to where it looks for them. */
export async function addProgram(root: string, program: string, to: string): Promise<void> {
  const path = program.startsWith("/") ? program : findProgram(program);
  if (path === undefined || !existsSync(path))
    throw new ClusterError(`\`${program}\` is not installed; run \`npm run cluster -- install\``);
  addFile(root, path, to);
  chmodSync(join(root, to), 0o755);
  await addLibrariesOf(root, realpathSync(path));
}

/** Copies the shared libraries of a program or plugin, at the paths its loader uses. */
export async function addLibrariesOf(root: string, path: string): Promise<void> {
  const listed = await tryRun("ldd", [path]); // ends with 1 for a program that needs none
  for (const match of listed.stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)) {
    const library = match[1]!;
    if (!existsSync(join(root, library))) addFile(root, library, library);
  }
}

/** Users and name service, and folders that programs expect. */
export function addBase(root: string, user: { name: string; id: number }): void {
  addText(
    root,
    "/etc/passwd",
    `root:x:0:0:root:/root:/sbin/nologin\n${user.name}:x:${user.id}:${user.id}:${user.name}:/nonexistent:/sbin/nologin\n`,
  );
  addText(root, "/etc/group", `root:x:0:\n${user.name}:x:${user.id}:\n`);
  addText(root, "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
  for (const folder of ["tmp", "run", "var", "proc", "sys", "dev", "etc"])
    mkdirSync(join(root, folder), { recursive: true });
  chmodSync(join(root, "tmp"), 0o1777);
  addLink(root, "/var/run", "/run");
}
