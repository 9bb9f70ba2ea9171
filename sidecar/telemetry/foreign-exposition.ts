// PURE. The metrics text of somebody else (Prometheus text format 0.0.4) on its way into a page of ours: a line that is not
// of the format would spoil the whole page, and a series in our name would be forged.

const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*";
const LABEL = '[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\]|\\\\["\\\\n])*"';
const VALUE = "(?:[+-]?(?:[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?Inf|NaN)";
const COMMENT = new RegExp(`^# (HELP|TYPE) (${NAME})(?: .*)?$`);
/** No two parts can take the same character, so it runs in linear time. What follows ` # ` is an exemplar of OpenMetrics. */
const SAMPLE = new RegExp(
  `^((${NAME})(?:\\{(?:${LABEL}(?:,${LABEL})*,?)?\\})? +${VALUE}(?: +-?[0-9]+)?)(?: # .*)?$`,
);
const OURS = "countersign_";
const MAX_LINE = 16_384;

/** Takes text as it arrives, and keeps the lines that may stand in our page. */
export class ForeignExposition {
  #rest = "";
  #kept = "";
  #dropped = 0;
  readonly #described = new Set<string>();

  /** Lines that were left out: in our name, or not of the format. */
  get dropped(): number {
    return this.#dropped;
  }

  push(text: string): void {
    const lines = (this.#rest + text).split("\n");
    // A line that never ends is not kept whole; what is left of it is too long all the same.
    this.#rest = (lines.pop() ?? "").slice(0, MAX_LINE + 1);
    let kept = "";
    for (const line of lines) kept += this.#take(line);
    this.#kept += kept;
  }

  /** All that was kept, each line with its end. */
  end(): string {
    const last = this.#rest;
    this.#rest = "";
    return this.#kept + this.#take(last);
  }

  #take(raw: string): string {
    const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
    if (line === "") return "";
    if (line.length <= MAX_LINE) {
      if (line.startsWith("#")) return this.#comment(line);
      const sample = SAMPLE.exec(line);
      if (sample !== null && !sample[2]?.startsWith(OURS)) return `${sample[1]}\n`;
    }
    this.#dropped++;
    return "";
  }

  /** `# EOF`, `# UNIT` and remarks say nothing here, and a second HELP or TYPE of a family would be an error. */
  #comment(line: string): string {
    const [, kind, name] = COMMENT.exec(line) ?? [];
    if (name === undefined || name.startsWith(OURS) || this.#described.has(`${kind} ${name}`)) return "";
    this.#described.add(`${kind} ${name}`);
    return `${line}\n`;
  }
}
