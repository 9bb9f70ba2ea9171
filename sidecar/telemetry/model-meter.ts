// PURE. Watches one answer of a model go by and says at its end how many tokens the call took, when the first came, and
// of which model. What the answer does not say is estimated and marked so.
import { UsageScanner } from "./usage-scanner.ts";

/** What one call to a model took. */
export interface ModelUse {
  readonly input: number;
  readonly output: number;
  /** Some of it was not said and had to be guessed. */
  readonly estimated: boolean;
  /** As the answer names it; undefined: it does not. */
  readonly model: string | undefined;
  /** Monotonic milliseconds of the first and the last piece of a streamed answer; undefined: it was not streamed. */
  readonly stream: { readonly firstMs: number; readonly lastMs: number } | undefined;
}

/** Rough size of a token in bytes of text. */
const BYTES_PER_TOKEN = 4;

const LF = 0x0a;
const CR = 0x0d;
const DATA = Buffer.from("data:");

type Format = "json" | "events" | "other";

function formatOf(contentType: string, contentEncoding: string): Format {
  if (contentEncoding !== "" && contentEncoding !== "identity") return "other";
  const type = (contentType.split(";")[0] ?? "").trim().toLowerCase();
  if (type === "text/event-stream") return "events";
  return type === "application/json" || type.endsWith("+json") || type === "application/x-ndjson"
    ? "json"
    : "other";
}

/**
 * Takes an event stream apart (WHATWG HTML, 9.2.6): the `data` of each event is a document of its own. Lines may be cut
 * anywhere.
 */
class EventSplitter {
  readonly #scanner: UsageScanner;
  readonly #onEvent: () => void;
  /** Bytes of `data:` that this line began with; -1: the line is of another field. */
  #matched = 0;
  #lineBytes = 0;
  #hasData = false;
  /** The last byte was a CR: a LF behind it belongs to it. */
  #afterCr = false;

  constructor(scanner: UsageScanner, onEvent: () => void) {
    this.#scanner = scanner;
    this.#onEvent = onEvent;
  }

  push(chunk: Buffer): void {
    let i = 0;
    while (i < chunk.length) {
      const byte = chunk[i] ?? 0;
      if (byte === LF || byte === CR) {
        if (!(byte === LF && this.#afterCr)) this.#endLine();
        this.#afterCr = byte === CR;
        i++;
        continue;
      }
      this.#afterCr = false;
      if (this.#matched >= 0 && this.#matched < DATA.length) {
        this.#matched = byte === DATA[this.#matched] ? this.#matched + 1 : -1;
        this.#lineBytes++;
        i++;
        continue;
      }
      const end = endOfLine(chunk, i);
      this.#lineBytes += end - i;
      if (this.#matched === DATA.length) {
        // `[DONE]` is a document too, of no interest.
        this.#hasData = true;
        this.#scanner.push(chunk, i, end);
      }
      i = end;
    }
  }

  #endLine(): void {
    if (this.#lineBytes === 0 && this.#hasData) {
      this.#scanner.reset();
      this.#hasData = false;
      this.#onEvent();
    }
    this.#matched = 0;
    this.#lineBytes = 0;
  }
}

function endOfLine(chunk: Buffer, from: number): number {
  for (let i = from; i < chunk.length; i++) {
    const byte = chunk[i];
    if (byte === LF || byte === CR) return i;
  }
  return chunk.length;
}

export class ModelMeter {
  readonly #scanner = new UsageScanner();
  #format: Format = "other";
  #events: EventSplitter | undefined;
  #bytes = 0;
  #status = 0;
  #firstMs = -1;
  #lastMs = -1;
  #nowMs = 0;

  /** @param contentType, contentEncoding of the answer; empty without. */
  head(status: number, contentType: string, contentEncoding: string): void {
    this.#status = status;
    this.#format = formatOf(contentType, contentEncoding);
    if (this.#format === "events") this.#events = new EventSplitter(this.#scanner, () => this.#onEvent());
  }

  body(chunk: Buffer, nowMs: number): void {
    this.#bytes += chunk.length;
    this.#nowMs = nowMs;
    if (this.#events !== undefined) this.#events.push(chunk);
    else if (this.#format === "json") this.#scanner.push(chunk);
  }

  #onEvent(): void {
    if (this.#firstMs < 0) this.#firstMs = this.#nowMs;
    this.#lastMs = this.#nowMs;
  }

  /**
   * What the call took, when its answer is over or was broken off.
   *
   * @param requestBytes size of the body, for an estimate.
   * @returns undefined: nothing that costs tokens happened.
   */
  finish(requestBytes: number): ModelUse | undefined {
    // A number may stand at the very end.
    this.#scanner.reset();
    const { usage, model, contentBytes } = this.#scanner;
    const said = usage.input !== undefined || usage.output !== undefined || usage.total !== undefined;
    if (!said && (this.#status < 200 || this.#status >= 300)) return undefined;
    const stream = this.#firstMs < 0 ? undefined : { firstMs: this.#firstMs, lastMs: this.#lastMs };
    const name = /^[\x21-\x7e]+$/.test(model) ? model : undefined;
    const input = usage.input ?? estimate(requestBytes);
    const output =
      usage.output ??
      (usage.total === undefined ? estimate(contentBytes || this.#bytes) : Math.max(0, usage.total - input));
    // Embeddings have no output: `prompt_tokens` and `total_tokens` say all.
    const known = usage.input !== undefined && (usage.output !== undefined || usage.total !== undefined);
    return { input, output, estimated: !known, model: name, stream };
  }
}

const estimate = (bytes: number): number => Math.ceil(bytes / BYTES_PER_TOKEN);
