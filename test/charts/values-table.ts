// The table of a chart's settings in its README, from the comments above the keys of values.yaml.
import { parse } from "yaml";

export interface ValueRow {
  /** Dotted, as `--set` takes it. */
  readonly path: string;
  readonly description: string;
  readonly value: unknown;
}

const LINE = /^( *)(?:# ?(?<comment>.*)|(?<key>[^\s:#-][^:]*):(?: .*)?)$/;
const BEGIN = "<!-- values: written by `node test/charts/main.ts` from values.yaml -->";
const END = "<!-- end of values -->";

/** A row per key that has a comment right above it; keys without one belong to the row they stand under. */
export function valueRows(yaml: string): readonly ValueRow[] {
  const values: unknown = parse(yaml);
  const rows: ValueRow[] = [];
  const path: string[] = [];
  let comment: string[] = [];
  for (const line of yaml.split("\n")) {
    const match = LINE.exec(line);
    if (match?.groups?.["comment"] !== undefined) {
      comment.push(match.groups["comment"]);
      continue;
    }
    const key = match?.groups?.["key"];
    if (key !== undefined) {
      path.splice((match?.[1] ?? "").length / 2, path.length, key);
      if (comment.length > 0)
        rows.push({ path: path.join("."), description: comment.join(" "), value: valueAt(values, path) });
    }
    comment = [];
  }
  return rows;
}

function valueAt(values: unknown, path: readonly string[]): unknown {
  let value = values;
  for (const key of path)
    value = typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
  return value;
}

/** Paths of all values that are no map, or an empty one. */
export function leafPaths(values: unknown, prefix = ""): readonly string[] {
  const isMap = typeof values === "object" && values !== null && !Array.isArray(values);
  const entries = isMap ? Object.entries(values) : [];
  if (entries.length === 0) return [prefix];
  return entries.flatMap(([key, value]) => leafPaths(value, prefix === "" ? key : `${prefix}.${key}`));
}

/** The README with its table made anew. */
export function withValuesTable(readme: string, yaml: string): string {
  const begin = readme.indexOf(BEGIN);
  const end = readme.indexOf(END);
  if (begin < 0 || end < begin) throw new Error(`the README has no lines \`${BEGIN}\` and \`${END}\``);
  const escaped = (text: string) => text.replaceAll("|", "\\|");
  const rows = valueRows(yaml).map(
    ({ path, description, value }) =>
      `| \`${path}\` | ${escaped(description)} | \`${escaped(JSON.stringify(value))}\` |`,
  );
  const table = ["| Value | Meaning | Default |", "| --- | --- | --- |", ...rows].join("\n");
  return `${readme.slice(0, begin)}${BEGIN}\n\n${table}\n\n${readme.slice(end)}`;
}
