// A file of lines that never holds up a request: lines are encoded at once into large buffers (as strings they would
// survive garbage collections: 10 ms pauses and 100 MB at 8 000 lines/s) and written in the background. When the bound
// is reached, the oldest lines that may be lost go first, and are counted.
import { closeSync, fdatasync, openSync, write } from "node:fs";
import type { Logger } from "../core/runtime/log.ts";

export interface LineFileOptions {
  /** `-` is standard output. Created with mode 0600. */
  readonly path: string;
  /** Bytes held in memory at most, beside the one buffer that is being written. */
  readonly maxHeldBytes: number;
  readonly log: Logger;
  /** Writes at the latest after this long. */
  readonly delayMs: number;
}

const CHUNK_BYTES = 131_072;
const NEWLINE = 10;
/** UTF-8 needs at most three bytes for one UTF-16 unit. */
const BYTES_PER_UNIT = 3;

/** Some whole lines. */
class Chunk {
  bytes: Buffer;
  length = 0;
  /** End of each line; negative: the line must not be lost. */
  ends: number[] = [];
  /** Who waits for these lines to be on the disk. */
  commits: ((ok: boolean) => void)[] = [];

  constructor(size: number) {
    this.bytes = Buffer.allocUnsafeSlow(size);
  }

  add(line: string, keep: boolean): void {
    this.length += this.bytes.write(line, this.length, "utf8");
    this.bytes[this.length++] = NEWLINE;
    this.ends.push(keep ? -this.length : this.length);
  }

  /** Removes lines from the front until `excess` bytes are gone; returns how many lines went. */
  drop(excess: number, alsoKept: boolean): { readonly lines: number; readonly bytes: number } {
    let lines = 0;
    let freed = 0;
    let start = 0;
    let to = 0;
    const ends: number[] = [];
    for (const end of this.ends) {
      const keep = end < 0;
      const stop = Math.abs(end);
      if (freed < excess && (alsoKept || !keep)) {
        lines++;
        freed += stop - start;
      } else {
        this.bytes.copyWithin(to, start, stop);
        to += stop - start;
        ends.push(keep ? -to : to);
      }
      start = stop;
    }
    this.length = to;
    this.ends = ends;
    return { lines, bytes: freed };
  }
}

export class LineFile {
  readonly #options: LineFileOptions;
  readonly #fd: number;
  #full: Chunk[] = [];
  #current: Chunk | undefined;
  #spare: Chunk | undefined;
  #heldBytes = 0;
  #writing = false;
  #timer: NodeJS.Timeout | undefined;
  #commit: NodeJS.Immediate | undefined;
  #waiting: (() => void)[] = [];
  #closed = false;
  #failing = false;
  /** A write ended in the middle of a line: the next one must not continue it. */
  #torn = false;
  /** Lines written so far, lost because too many waited, and lost because the system refused them. */
  written = 0;
  dropped = 0;
  failed = 0;

  /** @throws the system's error when the file cannot be opened. */
  constructor(options: LineFileOptions) {
    this.#options = options;
    this.#fd = options.path === "-" ? 1 : openSync(options.path, "a", 0o600);
  }

  /** Lines that wait. */
  get queued(): number {
    return this.#full.reduce((sum, chunk) => sum + chunk.ends.length, this.#current?.ends.length ?? 0);
  }

  /** Whether another line would find room without one being lost. */
  get hasRoom(): boolean {
    return this.#heldBytes < this.#options.maxHeldBytes;
  }

