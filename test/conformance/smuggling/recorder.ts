// The application of the smuggling tests: a raw socket that takes nothing but the canonical bytes which we promise to write,
// and notes everything else. Independent of the code under test: it shares no line with it.
import { type AddressInfo, createServer, type Socket } from "node:net";

const REQUEST_LINE =
  /^(?:GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS|[A-Z]{3,16}) (?:\/[\x21\x22\x24-\x7e]*|\*) HTTP\/1\.1$/;
const FIELD_LINE =
  /^[!#$%&'*+\-.^_`|~0-9a-z]+: (?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?$/;
const SIZE_LINE = /^(?:0|[1-9a-f][0-9a-f]*)$/;
/** Also spelled with `_` or `.`, which some servers fold. */
const NEVER =
  /^(?:connection|proxy-connection|keep-alive|upgrade|te|trailer|http2-settings|workload-.*|countersign-.*|txn-token|x-forwarded-user|x-forwarded-client-cert)$/;

export interface RecordedRequest {
  readonly target: string;
  readonly bodyBytes: number;
}

export class Recorder {
  /** Requests that came whole. */
  readonly whole: RecordedRequest[] = [];
  /** Request lines that came. */
  begun = 0;
  /** What is not canonical. */
  readonly findings: string[] = [];
  /** What to answer, by target; else an echo of the target. */
  readonly answers = new Map<string, { readonly bytes: string; readonly close: boolean }>();
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((socket) => this.#accept(socket));

  async listen(): Promise<number> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return (this.#server.address() as AddressInfo).port;
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }

  #accept(socket: Socket): void {
    let text = "";
    let counted = false;
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      for (;;) {
        if (!counted && text.includes("\r\n")) {
          counted = true;
          this.begun++;
        }
        const end = text.indexOf("\r\n\r\n");
        if (end < 0) return;
        const request = this.#read(text, end);
        if (request === undefined) return;
        counted = false;
        text = text.slice(request.size);
        this.whole.push(request);
        this.#answer(socket, request.target, request.method);
      }
    });
  }

  #find(what: string): void {
    this.findings.push(`the application got ${what}`);
  }

  /** @returns undefined: the body is not whole yet. */
  #read(
    text: string,
    end: number,
  ): { target: string; method: string; size: number; bodyBytes: number } | undefined {
    const lines = text.slice(0, end).split("\r\n");
    const [first = "", ...fields] = lines;
    if (!REQUEST_LINE.test(first)) this.#find(`the request line ${JSON.stringify(first)}`);
    const [method = "", target = ""] = first.split(" ");
    if (target.includes("smuggled")) this.#find("a smuggled request");
    const { length, chunked } = this.#framing(fields);
    const start = end + 4;
    if (chunked) {
      const body = this.#chunks(text, start);
      return body && { target, method, size: body.end, bodyBytes: body.bytes };
    }
    if (text.length < start + length) return undefined;
    return { target, method, size: start + length, bodyBytes: length };
  }

  #framing(fields: readonly string[]): { length: number; chunked: boolean } {
    const values = (name: string): string[] =>
      fields.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
    for (const line of fields) {
      if (!FIELD_LINE.test(line)) this.#find(`the line ${JSON.stringify(line)}`);
      const name = line.slice(0, line.indexOf(":"));
      const folded = name.replace(/[_.]/g, "-");
      if (NEVER.test(folded)) this.#find(`the field ${name}`);
      if (name !== folded && /^(?:content-length|transfer-encoding|host)$/.test(folded))
        this.#find(`the field ${name}`);
      if (name === "x-mesh-caller" && line.includes("smuggled")) this.#find("a forged caller");
    }
    const hosts = values("host");
    const lengths = values("content-length");
    const codings = values("transfer-encoding");
    if (hosts.length !== 1) this.#find(`${hosts.length} hosts`);
    if (lengths.length + codings.length > 1) this.#find("two framings");
    if (codings.length > 0 && codings[0] !== "chunked") this.#find(`the coding ${codings[0]}`);
    if (lengths.length > 0 && !/^(?:0|[1-9][0-9]*)$/.test(lengths[0] ?? ""))
      this.#find(`the length ${lengths[0]}`);
    return { length: Number(lengths[0] ?? 0), chunked: codings.length > 0 };
  }

  #chunks(text: string, start: number): { end: number; bytes: number } | undefined {
    let at = start;
    let bytes = 0;
    for (;;) {
      const lineEnd = text.indexOf("\r\n", at);
      if (lineEnd < 0) return undefined;
      const line = text.slice(at, lineEnd);
      if (!SIZE_LINE.test(line)) {
        this.#find(`the chunk size ${JSON.stringify(line)}`);
        return { end: text.length, bytes };
      }
      at = lineEnd + 2;
      const size = Number.parseInt(line, 16);
      if (size === 0) break;
      if (text.length < at + size + 2) return undefined;
      if (text.slice(at + size, at + size + 2) !== "\r\n") this.#find("a chunk without its end");
      at += size + 2;
      bytes += size;
    }
    for (;;) {
      const lineEnd = text.indexOf("\r\n", at);
      if (lineEnd < 0) return undefined;
      if (lineEnd === at) return { end: at + 2, bytes };
      if (!FIELD_LINE.test(text.slice(at, lineEnd))) this.#find("a bad trailer");
      at = lineEnd + 2;
    }
  }

  #answer(socket: Socket, target: string, method: string): void {
    const given = this.answers.get(target);
    if (given === undefined) {
      const body = method === "HEAD" ? "" : target;
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${target.length}\r\n\r\n${body}`);
      return;
    }
    socket.write(given.bytes, "latin1");
    if (given.close) socket.end();
  }
}
