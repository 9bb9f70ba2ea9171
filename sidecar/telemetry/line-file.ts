// A file of lines that never holds up a request: lines gather in a bounded queue and are written in batches. When the
// queue is full, the oldest lines that may be lost go first, and are counted.
import { closeSync, openSync, write } from "node:fs";
import type { Logger } from "../core/runtime/log.ts";

export interface LineFileOptions {
  /** `-` is standard output. Created with mode 0600. */
  readonly path: string;
  /** Characters held in memory at most. */
  readonly maxHeldChars: number;
  readonly log: Logger;
  /** Writes at the latest after this long. */
  readonly delayMs: number;
}

/** Lines per write at most; one write is at most about 1 MB with the records of this process. */
const BATCH_LINES = 512;

export class LineFile {
  readonly #options: LineFileOptions;
  readonly #fd: number;
  #lines: string[] = [];
  /** Indexes into #lines of the lines that must not be lost are marked true. */
  #keep: boolean[] = [];
  #heldChars = 0;
  #writing = false;
  #timer: NodeJS.Timeout | undefined;
  #waiting: (() => void)[] = [];
  #closed = false;
  /** Lines written, dropped and failed so far. */
  written = 0;
  dropped = 0;

  /** @throws the system's error when the file cannot be opened. */
  constructor(options: LineFileOptions) {
    this.#options = options;
    this.#fd = options.path === "-" ? 1 : openSync(options.path, "a", 0o600);
  }

  get queued(): number {
    return this.#lines.length;
  }

  /** Whether another line would find room without one being lost. */
  get hasRoom(): boolean {
    return this.#heldChars < this.#options.maxHeldChars;
  }

  /**
   * Takes one line (without line end).
   *
   * @param keep true: lost only when nothing else is left to lose.
   */
  append(line: string, keep: boolean): void {
    if (this.#closed) return;
    this.#lines.push(line);
    this.#keep.push(keep);
    this.#heldChars += line.length;
    if (this.#heldChars > this.#options.maxHeldChars) this.#shed();
    if (this.#lines.length >= BATCH_LINES) this.#write();
    else this.#timer ??= setTimeout(this.#onTimer, this.#options.delayMs).unref();
  }

  /** Resolves when everything taken so far was handed to the system. */
  flush(): Promise<void> {
    if (this.#lines.length === 0 && !this.#writing) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#write();
    });
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    await this.flush();
    this.#closed = true;
    clearTimeout(this.#timer);
    if (this.#fd !== 1) closeSync(this.#fd);
  }

  readonly #onTimer = (): void => {
    this.#timer = undefined;
    this.#write();
  };

  #shed(): void {
    // Down to three quarters, so that a full queue does not pay for this with every line.
    const goal = this.#options.maxHeldChars * 0.75;
    for (const keepers of [false, true]) {
      const lines: string[] = [];
      const keep: boolean[] = [];
      for (const [index, line] of this.#lines.entries()) {
        const kept = this.#keep[index] ?? true;
        if (this.#heldChars > goal && kept === keepers) {
          this.#heldChars -= line.length;
          this.dropped++;
        } else {
          lines.push(line);
          keep.push(kept);
        }
      }
      this.#lines = lines;
      this.#keep = keep;
      if (this.#heldChars <= goal) return;
    }
  }

  #write(): void {
    if (this.#writing || this.#lines.length === 0) return;
    const batch = this.#lines;
    this.#lines = [];
    this.#keep = [];
    this.#heldChars = 0;
    this.#writing = true;
    const bytes = Buffer.from(`${batch.join("\n")}\n`);
    this.#writeAll(bytes, 0, batch.length);
  }

  #writeAll(bytes: Buffer, offset: number, lines: number): void {
    write(this.#fd, bytes, offset, bytes.length - offset, null, (error, count) => {
      if (error) {
        this.dropped += lines;
        this.#options.log.error("lines could not be written", { path: this.#options.path, lines, error });
      } else if (offset + count < bytes.length) {
        this.#writeAll(bytes, offset + count, lines);
        return;
      } else {
        this.written += lines;
      }
      this.#writing = false;
      if (this.#lines.length >= BATCH_LINES || this.#waiting.length > 0) this.#write();
      if (!this.#writing) {
        const waiting = this.#waiting;
        this.#waiting = [];
        for (const resolve of waiting) resolve();
      }
    });
  }
}