  /**
   * Takes one line (without line end).
   *
   * @param keep true: lost only when nothing else is left to lose.
   */
  append(line: string, keep: boolean): void {
    if (this.#closed) return;
    const need = line.length * BYTES_PER_UNIT + 1;
    let chunk = this.#current;
    if (chunk === undefined || chunk.bytes.length - chunk.length < need) {
      if (chunk !== undefined) {
        this.#full.push(chunk);
        this.#write();
      }
      chunk = need > CHUNK_BYTES ? new Chunk(need) : (this.#spare ?? new Chunk(CHUNK_BYTES));
      if (chunk === this.#spare) this.#spare = undefined;
      this.#current = chunk;
    }
    const before = chunk.length;
    chunk.add(line, keep);
    this.#heldBytes += chunk.length - before;
    if (this.#heldBytes > this.#options.maxHeldBytes) this.#shed();
    this.#timer ??= setTimeout(this.#onTimer, this.#options.delayMs).unref();
  }

  /**
   * Takes one line that must be on the disk before something else happens. Lines that come while one is written share
   * the next write and its `fdatasync`.
   *
   * @param done called once, never from within: whether the line is on the disk (or, for standard output, was written).
   */
  commit(line: string, done: (ok: boolean) => void): void {
    if (this.#closed || !this.hasRoom) {
      setImmediate(done, false);
      return;
    }
    this.append(line, true);
    const chunk = this.#current;
    if (chunk === undefined) {
      setImmediate(done, false);
      return;
    }
    chunk.commits.push(done);
    this.#commit ??= setImmediate(this.#onCommit);
  }

  /** Resolves when everything taken so far was handed to the system. */
  flush(): Promise<void> {
    if (this.#heldBytes === 0 && !this.#writing) return Promise.resolve();
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

  readonly #onCommit = (): void => {
    this.#commit = undefined;
    this.#write();
  };

  #shed(): void {
    // Down to three quarters, so that a full queue does not pay for this with every line.
    let excess = this.#heldBytes - this.#options.maxHeldBytes * 0.75;
    const chunks = this.#current === undefined ? this.#full : [...this.#full, this.#current];
    for (const alsoKept of [false, true]) {
      for (const chunk of chunks) {
        if (excess <= 0) return;
        // Somebody acts on these lines being there.
        if (alsoKept && chunk.commits.length > 0) continue;
        const { lines, bytes } = chunk.drop(excess, alsoKept);
        this.dropped += lines;
        this.#heldBytes -= bytes;
        excess -= bytes;
      }
    }
  }

  #write(): void {
    if (this.#writing) return;
    let chunk = this.#full.shift();
    if (chunk === undefined) {
      chunk = this.#current;
      this.#current = undefined;
    }
    if (chunk === undefined || chunk.length === 0) {
      this.#current ??= chunk;
      return;
    }
    this.#heldBytes -= chunk.length;
    this.#writing = true;
    if (!this.#torn) {
      this.#writeAll(chunk, 0);
      return;
    }
    write(this.#fd, "\n", null, "utf8", (error, count) => {
      this.#torn = error !== null || count === 0;
      if (error) this.#onError(chunk, 0, error);
      else this.#writeAll(chunk, 0);
    });
  }

  #writeAll(chunk: Chunk, offset: number): void {
    write(this.#fd, chunk.bytes, offset, chunk.length - offset, null, (error, count) => {
      if (error) this.#onError(chunk, offset, error);
      else if (offset + count < chunk.length) this.#writeAll(chunk, offset + count);
      else if (chunk.commits.length > 0) this.#sync(chunk);
      else this.#onWritten(chunk);
    });
  }

  /** Standard output is a pipe or a terminal: there is nothing to sync, what is written is all that can be asked. */
  #sync(chunk: Chunk): void {
    if (this.#fd === 1) this.#onWritten(chunk);
    else
      fdatasync(this.#fd, (error) => {
        if (error) this.#onError(chunk, chunk.length, error);
        else this.#onWritten(chunk);
      });
  }

  #onError(chunk: Chunk, offset: number, error: Error): void {
    this.failed += chunk.ends.length;
    this.#torn ||= offset > 0 && chunk.bytes[offset - 1] !== NEWLINE;
    // Once per outage: a full disk would otherwise fill the log too.
    if (!this.#failing)
      this.#options.log.error("lines cannot be written and are lost", { path: this.#options.path, error });
    this.#failing = true;
    this.#done(chunk, false);
  }

  #onWritten(chunk: Chunk): void {
    this.written += chunk.ends.length;
    if (this.#failing)
      this.#options.log.info("lines are written again", { path: this.#options.path, lost: this.failed });
    this.#failing = false;
    this.#done(chunk, true);
  }

  #done(chunk: Chunk, ok: boolean): void {
    const { commits } = chunk;
    this.#writing = false;
    if (chunk.bytes.length === CHUNK_BYTES) {
      chunk.length = 0;
      chunk.ends = [];
      chunk.commits = [];
      this.#spare = chunk;
    }
    for (const commit of commits) commit(ok);
    const more = (this.#current?.commits.length ?? 0) > 0;
    if (this.#full.length > 0 || this.#waiting.length > 0 || more) this.#write();
    if (this.#writing) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}
