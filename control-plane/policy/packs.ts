// Loads the operation packs that ship with the product and checks those of OperationCatalog objects. Sidecars never read
// these files: packs reach them as resources.
import { readdirSync, readFileSync } from "node:fs";
import { type Pack, parsePack } from "../../sidecar/core/policy/catalog.ts";
import { MeshError, type Result } from "../../sidecar/core/runtime/errors.ts";

const PACKS_DIR = new URL("./packs/", import.meta.url);
const SUFFIX = ".catalog";

/**
 * The text of every built-in pack by name, sorted by name.
 *
 * @throws MeshError `io_failed` when the installation lacks its pack files.
 */
export function loadBuiltInPacks(): ReadonlyMap<string, string> {
  try {
    const names = readdirSync(PACKS_DIR).flatMap((file) =>
      file.endsWith(SUFFIX) ? [file.slice(0, -SUFFIX.length)] : [],
    );
    return new Map(
      names.sort().map((name) => [name, readFileSync(new URL(name + SUFFIX, PACKS_DIR), "utf8")]),
    );
  } catch (cause) {
    throw new MeshError("io_failed", "the built-in operation packs cannot be read; reinstall the package", {
      cause,
    });
  }
}

/** Parses the packs of an OperationCatalog object. A pack may not take the name of a built-in one. */
export function packsOfCustomCatalog(
  catalog: { readonly packs: readonly { readonly name: string; readonly text: string }[] },
  builtIn: ReadonlyMap<string, string>,
): Result<readonly Pack[], string> {
  const packs: Pack[] = [];
  for (const { name, text } of catalog.packs) {
    if (builtIn.has(name)) return { ok: false, error: `pack \`${name}\` is built in; choose another name` };
    if (packs.some((each) => each.name === name))
      return { ok: false, error: `pack \`${name}\` is defined twice; rename one` };
    const parsed = parsePack(name, text);
    if (!parsed.ok) return parsed;
    packs.push(parsed.value);
  }
  return { ok: true, value: packs };
}
