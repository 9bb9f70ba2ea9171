// One line of JSON per request, for people who want one; never a query, a token or a field value but the trace id.
import { flatCopy, JsonTexts } from "./json-texts.ts";
import type { LineFile } from "./line-file.ts";
import { hundredthsText, UnixMsTexts } from "./number-texts.ts";

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

/** The middle of a line, which is mostly the same for each request of a path, and what it was made of. */
interface Middle {
  readonly direction: string;
  readonly peer: string;
  readonly method: string;
  readonly operation: string;
  readonly status: number;
  readonly reason: string;
  /** From `direction` up to the bytes of the request. */
  text: string;
  isFlat: boolean;
}

const MAX_MIDDLES = 1_024;
const MAX_PATH_CHARS = 512;

export class AccessLog {
  readonly #file: Pick<LineFile, "append">;
  readonly #texts = new JsonTexts();
  readonly #times = new UnixMsTexts();
  /** By path: 9 pieces to put together instead of 22. Forgotten whole when full. */
  readonly #middles = new Map<string, Middle>();

  constructor(file: Pick<LineFile, "append">) {
    this.#file = file;
  }

  write(line: AccessLine): void {
    const { traceparent } = line;
    // A version 00 traceparent was checked to be hexadecimal.
    const trace =
      traceparent === undefined
        ? "}"
        : `,"traceparent":${traceparent.length === 55 ? `"${traceparent}"` : JSON.stringify(traceparent)}}`;
    this.#file.append(
      `{"time":${this.#times.of(line.timeMs)}${this.#middle(line)}${line.requestBytes},"responseBytes":${line.responseBytes},"durationMs":${hundredthsText(line.durationMs)}${trace}`,
      false,
    );
  }

  #middle(line: AccessLine): string {
    const known = this.#middles.get(line.path);
    if (known !== undefined && isSame(known, line)) {
      // Copied at its second coming only, so an ever different line costs no copy.
      if (!known.isFlat) {
        known.isFlat = true;
        known.text = flatCopy(known.text);
      }
      return known.text;
    }
    const { direction, peer, method, path, operation, status, reason } = line;
    const texts = this.#texts;
    const text = `,"direction":"${direction}","peer":${texts.of(peer)},"method":${texts.of(method)},"path":${texts.of(path)},"operation":${texts.of(operation)},"status":${status},"reason":"${reason}","requestBytes":`;
    if (path.length <= MAX_PATH_CHARS && path.isWellFormed()) {
      if (this.#middles.size >= MAX_MIDDLES) this.#middles.clear();
      // As a key a slice would keep the head alive that it was cut from.
      const key = known === undefined ? flatCopy(path) : path;
      this.#middles.set(key, { direction, peer, method, operation, status, reason, text, isFlat: false });
    }
    return text;
  }
}

function isSame(middle: Middle, line: AccessLine): boolean {
  return (
    middle.status === line.status &&
    middle.operation === line.operation &&
    middle.peer === line.peer &&
    middle.method === line.method &&
    middle.reason === line.reason &&
    middle.direction === line.direction
  );
}
