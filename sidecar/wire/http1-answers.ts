// Answers over HTTP/1.1, written through the same few calls as HTTP/2 ones: one request at a time, framing by us.
import type { AnswerWriter } from "./answers.ts";
import type { Field } from "./field.ts";
import {
  CHUNK_END,
  CHUNKED_LINE,
  CLOSE_LINE,
  chunkHeader,
  lastChunk,
  statusLine,
} from "./http1/serializer.ts";
import type { MeshSocket } from "./socket.ts";

const NO_ERROR = 0x0;

/** What the answers belong to. */
export interface Http1Owner {
  readonly socket: MeshSocket;
  /** Whether the answer whose head is written now is the last of its connection. */
  readonly mustClose: boolean;
  /** The answer under way is the last one. */
  closeAfterAnswer(): void;
  /** The answer cannot be completed: only a broken connection says so in HTTP/1.1. */
  breakOff(): void;
  consumed(bytes: number): void;
}

export class Http1Answers implements AnswerWriter<unknown> {
  readonly #owner: Http1Owner;
  #minor: 0 | 1 = 1;
  #isHead = false;
  // Of the head that is being written.
  #status = 0;
  #text = "";
  #hasLength = false;
  /** Set once the final head is written: fields are trailers from then on. */
  #trailers: Field[] | undefined;
  #chunked = false;
  #bodyless = false;
  #over = true;
  #raw = false;

  constructor(owner: Http1Owner) {
    this.#owner = owner;
  }

  /** The next request: its answer begins from nothing. */
  expect(method: string, minor: 0 | 1): void {
    this.#minor = minor;
    this.#isHead = method === "HEAD";
    this.#trailers = undefined;
    this.#chunked = false;
    this.#bodyless = false;
    this.#over = false;
  }

  beginHeaders(_stream: unknown): void {
    this.#text = "";
    this.#hasLength = false;
  }

  putStatus(status: number): void {
    this.#status = status;
    this.#text = statusLine(status);
  }

  putField(field: Field): void {
    if (this.#trailers !== undefined) this.#trailers.push(field);
    else if (field.name !== "content-length") this.#text += field.line;
    else if (this.#status !== 204) {
      this.#hasLength = true;
      this.#text += field.line;
    }
  }

  putPair(name: string, value: string): void {
    if (name === "content-length") this.#hasLength = true;
    this.#text += `${name}: ${value}\r\n`;
  }

  endHeaders(endStream: boolean): void {
    if (this.#over) return;
    const { socket } = this.#owner;
    if (this.#trailers !== undefined) {
      this.#end(this.#trailers);
      return;
    }
    if (this.#status < 200) {
      // HTTP/1.0 has no informational answers (RFC 9110 section 15.2).
      if (this.#minor === 1) socket.write(`${this.#text}\r\n`);
      return;
    }
    this.#trailers = [];
    this.#bodyless = this.#isHead || this.#status === 204 || this.#status === 304;
    if (!this.#hasLength && !this.#bodyless) {
      if (endStream) this.#text += "content-length: 0\r\n";
      else if (this.#minor === 1) {
        this.#chunked = true;
        this.#text += CHUNKED_LINE;
      } else this.#owner.closeAfterAnswer();
    }
    if (this.#owner.mustClose) {
      this.#owner.closeAfterAnswer();
      this.#text += CLOSE_LINE;
    } else if (this.#minor === 0) this.#text += "connection: keep-alive\r\n";
    socket.write(`${this.#text}\r\n`);
    if (endStream) this.#over = true;
  }

  /**
   * Instead of an answer: the connection is turned into something else, what is sent from now on goes out as it is, and its
   * end is the end of the connection's direction.
   *
   * @param lines of the head, without its first one and those that say so.
   */
  switchTo(upgrade: string, lines: string): void {
    this.#raw = true;
    this.#owner.socket.write(`${statusLine(101)}connection: Upgrade\r\nupgrade: ${upgrade}\r\n${lines}\r\n`);
  }

  sendData(_stream: unknown, chunk: Buffer, endStream: boolean): boolean {
    if (this.#over) return true;
    const { socket } = this.#owner;
    if (this.#raw) {
      socket.write(chunk);
      if (endStream) {
        this.#over = true;
        socket.end();
      }
      return !socket.congested;
    }
    if (chunk.length > 0 && !this.#bodyless) {
      if (this.#chunked) {
        socket.write(chunkHeader(chunk.length));
        socket.write(chunk);
        socket.write(CHUNK_END);
      } else socket.write(chunk);
    }
    if (endStream) this.#end([]);
    return !socket.congested;
  }

  consumed(_stream: unknown, bytes: number): void {
    this.#owner.consumed(bytes);
  }

  resetStream(_stream: unknown, code: number): void {
    if (code === NO_ERROR && this.#over) {
      this.#owner.closeAfterAnswer();
      return;
    }
    // The end of the connection is the end of such an answer (HTTP/1.0, upgrades): only an RST says that it is not whole.
    const endsWithConnection = this.#trailers !== undefined && !this.#chunked && !this.#hasLength;
    if ((this.#raw || (endsWithConnection && !this.#bodyless)) && !this.#over) {
      this.#owner.socket.flush();
      this.#owner.socket.reset();
    }
    this.#owner.breakOff();
  }

  #end(trailers: readonly Field[]): void {
    this.#over = true;
    if (this.#chunked) this.#owner.socket.write(lastChunk(trailers));
  }
}
