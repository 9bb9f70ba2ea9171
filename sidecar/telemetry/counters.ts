// Counters and histograms of the hot path: numbers in typed arrays, at an index that the caller keeps. Label values are
// looked at when a series is made and when it is scraped, never when it is counted.

/** Values of a family's labels, in the order of its label names. */
export type LabelValues = readonly string[];

export interface Family {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
}

/** `name="value",…` with what the Prometheus text format demands escaped; empty without labels. */
export function labelText(names: readonly string[], values: LabelValues): string {
  return names.map((name, index) => `${name}="${escapeLabel(values[index] ?? "")}"`).join(",");
}

function escapeLabel(text: string): string {
  return /["\\\n]/.test(text) ? text.replace(/\\/g, "\\\\").replace(/\n/g, "\\n").replace(/"/g, '\\"') : text;
}

/** Series beyond this many share one series whose label values are all `other`. */
const MAX_SERIES = 10_000;

abstract class SeriesFamily implements Family {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  readonly #indexes = new Map<string, number>();
  readonly #values: LabelValues[] = [];
  readonly #texts: string[] = [];

  constructor(name: string, help: string, labels: readonly string[]) {
    this.name = name;
    this.help = help;
    this.labels = labels;
  }

  /** Index of the series with these label values; made when it is new. */
  series(...values: string[]): number {
    const key = values.join("\n");
    const known = this.#indexes.get(key);
    if (known !== undefined) return known;
    if (this.#values.length >= MAX_SERIES && values.some((value) => value !== "other")) {
      return this.series(...this.labels.map(() => "other"));
    }
    const index = this.#values.length;
    this.#values.push(values);
    this.#indexes.set(key, index);
    this.grow(index + 1);
    return index;
  }

  get size(): number {
    return this.#values.length;
  }

  labelsOf(index: number): LabelValues {
    return this.#values[index] ?? [];
  }

  /** The labels of a series as the exposition writes them; made at its first scrape. */
  labelText(index: number): string {
    this.#texts[index] ??= labelText(this.labels, this.labelsOf(index));
    return this.#texts[index];
  }

  protected abstract grow(series: number): void;
}

/** A monotonic counter per series. */
export class Counters extends SeriesFamily {
  #counts = new Float64Array(64);

  add(index: number, amount = 1): void {
    this.#counts[index] = (this.#counts[index] ?? 0) + amount;
  }

  read(index: number): number {
    return this.#counts[index] ?? 0;
  }

  /** Sum over all series; for tests and summaries. */
  total(): number {
    return this.#counts.reduce((sum, count) => sum + count, 0);
  }

  protected override grow(series: number): void {
    if (series <= this.#counts.length) return;
    const larger = new Float64Array(this.#counts.length * 2);
    larger.set(this.#counts);
    this.#counts = larger;
  }
}

/** A classic histogram per series: counts per bucket (not cumulative in memory), sum, and count. */
export class Histograms extends SeriesFamily {
  readonly bounds: readonly number[];
  readonly #stride: number;
  #cells = new Float64Array(256);

  /** @param bounds upper bounds, ascending, without +Inf. */
  constructor(name: string, help: string, labels: readonly string[], bounds: readonly number[]) {
    super(name, help, labels);
    this.bounds = bounds;
    this.#stride = bounds.length + 2;
  }

  observe(index: number, value: number): void {
    const cells = this.#cells;
    const start = index * this.#stride;
    const bounds = this.bounds;
    let bucket = 0;
    while (bucket < bounds.length && value > (bounds[bucket] ?? 0)) bucket++;
    cells[start + bucket] = (cells[start + bucket] ?? 0) + 1;
    cells[start + this.#stride - 1] = (cells[start + this.#stride - 1] ?? 0) + value;
  }

  /** Cumulative counts per bound, then the count of all; and the sum. */
  read(index: number): { readonly cumulative: readonly number[]; readonly sum: number } {
    const start = index * this.#stride;
    const cumulative: number[] = [];
    let seen = 0;
    for (let bucket = 0; bucket <= this.bounds.length; bucket++) {
      seen += this.#cells[start + bucket] ?? 0;
      cumulative.push(seen);
    }
    return { cumulative, sum: this.#cells[start + this.#stride - 1] ?? 0 };
  }

  protected override grow(series: number): void {
    const needed = series * this.#stride;
    if (needed <= this.#cells.length) return;
    const larger = new Float64Array(Math.max(needed, this.#cells.length * 2));
    larger.set(this.#cells);
    this.#cells = larger;
  }
}

/** A value read when scraped. */
export interface Gauge extends Family {
  readonly read: () => Iterable<readonly [LabelValues, number]>;
}
