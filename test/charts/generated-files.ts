// What is generated in charts/: copies of the schemas, and the table of settings in the README.
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { withValuesTable } from "./values-table.ts";

const root = join(import.meta.dirname, "../..");
/** Kinds that people write, and the control plane's own records. */
export const SCHEMAS = ["crds", "crds/records"] as const;
const CHARTS = join(root, "charts");

/** Files relative to the repository and what they should hold; undefined: they should not be there. */
export function generatedFiles(): ReadonlyMap<string, string | undefined> {
  const files = new Map<string, string | undefined>();
  const yaml = (folder: string) => readdirSync(join(root, folder)).filter((name) => name.endsWith(".yaml"));
  const copies = "charts/countersign-crds/files";
  for (const name of yaml(copies)) files.set(`${copies}/${name}`, undefined);
  for (const folder of SCHEMAS)
    for (const name of yaml(folder))
      files.set(`${copies}/${name}`, readFileSync(join(root, folder, name), "utf8"));
  for (const chart of ["countersign", "countersign-gateway"]) {
    const readme = readFileSync(join(CHARTS, chart, "README.md"), "utf8");
    const values = readFileSync(join(CHARTS, chart, "values.yaml"), "utf8");
    files.set(`charts/${chart}/README.md`, withValuesTable(readme, values));
  }
  return files;
}

/** Those that are not as they should be. */
export function staleFiles(): readonly string[] {
  return [...generatedFiles()]
    .filter(([path, text]) => {
      const file = join(root, path);
      return text === undefined || !existsSync(file) || readFileSync(file, "utf8") !== text;
    })
    .map(([path]) => path);
}

/** Writes them, and returns which. */
export function writeStaleFiles(): readonly string[] {
  const stale = staleFiles();
  const files = generatedFiles();
  for (const path of stale) {
    const text = files.get(path);
    if (text === undefined) rmSync(join(root, path));
    else writeFileSync(join(root, path), text);
  }
  return stale;
}
