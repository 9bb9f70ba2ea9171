// One line of JSON per request, for people who want one; never a query, a token or a field value but the trace id.
import { JsonTexts } from "./json-texts.ts";
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
  readonly #texts = new JsonTexts();

  constructor(file: LineFile) {
    this.#file = file;
  }

  write(line: AccessLine): void {
    const texts = this.#texts;
    const { traceparent } = line;
    // A version 00 traceparent was checked to be hexadecimal.
    const trace =
      traceparent === undefined
        ? ""
        : `,"traceparent":${traceparent.length === 55 ? `"${traceparent}"` : JSON.stringify(traceparent)}`;
    this.#file.append(
      `{"time":${line.timeMs},"direction":"${line.direction}","peer":${texts.of(line.peer)},"method":${texts.of(line.method)},"path":${texts.of(line.path)},"operation":${texts.of(line.operation)}` +
        `,"status":${line.status},"reason":"${line.reason}","requestBytes":${line.requestBytes},"responseBytes":${line.responseBytes},"durationMs":${Math.round(line.durationMs * 100) / 100}` +
        `${trace}}`,
      false,
    );
  }
}
