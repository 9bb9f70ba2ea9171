// What every bench shares: CPU time and private memory from /proc, medians, and rows that people and programs can read.
import { readFileSync } from "node:fs";

/** One figure beside a peer's, as `--json` prints it. */
export interface BenchRow {
  readonly bench: string;
  readonly row: string;
  readonly ours: number;
  readonly peer: number | null;
  readonly peerName: string | null;
  /** ours / peer. */
  readonly ratio: number | null;
  readonly unit: string;
  readonly target: Target | null;
}

/** What a figure must reach, and what it should. */
export interface Target {
  /** What is held against the bar: the ratio to the peer, or the figure itself. */
  readonly of: "ratio" | "ours";
  readonly want: "at most" | "at least";
  readonly bar: number;
  readonly aim: number;
}

export const atMost = (of: Target["of"], bar: number, aim: number): Target => ({
  of,
  want: "at most",
  bar,
  aim,
});
export const atLeast = (of: Target["of"], bar: number, aim: number): Target => ({
  of,
  want: "at least",
  bar,
  aim,
});

/** Whether a row reaches its bar and its aim; empty where it has none. */
export function verdict({ target, ours, ratio }: BenchRow): string {
  if (target === null) return "";
  const value = target.of === "ours" ? ours : ratio;
  if (value === null) return "not compared";
  const reaches = (limit: number) => (target.want === "at most" ? value <= limit : value >= limit);
  return reaches(target.aim) ? "aim" : reaches(target.bar) ? "bar" : "MISSED";
}

/** Microseconds of CPU (user and system, all threads) that a process has used; the kernel counts in steps of 10 ms. */
export function cpuMicroseconds(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The second field is the program's name in parentheses and may hold spaces; count from behind it.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

/** Bytes of private memory: what would be free if the process ended. */
export function privateBytes(pid: number): number {
  let kib = 0;
  for (const match of readFileSync(`/proc/${pid}/smaps_rollup`, "utf8").matchAll(
    /^Private_\w+:\s+(\d+) kB$/gm,
  ))
    kib += Number(match[1]);
  return kib * 1024;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

export function row(
  bench: string,
  name: string,
  ours: number,
  unit: string,
  peer?: { readonly name: string; readonly value: number },
  target?: Target,
): BenchRow {
  const round = (value: number) => Number(value.toPrecision(4));
  return {
    bench,
    row: name,
    ours: round(ours),
    peer: peer ? round(peer.value) : null,
    peerName: peer?.name ?? null,
    ratio: peer ? round(ours / peer.value) : null,
    unit,
    target: target ?? null,
  };
}
