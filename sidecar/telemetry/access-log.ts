// One line of JSON per request, for people who want one; never a query, a token or a field value but the trace id.
import type { LineFile } from "./line-file.ts";

export interface AccessLine {
  readonly timeMs: number;
  readonly direction: "inbound" | "outbound";
  readonly peer: string;
  readonly method: string;
  /** Without query. */
  readonly path: string;
  readonly operation: string;
  readonly status: number;
  readonly reason: string;
  readonly requestBytes: number;
  readonly responseBytes: number;
  readonly durationMs: number;
  readonly traceparent: string | undefined;
}

export class AccessLog {
  readonly #file: LineFile;

  constructor(file: LineFile) {
    this.#file = file;
  }

  write(line: AccessLine): void {
    this.#file.append(
      `{"time":${line.timeMs},"direction":"${line.direction}","peer":${JSON.stringify(line.peer)},"method":${JSON.stringify(line.method)},"path":${JSON.stringify(line.path)},"operation":${JSON.stringify(line.operation)}` +
        `,"status":${line.status},"reason":"${line.reason}","requestBytes":${line.requestBytes},"responseBytes":${line.responseBytes},"durationMs":${Math.round(line.durationMs * 100) / 100}` +
        `${line.traceparent === undefined ? "" : `,"traceparent":${JSON.stringify(line.traceparent)}`}}`,
      false,
    );
  }
}
