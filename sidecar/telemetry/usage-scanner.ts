// PURE. Finds what a model's answer says of its tokens, in JSON that comes in pieces and is never held: a tokenizer with
// a stack of names. What users and models write stands inside strings, so it cannot pass for the usage. Shapes: OpenAI
// chat, completions, embeddings (`usage`) and responses (`response.usage`), and `message.usage` of others.

/** Counts that were found; the last word on each of them counts. */
export interface Usage {
  input: number | undefined;
  output: number | undefined;
  total: number | undefined;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;
const COMMA = 0x2c;
const COLON = 0x3a;
const MINUS = 0x2d;
const DIGIT_0 = 0x30;
const DIGIT_9 = 0x39;

/** Longest name or model that is of interest. */
const MAX_CAPTURE = 128;
/** Deeper than this nothing is looked for, only counted. */
const MAX_NAMED_DEPTH = 8;
/** Deeper than this a document is nonsense: nothing of it is read any more. */
const MAX_DEPTH = 512;

/** Where usage may stand one level deeper. */
const WRAPPERS: ReadonlySet<string> = new Set(["response", "message"]);
/** Strings that the model wrote. */
const CONTENT: ReadonlySet<string> = new Set([
  "content",
  "text",
  "delta",
  "reasoning_content",
  "reasoning",
  "arguments",
  "refusal",
]);
const COUNTS: ReadonlyMap<string, keyof Usage> = new Map([
  ["prompt_tokens", "input"],
  ["input_tokens", "input"],
  ["completion_tokens", "output"],
  ["output_tokens", "output"],
  ["total_tokens", "total"],
]);

export class UsageScanner {
  readonly usage: Usage = { input: undefined, output: undefined, total: undefined };
  /** As the answer names it; empty: not yet. */
  model = "";
  /** Bytes of text that the model wrote, escapes counted as they stand. */
  contentBytes = 0;
  readonly #names: string[] = new Array<string>(MAX_NAMED_DEPTH + 1).fill("");
  /** Whether each open bracket is an object. */
  readonly #isObject: boolean[] = [];
  readonly #capture = Buffer.allocUnsafe(MAX_CAPTURE);
  #captured = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;
  #stringBytes = 0;
  #nameFollows = false;
  #number = -1;
  #fraction = false;
  #lost = false;

  /** A new document begins; what was found stays. */
  reset(): void {
    this.#endNumber();
    this.#depth = 0;
    this.#isObject.length = 0;
    this.#inString = false;
    this.#escaped = false;
    this.#nameFollows = false;
    this.#lost = false;
  }

  /** Reads `bytes[from, to)` as the next piece of the document. */
  push(bytes: Buffer, from = 0, to = bytes.length): void {
    for (let i = from; i < to && !this.#lost; i++) {
      const byte = bytes[i] ?? 0;
      if (this.#inString) this.#stringByte(byte);
      else this.#byte(byte);
    }
  }

  #stringByte(byte: number): void {
    if (byte === QUOTE && !this.#escaped) {
      this.#inString = false;
      this.#endString();
      return;
    }
    this.#escaped = byte === BACKSLASH && !this.#escaped;
    this.#stringBytes++;
    if (this.#captured < MAX_CAPTURE) this.#capture[this.#captured++] = byte;
  }

  #byte(byte: number): void {
    if (byte >= DIGIT_0 && byte <= DIGIT_9) {
      this.#digit(byte - DIGIT_0);
      return;
    }
    if (this.#number >= 0) {
      // A fraction or an exponent: no count of tokens.
      if (byte === 0x2e || byte === 0x65 || byte === 0x45 || byte === 0x2b || byte === MINUS) {
        this.#fraction = true;
        return;
      }
      this.#endNumber();
    }
    switch (byte) {
      case QUOTE:
        this.#inString = true;
        this.#escaped = false;
        this.#stringBytes = 0;
        this.#captured = 0;
        break;
      case OPEN_OBJECT:
        this.#open(true);
        break;
      case OPEN_LIST:
        this.#open(false);
        break;
      case CLOSE_OBJECT:
      case CLOSE_LIST:
        this.#close();
        break;
      case COMMA:
        this.#nameFollows = this.#isObject[this.#depth - 1] === true;
        break;
      case COLON:
        this.#nameFollows = false;
        break;
      case MINUS:
        this.#number = 0;
        this.#fraction = true;
        break;
      default:
      // White space, or a letter of `true`, `false`, `null`.
    }
  }

  #open(isObject: boolean): void {
    if (this.#depth >= MAX_DEPTH) {
      this.#lost = true;
      return;
    }
    this.#isObject[this.#depth++] = isObject;
    this.#nameFollows = isObject;
    if (this.#depth <= MAX_NAMED_DEPTH) this.#names[this.#depth] = "";
  }

  #close(): void {
    if (this.#depth > 0) this.#depth--;
    this.#isObject.length = this.#depth;
    this.#nameFollows = false;
  }

  #endString(): void {
    if (this.#nameFollows) {
      if (this.#depth <= MAX_NAMED_DEPTH)
        this.#names[this.#depth] =
          this.#stringBytes > MAX_CAPTURE ? "" : this.#capture.toString("latin1", 0, this.#captured);
      return;
    }
    if (this.#depth > MAX_NAMED_DEPTH) return;
    // An entry of a list has the name of the list.
    const depth = this.#isObject[this.#depth - 1] === true ? this.#depth : this.#depth - 1;
    const name = this.#names[depth] ?? "";
    if (CONTENT.has(name)) this.contentBytes += this.#stringBytes;
    else if (name === "model" && this.#isAtRoot(depth) && this.#stringBytes <= MAX_CAPTURE)
      this.model = this.#capture.toString("utf8", 0, this.#captured);
  }

  #isAtRoot(depth: number): boolean {
    return depth === 1 || (depth === 2 && WRAPPERS.has(this.#names[1] ?? ""));
  }

  #digit(digit: number): void {
    if (this.#number < 0) {
      this.#number = 0;
      this.#fraction = false;
    }
    this.#number = Math.min(Number.MAX_SAFE_INTEGER, this.#number * 10 + digit);
  }

  #endNumber(): void {
    const value = this.#number;
    if (value < 0) return;
    this.#number = -1;
    const depth = this.#depth;
    if (this.#fraction || depth < 2 || depth > 3 || this.#isObject[depth - 1] !== true) return;
    if (this.#names[depth - 1] !== "usage" || !this.#isAtRoot(depth - 1)) return;
    const count = COUNTS.get(this.#names[depth] ?? "");
    if (count !== undefined) this.usage[count] = value;
  }
}
