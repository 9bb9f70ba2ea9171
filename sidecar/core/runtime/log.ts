// Logging of every process: JSON lines on standard error, a constant message plus fields. Values of fields whose name
// says secret, token, key, cookie or authorization are replaced before they reach the writer.
import { pino } from "pino";

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

/** @param write where lines go; standard error by default, so that standard output stays for results. */
export function createLogger(level: LogLevel, base: LogFields = {}, write?: (line: string) => void): Logger {
  const destination = write ? { write } : pino.destination({ dest: 2, sync: false });
  const root = pino(
    {
      level,
      base,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
  const wrap = (to: pino.Logger): Logger => ({
    debug: (message, fields = {}) => to.debug(redact(fields), message),
    info: (message, fields = {}) => to.info(redact(fields), message),
    warn: (message, fields = {}) => to.warn(redact(fields), message),
    error: (message, fields = {}) => to.error(redact(fields), message),
    child: (fields) => wrap(to.child(redact(fields))),
  });
  return wrap(root);
}

/** Says nothing; for tests and for libraries without a log. */
export const silentLogger: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  child: () => silentLogger,
};
