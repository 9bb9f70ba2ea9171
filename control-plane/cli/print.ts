// What every verb prints: tables for people, JSON for programs, one line for an error.

/** Exit statuses, the same for every verb. */
export const EXIT = {
  ok: 0,
  /** The answer is no: problems were found, vectors differ, a call is denied, the control plane refuses. */
  no: 1,
  /** The command line is wrong. */
  usage: 2,
  /** A file, directory, control plane or sidecar cannot be read or reached. */
  unreachable: 3,
} as const;
export type ExitStatus = (typeof EXIT)[keyof typeof EXIT];

/** Where a verb writes; standard output and standard error unless a test says otherwise. */
export interface Output {
  out(text: string): void;
  err(text: string): void;
}

export const terminal: Output = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
};

/**
 * Prints rows that all have the same keys (the headings); columns are as wide as their widest cell, and columns that
 * are empty in every row are left out.
 */
export function printTable(output: Output, rows: readonly Readonly<Record<string, string>>[]): void {
  const [first] = rows;
  if (!first) return;
  const columns = Object.keys(first).filter((key) => rows.some((row) => (row[key] ?? "") !== ""));
  const widths = columns.map((key) =>
    rows.reduce((width, row) => Math.max(width, (row[key] ?? "").length), key.length),
  );
  const line = (cells: readonly string[]) =>
    `${cells
      .map((cell, index) => cell.padEnd(widths[index] ?? 0))
      .join("  ")
      .trimEnd()}\n`;
  output.out(line(columns));
  output.out(line(widths.map((width) => "-".repeat(width))));
  for (const row of rows) output.out(line(columns.map((key) => row[key] ?? "")));
}

/** Prints one line of JSON; maps become objects. */
export function printJson(output: Output, value: unknown): void {
  output.out(
    `${JSON.stringify(value, (_, one: unknown) => (one instanceof Map ? Object.fromEntries(one) : one))}\n`,
  );
}

/** `2026-11-21 00:45:30Z` of Unix milliseconds: the same for every reader, wherever the control plane runs. */
export function timeText(unixMs: number): string {
  const time = new Date(unixMs);
  return Number.isNaN(time.getTime()) ? "?" : `${time.toISOString().slice(0, 19).replace("T", " ")}Z`;
}

/** `1 error`, `2 errors`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Text from another process on one line, without control characters that a terminal would act on. */
export function plain(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ");
}
