// What a package needs, by package-lock.json (lockfileVersion 3). PURE.

export interface LockFile {
  /** By path from the repository, such as `node_modules/koa`. */
  readonly packages: Readonly<
    Record<string, { readonly dependencies?: Readonly<Record<string, string>> } | undefined>
  >;
}

/**
 * Paths of a package and of everything that it needs, its own nested packages left to it.
 *
 * @throws Error for a package that the lock file does not have.
 */
export function packagesOf(lock: LockFile, name: string): readonly string[] {
  const found = new Set<string>();
  const add = (wanted: string, from: string): void => {
    const path = pathOf(lock, wanted, from);
    if (path === undefined) throw new Error(`package-lock.json has no \`${wanted}\``);
    if (found.has(path)) return;
    found.add(path);
    for (const dependency of Object.keys(lock.packages[path]?.dependencies ?? {})) add(dependency, path);
  };
  add(name, "");
  return [...found].filter((path) => ![...found].some((other) => path.startsWith(`${other}/`)));
}

/** Where Node finds it: beside the one that asks, or in a folder above. */
function pathOf(lock: LockFile, wanted: string, from: string): string | undefined {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf("node_modules/") - 1))) {
    const path = `${folder === "" ? "" : `${folder}/`}node_modules/${wanted}`;
    if (lock.packages[path] !== undefined) return path;
    if (folder === "") return undefined;
  }
}
