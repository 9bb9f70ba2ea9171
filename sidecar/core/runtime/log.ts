// Logging of every process: JSON lines on standard error, a constant message plus fields. Values of fields whose name
// says secret, token, key, cookie or authorization are replaced before they reach the writer.
// Written here, because a logging library costs a tenth of a sidecar's start (pino: 27 ms) and 5 MB, for few lines.
import { write as writeFile, writeSync } from "node:fs";

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";
export type LogFields = Readonly<Record<string, unknown>>;

/** A constant lower-case message plus fields; never a token, key, cookie or full header value. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to each line. */
  child(fields: LogFields): Logger;
}

const SECRET = /token|secret|password|authorization|cookie|privatekey|private_key/i;

function redact(fields: LogFields): LogFields {
  let copy: Record<string, unknown> | undefined;
  for (const [name, value] of Object.entries(fields)) {
    if (typeof value === "string" && SECRET.test(name)) {
      copy ??= { ...fields };
      copy[name] = "[redacted]";
    } else if (value instanceof Error) {
      copy ??= { ...fields };
      copy[name] = value.message;
    }
  }
  return copy ?? fields;
}

const SEVERITY: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3, silent: 4 };
/** Lines that wait for a slow reader of standard error; beyond, new ones are dropped and counted. */
const MAX_WAITING_BYTES = 1024 * 1024;
const STDERR = 2;
const RETRY_MS = 20;

/** Standard error without holding up the event loop: one write at a time, the rest waits. */
class StderrLines {
  #waiting = "";
  #busy = false;
  #dropped = 0;

  constructor() {
    process.once("exit", () => this.#writeRest());
  }

  readonly add = (line: string): void => {
    if (this.#waiting.length + line.length > MAX_WAITING_BYTES) {
      this.#dropped++;
      return;
    }
    this.#waiting += line;
    if (!this.#busy) this.#write();
  };

  #write(): void {
    if (this.#dropped > 0) {
      this.#waiting += `{"level":"error","msg":"log lines were dropped","lines":${this.#dropped}}\n`;
      this.#dropped = 0;
    }
    const bytes = Buffer.from(this.#waiting);
    this.#waiting = "";
    this.#busy = bytes.length > 0;
    if (this.#busy) this.#writeFrom(bytes, 0);
  }

  #writeFrom(bytes: Buffer, start: number): void {
    writeFile(STDERR, bytes, start, bytes.length - start, null, (error, count) => {
      // A full pipe that does not block: again in a moment. Any other error means that nobody reads.
      if (error?.code === "EAGAIN") {
        setTimeout(() => this.#writeFrom(bytes, start), RETRY_MS).unref();
        return;
      }
      if (error === null && start + count < bytes.length) this.#writeFrom(bytes, start + count);
      else this.#write();
    });
  }

  /** At the end of the process what still waits is written at once; what is under way was handed to the system. */
  #writeRest(): void {
    try {
      if (this.#waiting !== "") writeSync(STDERR, this.#waiting);
    } catch {
      // Nobody reads any more, and there is nowhere else to say so.
    }
  }
}

function lineOf(level: LogLevel, message: string, fields: LogFields): string {
  const begin = { level, time: new Date().toISOString() };
  try {
    return `${JSON.stringify({ ...begin, ...fields, msg: message })}\n`;
  } catch {
    // A field that is no JSON (a cycle, a BigInt): the message alone.
    return `${JSON.stringify({ ...begin, msg: message })}\n`;
  }
}

/** @param write where lines go, with their line end; standard error by default, since standard output is for results. */
export function createLogger(
  level: LogLevel,
  base: LogFields = {},
  write: (line: string) => void = new StderrLines().add,
): Logger {
  const least = SEVERITY[level];
  const wrap = (bound: LogFields): Logger => {
    const at =
      (own: Exclude<LogLevel, "silent">) =>
      (message: string, fields: LogFields = {}) => {
        if (SEVERITY[own] >= least) write(lineOf(own, message, { ...bound, ...redact(fields) }));
      };
    return {
      debug: at("debug"),
      info: at("info"),
      warn: at("warn"),
      error: at("error"),
      child: (fields) => wrap({ ...bound, ...redact(fields) }),
    };
  };
  return wrap(base);
}

/** Says nothing; for tests and for libraries without a log. */
export const silentLogger: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  child: () => silentLogger,
};
