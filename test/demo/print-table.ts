// Tables for people: columns as wide as their widest cell, empty columns left out.

/** Prints rows that all have the same keys; the keys are the headings. */
export function printTable(rows: readonly Readonly<Record<string, string>>[]): void {
  const [first] = rows;
  if (!first) return;
  const columns = Object.keys(first).filter((key) => rows.some((row) => row[key] !== ""));
  const widths = columns.map((key) => Math.max(key.length, ...rows.map((row) => (row[key] ?? "").length)));
  const line = (cells: readonly string[]) =>
    `${cells
      .map((cell, index) => cell.padEnd(widths[index] ?? 0))
      .join("  ")
      .trimEnd()}\n`;
  process.stdout.write(line(columns));
  process.stdout.write(line(widths.map((width) => "-".repeat(width))));
  for (const row of rows) process.stdout.write(line(columns.map((key) => row[key] ?? "")));
}
